"""The default search: expected improvement over a region of the pool, under an infinite-width kernel.

A pool of at most `region` candidates is one region. Of a larger one it is the nearest candidates of the
best prompt, half of them shifted along the gradient of the posterior mean (the paper's derivative step).

Within it, where the scores are mostly noise to the model, only a trust region around the best prompt is
considered: it grows when a better prompt is found, shrinks when none is, and is abandoned for another
local optimum once it is small.
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
from zopo_fast.search.problem import MAX_CAPACITY, SCALE_SAMPLE, usable_scale
from zopo_fast.search.strategy import Observations
from zopo_fast.search.trust_region import Coordinates, TrustRegion

# Model misfit as shares of the signal's variance: averaged over, so that none has to be chosen.
NUGGETS = np.logspace(-2, 0.5, 4)
JITTER = 1e-6  # of the prior's covariance, so that near-duplicates leave it a factor
STEEPEST = 50.0  # exponent of a score's emphasis at most
FARTHEST = 1e100  # standard deviations of a score from the best one at most
LOUDEST = 1e12  # noise variance at most, as a share of the signal's: such a score tells nothing
LEAST_NOISE = 1e-4  # of the signal's variance: what the model's single precision makes of coincident points


class RegionSearch:
    """Proposes at any time; what is pending enters the model as fantasised scores.

    Args:
        pool: standardised coordinates; taken candidates are those scored, pending or set aside.
        coordinates: what the kernel sees of them.
        kernel: one or several on those coordinates, averaged.
        seen: filled by the caller as scores come in.
        initial: indices proposed first.
        rng: of Thompson samples.
    """

    def __init__(
        self,
        pool: _core.Pool,
        coordinates: Coordinates,
        kernel: Sequence[NTK | InfiniteNTK],
        seen: Observations,
        initial: list[int],
        config: ZopoConfig,
        rng: np.random.Generator,
    ) -> None:
        self._pool, self._coordinates, self._seen, self._config = pool, coordinates, seen, config
        self._kernels = kernel
        self._rng = rng
        sample = np.arange(0, len(pool), max(1, len(pool) // SCALE_SAMPLE))
        X = coordinates.rows(sample)
        scale = float(np.mean([k.diag(X).mean() for k in self._kernels]))
        self._scale = usable_scale(scale) if scale else 1.0
        self._nuggets = NUGGETS if config.noise is None else np.array([max(config.noise, LEAST_NOISE)])
        self._whole = len(pool) <= config.region
        self._trust = TrustRegion(min(config.region, len(pool)), config.patience)
        self._designing = True  # until all initial scores are in, or a step is asked for before
        self._queue = list(initial)
        self._pending: dict[int, None] = {}
        self._exact: float | None = None  # the best score that is known without noise
        self._near: list[int] = []  # members but those scored or pending when the region was made
        self._model: _core.RegionPosterior | None = None
        self._members: Indices = np.empty(0, dtype=np.int64)
        self._column: dict[int, int] = {}
        self._prior: Array | None = None  # factor of the prior's covariance, for samples
        self._stale = False  # the region has to be built anew
        self._size = 0  # observations in the model
        self._refresh_at = 0
        self._reference, self._deviation, self._noise_unit = 0.0, 1.0, 1.0

    # ---- the strategy ------------------------------------------------------------------------------

    def propose(self) -> int:
        """Return the next candidate: initial, or the most promising of the region."""
        while self._queue:
            index = self._queue.pop(0)
            if not self._pool.taken(index):
                break
        else:
            index = self._next()
        self._pending[index] = None
        if self._model is not None and index in self._column:
            self._model.exclude(self._column[index])
        return index

    def told(self, index: int, final: bool, again: bool) -> None:
        """The model takes the score in, so that the ask need not."""
        if final:
            self._pending.pop(index, None)
            if not self._seen.noises[self._seen.position[index]]:
                score = self._seen.score_of(index)
                self._exact = score if self._exact is None else max(score, self._exact)
        if again:
            self._size = min(self._size, self._seen.position[index])
        if self._model is not None:
            if index in self._column:
                self._model.exclude(self._column[index])
            else:
                self._stale = True
        if self._designing and not self._queue and not self._pending:
            self._designing = False
        elif final and self._model is not None:
            moved = self._trust.told(self._seen, index, self._inside)
            self._stale |= moved and not self._whole
        if not self._designing and not self._stale:
            self._sync()

    def discarded(self, index: int) -> None:
        """Forget a pending candidate."""
        self._pending.pop(index, None)

    def grown(self, pool: _core.Pool, budget: int) -> None:
        """Search on in a pool with more candidates, in the same coordinates and units."""
        del budget  # the configured one makes room
        self._pool = pool
        self._coordinates.grown(pool)
        self._whole = len(pool) <= self._config.region
        self._trust.grown(min(self._config.region, len(pool)))
        self._stale = self._model is not None

    # ---- proposing ---------------------------------------------------------------------------------

    def _next(self) -> int:
        self._designing = False
        if len(self._seen) == 0:  # all initial scores are out: spread around them
            anchor = next(iter(self._pending), None)
            near = np.zeros(self._coordinates.dim) if anchor is None else self._pool.row(anchor)
            return int(self._pool.nearest(near))
        if self._stale or self._model is None:
            self._build()
        self._sync()
        model = self._model
        assert model is not None
        if self._config.search == "thompson":
            column = self._sampled()
        else:
            pending = [self._column[i] for i in self._pending if i not in self._seen and i in self._column]
            center = self._column.get(self._trust.center, 0)
            column = model.propose(pending, self._incumbent(), self._config.power, center, self._trust.size)
        if column < 0:  # every member is taken: the nearest free candidates make up another region
            self._build()
            return self._next()
        return int(self._members[column])

    def _incumbent(self) -> float:
        """What has to be improved on: the best score known exactly, if one is."""
        known = max(self._seen.scores) if self._exact is None else self._exact
        return self._emphasised(known)

    def _sampled(self) -> int:
        """The free member that is best in a sample of the posterior (Thompson 1933)."""
        model = self._model
        assert model is not None
        prior = self._prior
        if prior is None:
            K = self._gram(self._coordinates.rows(self._members))
            prior = self._prior = np.asarray(np.linalg.cholesky(K + JITTER * np.eye(len(K))), np.float64)
        weight, amplitude = model.shares()
        level = int(self._rng.choice(len(weight), p=weight))
        scale = math.sqrt(amplitude[level])
        y = self._model_scores()
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
        """Make the model of the region anew."""
        self._stale, self._size, self._refresh_at, self._prior = False, 0, 0, None
        if self._trust.center < 0:
            self._trust.center = self._seen.indices[self._seen.best_position()]
        if self._whole:
            self._members = np.arange(len(self._pool))
        else:
            known = [*self._seen.indices, *(i for i in self._pending if i not in self._seen)]
            near = self._neighbors()
            self._members = np.array(known + near, dtype=np.int64)
            self._near = near
        self._column = {int(i): c for c, i in enumerate(self._members)}
        X = self._coordinates.rows(self._members)
        kernel, capacity = self._kernels[0], min(self._config.budget, MAX_CAPACITY)
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
        """Free candidates nearest to the center, and to the center moved along the gradient."""
        center, size = self._trust.center, self._config.region
        at = self._pool.row(center)
        direction = self._direction(center) if self._config.step > 0.0 else None
        if direction is None:
            return [int(i) for i in self._pool.k_nearest(at, size, available_only=True)]
        near = self._pool.k_nearest(at, size - size // 2, available_only=True)
        x = self._coordinates.rows([center])[0]
        farthest = self._coordinates.rows(near[-1:])[0] if len(near) else x
        ahead = x + direction * (self._config.step * float(np.linalg.norm(farthest - x)))
        there = self._pool.k_nearest(self._coordinates.standardised(ahead), size, available_only=True)
        members = dict.fromkeys(int(i) for i in near)
        for i in there:
            if len(members) == size:
                break
            members[int(i)] = None
        return list(members)

    def _distance(self, indices: Sequence[int]) -> Array:
        """Of candidates from the center, (n,)."""
        X = self._coordinates.rows([self._trust.center, *indices])
        distance: Array = np.linalg.norm(X[1:] - X[0], axis=1)
        return distance

    def _inside(self) -> list[int]:
        """Observations within the region; none of a whole pool, which is searched on from its best."""
        if self._whole:
            return []
        seen = self._seen.indices
        radius = self._distance(self._near).max(initial=0.0)
        return [i for i, r in zip(seen, self._distance(seen), strict=True) if r <= radius]

    def _direction(self, center: int) -> Array | None:
        """Unit vector along the gradient of the posterior mean at a candidate; None where it is zero."""
        X = self._coordinates.rows(self._seen.indices)
        y = self._seen.score_array()
        y = y / _power_of_two(y)
        y -= y.mean()
        K = self._gram(X)
        nugget = float(self._nuggets[0])
        alpha = np.linalg.solve(K + nugget * np.eye(len(K)), y)
        x = self._coordinates.rows([center])[0]
        gradient: Array = np.mean([alpha @ k.gradient(x, X) for k in self._kernels], axis=0)
        length = float(np.linalg.norm(gradient))
        return gradient / length if math.isfinite(length) and length > 0.0 else None

    def _sync(self) -> None:
        """Bring the model up to the observations: those new, and those told again."""
        seen, n = self._seen, len(self._seen)
        if self._model is None:
            self._build()
        model = self._model
        assert model is not None
        if len(model) > self._size:
            model.truncate(self._size)
        if n >= self._refresh_at:
            self._refresh(model)
        while self._size < n:
            k = self._size
            model.append(self._column[seen.indices[k]], self._emphasised(seen.scores[k]), self._noise(k))
            self._size += 1

    def _refresh(self, model: _core.RegionPosterior) -> None:
        """Take the scores' unit anew. Every eighth of the observations, so that it costs no step much."""
        n = len(self._seen)
        self._refresh_at = n + max(1, n // 8)
        scores = self._seen.score_array()
        unit = _power_of_two(scores)  # so that no square overflows or vanishes
        self._deviation = unit * float((scores / unit).std()) or 1.0
        self._reference = float(scores.max())
        y = self._model_scores()
        self._noise_unit = float(y.var()) or 1.0
        if any(self._seen.noises):
            self._size = 0
            model.truncate(0)
        else:
            model.rescore(y[: self._size])

    def _model_scores(self) -> Array:
        return np.array([self._emphasised(s) for s in self._seen.scores])

    def _emphasised(self, score: float) -> float:
        """A score as the model sees it: exp(e u), u in standard deviations from the best one.

        Differences among good prompts count more than among bad ones, which need no good fit.
        """
        u, e = (score - self._reference) / self._deviation, self._config.emphasis
        return math.exp(min(e * u, STEEPEST)) if e > 0.0 else min(max(u, -FARTHEST), FARTHEST)

    def _noise(self, k: int) -> float:
        """Noise variance of observation k beside the nugget, as a share of the signal's."""
        variance = self._seen.noises[k]
        if not variance:
            return 0.0
        e = self._config.emphasis
        slope = e * self._emphasised(self._seen.scores[k]) if e > 0.0 else 1.0
        share = slope / self._deviation
        return min(variance * (share * share) / self._noise_unit, LOUDEST)


def _power_of_two(values: Array) -> float:
    """The unit, a power of two, in which the largest of some numbers is at most 1; 1 where all are 0."""
    exponent = math.frexp(float(np.abs(values).max()))[1]
    return math.ldexp(1.0, max(min(exponent, 1023), -1022))
