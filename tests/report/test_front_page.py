"""Section of a report on score against tokens: table, chart, hostile texts, studies without counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_tools import HOSTILE, make_run

import zopo_fast as zf
from zopo_fast.llm.tokens import estimate
from zopo_fast.report.page import report_body
from zopo_fast.scoring import evaluator
from zopo_fast.storage.store import STUDY

FULL: dict[str, Any] = {"budget": 16, "initial": 8, "racing": False, "stop_at_perfect": False}

# The longer a prompt, the more of its answers are right, and the right ones are short.
LONG = [f"Say yes{' please, and think of it first' * 4 * (i % 7)} ({i})." for i in range(24)]


def section(folder: Path) -> str:
    with zf.Study.open(folder) as study:
        body = report_body([study])
    _, found, rest = body.partition('<section id="front">')
    return (found + rest.partition("</section>")[0]) if found else ""


def test_the_section_has_the_front_of_the_result(tmp_path: Path) -> None:
    result = make_run(tmp_path / "run", LONG, **FULL, prefer_short=1.0, prices=zf.Prices(1.0, 2.0))
    found = section(tmp_path / "run")
    assert found.count("<tr><td") == len(result.front) > 1
    for point in result.front:
        assert f"{point.tokens:.1f}</td>" in found
        assert point.score_interval is not None
        assert f"{point.score_interval.low:.3f} to {point.score_interval.high:.3f}" in found
        assert f"{point.cost * 1000:.4f}" in found  # type: ignore[operator]
    assert found.count("(winner)") == 1
    assert result.given_up is not None
    assert f"prompt {result.given_up.index} scores <strong>{result.given_up.score:.3f}</strong>" in found
    assert 'data-chart="front" role="img" aria-label="Score and tokens' in found
    with zf.Study.open(tmp_path / "run") as study:
        assert study.front == result.front
        assert study.given_up == result.given_up
        assert 'href="#front"' in report_body([study])


def test_a_winner_of_the_best_score_has_given_up_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", **FULL)
    assert "chosen for its length" not in section(tmp_path / "run")
    assert "money" not in section(tmp_path / "run")


def test_hostile_prompts_stay_texts(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [f"{text} {i}" for i, text in enumerate(HOSTILE * 3)], **FULL)
    found = section(tmp_path / "run")
    assert "<img" not in found
    assert "<script" not in found
    assert "<svg" not in found
    assert "\x1b" not in found


def test_the_chart_has_all_full_scores_and_intervals_of_the_front(tmp_path: Path) -> None:
    result = make_run(tmp_path / "run", LONG, **FULL)
    with zf.Study.open(tmp_path / "run") as study:
        made = zf.plot.front(study).to_dict()  # validated against the schema
        rows = made["data"]["values"]
    assert {row["number"] for row in rows} == result.prompts_scored(in_full=True)
    assert {row["number"] for row in rows if row["front"]} == {each.index for each in result.front}
    with pytest.raises(zf.InputError, match="no prompt that is scored in full"):
        zf.plot.front(zf.Study.of_search("s", ["a", "b"], np.eye(2), {}))


def test_a_study_without_counts_has_the_tokens_of_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions stored no tokens where the model stated none, or the answer came from a cache."""
    monkeypatch.setattr(evaluator, "estimate_call", lambda *_: (0, 0))
    make_run(tmp_path / "run", **FULL, prices=zf.Prices(1.0, 2.0))
    with zf.Study.open(tmp_path / "run") as study:
        assert [each.tokens for each in study.front] == [estimate(each.prompt) for each in study.front]
        assert all(each.estimated and each.cost is None for each in study.front)
        assert all(row.tokens_per_call is None for row in study.ranked)
    found = section(tmp_path / "run")
    assert "No call states its tokens" in found
    assert "per call" not in found
    assert "money" not in found


def test_a_study_of_an_earlier_version_has_a_page() -> None:
    file = Path(__file__).parents[1] / "golden" / "before_move" / STUDY
    with zf.Study.open(file) as study:
        assert study.given_up is None
        assert {each.index for each in study.measured} == {row.index for row in study.ranked if row.is_full}
        assert report_body([study])


@pytest.mark.parametrize("value", ["x", -1, [], {"a": 1}, None])
def test_a_result_edited_by_hand_has_a_page(tmp_path: Path, value: Any) -> None:
    make_run(tmp_path / "run", **FULL, prefer_short=1.0)
    with zf.Study.open(tmp_path / "run") as study:
        study.result = {**study.result, "prefer_short": value, "front": value}
        assert report_body([study])
