"""Transformation of scores into the values that the default search's model is fitted to."""

from __future__ import annotations

import math

import numpy as np

from zopo_fast.gp.arrays import Array

MAX_EXPONENT = 50.0  # of a transformed score
MAX_DEVIATIONS = 1e100  # of a score from the best one, in standard deviations
MAX_NOISE = 1e12  # noise variance as a share of the signal variance; such a score carries no information


class ScoreTransform:
    """Transformation exp(e u) of a score, with u in standard deviations from the best score.

    Differences among good scores then count more than among bad ones, which need no exact fit. With e = 0 the
    value is u.

    Args:
        emphasis: Exponent e.
    """

    def __init__(self, emphasis: float) -> None:
        self._emphasis = emphasis
        self._reference, self._deviation, self._noise_unit = 0.0, 1.0, 1.0

    def fit(self, scores: Array) -> Array:
        """Set the units from all scores (n,), and return their values (n,)."""
        unit = power_of_two(scores)  # so that no square overflows or vanishes
        self._deviation = unit * float((scores / unit).std()) or 1.0
        self._reference = float(scores.max())
        values = self.values(scores)
        self._noise_unit = float(values.var()) or 1.0
        return values

    def values(self, scores: Array) -> Array:
        """Transform scores (n,)."""
        return np.array([self.value(s) for s in scores.tolist()])

    def value(self, score: float) -> float:
        """Transform one score."""
        u, e = (score - self._reference) / self._deviation, self._emphasis
        return math.exp(min(e * u, MAX_EXPONENT)) if e > 0.0 else min(max(u, -MAX_DEVIATIONS), MAX_DEVIATIONS)

    def noise(self, score: float, variance: float | None) -> float:
        """Convert the variance of a score to a share of the signal variance, by the slope at the score."""
        if not variance:
            return 0.0
        e = self._emphasis
        slope = e * self.value(score) if e > 0.0 else 1.0
        share = slope / self._deviation
        return min(variance * (share * share) / self._noise_unit, MAX_NOISE)


def power_of_two(values: Array) -> float:
    """Return the unit, a power of two, in which the largest magnitude is at most 1; 1 if all are 0."""
    exponent = math.frexp(float(np.abs(values).max()))[1]
    return math.ldexp(1.0, max(min(exponent, 1023), -1022))
