"""The paper's search with its mathematics done in float64: local steps along the posterior gradient.

From the best prompt so far, one step along the gradient of the posterior mean, projected to the
nearest candidate not scored yet; where the derivative is more uncertain than it usually was in this
run, the nearest neighbours are scored instead (uncertainty-informed local exploration, arXiv
2403.02993, sec. 4.3, driven by the *gradient's* uncertainty).
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
from zopo_fast.search.problem import MAX_CAPACITY, kernel_scale
from zopo_fast.search.strategy import Observations

HISTORY = 50  # steps that the running quantile of the uncertainty looks back on
MIN_HISTORY = 5  # steps before it decides anything


class LocalSearch:
    """Proposes at any time; what is pending enters the model as fantasised scores.

    Args:
        pool: standardised coordinates; taken candidates are those scored, pending or set aside.
        kernel: on those coordinates, normalised here.
        seen: filled by the caller as scores come in.
        initial: indices proposed first.
    """

    def __init__(
        self, pool: _core.Pool, kernel: NTK, seen: Observations, initial: list[int], config: ZopoConfig
    ) -> None:
        self._pool, self._seen, self._config = pool, seen, config
        self._dim = kernel.dim
        self._surrogate = Surrogate(pool, kernel, seen, config.noise, config.budget)
        self._designing = True  # until all initial scores are in, or a step is asked for before
        self._queue = list(initial)  # initial points, later those of an exploration round
        self._pending: dict[int, None] = {}
        self._center = -1  # the best prompt so far; -1 before the first score
        self._radii: dict[int, float] = {}  # by center
        # Relative gradient uncertainty at the last steps, in order and sorted.
        self._history: deque[float] = deque()
        self._ranked: list[float] = []

    def propose(self) -> int:
        """Return the next candidate: initial, of an exploration round, or one step up the gradient."""
        index = self._from_queue()
        if index is None and len(self._seen) == 0:  # all initial scores are out: spread around them
            anchor = self._pool.row(next(iter(self._pending))) if self._pending else np.zeros(self._dim)
            index = self._pool.nearest(anchor)
        if index is None:
            index = self._step()
        self._pending[index] = None
        return index

    def told(self, index: int, final: bool, again: bool) -> None:
        """Move the center to the best prompt; the model takes the score in, so that the ask need not."""
        if final:
            self._pending.pop(index, None)
        seen = self._seen
        if self._center < 0 or seen.score_of(index) > seen.score_of(self._center):
            self._center = index
        elif index == self._center:  # a partial score that has sunk since
            self._center = seen.indices[seen.best_position()]
        if again:
            self._surrogate.retold()
        if self._designing and not self._queue and not self._pending:
            self._designing = False
        if not self._designing:
            self._surrogate.told(self._center)

    def discarded(self, index: int) -> None:
        """Forget a pending candidate."""
        self._pending.pop(index, None)

    def grown(self, pool: _core.Pool, budget: int) -> None:
        """Search on in a pool with more candidates."""
        self._pool, self._radii = pool, {}
        self._surrogate.grown(pool, budget)

    def _from_queue(self) -> int | None:
        while self._queue:
            index = self._queue.pop(0)
            if not self._pool.taken(index):
                return index
        return None

    def _step(self) -> int:
        self._designing = False
        pending = self._pending
        fantasised = [i for i in pending if i not in self._seen] if pending else []
        if self._explores(self._surrogate.uncertainty_at(self._center, fantasised)):
            center = self._pool.row(self._center)
            near = self._pool.k_nearest(center, self._config.exploration, available_only=True)
            self._queue = [int(i) for i in near]
            return self._queue.pop(0)
        return self._surrogate.step(self._config.step * self._radius())

    def _explores(self, uncertainty: float) -> bool:
        """Whether the derivative is more uncertain than at most steps so far.

        A fixed threshold would measure the network's initialisation; the running quantile does not.
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
        """Distance from the center to the last of its `neighbors` nearest other candidates."""
        if self._center not in self._radii:
            self._radii[self._center] = self._pool.radius(self._center, self._config.neighbors)
        return self._radii[self._center]


# Noise as a share of the kernel's mean diagonal, chosen by marginal likelihood: the whole grid at first,
# later a climb from the last choice. Beyond so many observations the choice stands: it costs O(n^3).
NOISE_GRID = np.logspace(-3, 1, 17)

MAX_REFRESH = 1024

MIN_NOISE = 1e-6  # of a score said to be exact

MAX_NOISE = 1e12  # of one that tells nothing


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
