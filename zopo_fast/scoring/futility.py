"""Futility tests: give up a candidate after some of the examples, with a stated error.

Given a candidate's scores on n of N examples, the tests ask whether its mean over all N would exceed the
incumbent's, from the examples where the two differ. Sampling is without replacement, and the tests are
repeated as scores arrive.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from zopo_fast.gp.arrays import Array

# Shares of the capital bet on "below the incumbent"; averaging over shares avoids tuning one.
STAKES = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
SPENDING = 0.5  # exponent: after a share t of the examples the error spent is t**SPENDING


def binary_limits(
    examples: int, needed: int, looks: tuple[int, ...], earlier: tuple[int, ...], error: float
) -> tuple[int, ...]:
    """Return the highest number of successes that gives a candidate up at each look; -1: none does.

    Exact for 0/1 scores: over all orders of the examples, a candidate with `needed` successes in total is
    given up at any look with probability at most `error`; with more successes, with a lower one. The error is
    spent over the looks by alpha spending (Lan & DeMets 1983), and hypergeometric steps track the error
    spent by earlier looks. Limits stay, or rise where an incumbent that has improved asks for more
    successes at the same look, so the bound also holds then.

    Args:
        examples: number of examples, N.
        needed: successes on all N that would beat the incumbent.
        looks: examples seen at each look so far, ascending; chosen without regard to the scores.
        earlier: limits of the first looks, from earlier calls.
        error: probability, over the order, of giving up a candidate with `needed` successes.
    """
    limits = earlier[: len(looks) - 1]
    while len(limits) < len(looks):
        limits += (_next_limit(examples, needed, looks[: len(limits) + 1], limits, error),)
    return (*limits[:-1], max(limits[-1], *earlier[len(looks) - 1 :], -1))


@functools.lru_cache(maxsize=65536)
def _next_limit(
    examples: int, needed: int, looks: tuple[int, ...], limits: tuple[int, ...], error: float
) -> int:
    """Return the limit of the last look, given those of the earlier ones."""
    if needed > examples:  # the incumbent is perfect
        return looks[-1]
    before, spent = _survivors(examples, needed, looks[:-1], limits)
    seen = looks[-2] if len(looks) > 1 else 0
    alive = _drawn(before, examples - seen, looks[-1] - seen)
    may_spend = error * (looks[-1] / examples) ** SPENDING - spent
    limit = int(np.searchsorted(np.cumsum(alive), may_spend * (1.0 - 1e-12), side="right")) - 1
    # A candidate that cannot reach `needed` is given up even where no error may be spent.
    return max(limit, needed - (examples - looks[-1]) - 1)


@functools.lru_cache(maxsize=8192)
def _survivors(
    examples: int, needed: int, looks: tuple[int, ...], limits: tuple[int, ...]
) -> tuple[Array, float]:
    """Return P(k successes so far, not given up), (needed + 1,), and the probability of being given up."""
    if not looks:
        alive = np.zeros(needed + 1)
        alive[0] = 1.0
        return alive, 0.0
    before, spent = _survivors(examples, needed, looks[:-1], limits[:-1])
    seen = looks[-2] if len(looks) > 1 else 0
    alive = _drawn(before, examples - seen, looks[-1] - seen)
    lost = float(alive[: limits[-1] + 1].sum())
    alive[: limits[-1] + 1] = 0.0
    return alive, spent + lost


class Duel:
    """Test of a candidate on the examples where its scores differ from those of an incumbent.

    For 0/1 scores, a candidate that beats the incumbent wins more than half of the D examples on which the
    two differ. Given which examples these are, wins come in random order, so their number after q of them is
    hypergeometric, and `binary_limits` of a sign test applies. D is unknown; the limits are those of the
    largest possible D, whose share of wins is the least and whose spread is the widest. For other scores the
    bet of `evidence_below` is on half of 1 + the differences.

    A candidate may face several incumbents. The k-th duel may spend the 2^-k-th part of the error.

    Args:
        incumbent: index of the incumbent.
        number: k, from 1.
        rivals: scores of the incumbent on all N examples, in units of the bounds.
        binary: scores are 0 or 1.
    """

    def __init__(self, incumbent: int, number: int, rivals: Mapping[int, float], binary: bool) -> None:
        self.incumbent, self.number = incumbent, number
        self._rivals, self._binary = rivals, binary
        self._limits: tuple[int, ...] = ()

    def is_lost(
        self, examples: Sequence[int], scores: Sequence[float], looks: Sequence[int], error: float
    ) -> bool:
        """Return whether a candidate's scores give it up.

        Args:
            examples: that the scores belong to, in the order of scoring.
            scores: so far, in units of the bounds.
            looks: numbers of scores after each look.
            error: of all duels of the candidate together.
        """
        error *= 0.5**self.number
        if error == 0.0:
            return False
        count = len(self._rivals)
        differences = np.array(scores) - [self._rivals[example] for example in examples]
        if not self._binary:
            units = ((1.0 + differences) / 2.0).tolist()
            return evidence_below(units, count, count / 2.0) >= 1.0 / error
        differ = np.cumsum(differences != 0.0)
        if float(differences.sum()) >= 0.0:  # no fewer wins than losses: no test would give it up
            return False
        population = count + 1 - count % 2  # odd, so that half of it is no number of wins
        passed = tuple(dict.fromkeys(int(differ[look - 1]) for look in looks if differ[look - 1]))
        self._limits = binary_limits(population, population // 2 + 1, passed, self._limits, error)
        return int((differences > 0.0).sum()) <= self._limits[-1]


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
    y = np.asarray(scores, dtype=np.float64)
    before = np.concatenate([[0.0], np.cumsum(y)])
    left = examples - np.arange(len(y))
    loss = 1.0 - (total - before[:-1]) / left  # mean of 1 - score if the sum were `total`
    # At 0 only perfect scores reach `total`, and no bet can be placed.
    ratio = np.divide(1.0 - y, loss, out=np.ones_like(y), where=loss > 1e-12)
    gains = np.cumprod(1.0 - STAKES + STAKES * ratio[:, None], axis=0).mean(axis=1)
    rest = examples - len(y)
    if rest and total - before[-1] >= rest:
        return math.inf
    return max(1.0, float(gains.max(initial=1.0)))
