"""A run whose pool grows, killed at any entry of its log, resumes as if uninterrupted."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import conductor
import growth_tools
import pytest
from conductor import Images
from growth_tools import (
    FULL,
    PARTS,
    RACE,
    Answering,
    Embedder,
    GrowthConductor,
    Writing,
    config,
    grow,
    rounds,
)
from resume_tools import TASK, told
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.runs.resume import retry_failures
from zopo_fast.storage.store import Event, Store

SMALL = replace(TASK, train=TASK.train[:5])
RUNS: dict[str, tuple[zf.Task, dict[str, Any], bool, dict[str, Any]]] = {
    "in full": (SMALL, FULL, False, {}),
    "in full, a model writes": (SMALL, FULL, True, {}),
    "race": (TASK, RACE, False, {}),
    "race, a model writes": (TASK, RACE, True, {}),
    "race, other order": (TASK, {**RACE, "seed": 8}, True, {"seed": 1}),
    "refused prompts": (SMALL, {**FULL, "max_failures": 9}, True, {"reject": (201, 432, 31)}),
    "no screening": (SMALL, {**FULL, "growth": replace(growth_tools.GROWTH, screen=False)}, False, {}),
}


def conducted(
    name: str, path: Path, order: Any = (), images: Any = lambda _: None
) -> tuple[zf.Result, GrowthConductor, list[Event]]:
    task, settings, writes, how = RUNS[name]

    def run(model: GrowthConductor, store: Store) -> Any:
        return zf.optimize(
            task, growth_tools.POOL, model.model, config(**settings), embedder=model,
            writers=[zf.PartEditor(PARTS)], writer=model.writer if writes else None,
            on_phase=model.phase, store=store,
        )  # fmt: skip

    return conductor.conducted(run, path, order, kind=GrowthConductor, images=images, **how)


def comparable(result: zf.Result) -> Any:
    trials = [replace(trial, seconds=0.0) for trial in result.trials]
    return replace(result, seconds=0.0, trials=trials)


def answers_of(path: Path, role: str) -> int:
    with Store.open(path) as store:
        return len(list(store._all("SELECT id FROM answers WHERE role = ?", role)))


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_as_if_uninterrupted(name: str, tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    images = Images(path, every=11)
    whole, conductor, log = conducted(name, path, images=images)
    assert whole.error is None
    assert whole.grown, "no prompt entered: the test shows nothing"
    entries = growth_tools.without_times(log)
    assert len(entries) >= 4
    assert len(images.paths) >= 4
    for image in images.paths:
        with Store.open(image) as store:
            cut = list(store.events())
        paid = answers_of(image, "writer")
        result, again, relived = conducted(name, image, log)
        assert told(relived) == told(log), image
        assert growth_tools.without_times(relived) == entries
        assert comparable(result) == comparable(whole)
        assert paid + len(again.writer.calls) == len(conductor.writer.calls), "paid a writer's call twice"
        scored = Counter(event.kind for event in cut)["score"]
        assert len(again.calls) <= len(conductor.calls) - scored + 9  # those in flight at the kill
    finished, silent, _ = conducted(name, path, log)
    assert (silent.calls, silent.writer.calls) == ([], [])
    assert comparable(finished) == comparable(whole)


# ---- interruptions but kills -------------------------------------------------------------------------


class Pausing(Writing):
    """Model that writes, and stops the run at one of its calls."""

    def __init__(self, stop: asyncio.Event, at: int) -> None:
        super().__init__()
        self._stop, self._at = stop, at

    async def __call__(self, messages: Any) -> str:
        if len(self.calls) == self._at:
            self._stop.set()
            await asyncio.sleep(HANG)  # cancelled by the end of the run
        return await super().__call__(messages)


@pytest.mark.parametrize("at", [0, 2])
def test_interruption_while_a_round_is_written(at: int, tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    writing = Pausing(asyncio.Event(), at)
    model = Answering()
    first = grow(path, model, writer=writing, stop=writing._stop)
    assert first.stopped_by == "interrupted"
    assert rounds(path)[-1][0] == "write"
    assert first.usage.calls == model.calls + len(writing.calls)
    second, more = Writing(), Answering()
    result = grow(path, more, writer=second)
    assert result.usage.calls == model.calls + more.calls + len(writing.calls) + len(second.calls)
    assert not set(writing.calls) & set(second.calls), "paid twice"
    assert rounds(path)[1][0] == "grow"
    assert result.grown


def test_limit_that_a_writer_reaches(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    unlimited = grow(tmp_path / "other.sqlite3", writer=Writing())
    before = next(
        sum(e.kind == "score" for e in log[: k + 1])
        for log in [events(tmp_path / "other.sqlite3")]
        for k, e in enumerate(log)
        if e.kind == "write"
    )
    writing, model = Writing(), Answering()
    first = grow(path, model, writer=writing, limits=zf.Limits(calls=before + 2))
    assert first.stopped_by == "calls"
    assert first.usage.calls == model.calls + len(writing.calls) <= before + 2
    second, more = Writing(), Answering()
    result = grow(path, more, writer=second)
    assert not set(writing.calls) & set(second.calls), "paid twice"
    assert result.usage.calls == model.calls + more.calls + len(writing.calls) + len(second.calls)
    assert result.stopped_by == unlimited.stopped_by


def events(path: Path) -> list[Event]:
    with Store.open(path) as store:
        return list(store.events())


def test_failures_are_retried_past_a_round(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    refused: list[str] = []

    class Refusing(Answering):
        async def __call__(self, messages: Any) -> str:
            content = messages[-1]["content"]
            if self.calls > 20 and len(refused) < 2:
                refused.append(content)
                raise zf.RequestRejectedError("refused")
            return await super().__call__(messages)

    writing = Writing()
    grow(path, Refusing(), writer=writing, unanswered="fail", max_failures=9)
    assert refused
    before = sum(kind == "grow" for kind, _ in rounds(path))
    with Store.open(path) as store:
        retry_failures(store)
        assert sum(event.kind == "grow" for event in store.events()) < before
    second = Writing()
    result = grow(path, writer=second, unanswered="fail", max_failures=9)
    assert result.grown
    assert not any(trial.error for trial in result.trials)
    assert [k for k, _ in rounds(path)] == ["write", "grow"] * (len(rounds(path)) // 2)


def test_embedder_that_fails_in_a_round_ends_the_run_with_its_result(tmp_path: Path) -> None:
    class Failing(Embedder):
        async def embed(self, texts: Any) -> Any:
            if self.calls:
                raise zf.ServerError("the embedder is down")
            return await super().embed(texts)

    path = tmp_path / "study.sqlite3"
    writing, model = Writing(), Answering()
    first = grow(path, model, writer=writing, embedder=Failing())
    assert first.stopped_by == "error"
    assert "embedder is down" in str(first.error)
    assert first.usage.calls == model.calls + len(writing.calls)
    second, more = Writing(), Answering()
    result = grow(path, more, writer=second)
    assert result.error is None
    assert result.grown
    assert not set(writing.calls) & set(second.calls)
    assert result.usage.calls == model.calls + more.calls + len(writing.calls) + len(second.calls)
