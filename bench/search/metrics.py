"""Metrics over many runs: final value, mean best so far, calls needed, ranks with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .replay import Array

NEAR = 0.95  # share of the best value
RESAMPLES = 2000


@dataclass(frozen=True)
class Outcome:
    """Runs of one method on one landscape, one row per seed, judged one way.

    Args:
        curves: (seeds, prompts): value of the incumbent after the calls of 1, 2, ... prompts.
        calls: (seeds,): calls after which the value stays within 5 % of the best; infinite: never.
    """

    curves: Array
    calls: Array

    @property
    def finals(self) -> Array:
        """Final values, (seeds,)."""
        finals: Array = self.curves[:, -1]
        return finals

    def means(self, initial: int) -> Array:
        """Mean values after the initial points, (seeds,); the final value where no prompt followed."""
        means: Array = self.curves[:, min(initial, self.curves.shape[1] - 1) :].mean(axis=1)
        return means


def summary(outcome: Outcome, initial: int) -> dict[str, Any]:
    """Figures of one method on one landscape; errors are standard errors of the mean."""
    finals, means = outcome.finals, outcome.means(initial)
    median = float(np.median(outcome.calls)) if np.isfinite(outcome.calls).mean() > 0.5 else None
    return {
        "seeds": len(finals),
        "final": float(finals.mean()),
        "final_error": error(finals),
        "mean": float(means.mean()),
        "mean_error": error(means),
        "found_best": float((finals >= 1.0).mean()),
        "reached_95": float(np.isfinite(outcome.calls).mean()),
        "calls_to_95": median,
    }


def error(values: Array) -> float:
    """Return the standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def prompts_to(curve: Array, level: float) -> int | None:
    """Return the prompts' worth of calls after which a mean curve reaches `level`; None: never."""
    above = np.flatnonzero(curve >= level)
    return int(above[0]) + 1 if len(above) else None


def ranks(values: Array) -> Array:
    """Rank the methods in every case, (methods, ...) in and out: 1 is best, ties share their rank."""
    above = (values[None] > values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    shared: Array = 1.0 + above + 0.5 * (equal - 1.0)
    return shared


def interval(per_seed: Array, seed: int = 0) -> Array:
    """Return the mean over seeds and its 95 % bootstrap interval: (methods, seeds) in, (methods, 3) out.

    All methods are resampled with the same seeds, because their runs are paired.
    """
    count = per_seed.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), RESAMPLES) / count
    low, high = np.quantile(per_seed @ weights.T, (0.025, 0.975), axis=1)
    return np.stack([per_seed.mean(axis=1), low, high], axis=1)


def overall(outcomes: Mapping[str, Mapping[str, Outcome]], initial: int) -> dict[str, dict[str, list[float]]]:
    """Return [mean, low, high] of ranks and values over all landscapes, by method.

    Methods with fewer seeds than others are excluded, because their runs cannot all be paired.

    Args:
        outcomes: outcomes[landscape][method].
    """
    seeds = max(len(o.finals) for by_method in outcomes.values() for o in by_method.values())
    names = [
        name
        for name in next(iter(outcomes.values()))
        if all(name in by and len(by[name].finals) == seeds for by in outcomes.values())
    ]
    finals = np.array([[by[name].finals for by in outcomes.values()] for name in names])
    means = np.array([[by[name].means(initial) for by in outcomes.values()] for name in names])
    found = {
        "rank": interval(ranks(finals).mean(axis=1)),
        "rank_mean": interval(ranks(means).mean(axis=1)),
        "final": interval(finals.mean(axis=1)),
        "mean": interval(means.mean(axis=1)),
    }
    return {
        name: {what: [float(x) for x in table[k]] for what, table in found.items()}
        for k, name in enumerate(names)
    }
