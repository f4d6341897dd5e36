"""Futility tests: give up a candidate after some of the examples, with a stated error.

Given a candidate's scores on n of N examples in random order, the tests ask whether its mean over all N would
exceed the incumbent's. Sampling is without replacement, and the test is repeated as scores arrive.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from zopo_fast.gp.arrays import Array

# Shares of the capital bet on "below the incumbent"; averaging over shares avoids tuning one.
STAKES = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
SPENDING = 0.5  # exponent: after a share t of the examples the error spent is t**SPENDING


@functools.lru_cache(maxsize=65536)
def binary_limit(
    examples: int, needed: int, looks: tuple[int, ...], limits: tuple[int, ...], error: float
) -> int:
    """Return the highest number of successes that gives a candidate up at the last look; -1: none does.

    Exact for 0/1 scores: over all orders of the examples, a candidate with `needed` successes in total is
    given up at any look with probability at most `error`; with more successes, with a lower one. The error is
    spent over the looks by alpha spending (Lan & DeMets 1983), and hypergeometric steps track the error
    spent by earlier looks. The limits of earlier looks are fixed, so the error bound also holds after the
    incumbent has improved.

    Args:
        examples: number of examples, N.
        needed: successes on all N that would beat the incumbent.
        looks: examples seen at each look so far, ascending.
        limits: limits of the earlier looks.
        error: probability, over the order, of giving up a candidate with `needed` successes.
    """
    if needed > examples:  # the incumbent is perfect
        return looks[-1]
    alive = np.zeros(needed + 1)  # alive[k] = P(k successes so far, not given up)
    alive[0] = 1.0
    seen, spent = 0, 0.0
    for look, limit in zip(looks, limits, strict=False):  # the last look has none yet
        alive = _drawn(alive, examples - seen, look - seen)
        seen = look
        spent += float(alive[: limit + 1].sum())
        alive[: limit + 1] = 0.0
    alive = _drawn(alive, examples - seen, looks[-1] - seen)
    may_spend = error * (looks[-1] / examples) ** SPENDING - spent
    limit = int(np.searchsorted(np.cumsum(alive), may_spend * (1.0 - 1e-12), side="right")) - 1
    # A candidate that cannot reach `needed` is given up even where no error may be spent.
    return max(limit, needed - (examples - looks[-1]) - 1)


def _drawn(alive: Array, left: int, count: int) -> Array:
    """Return the distribution of successes after drawing `count` more of `left` examples."""
    good = len(alive) - 1 - np.arange(len(alive))[:, None]  # successes left
    more = np.arange(count + 1)[None, :]
    possible = (more <= good) & (count - more <= left - good) & (good <= left)
    good_safe, bad_safe = np.where(possible, good, count), np.where(possible, left - good, count)
    logs = _log_factorials(left + count)
    chance = np.exp(
        logs[good_safe] - logs[more] - logs[good_safe - more]
        + logs[bad_safe] - logs[count - more] - logs[bad_safe - (count - more)]
        - (logs[left] - logs[count] - logs[left - count])
    )  # fmt: skip
    steps = np.where(possible, chance, 0.0) * alive[:, None]
    after = np.zeros(len(alive) + count)
    for j in range(count + 1):
        after[j : j + len(alive)] += steps[:, j]
    return after[: len(alive)]


@functools.lru_cache(maxsize=64)
def _log_factorials(n: int) -> Array:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def evidence_below(scores: Sequence[float], examples: int, total: float) -> float:
    """Return the evidence that scores in [0, 1] sum to less than `total` over all examples.

    The evidence is the highest gain of a bet so far; infinite where `total` is out of reach. If the sum were
    `total` or more, the gain would ever exceed 1/error with probability at most `error` (Ville's inequality),
    however often it is checked. The bet is on sampling without replacement (Waudby-Smith & Ramdas 2020). Its
    stakes are fixed shares of the possible loss, so the gain grows with `total`, and an incumbent that
    improves adds no error.

    Args:
        scores: scores so far, in random order.
        examples: number of examples, N.
        total: sum of the incumbent's scores.
    """
    gains, so_far, highest = np.ones(len(STAKES)), 0.0, 1.0
    for n, score in enumerate(scores):
        loss = 1.0 - (total - so_far) / (examples - n)  # mean of 1 - score if the sum were `total`
        if loss > 1e-12:  # at 0 only perfect scores reach `total`
            gains *= 1.0 - STAKES + STAKES * (1.0 - score) / loss
        so_far += score
        highest = max(highest, float(gains.mean()))
    left = examples - len(scores)
    return math.inf if left and total - so_far >= left else highest
