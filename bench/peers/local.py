"""Our gradient search, written plainly over a peer's engine, to measure a step on other libraries.

The decisions are those of `search="gradient"`, without pending candidates. Model and pool are the
engine's: K grows by a row, the Cholesky factor is recomputed, and the projection is one product over the
pool. With the same seeds it asks for the same candidates as zopo_fast.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from zopo_fast import ZopoConfig

# Constants of the gradient search, written here a second time; a test compares the candidates of both.
HISTORY, MIN_HISTORY = 50, 5  # steps in the running quantile of the uncertainty; steps before it is used
NOISE_GRID = np.logspace(-3, 1, 17)


class LocalSearchPeer:
    """Run on a pool with known scores.

    Args:
        engine: class constructed from standardised embeddings (m, d) and a kernel, with scale, gram, take,
            fit, append, slope, moved, radius and neighbors.
        Z: raw embeddings, (m, d).
        start: indices scored first.
    """

    def __init__(
        self,
        engine: Any,
        Z: Any,
        kernel: Any,
        scores: Any,
        start: list[int],
        config: ZopoConfig | None = None,
    ) -> None:
        E = np.asarray(Z, dtype=np.float64)
        deviation = E.std(axis=0)
        deviation[deviation == 0.0] = 1.0
        self._engine = engine((E - E.mean(axis=0)) / deviation, kernel)
        self._scores, self._config = (
            np.asarray(scores, dtype=np.float64),
            config or ZopoConfig(search="gradient"),
        )
        self.evaluated: list[int] = []
        self._queue: list[int] = []
        self._history: deque[float] = deque()
        self._radii: dict[int, float] = {}
        self._refresh_at, self._modelled = 1, 0
        self._scale = self._engine.scale()
        for i in start:
            self._tell(i)

    def step(self) -> int:
        """One ask and its score; returns the index."""
        index = self._next_queued()
        if index is None:
            index = self._ascend()
        self._tell(index)
        return index

    def _tell(self, index: int) -> None:
        self._engine.take(index)
        self.evaluated.append(index)

    def _next_queued(self) -> int | None:
        while self._queue:
            index = self._queue.pop(0)
            if index not in self.evaluated:
                return index
        return None

    def _ascend(self) -> int:
        self._sync()
        seen = self._scores[self.evaluated]
        center = self.evaluated[int(np.argmax(seen))]
        gradient, uncertainty = self._engine.slope(center)
        if self._uncertain(uncertainty):
            self._queue = self._engine.neighbors(center, self._config.exploration)
            return self._queue.pop(0)
        if center not in self._radii:
            self._radii[center] = self._engine.radius(center, self._config.neighbors)
        return int(self._engine.moved(center, gradient, self._config.step * self._radii[center]))

    def _sync(self) -> None:
        """Add the new scores; choose the noise again when the data have grown fourfold."""
        n, seen = len(self.evaluated), self._scores[self.evaluated]
        if n >= self._refresh_at and (self._refresh_at == 1 or 16 * (self._config.budget - n) >= n):
            self._refresh_at = 4 * n
            y = (seen - seen.mean()) / (seen.std() or 1.0)
            noise = _best_noise(self._engine.gram(self.evaluated) / self._scale, y) * self._scale
            self._engine.fit(self.evaluated, seen, noise)
            self._modelled = n
        while self._modelled < n:
            self._modelled += 1
            self._engine.append(self.evaluated[self._modelled - 1], seen[: self._modelled])

    def _uncertain(self, uncertainty: float) -> bool:
        """Return whether the gradient is more uncertain than at most steps so far."""
        window = self._history
        explores = False
        if len(window) >= MIN_HISTORY and self._config.exploration > 0:
            ranked = sorted(window)
            explores = uncertainty > ranked[int(self._config.exploration_quantile * (len(ranked) - 1))]
        if len(window) == HISTORY:
            window.popleft()
        window.append(uncertainty)
        return explores


def _best_noise(K: Any, y: Any) -> float:
    """Return the grid's noise of largest marginal likelihood for y (n,), by an eigendecomposition of K."""
    eigenvalues, U = np.linalg.eigh(K)
    damped = np.maximum(eigenvalues, 0.0)[:, None] + NOISE_GRID
    amplitude = ((U.T @ y) ** 2 @ (1.0 / damped)) / len(y)
    return float(NOISE_GRID[np.argmax(-0.5 * (len(y) * np.log(amplitude) + np.log(damped).sum(axis=0)))])
