"""Runs that a test interrupts anywhere, and uninterrupted ones to compare their logs with."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import zopo_fast as zf
from zopo_fast.storage.snapshot import snapshot
from zopo_fast.storage.store import Event, Store

PROMPTS = [f"Do it in way number {i}." for i in range(60)]
EMBEDDINGS = np.random.default_rng(7).normal(size=(len(PROMPTS), 6))
EXAMPLES = 16
TASK = zf.Task(
    "toy",
    tuple(zf.Example(f"question {i}", ("yes",)) for i in range(EXAMPLES)),
    tuple(zf.Example(f"question {i}", ("yes",)) for i in range(EXAMPLES, EXAMPLES + 5)),
    metric="exact_match",
)
SMALL = replace(TASK, train=TASK.train[:5])
FULL = {"racing": False, "budget": 14, "initial": 5, "prompts_in_flight": 3}


def settings(**more: Any) -> zf.RunConfig:
    given: dict[str, Any] = {"budget": 40, "initial": 8, "prompts_in_flight": 5, "race_batch": 3}
    return zf.RunConfig(**{**given, "stop_at_perfect": False, "seed": 3, **more})


def asked_for(messages: Sequence[Any]) -> tuple[int, int]:
    """Return prompt and example of a call."""
    content = messages[-1]["content"]
    prompt, example = re.search(r"number (\d+)", content), re.search(r"question (\d+)", content)
    assert prompt is not None
    assert example is not None
    return int(prompt[1]), int(example[1])


def answer(messages: Any) -> str:
    prompt, example = asked_for(messages)
    return "yes" if (example * 7 + 3 * prompt) % 60 < prompt else "no"


def events(path: Path) -> list[Event]:
    """Return the log of a study that is not open, or of a copy of one whose process was killed."""
    with Store.open(path) as store:
        return list(store.events())


def recorded(path: Path, kind: str) -> int:
    """Return the number of entries of a kind in the log of a study, which another process may have open."""
    if not path.exists():
        return 0
    with snapshot(path) as store:
        return sum(event.kind == kind for event in store.events())


def copy(path: Path, target: Path) -> Path:
    """Copy a study file with its write-ahead log."""
    for name in (path.name, path.name + "-wal"):
        if (path.parent / name).exists():
            shutil.copy(path.parent / name, target.parent / name.replace(path.name, target.name))
    return target


def cut(path: Path, keep: int, target: Path) -> Path:
    """Copy a study with only `keep` entries of its log, and with the answers that these score."""
    copy(path, target)
    with sqlite3.connect(target) as connection:
        connection.execute("DELETE FROM events WHERE seq > ?", (keep,))
        (scored,) = connection.execute("SELECT count(*) FROM events WHERE kind = 'score'").fetchone()
        connection.execute(
            "DELETE FROM answers WHERE id NOT IN (SELECT id FROM answers ORDER BY id LIMIT ?)", (scored,)
        )
        connection.execute("DELETE FROM trials")
    connection.close()
    return target


def told(log: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Return the entries of a log without their times."""
    return [(e.kind, *(e.data.get(name) for name in ("prompt", "examples", "example", "score"))) for e in log]


class Ordered:
    """Model function that answers one call after another, in the order of a log."""

    def __init__(self, log: Sequence[Event]) -> None:
        self.order = [(e.data["prompt"], e.data["example"]) for e in log if e.kind == "score"]
        self.waiting: dict[tuple[int, int], asyncio.Future[None]] = {}

    async def __call__(self, messages: Any) -> str:
        pair = asked_for(messages)
        turn = self.waiting[pair] = asyncio.get_running_loop().create_future()
        self._next()
        await turn
        return answer(messages)

    def _next(self) -> None:
        if self.order and self.order[0] in self.waiting:
            pair = self.order.pop(0)
            self.waiting[pair].set_result(None)
            # Answer the next call once the run has recorded this answer, some iterations of the loop later.
            self._later(8)

    def _later(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._later if turns else self._following, *([turns - 1] if turns else []))

    def _following(self) -> None:
        self._next()


def uninterrupted(log: Sequence[Event], path: Path, config: zf.RunConfig) -> list[Event]:
    """Return the log of an uninterrupted run with the same answers in the same order."""

    async def work() -> None:
        model = Ordered(log)
        run = asyncio.ensure_future(
            zf.optimize(TASK, PROMPTS, model, config, embeddings=EMBEDDINGS, store=path)
        )
        while model.order and not run.done():
            await asyncio.sleep(0.01)
        if not run.done():
            run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 60))
    return events(path)


class Model:
    """Model function that answers at once, records its calls, and may fail from some call on."""

    def __init__(self, fail_after: int | None = None, error: Exception | None = None) -> None:
        self.calls: list[tuple[int, int]] = []
        self._fail_after, self._error = fail_after, error
        self.after: Callable[[int], None] = lambda _: None
        self.down_at: int | None = None  # index of an example whose calls fail

    async def __call__(self, messages: Any) -> str:
        await asyncio.sleep(0)
        if asked_for(messages)[1] == self.down_at:
            raise zf.ServerError("down")
        if self._fail_after is not None and len(self.calls) >= self._fail_after:
            assert self._error is not None
            raise self._error
        self.calls.append(asked_for(messages))
        self.after(len(self.calls))
        return answer(messages)


def go(path: Path | Store, model: Any, **more: Any) -> zf.Result:
    how = {name: more.pop(name) for name in ("stop", "on_trial", "on_resume", "on_phase") if name in more}
    task, prompts = more.pop("task", TASK), more.pop("prompts", PROMPTS)
    embeddings = more.pop("embeddings", EMBEDDINGS[: len(prompts)])
    config = settings(budget=8, **more)
    return zf.optimize_sync(task, prompts, model, config, embeddings=embeddings, store=path, **how)


def never_twice(*models: Model) -> None:
    counted = Counter(pair for model in models for pair in model.calls)
    assert max(counted.values()) == 1
