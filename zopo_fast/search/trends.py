"""Trends in the prior of a search, from the scores of earlier searches on the same pool.

A source is what an earlier search, such as one with another model, found: scores of some prompts. A Gaussian
process under the search's own kernel turns the scores of a source s into a function phi_s over the pool. The
prior covariance of the new search becomes

    k(x, y) + tau^2 sum_s phi_s(x) phi_s(y),

which is Bayesian linear regression on the phi_s, with coefficients ~ N(0, tau^2) beside the kernel
(Rasmussen & Williams 2006, eq. 2.39). The new scores decide how much of a source is of use, and its sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast.gp.arrays import Array
from zopo_fast.search.kernel_scale import kernel_scale, scale_sample
from zopo_fast.search.problem import NUGGETS, SearchProblem
from zopo_fast.search.sources import Source, beside_winners, winners

TREND_VARIANCE = 0.1
"""tau^2, in units of the kernel's mean diagonal; chosen by cross-validation over tasks."""
BLOCK = 8192  # candidates of one block of the kernel


def opening(problem: SearchProblem, sources: Iterable[Source]) -> list[int]:
    """Return the initial prompts: winners of the sources take the place of others, of which a few stay.

    A list of initial indices in the settings stays as it is.
    """
    if isinstance(problem.config.initial, tuple):
        return problem.initial
    best = winners(sources)
    others = [i for i in problem.initial if i not in best]
    return [*best, *others[: beside_winners(len(problem.initial), len(best))]][: problem.budget]


class Trends:
    """Trends of the sources with signal, over the pool of a search and at other candidates.

    Args:
        problem: The search, with its present pool.
        sources: Scores of earlier searches.

    Attributes:
        over_pool: tau phi_s of each source, (m, sources), as a flat array of float64.
    """

    def __init__(self, problem: SearchProblem, sources: Iterable[Source]) -> None:
        # A column of zeros stays: more candidates change the unit of the kernel, and what is explained.
        fitted = [_phi(problem, source) for source in sources if source.says_something]
        self._problem, self._phis = problem, [phi for phi, _ in fitted]
        self.over_pool = _flat([column for _, column in fitted], len(problem.embeddings))

    def at(self, rows: NDArray[Any]) -> Array:
        """Return tau phi_s at rows (k, d + q) of other candidates, (k, sources), as a flat array."""
        points = self._problem.coordinates(rows)
        return _flat([phi.at(self._problem, points) for phi in self._phis], len(rows))


@dataclass(frozen=True)
class _Phi:
    """A function phi_s: the posterior mean of a source, centered and scaled over the pool.

    Attributes:
        points: (n, d) of the scored prompts, in coordinates of the kernel.
        weights: (n,), of k(points, x) in the posterior mean.
        center: mean of the posterior mean over the pool.
        factor: scale of what is left.
    """

    points: Array
    weights: Array
    center: float
    factor: float

    def at(self, problem: SearchProblem, points: Array) -> Array:
        """Return phi_s at points (k, d)."""
        values: Array = (self.weights @ _gram(problem, self.points, points) - self.center) * self.factor
        return values


def _flat(columns: list[Array], m: int) -> Array:
    """Return tau times columns (m,), side by side."""
    stacked = np.stack(columns, axis=1) if columns else np.empty((m, 0))
    flat: Array = np.ascontiguousarray(math.sqrt(TREND_VARIANCE) * stacked, dtype=np.float64).ravel()
    return flat


def _phi(problem: SearchProblem, source: Source) -> tuple[_Phi, Array]:
    """Return the posterior mean of a source as a function, and over the pool (m,).

    The sum of squares is m times the share of the scores' variance that the model predicts, by leave-one-out:
    a source of noise alone gives 0. Nuggets are averaged by evidence, each with its best amplitude.
    """
    at = np.array(source.indices)
    y = np.array(source.scores)
    deviation = y.std()
    y = (y - y.mean()) / deviation
    noise = np.array(source.noise) / deviation**2
    n = len(y)
    points = problem.points(at)
    scale = kernel_scale(problem.kernels, problem.points(scale_sample(len(problem.embeddings))))
    K = _gram(problem, points, points) / scale
    evidence, weights, errors = [], [], []
    for nugget in NUGGETS:
        A = K + np.diag(nugget + noise)
        inverse = np.linalg.inv(A)
        ones = inverse.sum(axis=0)
        # Q y are the weights of the posterior mean with an unknown constant (ibid., eq. 2.42).
        Q = inverse - np.outer(ones, ones) / ones.sum()
        alpha = Q @ y
        amplitude = max(float(y @ alpha) / n, 1e-12)
        evidence.append(-0.5 * n * math.log(amplitude) - 0.5 * np.linalg.slogdet(A)[1])
        weights.append(alpha)
        errors.append(alpha / np.diag(Q))  # leave-one-out (ibid., eq. 5.12)
    share = np.exp(np.array(evidence) - max(evidence))
    share /= share.sum()
    alpha, error = share @ np.array(weights), share @ np.array(errors)
    explained = max(0.0, 1.0 - float(error @ error) / n)
    m = len(problem.embeddings)
    mean = np.concatenate(
        [
            alpha @ _gram(problem, points, problem.points(np.arange(i, min(m, i + BLOCK))))
            for i in range(0, m, BLOCK)
        ]
    )
    center = float(mean.mean())
    mean -= center
    spread = float(mean.std())
    factor = math.sqrt(explained) / spread if spread > 0.0 else 0.0
    return _Phi(points, alpha, center, factor), mean * factor


def _gram(problem: SearchProblem, X: Array, Y: Array) -> Array:
    mean: Array = np.mean([kernel.gram(X, Y) for kernel in problem.kernels], axis=0)
    return mean
