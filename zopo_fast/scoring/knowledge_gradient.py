"""Knowledge gradient of a race: expected improvement of the final choice per call.

The beliefs about the candidates' means over all N examples are normal and independent. Scoring k more
examples of a candidate changes its posterior mean by a normal amount of known variance. The candidate of
highest KG(*) continues: the largest ratio, over k, of the expected improvement to the k calls (Frazier &
Powell 2010, "Paradoxes in Learning and the Marginal Value of Information"). The plain knowledge gradient
with k = 1 stalls where one more example can hardly change the choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zopo_fast.gp.arrays import Array

SIZES = 10  # numbers of further examples considered, from the next look to all
STEP, FARTHEST = 0.02, 40.0  # of the tabulated function, in standard deviations


def _log_excess(z: float) -> float:
    """Return log E max(x + z, 0) for standard normal x and z <= 0."""
    if z > -6.0:
        density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        return math.log(density + z * 0.5 * math.erfc(-z / math.sqrt(2.0)))
    # The two terms cancel: asymptotic series of Mills' ratio (Abramowitz & Stegun 26.2.12).
    series = 1.0 - 3.0 / z**2 + 15.0 / z**4 - 105.0 / z**6
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi) - 2.0 * math.log(-z) + math.log(series)


_Z = np.arange(-FARTHEST, STEP / 2, STEP)
_LOG_EXCESS = np.array([_log_excess(min(float(z), 0.0)) for z in _Z])


def log_expected_improvement(mean: Array, variance: Array, target: float) -> Array:
    """Return log E max(x - target, 0) for normal x of these means and variances, (c,).

    Beyond the table the order is that of the distances.
    """
    deviation = np.sqrt(np.maximum(variance, 1e-300))
    z = (mean - target) / deviation
    below = np.interp(-np.abs(z), _Z, _LOG_EXCESS)  # E max(x + z, 0) = z + E max(x - z, 0)
    excess = np.where(z > 0.0, np.log(np.maximum(z, 1e-300) + np.exp(below)), below)
    excess = np.where(z < -FARTHEST, excess + z, excess)
    gain: Array = np.log(deviation) + excess
    return gain


@dataclass(frozen=True)
class Beliefs:
    """Beliefs about candidates, (c,) each, in units of the bounds.

    Attributes:
        mean: posterior mean of the mean over all N examples.
        residual: variance of a score on an average example around the candidate's mean.
        prior_variance: variance of the mean before the candidate's own scores.
    """

    mean: Array
    residual: Array
    prior_variance: Array

    def variance(self, count: Array, examples: int) -> Array:
        """Return the posterior variance of the mean over N examples after as many scores as n average ones.

        With c = residual / prior variance it is residual (N - n)(N + c) / (N^2 (n + c)): the uncertain
        quality, and the residuals of the examples without a score.

        Args:
            count: (c, k) effective numbers of scores, n.
            examples: number of examples, N.
        """
        residual = self.residual[:, None]
        c = residual / self.prior_variance[:, None]
        variance: Array = residual * (examples - count) * (examples + c) / (examples**2 * (count + c))
        return variance


def look_sizes(step: Array, most: Array) -> NDArray[np.intp]:
    """Return the numbers of further examples to consider, (c, SIZES), from the next look to all; at least 1.

    Args:
        step: (c,) examples of the next look.
        most: (c,) examples that the candidate may still get.
    """
    most = np.maximum(most, 1.0)[:, None]
    step = np.clip(step[:, None], 1.0, most)
    sizes: NDArray[np.intp] = np.rint(step * (most / step) ** np.linspace(0.0, 1.0, SIZES)).astype(np.intp)
    return sizes


def log_rates(beliefs: Beliefs, examples: int, sizes: NDArray[np.intp], before: Array, after: Array) -> Array:
    """Return the logarithm of the expected improvement per call of each candidate, (c,).

    Args:
        beliefs: about the candidates; at least one.
        examples: number of examples, N.
        sizes: (c, k) numbers of further calls.
        before: (c,) effective numbers of scores now.
        after: (c, k) effective numbers of scores after `sizes` calls.
    """
    gained = beliefs.variance(before[:, None], examples) - beliefs.variance(after, examples)
    change = np.sqrt(np.maximum(gained, 1e-300))
    mean = beliefs.mean
    best = int(np.argmax(mean))
    others = np.delete(mean, best)
    rival = np.full(len(mean), mean[best])
    rival[best] = others.max() if len(others) else mean[best]
    z = -np.abs(mean - rival)[:, None] / change
    rates = np.log(change) + np.interp(z, _Z, _LOG_EXCESS) - np.log(sizes)
    # Beyond the table the order of the candidates is that of their distances.
    rates = np.where(z < -FARTHEST, rates + z, rates)
    best_rates: Array = rates.max(axis=1)
    return best_rates
