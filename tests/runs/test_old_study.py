"""A study file that an earlier version left interrupted opens, and resumes as that version resumes it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resume_tools import events

import zopo_fast as zf

FOLDER = Path(__file__).parents[1] / "golden" / "before_move"


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


old = _load(FOLDER / "make_study.py")
EXPECTED = json.loads(old.EXPECTED.read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the interrupted study."""
    return Path(shutil.copy(old.STUDY, tmp_path / "study.sqlite3"))


def test_opens_with_all_it_holds(path: Path) -> None:
    with zf.Store.open(path) as store:
        log = [[event.kind, {k: v for k, v in event.data.items() if k != "at"}] for event in store.events()]
        numbers = sorted(number for found in store.answers().values() for number in found)
        answers = {store.answer(number).text for number in numbers}
        assert store.pool() == old.POOL
        np.testing.assert_array_equal(store.array("embeddings"), old.EMBEDDINGS)
        assert [trial["index"] for trial in store.trials()] == [
            trial["index"] for trial in EXPECTED["trials"][: len(store.trials())]
        ]
        assert (len(numbers), answers) == (40, {"no", "maybe", "yes"})
        assert store.charged()[0] >= 40
    assert log == EXPECTED["log"][: len(log)]
    assert {kind for kind, _ in log} == {"ask", "score", "failed"}


def test_continues_the_run_of_the_version_that_began_it(path: Path) -> None:
    """The log of the earlier run stays, no answer is asked again, and the race goes on by today's rules."""
    before = [(event.kind, event.data) for event in events(path)]
    with zf.Store.open(path) as store:
        answered = len(store.answers()["model"]) if "model" in store.answers() else 40
    model = old.Model()
    result = old.run(path, model)
    log = [(event.kind, event.data) for event in events(path)]
    assert log[: len(before)] == before
    assert len(log) > len(before)
    scored = [(data["prompt"], data["example"]) for kind, data in log if kind == "score"]
    assert len(set(scored)) == len(scored) >= answered
    known = {(data["prompt"], data["example"]) for kind, data in before if kind == "score"}
    asked = {(prompt, example) for prompt, example in map(tuple, model.calls)}
    assert not known & asked
    assert (result.error, result.stopped_by) == (None, "budget")
    assert result.best_score >= EXPECTED["result"]["best_score"]


def test_knows_its_metric_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(answer: str, references: list[str]) -> float:
        return float(answer in references)

    monkeypatch.setattr(old, "TASK", replace(old.TASK, metric=another))
    model = old.Model()
    with pytest.raises(zf.StudyMismatchError, match="task: f2999952dfef15c7"):
        old.run(path, model)
    assert model.calls == []


# ---- metrics whose rules have changed ----------------------------------------------------------------


class Apostrophes:
    """Model whose answers only the former rules take for "yes"; its calls fail after `left` answers."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, messages: Any) -> str:
        if self.left == 0:
            raise zf.UnreachableError("gone")
        self.left -= 1
        return "ye's"


TEXT_TASK = zf.Task("text", tuple(zf.Example(f"question {i}", ("yes",)) for i in range(4)))
TEXT_CONFIG = zf.RunConfig(budget=4, initial=2, concurrency=1, stop_at_perfect=False, heldout=False)


def scores_of(path: Path, metric: str, *, forget_rules: bool) -> list[float]:
    """Return the scores of a run that is interrupted after 6 answers, and resumed."""
    task = replace(TEXT_TASK, metric=metric)
    prompts = [f"Prompt {i}." for i in range(6)]
    Z = np.random.default_rng(0).normal(size=(6, 3))
    zf.optimize_sync(task, prompts, Apostrophes(6), TEXT_CONFIG, embeddings=Z, store=path)
    if forget_rules:  # as in a study of a version before they were stored
        with closing(sqlite3.connect(path)) as connection, connection:
            assert connection.execute("DELETE FROM study WHERE name = 'metric_rules'").rowcount == 1
    zf.optimize_sync(task, prompts, Apostrophes(100), TEXT_CONFIG, embeddings=Z, store=path)
    return [event.data["score"] for event in events(path) if event.kind == "score"]


@pytest.mark.parametrize("metric", ["exact_match", "contains", "exact_set", "f1"])
def test_a_study_keeps_the_rules_of_its_metric(tmp_path: Path, metric: str) -> None:
    assert scores_of(tmp_path / "new", metric, forget_rules=False) == [0.0] * 16
    assert scores_of(tmp_path / "old", metric, forget_rules=True) == [0.0] * 6 + [1.0] * 10
