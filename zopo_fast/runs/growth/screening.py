"""Screening of drafts: those that promise more than the pool's own best prompt without a score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zopo_fast.gp.arrays import Array
from zopo_fast.scoring.knowledge_gradient import log_expected_improvement


@dataclass(frozen=True)
class Screened:
    """Outcome of a screening.

    Attributes:
        entered: indices of the drafts that enter, most promising first.
        mean: (k,) predicted scores of all drafts.
        deviation: (k,) standard deviations of these.
    """

    entered: list[int]
    mean: Array
    deviation: Array


def screen(
    mean: Array, variance: Array, pool_mean: Array, pool_variance: Array, target: float, most: int
) -> list[int]:
    """Return the drafts whose expected improvement exceeds that of every pool prompt, best first.

    The expected improvement over the best score so far (Mockus 1975; Jones, Schonlau & Welch 1998) is what
    the search ranks its candidates by, so a draft enters if the search would ask for it next.

    Args:
        mean: (k,) predicted scores of the drafts.
        variance: (k,) of these.
        pool_mean: (c,) predicted scores of the pool's prompts without a score; c may be 0.
        pool_variance: (c,) of these.
        target: score to improve on.
        most: greatest number of drafts returned.
    """
    gain = log_expected_improvement(mean, variance, target)
    bar = -math.inf
    if len(pool_mean):
        bar = float(log_expected_improvement(pool_mean, pool_variance, target).max())
    order: NDArray[np.intp] = np.argsort(-gain, kind="stable")
    return [int(i) for i in order[:most] if gain[i] > bar]
