"""Default search: expected improvement over a region of the pool, under an infinite-width kernel.

A pool of at most `region` candidates is one region. In a larger pool the region holds the candidates nearest
to the best prompt, and to a point shifted from it along the gradient of the posterior mean (the paper's
derivative step).

If the model sees the scores mostly as noise, only a trust region around the best prompt is considered. The
trust region grows when a better prompt is found and shrinks otherwise. Once it is small, it is abandoned for
another local optimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.arrays import Array, Indices
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import NTK
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.kernel_scale import kernel_scale, scale_sample
from zopo_fast.search.score_transform import ScoreTransform, power_of_two
from zopo_fast.search.strategy import MAX_PREALLOCATED, Observations
from zopo_fast.search.trust_region import Coordinates, TrustRegion

# Variances of the model's misfit, as shares of the signal variance; the model averages over them.
NUGGETS = np.logspace(-2, 0.5, 4)
MIN_NUGGET = 1e-4  # the rounding error of the model's single precision at coincident points
JITTER = 1e-6  # added to the prior covariance, so that it has a Cholesky factor despite near-duplicates


class ImprovementSearch:
    """Expected improvement or Thompson sampling; pending candidates enter the model as fantasized scores.

    Args:
        pool: Candidates in standardized coordinates; those scored, pending or set aside are taken.
        coordinates: Coordinates of the candidates for the kernel.
        kernels: Kernels on these coordinates; the model uses their mean.
        seen: Observations; the caller adds scores.
        initial: Indices to propose first.
        config: Settings.
        rng: Random generator of Thompson samples.
    """

    def __init__(
        self,
        pool: _core.Pool,
        coordinates: Coordinates,
        kernels: Sequence[NTK | InfiniteNTK],
        seen: Observations,
        initial: list[int],
        config: ZopoConfig,
        rng: np.random.Generator,
    ) -> None:
        self._pool, self._coordinates, self._seen, self._config = pool, coordinates, seen, config
        self._kernels = kernels
        self._rng = rng
        self._scale = kernel_scale(kernels, coordinates.rows(scale_sample(len(pool))))
        self._nuggets = NUGGETS if config.noise is None else np.array([max(config.noise, MIN_NUGGET)])
        self._transform = ScoreTransform(config.emphasis)
        self._is_whole_pool = len(pool) <= config.region
        self._trust = TrustRegion(min(config.region, len(pool)), config.patience)
        self._designing = True  # until all initial scores are known, or the first proposal beyond them
        self._queue = list(initial)
        self._pending: dict[int, None] = {}
        self._best_exact: float | None = None  # the best score without noise
        self._near: list[int] = []  # members that were free when the region was built
        self._model: _core.RegionPosterior | None = None
        self._members: Indices = np.empty(0, dtype=np.int64)  # of the region
        self._column: dict[int, int] = {}  # position of each member in the model
        self._prior: Array | None = None  # Cholesky factor of the prior covariance, for Thompson samples
        self._stale = False  # True when the region must be rebuilt
        self._size = 0  # observations in the model
        self._revised: dict[int, None] = {}  # their positions where score or noise has changed
        self._noises: list[float] = []  # noise of each observation in the model
        self._refresh_at = 0  # number of observations at which the units are updated

    # ---- the strategy ------------------------------------------------------------------------------

    def propose(self) -> int:
        """Return the next candidate: an initial one, or the most promising one of the region."""
        while self._queue:
            index = self._queue.pop(0)
            if not self._pool.taken(index):
                break
        else:
            index = self._next()
        self.on_ask(index)
        return index

    def on_ask(self, index: int) -> None:
        """Keep a pending candidate from being proposed again."""
        self._pending[index] = None
        if self._model is not None and index in self._column:
            self._model.exclude(self._column[index])

    def on_tell(self, index: int, final: bool, is_repeat: bool) -> None:
        """Update trust region and model now, to keep the next ask fast."""
        if final:
            self._pending.pop(index, None)
            if not self._seen.noises[self._seen.position[index]]:
                score = self._seen.score_of(index)
                self._best_exact = score if self._best_exact is None else max(score, self._best_exact)
        if is_repeat and self._seen.position[index] < self._size:
            self._revised[self._seen.position[index]] = None
        if self._model is not None:
            if index in self._column:
                self._model.exclude(self._column[index])
            else:
                self._stale = True
        if self._designing and not self._queue and not self._pending:
            self._designing = False
        elif final and self._model is not None:
            moved = self._trust.update(self._seen, index, self._inside)
            self._stale |= moved and not self._is_whole_pool
        if not self._designing and not self._stale:
            self._sync()

    def on_discard(self, index: int) -> None:
        """Remove a pending candidate from the model."""
        self._pending.pop(index, None)
        if not self._pool.taken(index):  # proposed, but not asked for: the model must offer it again
            self._stale = self._model is not None

    def on_add(self, pool: _core.Pool, budget: int) -> None:
        """Continue in a pool with more candidates, in the same coordinates and units."""
        del budget  # only the configured budget matters, for preallocation
        self._pool = pool
        self._coordinates.set_pool(pool)
        self._is_whole_pool = len(pool) <= self._config.region
        self._trust.resize(min(self._config.region, len(pool)))
        self._stale = self._model is not None

    # ---- proposing ---------------------------------------------------------------------------------

    def _next(self) -> int:
        self._designing = False
        if len(self._seen) == 0:  # all initial scores are pending
            anchor = next(iter(self._pending), None)
            near = np.zeros(self._coordinates.dim) if anchor is None else self._pool.row(anchor)
            return int(self._pool.nearest(near))
        if self._stale or self._model is None:
            self._build()
        self._sync()
        model = self._model
        assert model is not None
        if self._config.search == "thompson":
            column = self._sample()
        else:
            pending = [self._column[i] for i in self._pending if i not in self._seen and i in self._column]
            center = self._column.get(self._trust.center, 0)
            column = model.propose(pending, self._incumbent(), self._config.power, center, self._trust.size)
        if column < 0:  # every member is taken: build another region of free candidates
            self._build()
            return self._next()
        return int(self._members[column])

    def _incumbent(self) -> float:
        """Return the value to improve on: that of the best exact score, or of the best score."""
        best = max(self._seen.scores) if self._best_exact is None else self._best_exact
        return self._transform.value(best)

    def _sample(self) -> int:
        """Return the column of the best free member in a posterior sample (Thompson 1933); -1 for none."""
        model = self._model
        assert model is not None
        prior = self._prior
        if prior is None:
            K = self._gram(self._coordinates.rows(self._members))
            prior = self._prior = np.asarray(np.linalg.cholesky(K + JITTER * np.eye(len(K))), np.float64)
        weight, amplitude = model.shares()
        level = int(self._rng.choice(len(weight), p=weight))
        scale = math.sqrt(amplitude[level])
        y = self._transform.values(self._seen.score_array())
        spread = y.std() or 1.0
        f = scale * (prior @ self._rng.standard_normal(len(self._members)))
        columns = [self._column[i] for i in self._seen.indices]
        noise = self._nuggets[level] + np.array([self._noise(k) for k in range(len(y))])
        error = scale * np.sqrt(noise) * self._rng.standard_normal(len(y))
        f = f + model.propagate(level, (y - y.mean()) / spread - f[columns] - error)
        free = [c for c, i in enumerate(self._members) if not self._pool.taken(int(i))]
        return max(free, key=f.__getitem__) if free else -1

    # ---- the model ---------------------------------------------------------------------------------

    def _build(self) -> None:
        """Build the region around the current center, with an empty model."""
        self._stale, self._size, self._refresh_at, self._prior = False, 0, 0, None
        self._revised, self._noises = {}, []
        if self._trust.center < 0:
            self._trust.center = self._seen.indices[self._seen.best_position()]
        if self._is_whole_pool:
            self._members = np.arange(len(self._pool))
        else:
            known = [*self._seen.indices, *(i for i in self._pending if i not in self._seen)]
            near = self._neighbors()
            self._members = np.array(known + near, dtype=np.int64)
            self._near = near
        self._column = {int(i): c for c, i in enumerate(self._members)}
        X = self._coordinates.rows(self._members)
        kernel, capacity = self._kernels[0], min(self._config.budget, MAX_PREALLOCATED)
        if len(self._kernels) == 1 and isinstance(kernel, InfiniteNTK):
            self._model = _core.RegionPosterior(
                X,
                kernel.depth,
                kernel.weight_variance,
                kernel.bias_variance,
                kernel.parametrization == "ntk",
                self._scale,
                self._nuggets,
                capacity,
            )
        else:
            self._model = _core.RegionPosterior.of_gram(self._gram(X), self._nuggets, capacity)
        for column, i in enumerate(self._members):
            if self._pool.taken(int(i)):
                self._model.exclude(column)

    def _gram(self, X: Array, Y: Array | None = None) -> Array:
        K: Array = np.mean([k.gram(X, Y) for k in self._kernels], axis=0) / self._scale
        return K

    def _neighbors(self) -> list[int]:
        """Return the free candidates nearest to the center, and to the center moved along the gradient."""
        center, size = self._trust.center, self._config.region
        at = self._pool.row(center)
        direction = self._direction(center) if self._config.step > 0.0 else None
        if direction is None:
            return [int(i) for i in self._pool.k_nearest(at, size, available_only=True)]
        near = self._pool.k_nearest(at, size - size // 2, available_only=True)
        x = self._coordinates.rows([center])[0]
        farthest = self._coordinates.rows(near[-1:])[0] if len(near) else x
        ahead = x + direction * (self._config.step * float(np.linalg.norm(farthest - x)))
        there = self._pool.k_nearest(self._coordinates.to_pool(ahead), size, available_only=True)
        members = dict.fromkeys(int(i) for i in near)
        for i in there:
            if len(members) == size:
                break
            members[int(i)] = None
        return list(members)

    def _distance(self, indices: Sequence[int]) -> Array:
        """Return the distances (n,) of candidates from the center."""
        X = self._coordinates.rows([self._trust.center, *indices])
        distance: Array = np.linalg.norm(X[1:] - X[0], axis=1)
        return distance

    def _inside(self) -> list[int]:
        """Return the observations inside the region; none for a whole pool, which restarts from its best."""
        if self._is_whole_pool:
            return []
        seen = self._seen.indices
        radius = self._distance(self._near).max(initial=0.0)
        return [i for i, r in zip(seen, self._distance(seen), strict=True) if r <= radius]

    def _direction(self, center: int) -> Array | None:
        """Return the unit vector along the gradient of the posterior mean at a candidate; None for zero."""
        X = self._coordinates.rows(self._seen.indices)
        y = self._seen.score_array()
        y = y / power_of_two(y)
        y -= y.mean()
        K = self._gram(X)
        nugget = float(self._nuggets[0])
        alpha = np.linalg.solve(K + nugget * np.eye(len(K)), y)
        x = self._coordinates.rows([center])[0]
        gradient: Array = np.mean([alpha @ k.gradient(x, X) for k in self._kernels], axis=0)
        length = float(np.linalg.norm(gradient))
        return gradient / length if math.isfinite(length) and length > 0.0 else None

    def _sync(self) -> None:
        """Update the model with new observations and with changed ones."""
        seen, n = self._seen, len(self._seen)
        if self._model is None:
            self._build()
        model = self._model
        assert model is not None
        if n >= self._refresh_at:
            self._refresh(model)
        for k in self._revised:
            self._revise(model, k)
        self._revised.clear()
        while self._size < n:
            k = self._size
            noise = self._noise(k)
            model.append(self._column[seen.indices[k]], self._transform.value(seen.scores[k]), noise)
            self._noises.append(noise)
            self._size += 1

    def _refresh(self, model: _core.RegionPosterior) -> None:
        """Update the units of the scores; rare, once per eighth of growth, so that no step costs much."""
        n = len(self._seen)
        self._refresh_at = n + max(1, n // 8)
        values = self._transform.fit(self._seen.score_array())
        model.rescore(values[: self._size])
        for k in range(self._size):
            if self._noises[k] or self._seen.noises[k]:
                self._revised[k] = None

    def _revise(self, model: _core.RegionPosterior, k: int) -> None:
        """Replace score and noise of observation k in the model."""
        noise = self._noise(k)
        model.revise(k, self._transform.value(self._seen.scores[k]), noise)
        self._noises[k] = noise

    def _noise(self, k: int) -> float:
        """Return the noise of observation k besides the nugget, as a share of the signal variance."""
        return self._transform.noise(self._seen.scores[k], self._seen.noises[k])
