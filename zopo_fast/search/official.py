"""Loop of the published ZOPO implementation, step for step, in float64.

The loop reproduces the published one, oddities included, for comparison. It fits a Gaussian process to the
`gp_queries` scored points nearest to the current point, with inputs scaled to [0, 1] over that subset. It
takes one Adam step along the gradient of the posterior mean and projects to the nearest unscored candidate.
It explores the neighbors when the posterior *variance* stays above a threshold. In float32 this variance is
rounding noise and exploration is frequent; in float64 it is rare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.arrays import Array
from zopo_fast.gp.ntk import NTK
from zopo_fast.search.config import OfficialSettings

_Native: TypeAlias = "_core.Search | _core.CudaSearch"  # a build without CUDA lacks the second


class Adam:
    """Adam optimizer (Kingma & Ba 2015, alg. 1) for one vector, with the default betas and epsilon."""

    def __init__(self, lr: float, dim: int) -> None:
        self.lr = lr
        self.first, self.second, self.count = np.zeros(dim), np.zeros(dim), 0

    def step(self, gradient: Array) -> Array:
        """Update the moments with a gradient (d,), and return the step (d,)."""
        self.count += 1
        # Scores beyond arithmetic give a zero step; the search continues.
        with np.errstate(over="ignore", invalid="ignore"):
            self.first = 0.9 * self.first + 0.1 * gradient
            self.second = 0.999 * self.second + 0.001 * gradient * gradient
            scale = np.sqrt(self.second) / np.sqrt(1.0 - 0.999**self.count) + 1e-8
            change: Array = -self.lr / (1.0 - 0.9**self.count) * self.first / scale
        return change if np.isfinite(change).all() else np.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass
class Observations:
    """Scored pool indices in order of arrival; a repeated partial score keeps its position.

    Attributes:
        indices: Pool indices.
        scores: Latest score of each index.
        position: Position of each index in these lists.
    """

    indices: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    position: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int, score: float) -> None:
        """Store a score."""
        at = self.position.get(index)
        if at is not None:
            self.scores[at] = score
            return
        self.position[index] = len(self.indices)
        self.scores.append(score)
        self.indices.append(index)

    def best_position(self) -> int:
        """Return the position of the highest score, the first one among equals."""
        return int(np.argmax(self.scores))

    def score_array(self) -> Array:
        """Return all scores, (n,)."""
        return np.array(self.scores, dtype=np.float64)


class OfficialSearch:
    """Published loop as a generator of batches; it resumes when a whole batch is scored or discarded.

    When more candidates are asked for before that, propose the unscored candidates nearest to the last target
    of a projection.

    Args:
        pool: Candidates in raw coordinates; those scored, pending or set aside are taken.
        kernel: Kernel, used without rescaling.
        initial: Indices of the first batch.
        budget: Number of evaluations.
        settings: Settings of the loop.
    """

    def __init__(
        self,
        pool: _core.Pool,
        kernel: NTK,
        initial: list[int],
        budget: int,
        settings: OfficialSettings,
    ) -> None:
        self._pool, self._kernel, self._seen = pool, kernel, Observations()
        self._initial, self._budget, self._settings = initial, budget, settings
        self._count = 0  # evaluations, k in the published code
        self._best, self._stale, self._uncertain = -np.inf, 0, 0
        self._adam = Adam(settings.lr, kernel.dim)
        self._target = np.zeros(kernel.dim)  # point that was projected last
        self._batches = self._loop()
        self._queue: list[int] = []  # of the current batch, not proposed yet
        self._awaited: set[int] = set()  # of the current batch, not scored or discarded yet

    def propose(self) -> int:
        """Return the loop's next candidate, or the one nearest to its target while it awaits scores."""
        if not self._queue and not self._awaited:
            self._queue = [i for i in next(self._batches, []) if not self._pool.taken(i)]
            self._awaited = set(self._queue)
        while self._queue:
            index = self._queue.pop(0)
            if not self._pool.taken(index):
                return index
        return self._pool.nearest(self._target)

    def on_ask(self, index: int) -> None:
        """Take a pending candidate; the loop awaits the scores of its own candidates only."""
        self._pool.take(index)

    def on_tell(self, index: int, score: float, final: bool) -> None:
        """Record a score; remove a final one from those that the loop awaits."""
        self._pool.take(index)
        self._seen.record(index, score)
        if final:
            self._awaited.discard(index)

    def on_discard(self, index: int) -> None:
        """Remove a candidate from those that the loop awaits, and from the count of evaluations."""
        if index in self._awaited:
            self._awaited.remove(index)
            self._count -= 1

    def on_add(self, pool: _core.Pool, budget: int) -> None:
        """Continue in a pool with more candidates."""
        for index in range(len(self._pool)):
            if self._pool.taken(index):
                pool.take(index)
        self._pool, self._budget = pool, budget

    def _loop(self) -> Iterator[list[int]]:
        self._count = len(self._initial)
        yield self._initial
        while len(self._seen) == 0:  # all were discarded: any candidate will do
            self._count += 1
            yield [self._nearest(np.zeros(self._kernel.dim))]
        self._best = max(self._seen.scores)
        at = self._seen.best_position()
        while self._pool.available and self._count < self._budget:
            self._count += 1
            yield from self._ask(self._current(at))
            at = len(self._seen) - 1

    def _current(self, at: int) -> Array:
        """Return the embedding that an ask starts from: observation `at`, or the best one after a stall."""
        score = self._seen.scores[at]
        if score > self._best:
            self._best, self._stale = score, 0
        else:
            self._stale += 1
        if self._stale > self._settings.tolerance:
            at, self._stale = self._seen.best_position(), 0
            self._adam = Adam(self._settings.lr, self._kernel.dim)
        return self._pool.row(self._seen.indices[at])

    def _ask(self, current: Array) -> Iterator[list[int]]:
        """Yield exploration rounds, if any, and then the next candidate."""
        s = self._settings
        x, answer, steps = current, -1, 0
        held: Array | None = None  # the first gradient; a second pass passes it to Adam again
        process = _SubsetProcess(self._pool, self._kernel, self._seen, current, s)
        explored_out = False  # a round found all neighbors scored, so this ask explores no more
        while True:
            descent, variance = process.descent(x)
            if steps == 0:
                self._count_uncertain(variance)
            flat = descent.sum() == 0.0
            if flat or (self._explores() and not explored_out):
                self._stale = self._uncertain = 0
                round_ = self._neighbors(current)[: self._budget - self._count]
                if round_:
                    self._count += len(round_)
                    yield round_
                    if not self._pool.available:
                        self._count -= 1  # the round took the last candidates
                        return
                    process = _SubsetProcess(self._pool, self._kernel, self._seen, current, s)
                    continue
                if not flat:
                    explored_out = True
                    continue
                answer = self._nearest(x)  # here the published loop never returns
                break
            certain = variance < s.uncertainty_threshold
            if steps >= s.max_steps or not (certain or steps == 0):
                break
            if held is None:
                held = descent
                x = self._pool.row(answer := self._nearest(current + self._adam.step(descent)))
            else:
                self._adam.step(held)  # x stays: the published optimizer still holds the first point
            steps += 1
            if variance >= s.uncertainty_threshold:
                break
        yield [answer]

    def _count_uncertain(self, variance: float) -> None:
        if variance > self._settings.uncertainty_threshold:
            self._uncertain += 1
        elif variance < self._settings.uncertainty_threshold:
            self._uncertain = 0

    def _explores(self) -> bool:
        s = self._settings
        return self._uncertain >= s.uncertainty_count and self._count <= self._budget - s.neighbors

    def _nearest(self, x: Array) -> int:
        self._target = x
        return self._pool.nearest(x)

    def _neighbors(self, x: Array) -> list[int]:
        """Return the unscored ones among the nearest candidates, in the order of numpy.argpartition."""
        distance, k = self._pool.distances(x), self._settings.neighbors
        near = np.argpartition(distance, k)[:k] if k < len(distance) else np.arange(len(distance))
        return [int(i) for i in near if not self._pool.taken(i)]

    # ---- calls that the native search records -------------------------------------------------------

    def ask(self, native: _Native, number: int, n: int | None) -> list[int]:
        """Offer what this loop proposes, at most n prompts; none is a limit of one."""
        asked: list[int] = []
        while len(asked) < (n or 1) and native.can_offer(number):
            index = self._proposed(native, number)
            native.offer(number, index)
            self.on_ask(index)
            asked.append(index)
        if asked:
            native.log_ask(number, asked, -1 if n is None else n)
        return asked

    def repeat(self, native: _Native, number: int, indices: list[int]) -> int:
        """Offer given prompts; return how many of them this loop would not propose."""
        different = 0
        for index in indices:
            found = self._proposed(native, number) if native.can_offer(number) else -1
            native.ask_for(number, [index], None)
            if found != index:
                different += 1
                self.on_discard(found)
            self.on_ask(index)
        return different

    def _proposed(self, native: _Native, number: int) -> int:
        """Return the proposal of this loop, or the prompt discarded first when no other is free."""
        index = native.next_set_aside(number)
        return self.propose() if index < 0 else index


class _SubsetProcess:
    """Gaussian process on the scored points nearest to `center`, with inputs scaled over this subset."""

    def __init__(
        self, pool: _core.Pool, kernel: NTK, seen: Observations, center: Array, settings: OfficialSettings
    ) -> None:
        X = np.stack([pool.row(i) for i in seen.indices])
        with np.errstate(over="ignore"):  # an overflow means farthest
            near = np.argsort(((X - center) ** 2).sum(axis=1), kind="stable")[: settings.gp_queries]
        X = X[near]
        low, high = X.min(axis=0), X.max(axis=0)
        constant = low == high
        self._low, self._span = np.where(constant, 0.0, low), np.where(constant, 1.0, high - low)
        self._gp = _core.GaussianProcess(kernel.network)
        noise = np.full(len(X), settings.sigma**2)
        self._gp.append((X - self._low) / self._span, seen.score_array()[near], noise)

    def descent(self, x: Array) -> tuple[Array, float]:
        """Return the gradient (d,) of minus the mean with respect to the raw x, and |variance|."""
        _, variance, gradient, _ = self._gp.posterior(((x - self._low) / self._span)[None])
        descent = -gradient[0] / self._span
        if not np.isfinite(descent).all():  # scores beyond arithmetic: no direction
            descent = np.zeros_like(descent)
        return descent, abs(float(variance[0]))
