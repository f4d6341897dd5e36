"""Trust region around the best prompts, and the coordinates it is measured in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.arrays import Array, Indices
from zopo_fast.search.strategy import Observations

SMALLEST = 8  # candidates of a trust region; one that would be smaller is abandoned


class Coordinates:
    """What the kernel sees of a candidate: its centered embedding, of mean square d over the pool.

    One factor for all columns leaves them their own spread, which tells more than columns of unit
    variance do; `zscore` makes those.
    """

    def __init__(self, pool: _core.Pool, deviation: Array, spread: float, zscore: bool) -> None:
        self._pool = pool
        self.dim = len(deviation)
        ones = np.ones_like(deviation)
        # The pool's own coordinates have unit variance; a constant column is zero in them.
        self._factor = ones if zscore or spread == 0.0 else deviation * (math.sqrt(self.dim) / spread)

    def grown(self, pool: _core.Pool) -> None:
        """Read a pool with more candidates, in the same coordinates."""
        self._pool = pool

    def rows(self, indices: Sequence[int] | Indices) -> Array:
        """Coordinates of candidates, (n, d)."""
        X: Array = self._pool.rows(np.asarray(indices, dtype=np.int64)) * self._factor
        return X

    def standardised(self, x: Array) -> Array:
        """The same point (d,) in the pool's coordinates."""
        z: Array = np.divide(x, self._factor, out=np.zeros_like(x), where=self._factor > 0.0)
        return z


class TrustRegion:
    """How many of the best prompt's neighbours are considered, and which prompt that is.

    Twice as many after a better prompt was found, half after `patience` scores without one; below the
    smallest the region is abandoned for the best prompt that lies in none abandoned before.
    """

    def __init__(self, largest: int, patience: int) -> None:
        self.size = self._largest = largest
        self._patience, self._failures = patience, 0
        self.center = -1
        self._closed: set[int] = set()  # observations that lie in regions given up

    def grown(self, largest: int) -> None:
        """Consider more candidates at most, and now."""
        self.size = self._largest = largest

    def told(self, seen: Observations, index: int, inside: Callable[[], list[int]]) -> bool:
        """Take a score in; True when the center moves. `inside`: the observations that lie in the region."""
        if self.center < 0 or seen.score_of(index) > seen.score_of(self.center):
            self.center, self._failures = index, 0
            self.size = min(2 * self.size, self._largest)
            return True
        self._failures += 1
        if self._patience == 0 or self._failures < self._patience:
            return False
        self._failures = 0
        self.size //= 2
        if self.size >= min(SMALLEST, self._largest):
            return False
        self.size = self._largest
        self._closed.update(inside())
        elsewhere = [i for i in seen.indices if i not in self._closed]
        if not elsewhere:  # every local optimum was searched: once more, from the best
            self._closed.clear()
        center, self.center = self.center, max(elsewhere or seen.indices, key=seen.score_of)
        return self.center != center
