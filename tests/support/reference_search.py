"""Reference of the searches in float64: the control flow of ask and tell, and models from their definitions.

Nothing is kept between two calls that could be computed again. A proposal is a `Choice`: the prompts that may
be asked next, given the rounding errors of the native code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import zopo_fast as zf
from zopo_fast.gp import reference
from zopo_fast.search.problem import DEFAULT_KERNEL

Array = np.ndarray
NUGGETS = np.logspace(-2, 0.5, 4)
NOISE_GRID = np.logspace(-3, 1, 17)
MAX_REFRESH, HISTORY, MIN_HISTORY, MIN_REGION = 1024, 50, 5, 8
SHARE_ERROR, DISTANCE_ERROR = 0.02, 1e-4  # of the weight of noisy levels; of a kernel distance


class Choice(NamedTuple):
    """Prompts that may be proposed, the upper bound of each criterion, and the lower bound of the best."""

    indices: Sequence[int]
    high: Array
    needed: float

    def admits(self, index: int) -> bool:
        """Return whether no other prompt is certainly more promising."""
        where = [at for at, i in enumerate(self.indices) if i == index]
        return bool(where) and bool(self.high[where[0]] >= self.needed)


def exactly(index: int) -> Choice:
    return Choice([index], np.ones(1), 1.0)


class Score(NamedTuple):
    value: float
    noise: float | None
    final: bool


@dataclass
class Book:
    """Prompts scored (in order of arrival), pending and set aside."""

    m: int
    budget: int
    seen: dict[int, Score] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    set_aside: list[int] = field(default_factory=list)
    counted: int = 0  # asked and not discarded

    @property
    def free(self) -> list[int]:
        taken = {*self.seen, *self.pending, *self.set_aside}
        return [i for i in range(self.m) if i not in taken]

    @property
    def waiting(self) -> list[int]:
        """Pending prompts without a partial score, which the models fantasise."""
        return [i for i in self.pending if i not in self.seen]

    @property
    def can_offer(self) -> bool:
        return self.counted < self.budget and bool(self.free or self.set_aside)

    @property
    def scores(self) -> Array:
        return np.array([s.value for s in self.seen.values()])

    @property
    def best(self) -> tuple[int, float] | None:
        final = {i: s.value for i, s in self.seen.items() if s.final}
        known = final or {i: s.value for i, s in self.seen.items()}
        return max(known.items(), key=lambda pair: pair[1]) if known else None


def kernels_of(kernel: Any, config: zf.ZopoConfig, d: int) -> list[Any]:
    if kernel is None:
        gradient = config.search == "gradient"
        kernel = zf.NTK.random(d, seed=config.seed, initialization="he") if gradient else DEFAULT_KERNEL
    return list(kernel) if isinstance(kernel, Sequence) else [kernel]


class ReferenceSearch:
    """Search with the calls of `zf.Zopo`, except that `ask` takes the prompt that the other search asked.

    Args:
        embeddings: (m, d).
        config: Settings.
        kernel: Kernel or kernels, as for `zf.Zopo`.
        off: Error of the native posterior, in standard deviations of the prior.
    """

    def __init__(
        self, embeddings: Array, config: zf.ZopoConfig, kernel: Any = None, off: float = 1e-3
    ) -> None:
        self.Z, self.config = np.asarray(embeddings), config
        Z = self.Z.astype(np.float64)
        m, d = Z.shape
        self.mean, deviation = Z.mean(axis=0), Z.std(axis=0)
        spread = math.sqrt(float((deviation**2).sum()))
        deviation[deviation == 0.0] = 1.0
        self.deviation = deviation
        keeps_spread = config.search != "gradient" and not config.zscore and spread > 0.0
        factor = deviation * math.sqrt(d) / spread if keeps_spread else np.ones(d)
        self.book = Book(m, min(config.budget, m))
        kernels = kernels_of(kernel, config, d)
        kind = ReferenceGradient if config.search == "gradient" else ReferenceImprovement
        self.search: Any = kind(self.book, config, kernels, self._standardized(), factor, off)

    def _standardized(self) -> Array:
        return np.asarray((self.Z.astype(np.float64) - self.mean) / self.deviation)

    @property
    def done(self) -> bool:
        return not self.book.pending and not self.book.can_offer

    def propose(
        self, before: Sequence[int] | None = None, after: Sequence[int] | None = None
    ) -> list[Choice]:
        """Return what may be asked next, any of the choices.

        In a pool larger than its region, the members of the region before and after the ask are those of the
        native search: when a candidate enters the region is not part of the specification.
        """
        assert self.book.can_offer
        if not self.book.free:
            return [exactly(self.book.set_aside[0])]
        return self.search.propose(before, after)  # type: ignore[no-any-return]

    def ask(
        self, index: int, before: Sequence[int] | None = None, after: Sequence[int] | None = None
    ) -> None:
        """Check the prompt that another search asked, and make it pending."""
        choices = self.propose(before, after)
        assert any(choice.admits(index) for choice in choices), (index, choices)
        if index in self.book.set_aside:
            self.book.set_aside.remove(index)
        self.book.pending.append(index)
        self.book.counted += 1

    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None:
        known = self.book.seen.get(index)
        if known and known.final:
            if known.value != score:
                raise zf.ConflictingScoreError("another score")
            return
        self.book.seen[index] = Score(score, noise, final)
        if index in self.book.set_aside:
            self.book.set_aside.remove(index)
        if final and index in self.book.pending:
            self.book.pending.remove(index)
        self.search.on_tell(index, final, known is not None)

    def discard(self, index: int) -> None:
        self.book.pending.remove(index)
        self.book.counted -= 1
        if index not in self.book.seen:
            self.book.set_aside.append(index)

    def add(self, more: Array) -> None:
        self.Z = np.concatenate([self.Z, more.astype(self.Z.dtype)])
        self.book.m = len(self.Z)
        self.book.budget = min(self.config.budget, len(self.Z))
        self.search.on_add(self._standardized())


# ---- improvement and thompson ----------------------------------------------------------------------


class Transform:
    """exp(e u) of a score, with u in standard deviations from the best one; u itself where e = 0."""

    def __init__(self, emphasis: float, scores: Array) -> None:
        self.emphasis, self.best = emphasis, float(scores.max())
        # A power of two, so that no square overflows or vanishes.
        unit = 2.0 ** max(min(math.frexp(float(np.abs(scores).max()))[1], 1023), -1022)
        self.deviation = unit * float((scores / unit).std()) or 1.0
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
    """Expected improvement or a posterior sample over the members of a region."""

    def __init__(
        self, book: Book, config: zf.ZopoConfig, kernels: list[Any], E: Array, factor: Array, off: float
    ) -> None:
        self.book, self.config, self.kernels, self.factor, self.off = book, config, kernels, factor, off
        self.queue = initial_of(config, book)
        self.nuggets = NUGGETS if config.noise is None else np.array([max(config.noise, 1e-4)])
        self.trust = ReferenceTrust(min(config.region, len(E)), config.patience)
        self.scale = float(np.mean([k.diag(E * factor).mean() for k in kernels]))
        self.designing, self.tracking, self.has_model = True, False, False
        self.best_exact: float | None = None
        self.refresh_at, self.transform = 0, Transform(config.emphasis, np.zeros(1))
        self.near: list[int] = []  # the candidates that the region was made of
        self.moved = True  # the region is not that of the present center
        self.samples = 0
        self._set_pool(E)

    def _set_pool(self, E: Array) -> None:
        self.E, self.X = E, E * self.factor
        self.K = np.mean([k.gram(self.X) for k in self.kernels], axis=0) / self.scale
        self.is_whole = len(E) <= self.config.region

    def on_add(self, E: Array) -> None:
        was_whole = self.is_whole
        self._set_pool(E)
        self.has_model = was_whole == self.is_whole  # a pool that outgrows its region gets another model
        self.trust.size = self.trust.max_size = min(self.config.region, len(E))
        self.refresh_at, self.moved = 0, True

    def on_tell(self, index: int, final: bool, repeated: bool) -> None:
        del repeated
        seen = self.book.seen
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
        levels, unit, incumbent = self.levels(self.book.waiting), self.unit, self.incumbent
        noisy = sum(level.weight for level, g in zip(levels, self.nuggets, strict=True) if g > 0.3)
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
        noise = np.array([self.transform.noise(s) for s in self.book.seen.values()])
        return self.transform(self.book.scores), noise

    def levels(self, pending: Sequence[int] = ()) -> list[reference.RegionLevel]:
        y, noise = self.values()
        return reference.region_levels(self.K, list(self.book.seen), y, noise, self.nuggets.tolist(), pending)

    @property
    def incumbent(self) -> float:
        """Value to improve on: that of the best exact score, or of the best score."""
        best = self.book.scores.max() if self.best_exact is None else self.best_exact
        return float(self.transform(best))

    @property
    def unit(self) -> float:
        """Unit of errors: the standard deviation of the prior at its largest amplitude."""
        spread = float(self.values()[0].std()) or 1.0
        return spread * max(1.0, *(math.sqrt(level.amplitude) for level in self.levels()))

    def neighbors(self) -> list[int]:
        """Return the free candidates nearest to the center, and to the center moved along the gradient."""
        size, center, free = self.config.region, self.trust.center, self.book.free
        seen = list(self.book.seen)
        y, noise = self.values()
        A = self.K[np.ix_(seen, seen)] + np.diag(self.nuggets[0] + noise)
        alpha = np.linalg.solve(A, y - y.mean())
        x = self.X[center]
        along = np.mean([alpha @ k.gradient(x, self.X[seen]) for k in self.kernels], axis=0)
        length = float(np.linalg.norm(along))
        shifts = self.config.step > 0.0 and length > 0.0
        found = nearest(self.E, self.E[center], free, size - size // 2 if shifts else size)
        if not shifts:
            return found
        radius = float(np.linalg.norm(self.X[found[-1]] - x)) if found else 0.0
        ahead = x + self.config.step * radius * along / length
        there = nearest(self.E, ahead / self.factor, free, size)
        return [*found, *[i for i in there if i not in found]][:size]

    def inside(self) -> list[int]:
        """Return the observed prompts within the radius of the region; none for a whole pool."""
        if self.is_whole:
            return []

        def distance(i: int) -> float:
            return float(np.linalg.norm(self.X[i] - self.X[self.trust.center]))

        radius = max(map(distance, self.near), default=0.0)
        return [i for i in self.book.seen if distance(i) <= radius]


# ---- gradient --------------------------------------------------------------------------------------


class ReferenceGradient:
    """Steps along the gradient of the posterior mean, and exploration where the gradient is uncertain."""

    def __init__(
        self, book: Book, config: zf.ZopoConfig, kernels: list[Any], E: Array, factor: Array, off: float
    ) -> None:
        del factor, off
        (kernel,) = kernels
        self.book, self.config, self.W, self.b = book, config, kernel.weights, kernel.biases
        self.E, self.K = E, reference.gram(kernel.weights, kernel.biases, E)
        self.scale = float(np.diag(self.K).mean())
        self.queue = initial_of(config, book)
        self.designing, self.changed, self.center = True, False, -1
        self.window: list[float] = []
        self.budget, self.refresh_at = config.budget, 1
        self.choice: int | None = None  # of the noise, in the grid
        self.noise = (config.noise or 1e-2) * self.scale
        self.score_variance = 1.0

    def on_add(self, E: Array) -> None:
        self.E, self.K = E, reference.gram(self.W, self.b, E)
        self.budget = self.book.budget

    def on_tell(self, index: int, final: bool, repeated: bool) -> None:
        del final
        seen = self.book.seen
        if self.center < 0 or seen[index].value > seen[self.center].value:
            self.center = index
        elif index == self.center:
            self.center = list(seen)[int(np.argmax(self.book.scores))]
        self.changed |= repeated
        if self.designing and not self.queue and not self.book.pending:
            self.designing = False
        if not self.designing and not self.changed:
            self.refresh_if_due()

    def propose(self, before: Sequence[int] | None, after: Sequence[int] | None) -> list[Choice]:
        del before, after
        while self.queue:
            index = self.queue.pop(0)
            if index in self.book.free:
                return [exactly(index)]
        if not self.book.seen:
            return [exactly(nearest_to_first_pending(self.book, self.E))]
        self.designing = self.changed = False
        self.refresh_if_due()
        x, free = self.E[self.center], self.book.free
        if self.explores(self.uncertainty(self.book.waiting)):
            self.queue = nearest(self.E, x, free, self.config.exploration)
            return [exactly(self.queue.pop(0))]
        away = np.sort(np.linalg.norm(np.delete(self.E, self.center, axis=0) - x, axis=1))
        radius = away[min(self.config.neighbors, len(away)) - 1] if len(away) else 0.0
        along = self.gradient()
        length = float(np.linalg.norm(along))
        target = x + self.config.step * radius * along / length if length else x
        distance = np.linalg.norm(self.E[free] - target, axis=1)
        return [Choice(free, -distance * (1 - 1e-9), float(-distance.min()))]

    def refresh_if_due(self) -> None:
        """Choose the noise at the first step, and whenever the number of scores has quadrupled."""
        n, scores = len(self.book.seen), self.book.scores
        if n < self.refresh_at or (self.choice is not None and 16 * max(self.budget - n, 0) < n):
            return
        self.refresh_at = 4 * n
        variance = float(scores.var())
        self.score_variance = variance or 1.0
        if self.config.noise is not None or not variance or n > MAX_REFRESH:
            return
        at, y = list(self.book.seen), (scores - scores.mean()) / math.sqrt(variance)
        K = self.K[np.ix_(at, at)]
        likelihood = [reference.profile_log_likelihood(K, y, g * self.scale) for g in NOISE_GRID]
        if self.choice is None:
            self.choice = int(np.argmax(likelihood))
        while True:  # climb from the last choice
            best = self.choice
            around = [k for k in (best, best - 1, best + 1) if 0 <= k < len(NOISE_GRID)]
            self.choice = max(around, key=likelihood.__getitem__)
            if self.choice == best:
                break
        self.noise = float(NOISE_GRID[self.choice]) * self.scale

    def variances(self) -> Array:
        """Return the noise of each score, in units of the kernel."""
        stated = [
            self.noise if s.noise is None else s.noise / self.score_variance * self.scale
            for s in self.book.seen.values()
        ]
        return np.clip(stated, 1e-6 * self.scale, 1e12 * self.scale)

    def gradient(self) -> Array:
        at, scores = list(self.book.seen), self.book.scores
        if np.ptp(scores) == 0.0:
            return np.zeros(self.E.shape[1])
        A = self.K[np.ix_(at, at)] + np.diag(self.variances())
        G = reference.gradient(self.W, self.b, self.E[self.center], self.E[at])
        return np.asarray(G.T @ np.linalg.solve(A, scores - scores.mean()))

    def uncertainty(self, pending: Sequence[int] = ()) -> float:
        """Return the share of the gradient's prior variance that is left at the center."""
        x, at = self.E[self.center], [*self.book.seen, *pending]
        noise = np.concatenate([self.variances(), np.full(len(pending), self.noise)])
        G = reference.gradient(self.W, self.b, x, self.E[at])
        prior = float(np.trace(reference.gradient_prior(self.W, self.b, x)))
        explained = float(np.sum(G * np.linalg.solve(self.K[np.ix_(at, at)] + np.diag(noise), G)))
        return max(0.0, 1.0 - explained / prior) if prior > 0.0 else 0.0

    def explores(self, uncertainty: float) -> bool:
        """Return whether the gradient is more uncertain than at most of the last steps."""
        ranked = sorted(self.window)
        self.window = [*self.window, uncertainty][-HISTORY:]
        if len(ranked) < MIN_HISTORY or not self.config.exploration:
            return False
        return uncertainty > ranked[int(self.config.exploration_quantile * (len(ranked) - 1))]


# ---- both ------------------------------------------------------------------------------------------


def initial_of(config: zf.ZopoConfig, book: Book) -> list[int]:
    if not isinstance(config.initial, int):
        return list(config.initial)
    order = np.random.default_rng(config.seed).permutation(book.m)
    return [int(i) for i in order[: min(config.initial, book.budget)]]


def nearest(E: Array, x: Array, free: Sequence[int], k: int) -> list[int]:
    """Return at most k of the free candidates, nearest first."""
    is_free = np.isin(np.arange(len(E)), free)
    return [int(i) for i in reference.k_nearest(E, x, k, is_free)]


def nearest_to_first_pending(book: Book, E: Array) -> int:
    at = E[book.pending[0]] if book.pending else np.zeros(E.shape[1])
    return nearest(E, at, book.free, 1)[0]


# ---- beside the native search ----------------------------------------------------------------------


class Followed:
    """Search and its reference, which get the same calls and must agree after each.

    Args:
        opt: Search to follow, without calls so far.
        ref: Reference with the same embeddings, settings and kernel.
    """

    def __init__(self, opt: zf.Zopo, ref: ReferenceSearch) -> None:
        self.opt, self.ref = opt, ref
        self.compared = 0  # posteriors

    def members(self) -> list[int] | None:
        region = self.opt._native.region(self.opt._number)
        return None if region is None else region[0].tolist()

    def ask(self) -> int:
        before = self.members()
        index = self.opt.ask()
        self.ref.ask(index, before, self.members())
        self.check()
        return index

    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None:
        self.opt.tell(index, score, noise, final)
        self.ref.tell(index, score, noise, final)
        self.check()

    def discard(self, index: int) -> None:
        self.opt.discard(index)
        self.ref.discard(index)
        self.check()

    def add(self, more: Array) -> None:
        self.opt.add(more)
        self.ref.add(more)
        self.check()

    def check(self) -> None:
        """Check the book, the trust region, and the posterior or the uncertainty of the gradient."""
        opt, ref, search = self.opt, self.ref, self.ref.search
        assert opt.pending == ref.book.pending
        assert opt.done == ref.done
        if ref.book.best is None:
            with np.testing.assert_raises(zf.NothingToAsk):
                _ = opt.best
            return
        assert opt.best == ref.book.best
        if search.designing:
            return
        if isinstance(search, ReferenceGradient):
            share = opt._native.gradient_uncertainty()[opt._number]
            if not search.changed and not math.isnan(share):
                np.testing.assert_allclose(share, search.uncertainty(), rtol=1e-6, atol=1e-9)
                self.compared += 1
        elif search.tracking and search.has_model:
            region = opt._native.region(opt._number)
            assert region is not None
            members, mean, variance, *trust = region
            assert trust == [search.trust.center, search.trust.size]
            levels, unit = search.levels(), search.unit
            expected_mean, expected_variance = reference.region_posterior(levels)
            assert np.abs(mean - expected_mean[members]).max() <= search.off * unit
            assert np.abs(variance - expected_variance[members]).max() <= search.off * unit**2
            self.compared += 1
