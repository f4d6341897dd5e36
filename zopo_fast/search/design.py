"""Start of a search: prompts spread over the pool in the metric of its kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zopo_fast.gp.arrays import Array

SIZE = 5  # prompts; 3 to 8 are as good on the measured pools
LOCAL_SIZE = 8  # of a search around the best prompt, which sees other parts of the pool late
BUDGET_SHARE = 4  # the start takes at most a fourth of the budget
MAX_SAMPLE = 256  # candidates of a larger pool that compete
SEEDINGS, SWEEPS = 4, 10
DECIMALS = 9  # of a distance: its last digits depend on the processor, and must not choose between twins


def size_of_start(budget: int, is_local: bool = False) -> int:
    """Return the number of prompts to start with.

    Args:
        budget: Prompts scored in total.
        is_local: True for a search that considers a part of the pool at a time.
    """
    return min(max(budget // BUDGET_SHARE, 1), LOCAL_SIZE if is_local else SIZE)


def spread_start(gram: Array, count: int, rng: np.random.Generator, known: Sequence[int] = ()) -> list[int]:
    """Choose prompts that represent a pool: medoids of its clusters.

    The squared distance of two prompts is k(x, x) + k(y, y) - 2 k(x, y): the prior variance of the difference
    of their scores. k-means++ (Arthur & Vassilvitskii 2007) seeds the clusters, and medoids and members are
    updated in turn (Park & Jun 2009). The best of a few seedings counts, because an update finds the nearest
    optimum only.

    Args:
        gram: (m, m) float64, k(x, y) of the candidates, m >= 1. Entries that are not finite count as 0.
        count: number of prompts.
        rng: source of the seedings.
        known: rows that are medoids already, and are not returned.

    Returns:
        At most `count` distinct rows, fewer where the pool has fewer. The medoid of the largest cluster is
        first.
    """
    distance = _distances(gram)
    fixed = list(dict.fromkeys(known))
    count = min(count, len(gram) - len(fixed))
    best: tuple[float, list[int]] = (np.inf, [])
    for _ in range(SEEDINGS if count > 0 else 0):
        chosen = _improved(distance, _seeded(distance, fixed, count, rng), len(fixed))
        cost = float(distance[:, chosen].min(axis=1).sum())
        if cost < best[0]:
            best = cost, chosen
    medoids = best[1]
    sizes = np.bincount(_clusters(distance, medoids), minlength=len(medoids)) if medoids else np.zeros(0)
    order = sorted(range(len(fixed), len(medoids)), key=lambda k: -int(sizes[k]))
    return [medoids[k] for k in order]


def sample_of(m: int, rng: np.random.Generator) -> list[int]:
    """Return the candidates of a pool of m that compete for the start."""
    if m <= MAX_SAMPLE:
        return list(range(m))
    return sorted(int(i) for i in rng.choice(m, MAX_SAMPLE, replace=False))


def _distances(gram: Array) -> Array:
    """Return the squared distances (m, m) of the kernel, in units of its largest value."""
    gram = np.nan_to_num(gram, posinf=0.0, neginf=0.0)
    gram = gram / (np.abs(gram).max() or 1.0)  # sums of distances must not overflow
    diagonal = np.diag(gram)
    distance: Array = np.maximum(np.round(diagonal[:, None] + diagonal - 2.0 * gram, DECIMALS), 0.0)
    np.fill_diagonal(distance, 0.0)
    return distance


def _seeded(distance: Array, fixed: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """Return the fixed rows and `count` others, each drawn in proportion to its squared distance to these."""
    chosen = list(fixed)
    near = distance[:, chosen].min(axis=1) if chosen else np.ones(len(distance))
    for _ in range(count):
        weights = near.copy()
        weights[chosen] = 0.0
        if not weights.sum() > 0.0:  # the rest coincides with chosen rows
            weights = np.ones(len(near))
            weights[chosen] = 0.0
        row = int(rng.choice(len(near), p=weights / weights.sum()))
        near = np.minimum(near, distance[row]) if chosen else distance[row].copy()
        chosen.append(row)
    return chosen


def _clusters(distance: Array, medoids: Sequence[int]) -> Array:
    nearest: Array = np.argmin(distance[:, medoids], axis=1)
    nearest[list(medoids)] = np.arange(len(medoids))  # a medoid with a twin keeps its own cluster
    return nearest


def _improved(distance: Array, medoids: list[int], fixed: int) -> list[int]:
    """Update members and medoids, the first `fixed` ones excepted, until nothing changes."""
    for _ in range(SWEEPS):
        clusters, before = _clusters(distance, medoids), list(medoids)
        for k in range(fixed, len(medoids)):
            members = np.flatnonzero(clusters == k)
            medoids[k] = int(members[np.argmin(distance[np.ix_(members, members)].sum(axis=1))])
        if medoids == before:
            break
    return medoids
