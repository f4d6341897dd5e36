"""Gradient search: the paper's local steps along the gradient of the posterior mean, in float64.

Each step starts at the best prompt so far, follows the gradient of the posterior mean, and is projected to
the nearest free candidate. Where the gradient is more uncertain than in earlier steps, the nearest neighbors
are scored instead (uncertainty-informed local exploration, arXiv 2403.02993, sec. 4.3).
"""

from __future__ import annotations

import bisect
import functools
from collections import deque

import numpy as np

from zopo_fast import _core
from zopo_fast.errors import NotPositiveDefiniteError
from zopo_fast.gp.arrays import Array
from zopo_fast.gp.ntk import NTK
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.kernel_scale import kernel_scale, scale_sample
from zopo_fast.search.strategy import MAX_PREALLOCATED, Observations

HISTORY = 50  # steps in the running quantile of the uncertainty
MIN_HISTORY = 5  # steps before the quantile is used

# Noise as a share of the kernel's mean diagonal, chosen by marginal likelihood: over the whole grid the first
# time, later by hill climbing from the last choice.
NOISE_GRID = np.logspace(-3, 1, 17)
MAX_REFRESH = 1024  # observations beyond which the choice stands, because it costs O(n^3)
# Bounds of a stated noise, as shares of the kernel's mean diagonal.
MIN_NOISE = 1e-6
MAX_NOISE = 1e12


class GradientSearch:
    """Local search along the gradient; pending candidates enter the model as fantasized scores.

    Args:
        pool: Candidates in standardized coordinates; those scored, pending or set aside are taken.
        kernel: Kernel on these coordinates; its scale is normalized here.
        seen: Observations; the caller adds scores.
        initial: Indices to propose first.
        config: Settings.
    """

    def __init__(
        self, pool: _core.Pool, kernel: NTK, seen: Observations, initial: list[int], config: ZopoConfig
    ) -> None:
        self._pool, self._seen, self._config = pool, seen, config
        self._dim = kernel.dim
        self._model = GradientModel(pool, kernel, seen, config.noise, config.budget)
        self._designing = True  # until all initial scores are known, or the first step
        self._queue = list(initial)  # initial candidates, later those of an exploration round
        self._pending: dict[int, None] = {}
        self._center = -1  # best prompt so far; -1 before the first score
        self._radii: dict[int, float] = {}  # by center
        # Relative gradient uncertainty of the last steps, in order of time and sorted.
        self._history: deque[float] = deque()
        self._ranked: list[float] = []

    def propose(self) -> int:
        """Return the next candidate: an initial one, one of an exploration round, or the end of a step."""
        index = self._from_queue()
        if index is None and len(self._seen) == 0:  # all initial scores are pending
            anchor = self._pool.row(next(iter(self._pending))) if self._pending else np.zeros(self._dim)
            index = self._pool.nearest(anchor)
        if index is None:
            index = self._step()
        self._pending[index] = None
        return index

    def on_ask(self, index: int) -> None:
        """Add a pending candidate."""
        self._pending[index] = None

    def on_tell(self, index: int, final: bool, is_repeat: bool) -> None:
        """Move the center to the best prompt, and update the model now to keep the next ask fast."""
        if final:
            self._pending.pop(index, None)
        seen = self._seen
        if self._center < 0 or seen.score_of(index) > seen.score_of(self._center):
            self._center = index
        elif index == self._center:  # a partial score that was replaced by a lower one
            self._center = seen.indices[seen.best_position()]
        if is_repeat:
            self._model.invalidate()
        if self._designing and not self._queue and not self._pending:
            self._designing = False
        if not self._designing:
            self._model.update(self._center)

    def on_discard(self, index: int) -> None:
        """Remove a pending candidate from the model."""
        self._pending.pop(index, None)

    def on_add(self, pool: _core.Pool, budget: int) -> None:
        """Continue in a pool with more candidates."""
        self._pool, self._radii = pool, {}
        self._model.reset(pool, budget)

    def _from_queue(self) -> int | None:
        while self._queue:
            index = self._queue.pop(0)
            if not self._pool.taken(index):
                return index
        return None

    def _step(self) -> int:
        self._designing = False
        pending = self._pending
        fantasized = [i for i in pending if i not in self._seen] if pending else []
        if self._explores(self._model.uncertainty_at(self._center, fantasized)):
            center = self._pool.row(self._center)
            near = self._pool.k_nearest(center, self._config.exploration, available_only=True)
            self._queue = [int(i) for i in near]
            return self._queue.pop(0)
        return self._model.step(self._config.step * self._radius())

    def _explores(self, uncertainty: float) -> bool:
        """Return True if the gradient is more uncertain than in most of the last steps.

        A fixed threshold would depend on the network's initialization; a running quantile does not.
        """
        window, ranked = self._history, self._ranked
        explores = False
        if len(window) >= MIN_HISTORY and self._config.exploration > 0:
            explores = uncertainty > ranked[int(self._config.exploration_quantile * (len(ranked) - 1))]
        if len(window) == HISTORY:
            del ranked[bisect.bisect_left(ranked, window.popleft())]
        window.append(uncertainty)
        bisect.insort(ranked, uncertainty)
        return explores

    def _radius(self) -> float:
        """Return the distance from the center to the farthest of its `neighbors` nearest candidates."""
        if self._center not in self._radii:
            self._radii[self._center] = self._pool.radius(self._center, self._config.neighbors)
        return self._radii[self._center]


class GradientModel:
    """Gradient of the posterior mean at the center of the search, updated with the observations.

    The unit of the kernel is its mean diagonal over the pool. The unit of a stated noise is the variance of
    the scores at the last choice of the noise level. The level is chosen at the first call and whenever the
    number of observations has quadrupled, unless the run is about to end. An observation costs O(n^2 + nd),
    a new center O(n^2 w + nd).

    Args:
        pool: Candidates in standardized coordinates.
        kernel: Kernel on these coordinates.
        seen: Observations; the caller adds scores.
        noise: Noise variance as a share of the signal variance; None to choose it by marginal likelihood.
        budget: Expected number of observations.
    """

    def __init__(
        self, pool: _core.Pool, kernel: NTK, seen: Observations, noise: float | None, budget: int
    ) -> None:
        self._seen, self._fixed = seen, noise
        self._scale = kernel_scale([kernel], pool.rows(scale_sample(len(pool))))
        self._network = kernel.network
        self.reset(pool, budget)
        self._choice: int | None = None  # position in the grid
        self._noise = (noise or 1e-2) * self._scale  # in units of K
        self._score_variance = 1.0
        self._refresh_at = 1
        self._has_changes = False  # in the scores of observations that the model already has

    def reset(self, pool: _core.Pool, budget: int) -> None:
        """Discard the model and start on a pool, in the same units."""
        self._budget = budget
        self._model = _core.LocalGradient(self._network, pool, min(budget, MAX_PREALLOCATED))
        self._size = 0  # observations in the model
        self._center = -1  # center of the model; -1 for none

    def invalidate(self) -> None:
        """Mark that an observation has changed; the next step refits the model."""
        self._has_changes = True

    def update(self, center: int) -> None:
        """Append new observations and move to a center, unless the next step refits the model anyway."""
        if not self._has_changes:
            self._sync()
            self._move(center)

    def uncertainty_at(self, center: int, pending: list[int]) -> float:
        """Return tr Sigma / tr d2k: the remaining share of the gradient's prior uncertainty at a candidate.

        Pending candidates count as observed at their expected scores. Such fantasized observations leave the
        gradient unchanged and reduce its uncertainty around them.
        """
        self._sync()
        self._move(center)
        return self._model.relative_uncertainty(pending, self._noise)

    def _move(self, center: int) -> None:
        if center != self._center:
            self._model.center(center)
            self._center = center

    def step(self, length: float) -> int:
        """Return the free candidate nearest to the end of a step of `length` along the gradient."""
        return self._model.step(length)

    def _sync(self) -> None:
        n = len(self._seen)
        if self._has_changes:
            self._has_changes = False
            self._refit(min(self._size, n))
        while self._size < n:
            self._append(self._size)
        # The choice pays off in later steps: skip it when fewer than n / 16 of them are left.
        if n >= self._refresh_at and (self._choice is None or 16 * (self._budget - n) >= n):
            self._refresh()

    def _variance(self, k: int) -> float:
        """Return the noise variance of observation k, in units of K."""
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
            except NotPositiveDefiniteError:  # a near-duplicate carries less information than its noise says
                noise *= 10.0

    def _refit(self, n: int) -> None:
        self._center = -1
        try:
            noises = np.array([self._variance(k) for k in range(n)])
            self._model.refit(self._seen.score_array()[:n], noises)
        except NotPositiveDefiniteError:
            self._size = len(self._model)  # append those from the near-duplicate on again

    def _refresh(self) -> None:
        n = len(self._seen)
        self._refresh_at = 4 * n
        scores = self._seen.score_array()
        with np.errstate(over="ignore"):  # scores with squares beyond float64 count as equal
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
        """Return the grid position of the highest marginal likelihood of standardized scores y (n,)."""

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
