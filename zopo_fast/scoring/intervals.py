"""Confidence intervals of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

NORMAL_95 = 1.96  # standard deviations of a 95 % interval


class Bounds(NamedTuple):
    """Confidence interval."""

    low: float
    high: float


def score_interval(scores: Sequence[float]) -> Bounds | None:
    """Return the 95 % interval of the mean score on examples like these.

    For scores of 0 and 1 the Wilson score interval (Wilson 1927), else the normal approximation.

    Args:
        scores: n scores.

    Returns:
        The interval; None for fewer than two scores.
    """
    n, z = len(scores), NORMAL_95
    if n < 2:
        return None
    mean = math.fsum(scores) / n
    if set(scores) <= {0, 1}:
        center = (mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
        return Bounds(max(0.0, center - half), min(1.0, center + half))
    return normal_interval(scores)


def normal_interval(values: Sequence[float]) -> Bounds | None:
    """Return the 95 % interval of a mean by the normal approximation; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    half = NORMAL_95 * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return Bounds(mean - half, mean + half)
