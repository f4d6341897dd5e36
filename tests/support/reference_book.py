"""Book-keeping of a reference search: prompts scored, pending and set aside, and what it may propose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

import zopo_fast as zf
from zopo_fast.gp import reference

Array = np.ndarray


class Choice(NamedTuple):
    """Prompts that may be proposed, the upper bound of each criterion, and the lower bound of the best."""

    indices: Sequence[int]
    high: Array
    needed: float

    def admits(self, index: int) -> bool:
        """Return whether no other prompt is certainly more promising."""
        where = [at for at, i in enumerate(self.indices) if i == index]
        return bool(where) and bool(self.high[where[0]] >= self.needed)


def exactly(index: int) -> Choice:
    return Choice([index], np.ones(1), 1.0)


class Score(NamedTuple):
    value: float
    noise: float | None
    final: bool


@dataclass
class Book:
    """Prompts scored (in order of arrival), pending and set aside."""

    m: int
    budget: int
    seen: dict[int, Score] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    set_aside: list[int] = field(default_factory=list)
    counted: int = 0  # asked and not discarded

    @property
    def free(self) -> list[int]:
        taken = {*self.seen, *self.pending, *self.set_aside}
        return [i for i in range(self.m) if i not in taken]

    @property
    def waiting(self) -> list[int]:
        """Pending prompts without a partial score, which the models fantasise."""
        return [i for i in self.pending if i not in self.seen]

    @property
    def can_offer(self) -> bool:
        return self.counted < self.budget and bool(self.free or self.set_aside)

    @property
    def scores(self) -> Array:
        return np.array([s.value for s in self.seen.values()])

    @property
    def best(self) -> tuple[int, float] | None:
        final = {i: s.value for i, s in self.seen.items() if s.final}
        known = final or {i: s.value for i, s in self.seen.items()}
        return max(known.items(), key=lambda pair: pair[1]) if known else None


def initial_of(config: zf.ZopoConfig, book: Book) -> list[int]:
    if not isinstance(config.initial, int):
        return list(config.initial)
    order = np.random.default_rng(config.seed).permutation(book.m)
    return [int(i) for i in order[: min(config.initial, book.budget)]]


def nearest(E: Array, x: Array, free: Sequence[int], k: int) -> list[int]:
    """Return at most k of the free candidates, nearest first."""
    is_free = np.isin(np.arange(len(E)), free)
    return [int(i) for i in reference.k_nearest(E, x, k, is_free)]


def nearest_to_first_pending(book: Book, E: Array) -> int:
    at = E[book.pending[0]] if book.pending else np.zeros(E.shape[1])
    return nearest(E, at, book.free, 1)[0]
