"""What the search has seen: scores in order, and which prompts are waiting for one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from zopo_fast.gp.arrays import Array


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
