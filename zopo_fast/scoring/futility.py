"""Whether a candidate can be given up after some of the examples: tests that keep a stated error.

The question is always the same: the candidate's scores on n of N examples are known, in an order drawn at
random; would its mean over all N exceed that of the incumbent? Sampling is without replacement, and the
answer is asked for again and again as examples come in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from zopo_fast.gp.arrays import Array

# Shares of the capital that are bet on "below the incumbent"; the average of bets needs no tuning.
STAKES = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
SPENDING = 0.5  # error spent after a share t of the examples: t to this power


@functools.lru_cache(maxsize=65536)
def binary_limit(
    examples: int, needed: int, looks: tuple[int, ...], limits: tuple[int, ...], error: float
) -> int:
    """Most successes with which a candidate is given up at the last of these looks; -1: with none.

    Exact for 0/1 scores: of all orders of the examples, at most a share `error` take a candidate with
    `needed` successes in all to the limit at any look, and fewer of them one with more successes. The error
    is spent over the looks (alpha spending, Lan & DeMets 1983); what the earlier looks have spent is followed
    from look to look by hypergeometric steps. Limits of earlier looks stand as they were, so that the error
    also holds when the incumbent has improved in the meantime.

    Args:
        examples: N.
        needed: successes on all N that would beat the incumbent.
        looks: examples seen at each look until now, ascending.
        limits: those of the earlier looks.
        error: probability, over the order, that a candidate with `needed` successes is given up.
    """
    if needed > examples:  # nothing beats a perfect score
        return looks[-1]
    alive = np.zeros(needed + 1)  # probability of k successes so far and of not having been given up
    alive[0] = 1.0
    had, spent = 0, 0.0
    for look, limit in zip(looks, limits, strict=False):  # the last look has none yet
        alive = _drawn(alive, examples - had, look - had)
        had = look
        spent += float(alive[: limit + 1].sum())
        alive[: limit + 1] = 0.0
    alive = _drawn(alive, examples - had, looks[-1] - had)
    may_spend = error * (looks[-1] / examples) ** SPENDING - spent
    limit = int(np.searchsorted(np.cumsum(alive), may_spend * (1.0 - 1e-12), side="right")) - 1
    # Out of reach is out of reach, whatever the error.
    return max(limit, needed - (examples - looks[-1]) - 1)


def _drawn(alive: Array, left: int, count: int) -> Array:
    """The distribution of successes after `count` more of `left` examples; all succeed in the end."""
    good = len(alive) - 1 - np.arange(len(alive))[:, None]  # successes still to come
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
    """Evidence that scores in [0, 1] end, over all examples, at a sum below `total`: the gain of a bet.

    Were their sum `total` or more, the highest gain ever reached would exceed 1/error with probability
    `error` at most (Ville's inequality), however often it is looked at: betting without replacement
    (Waudby-Smith & Ramdas 2020), with stakes that are a fixed share of what could be lost, so that the gain
    grows with `total`: an incumbent that improves costs no further error. Infinite: out of reach.
    """
    gains, so_far, highest = np.ones(len(STAKES)), 0.0, 1.0
    for n, score in enumerate(scores):
        loss = 1.0 - (total - so_far) / (examples - n)  # expected of 1 - score, were the sum `total`
        if loss > 1e-12:  # 0: it has to be perfect from here on, or is out of reach below
            gains *= 1.0 - STAKES + STAKES * (1.0 - score) / loss
        so_far += score
        highest = max(highest, float(gains.mean()))
    left = examples - len(scores)
    return math.inf if left and total - so_far >= left else highest
