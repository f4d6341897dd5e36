"""What Zopo asks of a search: the bookkeeping of ask and tell lives in Zopo, the decisions here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.arrays import Array


class Strategy(Protocol):
    """Decides what to score next. Deterministic in the order of these calls."""

    def propose(self) -> int:
        """Return a candidate that is not taken; called only while there is one."""

    def told(self, index: int, final: bool, again: bool) -> None:
        """Take in that `index` has a score among the observations; `again`: in place of an earlier one."""

    def discarded(self, index: int) -> None:
        """Take in that `index` was given back without a final score."""

    def grown(self, pool: _core.Pool, budget: int) -> None:
        """Take in a pool with more candidates after those known, and the budget it allows."""


@dataclass
class Observations:
    """Scored pool indices in the order they were told; a repeated partial score keeps its place."""

    indices: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    noises: list[float | None] = field(default_factory=list)  # variance of a score; None: not stated
    position: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __contains__(self, index: int) -> bool:
        return index in self.position

    def set(self, index: int, score: float, noise: float | None) -> bool:
        """Record a score; True when the index is new."""
        at = self.position.get(index)
        if at is not None:
            self.scores[at], self.noises[at] = score, noise
            return False
        # The index last: a signal handler may look at the best of these in between.
        self.scores.append(score)
        self.noises.append(noise)
        self.position[index] = len(self.indices)
        self.indices.append(index)
        return True

    def score_of(self, index: int) -> float:
        """Score last told for an index."""
        return self.scores[self.position[index]]

    def best_position(self) -> int:
        """Position of the highest score, the first of equals."""
        return int(np.argmax(self.scores))

    def score_array(self) -> Array:
        """All scores, (n,)."""
        return np.array(self.scores, dtype=np.float64)
