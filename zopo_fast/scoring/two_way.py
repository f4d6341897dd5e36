"""Two-way model of scores: quality of the prompt, difficulty of the example, and a rest.

On real models most of what looks like noise in a partial mean is the difficulty of the examples it covers,
which is the same for all prompts. The model estimates it, corrects each partial mean for it, and draws the
examples first that tell most about a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zopo_fast.gp.arrays import Array

GROWTH = 16  # the difficulties are estimated anew when the scores have grown by a sixteenth
PASSES = 2  # steps of expectation maximization at each estimate; every estimate begins at the last one
MIN_SHARE = 0.05  # least quality, and least distance from 1, whose binomial variance is assumed
MIN_VARIANCE, MAX_VARIANCE = 1e-6, 30.0  # of a component
MIN_INFORMATION = 0.01  # of an example: a difficulty may be estimated wrongly
EMPHASIS = 2.0  # exponent of an example's information in the chance of being drawn
ROWS = 16  # prompts to allocate memory for at first


@dataclass(frozen=True)
class Estimates:
    """Estimates of the prompts in the order of their first score, (r,) each, in units of the bounds.

    Attributes:
        count: scored examples, n.
        effective: number of average examples that tell as much as the scored ones.
        mean: mean of the scores so far.
        quality: mean over all N examples, estimated from the prompt's own scores, corrected for the
            difficulty of the examples they cover; the mean itself where all examples are scored.
        unseen: mean over the examples without a score for a prompt of this quality.
        difficulty: variance that the uncertain difficulties add to each score.
    """

    count: Array
    effective: Array
    mean: Array
    quality: Array
    unseen: Array
    difficulty: Array


class TwoWayModel:
    """Empirical Bayes estimates of quality and difficulty from scores of prompts on examples.

    With the link g, g(E y_ij) = mu + a_i + b_j, a_i ~ N(0, va) and b_j ~ N(0, vb). Scores of 0 and 1 have the
    logistic link (Rasch 1960), under the quadratic bound of its likelihood (Jaakkola & Jordan 2000), in which
    no step diverges. Others have the identity and a residual variance vr. Expectation maximization on the
    joint posterior estimates the variances; the more numerous of prompts and examples are eliminated: O(r N
    min(r, N)), repeated only when the scores have grown by a sixteenth. In between, a new score changes the
    estimate of its prompt, O(N).

    An example tells I_ij = p_ij (1 - p_ij) about a_i, its Fisher information (Lord 1980, "Applications of
    Item Response Theory to Practical Testing Problems"): one that all prompts pass or all fail tells nothing.
    Examples are drawn without replacement, with weights of its square (Efraimidis & Spirakis 2006). The
    estimate of a prompt is the difference estimator of survey sampling, mean(p_i) + mean over seen of
    (y_ij - p_ij) (Saerndal, Swensson & Wretman 1992, section 6.3), with the difference divided by the
    information of the seen examples relative to the average.

    Where examples do not differ, vb shrinks towards 0, the order becomes random, and the estimate becomes the
    plain mean. With the identity link all examples tell the same, and the estimate is unbiased over orders
    for any fixed predictions. Once all examples are scored it is their mean.

    Args:
        examples: number of examples, N.
        seed: seed of the draws.
    """

    def __init__(self, examples: int, seed: int = 0) -> None:
        self.examples = examples
        self._seed = seed
        self._row: dict[int, int] = {}
        self._y = np.zeros((ROWS, examples))
        self._seen = np.zeros((ROWS, examples), dtype=bool)
        self._is_binary = True
        self._answers = self._refit_at = 0
        self._mu, self._va, self._vb, self._vr = 0.0, 0.0, 0.0, 0.0
        self._a = np.zeros(ROWS)
        self._b = np.zeros(examples)
        self._b_variance = np.zeros(examples)  # of each difficulty around their mean
        self._share = 1.0  # of the binomial variance q(1 - q), which is left beside the difficulties
        self._estimates = np.zeros((6, ROWS))
        self._waits = np.zeros((ROWS, examples))  # exponential waiting times; the shortest is drawn first
        self._gains = np.zeros((ROWS, examples + 1))  # effective number after k further examples
        self._new_gains = np.arange(examples + 1.0)  # of a prompt without scores

    def __len__(self) -> int:
        return len(self._row)

    @property
    def indices(self) -> list[int]:
        """Prompts with scores, in the order of their first one."""
        return list(self._row)

    def row(self, index: int) -> int:
        """Return the place of a prompt in the arrays of `Estimates`."""
        return self._row[index]

    def add(self, index: int, examples: Sequence[int], scores: Sequence[float]) -> None:
        """Add scores of a prompt, in units of the bounds."""
        if not examples:
            return
        row = self._row.setdefault(index, len(self._row))
        if row == len(self._y):
            self._grow()
        if not self._seen[row].any():
            self._waits[row] = self._drawn(index)
        at = np.fromiter(examples, dtype=np.intp, count=len(examples))
        values = np.asarray(scores, dtype=np.float64)
        self._y[row, at], self._seen[row, at] = values, True
        self._answers += len(at)
        was_binary = self._is_binary
        self._is_binary = was_binary and bool(np.isin(values, (0.0, 1.0)).all())
        if was_binary and not self._is_binary:
            self._va = 0.0  # the components of the other link
        if self._answers >= self._refit_at or not self._va:
            self._refit()
            self._refit_at = self._answers + max(1, self._answers // GROWTH)
            self._estimate(np.arange(len(self._row)))
            information = np.sort(self._information(self._mu + self._b))[::-1]
            self._new_gains[1:] = np.cumsum(information) / information.mean()
        else:
            self._update(row)
            self._estimate(np.array([row]))

    def estimates(self) -> Estimates:
        """Return the estimates of all prompts with scores: views, which the next `add` changes."""
        return Estimates(*self._estimates[:, : len(self._row)])

    def upcoming(self, index: int) -> NDArray[np.intp]:
        """Return the examples of a prompt without a score, in the order in which they are best scored."""
        row = self._row.get(index)
        eta = self._mu + self._b + (0.0 if row is None else self._a[row])
        waits = self._drawn(index) if row is None else self._waits[row]
        order = np.argsort(waits / self._chance(self._information(eta)), kind="stable")
        return order if row is None else order[~self._seen[row, order]]

    def gains(self, rows: NDArray[np.intp], further: NDArray[np.intp]) -> Array:
        """Return the effective numbers of examples after k further ones, in the order of `upcoming`.

        Args:
            rows: (r, 1) places of prompts.
            further: (r, k) numbers of further examples.
        """
        gains: Array = self._gains[rows, further]
        return gains

    def new_gains(self, further: NDArray[np.intp]) -> Array:
        """Return the same for a prompt without scores, as if the examples that tell most came first."""
        gains: Array = self._new_gains[further]
        return gains

    def population(self) -> tuple[float, float]:
        """Return mean and variance of the qualities: the prior of a prompt of which nothing is known."""
        eta = self._mu + self._b
        if not self._is_binary:
            return float(eta.mean()), self._va
        p = _logistic(eta)
        return float(p.mean()), self._va * float((p * (1.0 - p)).mean()) ** 2

    def residual(self, quality: Array) -> Array:
        """Return the variance of a score around quality and difficulty for prompts of this quality, (n,).

        For 0/1 scores the same share of q(1 - q) for all: the variance must not follow a prompt's own first
        scores, or two failures would count as certainty.
        """
        if not self._is_binary:
            return np.full(len(quality), self._vr)
        q = np.clip(quality, MIN_SHARE, 1.0 - MIN_SHARE)
        residual: Array = self._share * q * (1.0 - q)
        return residual

    def noise(self, index: int) -> float:
        """Return the variance of a prompt's `quality` around its mean over all examples; 0 if complete.

        Residual (1/e - 1/N) with e effective examples, because sampling is without replacement.
        """
        found, row = self.estimates(), self._row[index]
        e = found.effective[row]
        shrunk = (e * found.quality[row] + 2.0 * found.quality.mean()) / (e + 2.0)
        residual = float(self.residual(np.array([shrunk]))[0]) + found.difficulty[row]
        return max(float(residual * (1.0 / e - 1.0 / self.examples)), 0.0)

    # ---- estimation ---------------------------------------------------------------------------------

    def _grow(self) -> None:
        rows = 2 * len(self._y)
        for name in ("_y", "_seen", "_a", "_waits", "_gains"):
            old = getattr(self, name)
            new = np.zeros((rows, *old.shape[1:]), dtype=old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        self._estimates = np.concatenate([self._estimates, np.zeros_like(self._estimates)], axis=1)

    def _begin(self, y: Array, seen: NDArray[np.bool_]) -> None:
        """Set the components before their first estimate."""
        mean, variance = float(y[seen].mean()), float(y[seen].var()) + 1e-3
        self._a[:] = 0.0
        self._b[:] = 0.0
        if self._is_binary:
            mean = (mean * seen.sum() + 0.5) / (seen.sum() + 1.0)
            self._mu, self._va, self._vb = math.log(mean / (1.0 - mean)), 1.0, 0.5
        else:
            self._mu, self._va, self._vb, self._vr = mean, variance / 3, variance / 3, variance / 3

    def _working(self, y: Array, eta: Array, variance: Array | float) -> tuple[Array, Array]:
        """Return weights and working responses for predictions eta with a variance, in units of the link."""
        if not self._is_binary:
            return np.full_like(y, 1.0 / self._vr), y
        xi = np.sqrt(eta * eta + variance) + 1e-9  # where the bound touches
        w = np.tanh(0.5 * xi) / (2.0 * xi)
        return w, (y - 0.5) / w

    def _refit(self) -> None:
        r = len(self._row)
        covered = np.flatnonzero(self._seen[:r].any(axis=0))
        y, seen = self._y[:r, covered], self._seen[:r, covered]
        if not self._va:
            self._begin(y, seen)
        S = seen.astype(np.float64)
        a, b = self._a[:r], self._b[covered]
        both: Array | float = 0.0  # variance of a_i + b_j
        for _ in range(PASSES):
            w, z = self._working(y, self._mu + a[:, None] + b, both)
            W = w * S
            z = np.where(seen, z - self._mu, 0.0)
            if r < len(covered):
                second, first, cross = _effects(W.T, (W * z).T, self._vb, self._va)
                cross = cross.T
            else:
                first, second, cross = _effects(W, W * z, self._va, self._vb)
            (a, a_variance, _), (b, b_variance, shared) = first, second
            both = a_variance[:, None] + b_variance + 2.0 * cross
            left = np.where(seen, z - a[:, None] - b, 0.0)
            if not self._is_binary:
                self._vr = _bounded(float(((left**2 + both) * S).sum()) / S.sum())
            self._mu += float((W * left).sum() / W.sum())
            # One more effect of the present size: a component of few effects does not collapse.
            self._va = _bounded((float((a * a + a_variance).sum()) + self._va) / (r + 1.0))
            self._vb = _bounded((float((b * b + b_variance).sum()) + self._vb) / (len(covered) + 1.0))
        self._a[:r] = a
        self._b[:] = 0.0
        self._b[covered] = b
        if self._is_binary:
            p = _logistic(self._mu + a[:, None] + b)
            q = p.mean(axis=1)
            # The scores' own variance: that of the predictions, which are shrunk, would be too large.
            spread = float((S * (y - p) ** 2).sum() / (S * p * (1.0 - p)).sum())
            self._share = spread * float((p * (1.0 - p)).mean() / (q * (1.0 - q)).mean())
        self._b_variance[:] = self._vb
        self._b_variance[covered] = np.maximum(b_variance - shared, 0.0)

    def _update(self, row: int) -> None:
        """Update the quality of one prompt, the difficulties given."""
        at = self._seen[row]
        y, b = self._y[row, at], self._b[at]
        variance = self._b_variance[at] + self._va / (1.0 + 0.2 * self._va * len(y))
        for _ in range(PASSES + 1):
            w, z = self._working(y, self._mu + self._a[row] + b, variance)
            self._a[row] = float((w * (z - self._mu - b)).sum() / (1.0 / self._va + w.sum()))

    def _estimate(self, rows: NDArray[np.intp]) -> None:
        y, seen, examples = self._y[rows], self._seen[rows], self.examples
        eta = self._mu + self._a[rows, None] + self._b
        n = seen.sum(axis=1).astype(np.float64)
        p = _logistic(eta) if self._is_binary else eta
        slope = p * (1.0 - p) if self._is_binary else np.ones_like(eta)
        difficulty = (slope * slope) @ self._b_variance / examples
        information = self._information(eta)
        effective = (information * seen).sum(axis=1) / information.mean(axis=1)
        mean = (y * seen).sum(axis=1) / n
        expected, overall = (p * seen).sum(axis=1) / n, p.mean(axis=1)
        is_complete = n == examples
        shift = (mean - expected) * n / effective
        quality = np.where(is_complete, mean, np.clip(overall + shift, *self._bounds(mean, n)))
        rest = np.maximum(examples - n, 1.0)
        unseen = ((p * ~seen).sum(axis=1) + (quality - overall) * (examples - effective)) / rest
        self._estimates[:, rows] = n, effective, mean, quality, unseen, difficulty
        self._gains[rows, 0] = effective
        order = np.argsort(np.where(seen, np.inf, self._waits[rows] / self._chance(information)), axis=1)
        further = np.take_along_axis(np.where(seen, 0.0, information), order, axis=1)
        further /= information.mean(axis=1, keepdims=True)
        self._gains[rows, 1:] = effective[:, None] + np.cumsum(further, axis=1)

    def _bounds(self, mean: Array, n: Array) -> tuple[Array, Array]:
        """Return the lowest and highest mean over all examples that the scores so far allow."""
        if not self._is_binary:
            return np.full_like(mean, -math.inf), np.full_like(mean, math.inf)
        total = mean * n / self.examples
        return total, total + (self.examples - n) / self.examples

    def _information(self, eta: Array) -> Array:
        """Return what each example tells about a prompt, for predictions in units of the link."""
        if not self._is_binary:
            return np.ones_like(eta)
        p = _logistic(eta)
        return np.maximum(p * (1.0 - p), MIN_INFORMATION)

    def _chance(self, information: Array) -> Array:
        chance: Array = information**EMPHASIS
        return chance

    def _drawn(self, index: int) -> Array:
        return np.random.default_rng([self._seed, 5, index]).exponential(size=self.examples)


class _Effects(NamedTuple):
    """Joint posterior of effects: means and variances, and the mean of their covariance matrix."""

    mean: Array
    variance: Array
    shared: float


def _effects(W: Array, Wz: Array, va: float, vb: float) -> tuple[_Effects, _Effects, Array]:
    """Return the posterior of row and column effects, and the covariance of each two of them, (r, n).

    The rows are eliminated: O(r n^2 + n^3).

    Args:
        W: (r, n) precisions of the responses; 0 where there is none.
        Wz: (r, n) precision times response.
        va: prior variance of the row effects.
        vb: prior variance of the column effects.
    """
    precision = 1.0 / va + W.sum(axis=1)  # of a row effect, the others given
    share = W / precision[:, None]
    covariance = np.linalg.inv(np.diag(1.0 / vb + W.sum(axis=0)) - W.T @ share)
    sums = Wz.sum(axis=1)
    b = covariance @ (Wz.sum(axis=0) - share.T @ sums)
    a = (sums - W @ b) / precision
    through = share @ covariance
    explained = (through * share).sum(axis=1)
    average = share.mean(axis=0)
    shared = float((1.0 / precision).sum()) / len(W) ** 2 + float(average @ covariance @ average)
    rows = _Effects(a, 1.0 / precision + explained, shared)
    columns = _Effects(b, np.diag(covariance), float(covariance.mean()))
    return rows, columns, -through


def _logistic(eta: Array) -> Array:
    p: Array = 1.0 / (1.0 + np.exp(-eta))
    return p


def _bounded(variance: float) -> float:
    return min(max(variance, MIN_VARIANCE), MAX_VARIANCE)
