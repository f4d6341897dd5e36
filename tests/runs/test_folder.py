"""Run folder, summary, escaped text, and the estimate of a dry run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zopo_fast as zf
from zopo_fast._utils.columns import width
from zopo_fast._utils.text import printable
from zopo_fast.cli.terminal.summary import STOPPED, summary, usage_line
from zopo_fast.errors import OutputError
from zopo_fast.llm import tokens
from zopo_fast.llm.types import Usage
from zopo_fast.runs.cost.estimate import MAX_SAMPLE, UNKNOWN_PROMPT_TOKENS, estimate
from zopo_fast.runs.folder import BEST, CURVE, REPORT, RESULT, TRIALS, RunFolder
from zopo_fast.runs.result import HeldOut, Interval, Result, Trial


def make_trial(number: int, score: float | None, prompt: str = "") -> Trial:
    usage = Usage(10, 2, calls=2)
    scores = () if score is None else (score, score)
    prompt = prompt or f"prompt {number}"
    error = "refused" if score is None else None
    return Trial(number, number - 1, prompt, score, scores, usage, 0.5, 0.75, usage, error)


def make_result(**changes: Any) -> Result:
    trials = [make_trial(1, 0.25), make_trial(2, None), make_trial(3, 0.75, "best\x1b[31m\nof two lines")]
    heldout = [
        HeldOut("winner", trials[2].prompt, 0.75, 0.5, (1.0, 0.0)),
        HeldOut("seed prompt", "prompt 1", None, 0.25, (0.5, 0.0), Interval(0.25, -0.125, 0.5)),
    ]
    usage = Usage(1234, 56, calls=7, retries=1)
    made = Result(trials[2].prompt, 0.75, 2, trials, usage, "budget", 12.34, heldout)
    return replace(made, **changes)


# ---- RunFolder ---------------------------------------------------------------------------------------


def test_trials_are_written_as_they_are_added(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    for trial in make_result().trials:
        folder.add(trial)
        rows = [json.loads(line) for line in (tmp_path / "a" / "b" / TRIALS).read_text().splitlines()]
        assert len(rows) == trial.number
    assert [row["score"] for row in rows] == [0.25, None, 0.75]
    assert rows[1]["error"] == "refused"
    assert rows[2]["prompt"] == "best\x1b[31m\nof two lines"
    assert rows[2]["usage"]["prompt_tokens"] == 10
    folder.close()


def test_finish_writes_the_other_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    result = make_result()
    for trial in result.trials:
        folder.add(trial)
    folder.finish(result, {"budget": 3, "out": tmp_path})
    folder.close()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted([BEST, RESULT, TRIALS])
    assert (tmp_path / "run" / BEST).read_text() == result.best_prompt + "\n"
    document = json.loads((tmp_path / "run" / RESULT).read_text())
    assert (document["prompts_scored"], document["prompts_failed"]) == (2, 1)
    assert document["usage"]["total_tokens"] == 1290
    assert document["heldout"][0]["winner_ahead"] is None
    assert document["heldout"][1]["winner_ahead"] == {"mean": 0.25, "low": -0.125, "high": 0.5}
    assert document["settings"] == {"budget": 3, "out": str(tmp_path)}


@pytest.mark.parametrize("name", [TRIALS, RESULT, BEST, CURVE, REPORT])
def test_a_folder_with_a_run_is_refused_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"already holds a run.*{name}"):
        RunFolder(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            RunFolder(path)


def test_a_new_folder_without_a_trial_is_removed(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").close(remove=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    RunFolder(tmp_path / "old").close(remove=True)
    assert list((tmp_path / "old").iterdir()) == []
    folder = RunFolder(tmp_path / "none scored")  # prior scores alone can end a run
    folder.finish(make_result(trials=[]), {})
    folder.close(remove=True)
    assert (tmp_path / "none scored" / RESULT).exists()


# ---- text --------------------------------------------------------------------------------------------


def test_summary() -> None:
    assert summary(make_result(), prices=zf.Prices(1_000.0, 10_000.0)).splitlines() == [
        "Best prompt:",
        "  best\\x1b[31m",
        "  of two lines",
        "",
        "Train score: 0.750",
        "Held-out score: 0.500",
        "Against the seed prompt: +0.250 [-0.125, +0.500], not clearly better",
        "Cost: 1.7940",
        "",
        "On 2 held-out examples:",
        "                  train  held-out   winner ahead by (95 % CI)",
        "  winner          0.750     0.500",
        "  seed prompt         -     0.250   +0.250 [-0.125, +0.500]",
        "",
        "Stopped: the budget is spent.",
        "Prompts scored: 2, failed: 1",
        "Calls: 7, tokens: 1234 in, 56 out",
        "Time: 12.3 s",
    ]


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.2, 0.1, 0.3), "better"), ((-0.2, -0.3, -0.1), "worse"), ((0.1, 0.0, 0.2), "not clearly better")],
)
def test_the_interval_decides_who_is_better(interval: tuple[float, float, float], word: str) -> None:
    winner, seed = make_result().heldout
    text = summary(make_result(heldout=[winner, replace(seed, winner_ahead=Interval(*interval))]))
    assert re.search(rf"^Against the seed prompt: .*\], {word}$", text, re.MULTILINE)


@pytest.mark.parametrize("columns", [80, 50, 40])
@pytest.mark.parametrize("has_color", [True, False])
def test_a_summary_fits_its_columns_and_loses_no_word(columns: int, has_color: bool) -> None:
    prompt = "word 日本語🙂 " * 40 + "\n" + " " * 99 + "indented\n" + "語" * 200
    winner, seed = make_result().heldout
    rows = [winner, replace(seed, unanswered={1: "content_filter"}, error="refused " * 30)]
    result = make_result(best_prompt=prompt, heldout=rows, comparison_notes=["a note " * 40])
    text = summary(result, columns=columns, has_color=has_color)
    assert ("\x1b" in text) is has_color
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(width, plain.splitlines())) <= columns
    for part in (prompt, "refused " * 30, "a note " * 40, "1 unanswered (content_filter)"):
        assert "".join(part.split()) in "".join(plain.split())


def test_summary_without_a_comparison_and_with_estimates() -> None:
    usage = Usage(5, 6, calls=7, estimated_calls=3)
    text = summary(make_result(heldout=[], trials=[make_trial(1, 1.0)], usage=usage))
    assert "held-out" not in text
    assert "failed" not in text
    assert "(3 calls estimated)" in text


@pytest.mark.parametrize(
    "reason", ["budget", "pool", "perfect", "target", "interrupted", "failures", "error"]
)
def test_every_reason_to_stop_has_a_text(reason: str) -> None:
    assert f"\nStopped: {STOPPED[reason]}.\n" in summary(make_result(stopped_by=reason))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 🎉\nnext", "plain é 🎉\nnext"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J\x7f\x00\r\t", "\\x9b2J\\x7f\\x00\\r\\t"),
        ("\u202ebidi\u2066\u200b\ufeff", "\\u202ebidi\\u2066\\u200b\\ufeff"),
        ("half \ud83d", "half \\ud83d"),
        ("\\ \" ' {input} %s", "\\ \" ' {input} %s"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


# ---- estimate ----------------------------------------------------------------------------------------


def make_task(train: int = 4, heldout: int = 3, metric: str = "exact_match") -> zf.Task:
    made = [zf.Example(f"question {i}", ("yes",)) for i in range(train + heldout)]
    return zf.Task("toy", tuple(made[:train]), tuple(made[train:]), metric=metric)


@pytest.mark.parametrize(
    ("task", "config", "calls"),
    [
        (make_task(), {}, 5 * 4 + 3 * 3),
        (make_task(), {"compare_random": True}, 10 * 4 + 4 * 3),
        (make_task(), {"heldout": False}, 5 * 4),
        (make_task(heldout=0), {}, 5 * 4),
    ],
)
def test_estimate_agrees_with_a_count_by_hand(
    monkeypatch: pytest.MonkeyPatch, task: zf.Task, config: dict[str, Any], calls: int
) -> None:
    monkeypatch.setattr(tokens, "count_messages", lambda messages, model: tokens.TokenCount(10, False))
    found = estimate(
        task, ["a", "b"], zf.RunConfig(budget=5, **config), model="m", max_tokens=8, prices=(2.0, 3.0)
    )
    assert (found.calls, found.prompt_tokens, found.completion_tokens) == (calls, calls * 10, calls * 8)
    assert found.price == pytest.approx(calls * (10 * 2 + 8 * 3) / 1e6)
    assert not found.estimated
    assert str(found).startswith(
        f"at most {calls} calls, {calls * 10} tokens in, at most {calls * 8} tokens out"
    )
    assert f"at most {found.price:.4f} in money" in str(found)


def test_estimate_of_a_judge_counts_its_own_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "count_messages", lambda messages, model: tokens.TokenCount(10, False))
    monkeypatch.setattr(tokens, "count_tokens", lambda text, model: tokens.TokenCount(len(text), False))
    config = zf.RunConfig(budget=5, rubric="{answer}?")
    found = estimate(make_task(metric="judge"), ["a", "b"], config, model="m", max_tokens=8)
    answered = 5 * 4 + 3 * 3
    assert found.calls == 2 * answered
    assert found.prompt_tokens == answered * 10 + answered * (9 + 10 + 8)  # rubric, example, answer
    assert found.completion_tokens == answered * (8 + 256)


def test_estimate_of_a_pool_that_is_not_generated_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "count_messages", lambda messages, model: tokens.TokenCount(10, False))
    found = estimate(make_task(), [], zf.RunConfig(budget=5), model="m", max_tokens=8, generate=6)
    shown = 4 * len("question 0yes") // 4 + UNKNOWN_PROMPT_TOKENS
    assert (found.calls, found.completion_tokens) == (29 + 6, 29 * 8 + 6 * 256)
    assert found.prompt_tokens == 29 * (10 + UNKNOWN_PROMPT_TOKENS) + 6 * shown
    assert found.estimated
    assert found.price is None
    assert "money" not in str(found)
    assert "about " in str(found)


def test_estimate_counts_the_messages_and_is_approximate_for_the_local_model() -> None:
    task, prompts = make_task(), [f"Say it in way {i}." for i in range(9)] * (MAX_SAMPLE // 4)
    one = tokens.count_messages(
        [{"role": "user", "content": "Instruction: Say it in way 1.\n\nInput: question 1\n\nOutput:"}],
        "gpt-4",
    )
    found = estimate(task, prompts, zf.RunConfig(budget=5), model="gpt-4")
    assert (found.prompt_tokens, found.estimated) == (29 * one.tokens, one.estimated)
    assert estimate(task, prompts, zf.RunConfig(budget=5), model=None).estimated


@pytest.mark.parametrize(
    ("usage", "says"),
    [
        (Usage(1, 1, calls=1), "tokens: 1 in, 1 out"),
        (Usage(cached=3), "from the cache: 3"),
        (Usage(cached=80, reused=80, reused_age=3.9 * 86_400),
         "from the cache: 80, of earlier runs, the oldest 3 days old"),
        (Usage(cached=3, reused=2, reused_age=86_400),
         "from the cache: 3, 2 of earlier runs, the oldest 1 day old"),
        (Usage(cached=1, reused=1, reused_age=7_300), "the oldest 2 hours old"),
        (Usage(cached=1, reused=1, reused_age=61), "the oldest 1 minute old"),
        (Usage(cached=1, reused=1, reused_age=0.5), "the oldest less than a minute old"),
    ],
)  # fmt: skip
def test_answers_of_earlier_runs_are_counted_with_their_age(usage: Usage, says: str) -> None:
    assert usage_line(usage).endswith(says)


def test_the_age_of_the_oldest_answer_survives_the_sum_of_usages() -> None:
    total = (
        Usage(cached=1, reused=1, reused_age=5.0)
        + Usage(cached=2, reused=1, reused_age=9.0)
        + Usage(cached=1)
    )
    assert (total.cached, total.reused, total.reused_age) == (4, 2, 9.0)
