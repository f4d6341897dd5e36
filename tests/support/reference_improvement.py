"""Reference of improvement and Thompson searches: posteriors, criteria and samples by their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import reference_trends
from reference_book import Array, Book, Choice, Score, exactly, initial_of, nearest, nearest_to_first_pending

import zopo_fast as zf
from zopo_fast.gp import reference

NUGGETS = np.logspace(-2, 0.5, 4)
FEATURE_NUGGETS = np.array([0.05, 0.7])
MAX_WHOLE = {"improvement": 2048, "thompson": 1024}  # candidates of the first pool
MIN_REGION = 8
NOISE_TOLERANCE = 0.1
SHARE_ERROR, DISTANCE_ERROR = 0.02, 1e-4  # of the weight of noisy levels; of a kernel distance


class Transform:
    """exp(e u) of a score, with u in standard deviations from the best one; u itself where e = 0."""

    def __init__(self, emphasis: float, scores: Array) -> None:
        self.emphasis, self.best = emphasis, float(scores.max())
        # A power of two, so that no square overflows or vanishes.
        unit = 2.0 ** max(min(math.frexp(float(np.abs(scores).max()))[1], 1023), -1022)
        self.deviation = unit * float((scores / unit).std()) if np.ptp(scores / unit) else 1.0
        self.deviation = self.deviation or 1.0
        self.noise_unit = float(self(scores).var()) or 1.0

    def __call__(self, scores: Any) -> Array:
        u = (np.asarray(scores, dtype=float) - self.best) / self.deviation
        return np.exp(np.minimum(self.emphasis * u, 50.0)) if self.emphasis else np.clip(u, -1e100, 1e100)

    def noise(self, score: Score) -> float:
        """Convert a variance by the slope of the transform, to a share of the variance of the values."""
        if not score.noise:
            return 0.0
        slope = self.emphasis * float(self(score.value)) if self.emphasis else 1.0
        return min(score.noise * (slope / self.deviation) ** 2 / self.noise_unit, 1e12)


class ReferenceTrust:
    """Size of the trust region and its center."""

    def __init__(self, max_size: int, patience: int) -> None:
        self.size = self.max_size = max_size
        self.patience, self.failures, self.center = patience, 0, -1
        self.closed: set[int] = set()

    def update(self, seen: dict[int, Score], index: int, inside: list[int]) -> bool:
        """Process a new score; return whether the center moves."""
        if self.center < 0 or seen[index].value > seen[self.center].value:
            self.center, self.failures, self.size = index, 0, min(2 * self.size, self.max_size)
            return True
        self.failures += 1
        if self.patience == 0 or self.failures < self.patience:
            return False
        self.failures, self.size = 0, self.size // 2
        if self.size >= min(MIN_REGION, self.max_size):
            return False
        self.size = self.max_size
        self.closed.update(inside)
        if not set(seen) - self.closed:
            self.closed.clear()
        previous = self.center
        self.center = max((i for i in seen if i not in self.closed), key=lambda i: seen[i].value)
        return self.center != previous


class ReferenceImprovement:
    """Expected improvement or a posterior sample over the members of a region.

    Args:
        weights: Weights (d,) of the coordinates, one for each covariance of the model.
        described: Number of the first coordinates, those of the embeddings: earlier scores use these alone.
    """

    def __init__(
        self,
        book: Book,
        config: zf.ZopoConfig,
        kernels: list[Any],
        E: Array,
        factor: Array,
        off: float,
        weights: Sequence[Array],
        described: int,
    ) -> None:
        self.weights, self.described = weights, described
        self.book, self.config, self.kernels, self.factor, self.off = book, config, kernels, factor, off
        self.queue = initial_of(config, book)
        nuggets = NUGGETS if len(weights) == 1 else FEATURE_NUGGETS
        self.nuggets = nuggets if config.noise is None else np.array([max(config.noise, 1e-4)])
        whole = MAX_WHOLE[config.search]
        self.region = config.region or (whole if len(E) <= whole else 1024)
        self.trust = ReferenceTrust(min(self.region, len(E)), config.patience)
        self.scales = [float(np.mean([k.diag(E * factor * w).mean() for k in kernels])) for w in weights]
        self.designing, self.tracking, self.has_model = True, False, False
        self.best_exact: float | None = None
        self.refresh_at, self.transform = 0, Transform(config.emphasis, np.zeros(1))
        self.noise: dict[int, float] = {}  # of each score in the model
        self.repeated: set[int] = set()  # scores told again since the model was updated
        self.near: list[int] = []  # the candidates that the region was made of
        self.moved = True  # the region is not that of the present center
        self.samples = 0
        self.sources: dict[str, dict[str, Any]] = {}
        self._set_pool(E)

    def _set_pool(self, E: Array) -> None:
        self.E, self.X = E, E * self.factor
        self.Ks = np.array(
            [
                np.mean([k.gram(self.X * w) for k in self.kernels], axis=0) / scale
                for w, scale in zip(self.weights, self.scales, strict=True)
            ]
        )
        taught = [source for source in self.sources.values() if reference_trends.is_informative(source)]
        self.has_trends = bool(taught)
        if taught:
            alone = self.X[:, : self.described] * math.sqrt(self.described / self.X.shape[1])
            plain = np.mean([k.gram(alone) for k in self.kernels], axis=0)
            plain /= np.diag(plain).mean()
            trends = [reference_trends.trend(plain, source) for source in taught]
            self.Ks = self.Ks + sum(np.outer(phi, phi) for phi in trends)
        self.K = self.Ks[0]
        self.is_whole = len(E) <= self.region

    def learn_from(self, source: dict[str, Any]) -> None:
        """Add a source before the first call; the same name replaces one."""
        self.sources[source["source"]] = source
        if not isinstance(self.config.initial, tuple):
            initial = initial_of(self.config, self.book)
            self.queue = reference_trends.opening(initial, list(self.sources.values()), self.book.budget)
        self._set_pool(self.E)

    def on_add(self, E: Array) -> None:
        was_whole = self.is_whole
        self._set_pool(E)
        # A pool that outgrows its region gets another model; trends of the present candidates change too.
        if was_whole != self.is_whole or self.has_trends:
            self.has_model = False
            self.noise.clear()
        self.trust.size = self.trust.max_size = min(self.region, len(E))
        self.refresh_at, self.moved = 0, True

    def on_ask(self, index: int) -> None:
        """Process that a prompt is pending; the book has all that matters."""

    def on_tell(self, index: int, final: bool, repeated: bool) -> None:
        seen = self.book.seen
        if repeated:
            self.repeated.add(index)
        if final and not seen[index].noise:
            self.best_exact = max(
                seen[index].value, -math.inf if self.best_exact is None else self.best_exact
            )
        if self.designing and not self.queue and not self.book.pending:
            self.designing, self.refresh_at = False, 0
        elif final and self.tracking and self.trust.update(seen, index, self.inside()):
            self.moved = True
        self.sync()

    def sync(self) -> None:
        """Update the units of the scores once per eighth of growth, and the region with its center."""
        n, self.has_model = len(self.book.seen), True
        if n >= self.refresh_at:
            self.refresh_at = n + max(1, n // 8)
            self.transform = Transform(self.config.emphasis, self.book.scores)
        for index, score in self.book.seen.items():
            share = self.transform.noise(score)
            # New units are followed where they change noise and nugget by more than a tenth.
            known = self.noise.get(index)
            tolerance = 0.0 if known is None else NOISE_TOLERANCE * (known + self.nuggets.min())
            if known is None or index in self.repeated or abs(share - known) > tolerance:
                self.noise[index] = share
        self.repeated.clear()
        if self.designing:
            return
        if not self.tracking:
            self.tracking = True
            self.trust.center = list(self.book.seen)[int(np.argmax(self.book.scores))]
        if not self.is_whole and self.moved:
            self.near, self.moved = self.neighbors(), False

    # ---- proposals

    def propose(self, before: Sequence[int] | None, after: Sequence[int] | None) -> list[Choice]:
        while self.queue:
            index = self.queue.pop(0)
            if index in self.book.free:
                return [exactly(index)]
        if not self.book.seen:
            self.designing = False
            return [exactly(nearest_to_first_pending(self.book, self.E))]
        if self.designing or not self.tracking:
            self.designing, self.refresh_at = False, 0
        self.sync()
        free = self.book.free
        if not self.is_whole and not set(free) & set(before or ()):  # every member is taken
            self.near = self.neighbors()
        inside = set(free if self.is_whole else after or ())
        free = [i for i in self.book.free if i in inside]
        return self.sampled(free) if self.config.search == "thompson" else self.promising(free)

    def promising(self, free: list[int]) -> list[Choice]:
        """Return the choice by expected improvement; two where it is open whether the trust region counts."""
        levels, incumbent = self.levels(self.book.waiting), self.incumbent
        unit = self.unit(levels)
        nuggets = np.tile(self.nuggets, len(self.weights))
        noisy = sum(level.weight for level, g in zip(levels, nuggets, strict=True) if g > 0.3)
        distance = np.diag(self.K)[free] - 2 * self.K[self.trust.center][free]
        bound = np.sort(distance)[min(self.trust.size, len(free)) - 1]
        choices = []
        for restricted in (False, True):
            if (0.4 - noisy if restricted else noisy - 0.4) > SHARE_ERROR:
                continue
            possible = distance <= bound + DISTANCE_ERROR if restricted else np.ones(len(free), bool)
            certain = distance <= bound - DISTANCE_ERROR if restricted else possible
            at = np.array(free)[possible]

            def criterion(by: float, at: Array = at) -> Array:
                moved = [
                    level._replace(
                        mean=level.mean[at] + by * unit,
                        fantasized=np.maximum(level.fantasized[at] + by * unit**2, 1e-12 * unit**2),
                    )
                    for level in levels
                ]
                return reference.region_criterion(moved, incumbent, self.config.power)

            high, low = criterion(self.off) * (1 + 1e-6), criterion(-self.off)
            choices.append(Choice(at.tolist(), high, low[certain[possible]].max(initial=-math.inf)))
        return choices

    def sampled(self, free: list[int]) -> list[Choice]:
        """Return the choices by a sample of the posterior, one for each level that may have been drawn."""
        levels, seed, m, n = self.levels(), self.config.seed, len(self.E), len(self.book.seen)
        stream, self.samples = 2 * self.samples, self.samples + 1
        if not self.is_whole:  # which number belongs to which candidate is known to the native search alone
            return [Choice(free, np.ones(len(free)), 1.0)]
        word = int(np.random.Philox(key=seed, counter=(stream + 1) << 64).random_raw(1)[0])
        share = (word >> 11) * 2.0**-53
        normal = reference.normals(seed, stream, m + n)
        prior = np.linalg.cholesky(self.K + 1e-6 * np.eye(m)) @ normal[:m]
        y, noise = self.values()
        y = (y - y.mean()) / (y.std() or 1.0)
        at, choices, below = list(self.book.seen), [], 0.0
        for level, nugget in zip(levels, self.nuggets, strict=True):
            if below - SHARE_ERROR <= share <= below + level.weight + SHARE_ERROR:
                scale = math.sqrt(level.amplitude)
                error = scale * np.sqrt(nugget + noise) * normal[m:]
                A = self.K[np.ix_(at, at)] + np.diag(nugget + noise)
                f = scale * prior
                f = (f + self.K[:, at] @ np.linalg.solve(A, y - f[at] - error))[free]
                choices.append(Choice(free, f + 3 * self.off * (1 + scale), float(f.max())))
            below += level.weight
        return choices

    # ---- the model

    def values(self) -> tuple[Array, Array]:
        """Return the values that the model is fitted to, and their noise as shares of the signal."""
        noise = np.array([self.noise[i] for i in self.book.seen])
        return self.transform(self.book.scores), noise

    def levels(self, pending: Sequence[int] = ()) -> list[reference.RegionLevel]:
        y, noise = self.values()
        return reference.region_levels(
            self.Ks, list(self.book.seen), y, noise, self.nuggets.tolist(), pending
        )

    @property
    def incumbent(self) -> float:
        """Value to improve on: that of the best exact score, or of the best score."""
        best = self.book.scores.max() if self.best_exact is None else self.best_exact
        return float(self.transform(best))

    def unit(self, levels: Sequence[reference.RegionLevel]) -> float:
        """Return the unit of errors: the standard deviation of the prior at its largest amplitude."""
        spread = float(self.values()[0].std()) or 1.0
        return spread * max(1.0, *(math.sqrt(level.amplitude) for level in levels))

    def neighbors(self) -> list[int]:
        """Return the free candidates nearest to the center, and to the center moved along the gradient."""
        size, center, free = self.region, self.trust.center, self.book.free
        seen = list(self.book.seen)
        y, noise = self.values()
        A = self.K[np.ix_(seen, seen)] + np.diag(self.nuggets[0] + noise)
        alpha = np.linalg.solve(A, y - y.mean())
        x = self.X[center]
        w = self.weights[0]
        along = np.mean([alpha @ k.gradient(x * w, self.X[seen] * w) for k in self.kernels], axis=0) * w
        length = float(np.linalg.norm(along))
        shifts = self.config.step > 0.0 and length > 0.0
        assert self.X.shape[1] <= 64  # the distances in more dimensions are those of a random projection
        points = self.X.astype(np.float16).astype(np.float64)
        found = nearest(points, x, free, size - size // 2 if shifts else size)
        if not shifts:
            return found
        radius = float(np.linalg.norm(self.X[found[-1]] - x)) if found else 0.0
        there = nearest(points, x + self.config.step * radius * along / length, free, size)
        return [*found, *[i for i in there if i not in found]][:size]

    def inside(self) -> list[int]:
        """Return the observed prompts within the radius of the region; none for a whole pool."""
        if self.is_whole:
            return []

        def distance(i: int) -> float:
            return float(np.linalg.norm(self.X[i] - self.X[self.trust.center]))

        radius = max(map(distance, self.near), default=0.0)
        return [i for i in self.book.seen if distance(i) <= radius]
