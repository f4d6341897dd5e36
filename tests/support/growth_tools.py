"""Runs on a composed pool that grows, with fake models, and the conductor that interrupts them."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conductor import Conductor
from resume_tools import EXAMPLES, TASK

import zopo_fast as zf
from zopo_fast.prompts.generate import compose
from zopo_fast.storage.store import Event, Store

PARTS = {
    "roles": ["", *(f"Role {i}:" for i in range(1, 5))],
    "instructions": [f"Do it in way number {i}." for i in range(4)],
    "formats": ["", *(f"Format {i}!" for i in range(1, 4))],
}
GROWTH = zf.Growth(written=12, entrants=3, first=0.25, gap=0.15, share=0.25)
FULL = {"racing": False, "budget": 16, "initial": 4, "prompts_in_flight": 3}
RACE = {"racing": True, "budget": 10, "initial": 5, "prompts_in_flight": 4, "race_batch": 3}
_FEWER = zf.Task("toy", TASK.train[:5], TASK.heldout[:2], metric="exact_match")


def code_of(text: str) -> tuple[int, int, int]:
    """Return role, instruction and format of a composed prompt."""
    role, form = re.search(r"Role (\d)", text), re.search(r"Format (\d)", text)
    way = re.search(r"number (\d)", text)
    assert way is not None, text
    return int(role[1]) if role else 0, int(way[1]), int(form[1]) if form else 0


def number_of(text: str) -> int:
    role, way, form = code_of(text)
    return role * 100 + way * 10 + form


def score_of(text: str) -> float:
    role, way, form = code_of(text)
    return (3 * role + 4 * way + 3 * form) / 33


POOL = zf.Pool.from_texts([text for text in compose(80, 2, PARTS).prompts if score_of(text) <= 0.6][:14])
"""Prompts that one edit of a part improves."""


def answer(messages: Any) -> str:
    content = messages[-1]["content"]
    example = re.search(r"question (\d+)", content)
    assert example is not None
    return "yes" if (int(example[1]) * 7 + 5) % 20 < 20 * score_of(content) else "no"


def written(messages: Any) -> str:
    """Answer of a model that writes: a composition chosen by the message."""
    digest = hashlib.blake2b(messages[-1]["content"].encode(), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    role, way, form = (rng.choice(PARTS[name]) for name in ("roles", "instructions", "formats"))
    return " ".join(part for part in (role, way, form) if part)


def rows_of(texts: Sequence[str], width: int = 8) -> np.ndarray[Any, Any]:
    """Embeddings: what a prompt is composed of, and a little noise."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
        row = np.random.default_rng(seed).normal(size=width) * 0.1
        row[:3] += np.array(code_of(text) if "number" in text else (9, 9, 9))
        rows.append(row)
    return np.array(rows, dtype=np.float32)


class Embedder:
    """Embedder that counts its texts."""

    def __init__(self, width: int = 8) -> None:
        self.width, self.calls = width, 0
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> Any:
        self.calls += 1
        self.texts += texts
        return rows_of(texts, self.width)


class Writing:
    """Model that writes, and counts its calls."""

    name = "writing"

    def __init__(self, error: Exception | None = None, after: int = 0) -> None:
        self.calls: list[str] = []
        self._error, self._after = error, after

    async def __call__(self, messages: Any) -> str:
        if self._error is not None and len(self.calls) >= self._after:
            raise self._error
        self.calls.append(messages[-1]["content"])
        return written(messages)


class Answering:
    """Model that answers, and counts its calls; `stop` is set at one of them."""

    name = "answering"

    def __init__(self, stop: Any = None, at: int = 0) -> None:
        self.calls = 0
        self._stop, self._at = stop, at

    async def __call__(self, messages: Any) -> str:
        self.calls += 1
        if self._stop is not None and self.calls == self._at:
            self._stop.set()
        return answer(messages)


def config(**more: Any) -> zf.RunConfig:
    given: dict[str, Any] = {**FULL, "stop_at_perfect": False, "seed": 3, "growth": GROWTH, "heldout": False}
    return zf.RunConfig(**{**given, **more})


def grow(path: Path | Store | None = None, model: Any = None, **more: Any) -> zf.Result:
    """Run on the composed pool with its editor of parts, and with other writers that are given."""
    names = ("writer", "stop", "on_trial", "cache", "account", "embeddings")
    how = {name: more.pop(name) for name in names if name in more}
    task, pool = more.pop("task", _FEWER), more.pop("pool", POOL)
    writers = more.pop("writers", [zf.PartEditor(PARTS)])
    embedder = more.pop("embedder", None) or Embedder()
    return zf.optimize_sync(
        task, pool, model or Answering(), config(**more),
        embedder=embedder, writers=writers, store=path, **how,
    )  # fmt: skip


def rounds(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return kind and fields, without times, of the entries about growth."""
    with Store.open(path) as store:
        return without_times(store.events())


def without_times(log: Iterable[Event]) -> list[tuple[str, dict[str, Any]]]:
    kinds = ("write", "grow")
    return [(e.kind, {k: v for k, v in e.data.items() if k != "at"}) for e in log if e.kind in kinds]


class GrowthConductor(Conductor):
    """Conductor of a run whose pool grows: a round ends at its turn, like an answer."""

    def __init__(self, store: Store, order: Sequence[Event] = (), **how: Any) -> None:
        super().__init__(store, (), **how)
        prompts, found = list(POOL.prompts), {}
        self.writer = Writing()
        for event in order:
            if event.kind == "score":
                found[event.seq] = (number_of(prompts[event.data["prompt"]]), event.data["example"])
            elif event.kind == "grow":
                prompts += [row["prompt"] for row in event.data["written"] if row["fate"] == "entered"]
                found[event.seq] = (-1, event.data["round"])
        self._order = found

    async def model(self, messages: Any) -> str:
        content = messages[-1]["content"]
        example = re.search(r"question (\d+)", content)
        assert example is not None
        pair = number_of(content), int(example[1])
        self.calls.append(pair)
        await self._turn(pair)
        if pair[0] in self._reject and pair[1] < EXAMPLES:
            raise zf.RequestRejectedError(f"prompt {pair[0]} is refused")
        return answer(messages)

    async def embed(self, texts: Sequence[str]) -> Any:
        if list(texts) != list(POOL.prompts):
            ended = sum(event.kind == "grow" for event in self._store.events())
            await self._turn((-1, ended + 1))
        return rows_of(texts)
