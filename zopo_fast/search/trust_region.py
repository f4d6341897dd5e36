"""Trust region around the best prompt, and the coordinates in which distances are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.arrays import Array, Indices
from zopo_fast.search.strategy import Observations

MIN_REGION = 8  # candidates; a region that would shrink below is abandoned


class Coordinates:
    """Coordinates that the kernel sees: centered embeddings with mean square norm d over the pool.

    One factor scales all columns, so that they keep their relative spread, which is informative. With
    `zscore` each column is scaled to unit variance instead.

    Args:
        pool: Candidates in standardized coordinates.
        deviation: (d,) standard deviation of each column.
        spread: Root mean square distance of the embeddings from their mean.
        zscore: True to scale each column to unit variance.
    """

    def __init__(self, pool: _core.Pool, deviation: Array, spread: float, zscore: bool) -> None:
        self._pool = pool
        self.dim = len(deviation)
        ones = np.ones_like(deviation)
        # The pool's coordinates have unit variance; a constant column is zero in them.
        self._factor = ones if zscore or spread == 0.0 else deviation * (math.sqrt(self.dim) / spread)

    def set_pool(self, pool: _core.Pool) -> None:
        """Replace the pool by one with more candidates; the coordinates stay the same."""
        self._pool = pool

    def rows(self, indices: Sequence[int] | Indices) -> Array:
        """Return the coordinates (n, d) of candidates."""
        X: Array = self._pool.rows(np.asarray(indices, dtype=np.int64)) * self._factor
        return X

    def to_pool(self, x: Array) -> Array:
        """Convert a point (d,) to the pool's standardized coordinates."""
        z: Array = np.divide(x, self._factor, out=np.zeros_like(x), where=self._factor > 0.0)
        return z


class TrustRegion:
    """Number of candidates to consider around a center, the best prompt.

    The size doubles when a better prompt is found, and halves after `patience` scores without improvement.
    Below `MIN_REGION` the region is abandoned, and the best prompt outside all abandoned regions becomes the
    center.

    Args:
        max_size: Largest size, and the first one.
        patience: Scores without improvement before the size halves; 0 for never.

    Attributes:
        size: Number of candidates to consider.
        center: Index of the center; -1 before the first score.
    """

    def __init__(self, max_size: int, patience: int) -> None:
        self.size = self._max_size = max_size
        self._patience, self._failures = patience, 0
        self.center = -1
        self._closed: set[int] = set()  # observations inside abandoned regions

    def resize(self, max_size: int) -> None:
        """Set the largest size and the size."""
        self.size = self._max_size = max_size

    def update(self, seen: Observations, index: int, inside: Callable[[], list[int]]) -> bool:
        """Process a new score; return True if the center moves.

        Args:
            seen: All observations.
            index: Index of the new score.
            inside: Function that returns the observations inside the region.
        """
        if self.center < 0 or seen.score_of(index) > seen.score_of(self.center):
            self.center, self._failures = index, 0
            self.size = min(2 * self.size, self._max_size)
            return True
        self._failures += 1
        if self._patience == 0 or self._failures < self._patience:
            return False
        self._failures = 0
        self.size //= 2
        if self.size >= min(MIN_REGION, self._max_size):
            return False
        self.size = self._max_size
        self._closed.update(inside())
        outside = [i for i in seen.indices if i not in self._closed]
        if not outside:  # every local optimum was searched: restart from the best one
            self._closed.clear()
        previous, self.center = self.center, max(outside or seen.indices, key=seen.score_of)
        return self.center != previous
