"""Interface of the searches, and the observations that they share with Zopo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.arrays import Array

MAX_PREALLOCATED = 1024  # observations to allocate memory for in advance; a model grows beyond as needed


class Strategy(Protocol):
    """Search that decides which candidate to score next; `Zopo` does the bookkeeping of ask and tell.

    A strategy is deterministic in the order of these calls.
    """

    def propose(self) -> int:
        """Return a candidate that is not taken; called only while there is one."""

    def on_ask(self, index: int) -> None:
        """Process that a candidate was asked for without a proposal, and is pending."""

    def on_tell(self, index: int, final: bool, is_repeat: bool) -> None:
        """Process a new score in the observations; `is_repeat` means that it replaces an earlier one."""

    def on_discard(self, index: int) -> None:
        """Process that a pending candidate was returned without a final score."""

    def on_add(self, pool: _core.Pool, budget: int) -> None:
        """Replace the pool by one with more candidates after the known ones, and the budget."""


@dataclass
class Observations:
    """Scored pool indices in order of arrival; a repeated partial score keeps its position.

    Attributes:
        indices: Pool indices.
        scores: Latest score of each index.
        noises: Variance of each score; None if not stated.
        position: Position of each index in these lists.
    """

    indices: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    noises: list[float | None] = field(default_factory=list)
    position: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __contains__(self, index: int) -> bool:
        return index in self.position

    def record(self, index: int, score: float, noise: float | None) -> bool:
        """Store a score; return True if the index is new."""
        at = self.position.get(index)
        if at is not None:
            self.scores[at], self.noises[at] = score, noise
            return False
        # Append the index last: a signal handler may read the best observation between these lines.
        self.scores.append(score)
        self.noises.append(noise)
        self.position[index] = len(self.indices)
        self.indices.append(index)
        return True

    def score_of(self, index: int) -> float:
        """Return the latest score of an index."""
        return self.scores[self.position[index]]

    def best_position(self) -> int:
        """Return the position of the highest score, the first one among equals."""
        return int(np.argmax(self.scores))

    def score_array(self) -> Array:
        """Return all scores, (n,)."""
        return np.array(self.scores, dtype=np.float64)
