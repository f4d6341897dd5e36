"""The paper's search with its mathematics done in float64: local steps along the posterior gradient.

From the best prompt so far, one step along the gradient of the posterior mean, projected to the
nearest candidate not scored yet; where the derivative is more uncertain than it usually was in this
run, the nearest neighbours are scored instead (uncertainty-informed local exploration, arXiv
2403.02993, sec. 4.3, driven by the *gradient's* uncertainty).
"""

from __future__ import annotations

import bisect
from collections import deque

import numpy as np

from zopo_fast import _core
from zopo_fast.config import ZopoConfig
from zopo_fast.gp.ntk import NTK
from zopo_fast.observations import Observations
from zopo_fast.surrogate import Surrogate

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
