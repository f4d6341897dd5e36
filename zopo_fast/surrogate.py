"""The model of the scores: a Gaussian process's derivative kept in step with the observations."""

from __future__ import annotations

import functools

import numpy as np

from zopo_fast import _core
from zopo_fast.errors import ArrayError, NotPositiveDefiniteError
from zopo_fast.gp.arrays import Array
from zopo_fast.gp.ntk import NTK
from zopo_fast.observations import Observations

# The mean diagonal of the kernel is taken over the whole pool up to this size, over an even sample of
# this many candidates beyond.
SCALE_SAMPLE = 4096
# Noise as a share of the kernel's mean diagonal, chosen by marginal likelihood: the whole grid at first,
# later a climb from the last choice. Beyond so many observations the choice stands: it costs O(n^3).
NOISE_GRID = np.logspace(-3, 1, 17)
MAX_REFRESH = 1024
MAX_CAPACITY = 1024  # observations that room is made for at once; more as they come
LARGEST_SCALE = 1e150
MIN_NOISE = 1e-6  # of a score said to be exact
MAX_NOISE = 1e12  # of one that tells nothing


def kernel_scale(kernel: NTK, pool: _core.Pool) -> float:
    """Mean of k(z, z) over the candidates: the unit in which noise and thresholds are given.

    ArrayError where it is such that nothing can be computed in it.
    """
    step = max(1, len(pool) // SCALE_SAMPLE)
    rows = pool.rows(np.arange(0, len(pool), step))
    return usable_scale(float(kernel.diag(rows).mean()))


def usable_scale(scale: float) -> float:
    """Return the kernel's mean diagonal; ArrayError where its square or its inverse is beyond float64."""
    if not 1 / LARGEST_SCALE < scale < LARGEST_SCALE:
        raise ArrayError(
            f"kernel: its values on these embeddings, {scale:.3g} in the mean, are beyond float64"
        )
    return scale


class Surrogate:
    """The posterior's derivative at the center of the search, kept in step with what is observed.

    The kernel's unit is its mean diagonal over the pool; a score's noise is measured against the
    scores' variance when the noise was last chosen: at the first call, and when the data have grown
    fourfold, unless the run is about to end. An observation costs O(n^2 + nd), a new center O(n^2 w + nd).

    Args:
        noise: noise variance as a share of the signal's; None: by marginal likelihood.
        budget: observations expected in all.
    """

    def __init__(
        self, pool: _core.Pool, kernel: NTK, seen: Observations, noise: float | None, budget: int
    ) -> None:
        self._seen, self._fixed = seen, noise
        self._scale = kernel_scale(kernel, pool)
        self._network = kernel._network
        self.grown(pool, budget)
        self._choice: int | None = None  # position in the grid
        self._noise = (noise or 1e-2) * self._scale  # in K's units
        self._score_variance = 1.0
        self._refresh_at = 1
        self._retold = False

    def grown(self, pool: _core.Pool, budget: int) -> None:
        """Begin the model anew on a pool, the first or one with more candidates, in the same units."""
        self._budget = budget
        self._model = _core.LocalGradient(self._network, pool, min(budget, MAX_CAPACITY))
        self._size = 0  # observations in the model
        self._center = -1  # of the model; -1: none

    def retold(self) -> None:
        """Take in that an observation has changed: the model follows at the next step."""
        self._retold = True

    def told(self, center: int) -> None:
        """Take in a new observation, unless more than that has changed, and where the search now is."""
        if not self._retold:
            self._sync()
            self._move(center)

    def uncertainty_at(self, center: int, pending: list[int]) -> float:
        """Share of the derivative's prior uncertainty at a candidate that the data have not removed.

        tr Sigma / tr d2k, as if the pending candidates had scored what is expected of them: such
        fantasised points leave the gradient as it is and lower its uncertainty around them.
        """
        self._sync()
        self._move(center)
        return self._model.relative_uncertainty(pending, self._noise)

    def _move(self, center: int) -> None:
        if center != self._center:
            self._model.center(center)
            self._center = center

    def step(self, length: float) -> int:
        """Return the free candidate nearest to the center moved by `length` along the gradient."""
        return self._model.step(length)

    def _sync(self) -> None:
        n = len(self._seen)
        if self._retold:
            self._retold = False
            self._refit(min(self._size, n))
        while self._size < n:
            self._append(self._size)
        # A choice pays by the steps that follow: none with fewer left than a sixteenth of those taken.
        if n >= self._refresh_at and (self._choice is None or 16 * (self._budget - n) >= n):
            self._refresh()

    def _variance(self, k: int) -> float:
        """Noise of observation k in the kernel's units."""
        variance = self._seen.noises[k]
        noise = self._noise if variance is None else variance / self._score_variance * self._scale
        return min(max(noise, MIN_NOISE * self._scale), MAX_NOISE * self._scale)

    def _append(self, k: int) -> None:
        noise = self._variance(k)
        while True:
            try:
                self._model.append(self._seen.indices[k], self._seen.scores[k], noise)
                self._size = k + 1
                return
            except NotPositiveDefiniteError:  # a near-duplicate: it tells less than its noise says
                noise *= 10.0

    def _refit(self, n: int) -> None:
        self._center = -1
        try:
            noises = np.array([self._variance(k) for k in range(n)])
            self._model.refit(self._seen.score_array()[:n], noises)
        except NotPositiveDefiniteError:
            self._size = len(self._model)  # those from the near-duplicate on are appended again

    def _refresh(self) -> None:
        n = len(self._seen)
        self._refresh_at = 4 * n
        scores = self._seen.score_array()
        with np.errstate(over="ignore"):  # scores beyond what a square can hold count as equal
            variance = float(scores.var())
        variance = variance if np.isfinite(variance) else 0.0
        self._score_variance = variance if variance > 0 else 1.0
        if self._fixed is None and variance > 0 and n <= MAX_REFRESH:
            self._choice = self._best_noise((scores - scores.mean()) / np.sqrt(variance))
            self._noise = float(NOISE_GRID[self._choice]) * self._scale
        self._refit(n)
        while self._size < n:
            self._append(self._size)

    def _best_noise(self, y: Array) -> int:
        """Position in the grid of the highest marginal likelihood of standardised scores y (n,)."""

        @functools.cache
        def likelihood(at: int) -> float:
            return self._model.log_likelihood(y, float(NOISE_GRID[at]) * self._scale)

        everywhere = range(len(NOISE_GRID))
        if self._choice is None:
            return max(everywhere, key=likelihood)
        best = self._choice
        while True:
            uphill = max((k for k in (best, best - 1, best + 1) if k in everywhere), key=likelihood)
            if uphill == best:
                return best
            best = uphill
