"""Files beside the results of a run: what cannot be written is a note, and never hides the results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from report_tools import make_run

from zopo_fast.llm.types import Usage
from zopo_fast.report.output import write_curve, write_output
from zopo_fast.runs.folder import CURVE, REPORT
from zopo_fast.runs.result import Result, Trial

PNG = b"\x89PNG\r\n\x1a\n"


def result_of(*scores: float | None) -> Result:
    trials = [
        Trial(i, i, f"prompt {i}", score, () if score is None else (score,), Usage(), 0.0, None, Usage())
        for i, score in enumerate(scores, start=1)
    ]
    return Result("prompt 1", 0.5, 0, trials, Usage(), "budget", 1.0)


def test_curve_and_report_are_written(tmp_path: Path) -> None:
    result = make_run(tmp_path)
    assert write_output(result, tmp_path, tmp_path / "study.sqlite3") == []
    assert (tmp_path / CURVE).read_bytes().startswith(PNG)
    assert result.best_prompt in (tmp_path / REPORT).read_text(encoding="utf-8")


@pytest.mark.parametrize("scores", [(), (None,), (0.5,), (0.1, None, 0.9, 0.3)])
def test_the_curve_is_a_png_file(tmp_path: Path, scores: tuple[float | None, ...]) -> None:
    write_curve(result_of(*scores), tmp_path / CURVE)
    assert (tmp_path / CURVE).read_bytes().startswith(PNG)


def test_without_altair_both_are_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "altair", None)
    notes = write_output(result, tmp_path, tmp_path / "study.sqlite3")
    assert [note.partition(":")[0] for note in notes] == [CURVE, REPORT]
    assert all('pip install "zopo-fast[report]"' in note for note in notes)


def test_what_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    result = make_run(tmp_path)
    (tmp_path / CURVE).mkdir()
    (tmp_path / REPORT).mkdir()
    notes = write_output(result, tmp_path, tmp_path / "study.sqlite3")
    assert [note.partition(":")[0] for note in notes] == [CURVE, REPORT]


def test_a_run_without_a_study_has_a_curve_alone(tmp_path: Path) -> None:
    assert write_output(result_of(0.5), tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [CURVE]
