"""`zopo-fast report`: one run, several, a run in progress, and what cannot be shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_tools import make_run

import zopo_fast as zf
from zopo_fast.cli import cli
from zopo_fast.errors import InputError, MissingDependencyError, OutputError, StoreError


def report(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, words)], catch_exceptions=True, standalone_mode=False)


def test_the_page_of_a_run_lies_in_its_folder(tmp_path: Path) -> None:
    result = make_run(tmp_path / "run")
    done = report(tmp_path / "run")
    path = tmp_path / "run" / "report.html"
    assert done.output == f"Report: {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
    assert result.best_prompt in path.read_text(encoding="utf-8")
    before = path.stat().st_mtime_ns
    assert report(tmp_path / "run" / "study.sqlite3").exception is None  # written again
    assert path.stat().st_mtime_ns > before


def test_several_runs_are_compared_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / name, seed=len(name))
    monkeypatch.chdir(tmp_path)
    assert report("one", "two").exception is None
    assert "Comparison of 2 runs" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert report("one", "two", "--out", "both.html").exception is None
    assert (tmp_path / "both.html").exists()


def test_a_run_in_progress_can_be_shown(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path, stop_after=1)
    assert report(tmp_path).exception is None
    assert "not finished" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_shown_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    for words, kind, says in (
        ([tmp_path / "nowhere"], StoreError, "no study file there"),
        ([tmp_path / "run", "--out", tmp_path], InputError, "is a folder"),
        ([tmp_path / "run", "--out", tmp_path / "no" / "x.html"], OutputError, "cannot be written"),
    ):
        failed = report(*words)
        assert isinstance(failed.exception, kind)
        assert says in str(failed.exception)
    monkeypatch.setitem(sys.modules, "altair", None)
    failed = report(tmp_path / "run")
    assert isinstance(failed.exception, MissingDependencyError)
    assert 'pip install "zopo-fast[report]"' in str(failed.exception)


def test_the_run_of_another_process_is_left_alone(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = (tmp_path / "study.sqlite3").read_bytes()
    assert report(tmp_path).exception is None
    assert (tmp_path / "study.sqlite3").read_bytes() == before
    with zf.Store.open(tmp_path / "study.sqlite3") as store:
        assert store.trials()
