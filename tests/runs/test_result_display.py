"""Result in a notebook: short texts, HTML, and a data frame."""

from __future__ import annotations

import sys
from typing import Any
from xml.etree import ElementTree

import pytest

import zopo_fast as zf
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import HeldOut, Interval, Result, Trial

HOSTILE = '<script>alert(1)</script> & "quotes" </pre></details> \u202e\x1b[31m \ud800 \u2028 {{x}} ]]>'


def trial(number: int, score: float | None, prompt: str = "", **more: Any) -> Trial:
    usage = Usage(10, 2, calls=3)
    scores = () if score is None else (score, score)
    return Trial(
        number, number + 10, prompt or f"prompt {number}", score, scores, usage, 0.5, 0.75, usage, **more
    )


def result(text: str = "the best", trials: list[Trial] | None = None) -> Result:
    return Result(
        text, 0.75, 13,
        [trial(n, n / 20, f"{n} {text}", error=text) for n in range(15)] if trials is None else trials,
        Usage(1234, 56, calls=7), "budget", 12.34,
        [
            HeldOut("winner", text, 0.75, 0.5, (1.0, 0.0)),
            HeldOut("seed prompt", text, None, 0.25, (0.5,), Interval(0.25, -0.125, 0.5), text, {1: text}),
        ],
        comparison_notes=[text],
    )  # fmt: skip


# ---- short texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["p" * 10**6, HOSTILE * 100])
def test_the_repr_of_a_result_and_its_parts_is_short(text: str) -> None:
    made = result(text)
    assert len(repr(made)) < 200
    assert len(repr(made.trials[0])) < 160
    assert len(repr(made.heldout[0])) < 160
    assert all(repr(each).isprintable() for each in (made, made.trials[0], made.heldout[0]))


def test_a_repr_names_the_winner_and_what_it_took() -> None:
    failed = trial(3, None, "none", error="refused")
    made = result(trials=[trial(1, 0.25), trial(2, 0.75, "the best", examples=(0, 4)), failed])
    assert repr(made) == (
        "<Result 'the best': score 0.750, stopped by budget; 2 prompts scored, 7 calls, 12.3 s>"
    )
    assert [repr(each) for each in made.trials] == [
        "<Trial 1: score 0.250, 'prompt 1'>",
        "<Trial 2: score 0.750 (over some examples only), 'the best'>",
        "<Trial 3: score -, 'none'>",
    ]
    assert repr(made.heldout[1]) == "<HeldOut seed prompt: score 0.250, 'the best'>"


# ---- HTML --------------------------------------------------------------------------------------------


def test_hostile_text_does_not_become_markup() -> None:
    shown = result(HOSTILE)._repr_html_()
    plain = result("plain")._repr_html_()
    root, expected = ElementTree.fromstring(shown), ElementTree.fromstring(plain)
    assert [each.tag for each in root.iter()] == [each.tag for each in expected.iter()]
    assert [each.attrib for each in root.iter()] == [each.attrib for each in expected.iter()]
    assert "<script" not in shown
    assert "<script>alert(1)</script>" in "".join(root.itertext())
    assert not {"\x1b", "\u202e", "\u2028", "\ud800"} & set(shown)


def test_the_html_shows_winner_intervals_and_the_best_ten() -> None:
    root = ElementTree.fromstring(result("the best")._repr_html_())
    assert [each.text for each in root.iter("pre")] == ["the best"]
    heldout, best = ([[c.text for c in row] for row in each.iter("tr")] for each in root.iter("table"))
    assert heldout[1:] == [
        ["winner", "0.750", "0.500", None, None],
        ["seed prompt", "-", "0.250", "+0.250 [-0.125, +0.500]", "1 unanswered; not scored: the best"],
    ]
    assert [row[0] for row in best[1:]] == [f"{n} the best" for n in range(14, 4, -1)]
    assert [each.tag for each in root.iter("details")] == ["details"]
    text = "".join(root.itertext())
    assert "Stopped by budget after 7 calls, 1234 tokens in, 56 out, 12.3 s." in text
    assert "Note: the best" in text


def test_a_partial_score_does_not_lead_the_html() -> None:
    trials = [trial(1, 1.0, "lucky", examples=(0,)), trial(2, 0.5, "full")]
    root = ElementTree.fromstring(result(trials=trials)._repr_html_())
    rows = [[c.text for c in row] for row in list(root.iter("table"))[1].iter("tr")]
    assert [row[0] for row in rows[1:]] == ["full", "lucky"]


def test_the_html_is_compact() -> None:
    assert len(result("p" * 10**6)._repr_html_()) < 12_000
    assert len(result(trials=[trial(n, 0.5) for n in range(10_000)])._repr_html_()) < 12_000


# ---- data frame --------------------------------------------------------------------------------------


def test_the_frame_has_a_row_for_each_trial() -> None:
    trials = [trial(1, 0.25), trial(2, None, error="refused"), trial(3, 0.75, examples=(0, 4))]
    frame = result(trials=trials).to_frame()
    assert frame["number"].tolist() == [1, 2, 3]
    assert frame["index"].tolist() == [11, 12, 13]
    assert frame["prompt"].tolist() == ["prompt 1", "prompt 2", "prompt 3"]
    assert frame["score"].isna().tolist() == [False, True, False]
    assert frame["partial"].tolist() == [False, False, True]
    assert frame["examples"].tolist() == [2, 0, 2]
    assert frame["error"].isna().tolist() == [True, False, True]
    assert (frame["calls"].sum(), frame["prompt_tokens"].sum(), frame["completion_tokens"].sum()) == (
        9,
        30,
        6,
    )


@pytest.mark.parametrize("trials", [[], [trial(1, None, error="x")], [trial(1, 0.5)]])
def test_the_types_of_the_frame_do_not_depend_on_its_rows(trials: list[Trial]) -> None:
    assert {name: str(kind) for name, kind in result(trials=trials).to_frame().dtypes.items()} == {
        "number": "int64", "index": "int64", "prompt": "string", "score": "float64", "partial": "bool",
        "examples": "int64", "seconds": "float64", "calls": "int64", "prompt_tokens": "int64",
        "completion_tokens": "int64", "best_score": "float64", "error": "string",
    }  # fmt: skip


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(zf.MissingDependencyError, match=r'pip install "zopo-fast\[notebook\]"'):
        result().to_frame()
