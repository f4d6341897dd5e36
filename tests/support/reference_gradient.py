"""Reference of the gradient search: gradients and their uncertainty by their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from reference_book import Array, Book, Choice, exactly, initial_of, nearest, nearest_to_first_pending

import zopo_fast as zf
from zopo_fast.gp import reference

NOISE_GRID = np.logspace(-3, 1, 17)
MAX_REFRESH, HISTORY, MIN_HISTORY = 1024, 50, 5


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
        self.first: int | None = None  # of an exploration round that may have begun
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
        choices, answers = [], self.explores(self.uncertainty(self.book.waiting))
        if True in answers:
            self.first, *self.queue = nearest(self.E, x, free, self.config.exploration)
            choices.append(exactly(self.first))
        if False not in answers:
            return choices
        away = np.sort(np.linalg.norm(np.delete(self.E, self.center, axis=0) - x, axis=1))
        radius = away[min(self.config.neighbors, len(away)) - 1] if len(away) else 0.0
        along = self.gradient()
        length = float(np.linalg.norm(along))
        target = x + self.config.step * radius * along / length if length else x
        distance = np.linalg.norm(self.E[free] - target, axis=1)
        return [*choices, Choice(free, -distance * (1 - 1e-9), float(-distance.min()))]

    def on_ask(self, index: int) -> None:
        """Drop the exploration round that `propose` held possible, if the other search made a step."""
        if self.first not in (None, index):
            self.queue = []
        self.first = None

    def refresh_if_due(self) -> None:
        """Choose the noise at the first step, and whenever the number of scores has quadrupled."""
        n, scores = len(self.book.seen), self.book.scores
        if n < self.refresh_at or (self.choice is not None and 16 * max(self.budget - n, 0) < n):
            return
        self.refresh_at = 4 * n
        variance = float(scores.var()) if np.ptp(scores) else 0.0
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

    def explores(self, uncertainty: float) -> list[bool]:
        """Return whether the gradient is more uncertain than in most last steps; both where that is open.

        A discarded prompt leaves the uncertainty as it was, up to the last digits.
        """
        ranked = sorted(self.window)
        self.window = [*self.window, uncertainty][-HISTORY:]
        if len(ranked) < MIN_HISTORY or not self.config.exploration:
            return [False]
        above = uncertainty - ranked[int(self.config.exploration_quantile * (len(ranked) - 1))]
        return [above > 0.0] if abs(above) > 1e-9 else [False, True]
