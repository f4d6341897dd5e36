"""Race: candidates are scored in mini-batches of examples, and unlikely winners are given up early.

Bookkeeping only, without I/O and event loop: the next candidate, its examples, and the candidates given up.
The statistical tests are in futility.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from zopo_fast._utils.checks import as_integer, as_number
from zopo_fast.errors import ConfigError, InputError
from zopo_fast.scoring.futility import binary_limit, evidence_below

if TYPE_CHECKING:
    from zopo_fast.search.optimizer import Zopo

NEW = -1
"""Result of `Race.choose`: a candidate without scores, to be asked from the search."""
MAX_LOOKS = 16
"""Mini-batches of a candidate at most; mini-batches grow with the number of examples."""
DEFAULT_ERROR, DEFAULT_FIRST, DEFAULT_BATCH = 0.2, 4, 2


@dataclass
class Candidate:
    """State of one candidate in a race."""

    scores: list[float] = field(default_factory=list)
    """Scores in the candidate's order of examples."""
    total: float = 0.0
    """Sum of the scores, in units of the bounds."""
    limits: tuple[int, ...] = ()
    """Limits of the looks so far, for 0/1 scores."""
    running: int = 0
    """Number of examples being scored."""
    is_given_up: bool = False
    is_revived: bool = False
    """The candidate was given up, and is now scored on all examples."""


class Race:
    """Race of candidates for a budget of calls.

    Each candidate sees the examples in its own random order. After each mini-batch it is given up if its mean
    over all examples is unlikely to exceed the incumbent's. The incumbent is the best candidate scored on all
    examples, so the best is never a lucky partial mean.

    `error` bounds the probability that a single candidate is given up although its full mean exceeds that of
    the incumbent it was compared with. The probability is over the candidate's order, given the scores of the
    others. For 0/1 scores the bound is exact (`binary_limit`), for others a betting test gives it
    (`evidence_below`). A candidate given up keeps its scores, and is completed if calls are left that no
    other candidate can use.

    A common order of examples would allow paired tests. Measured landscapes show no gain from these. Also,
    similar prompts would fail together on the first examples, so the decisions would be wrong together, and
    more often than stated, because a common order also favours the incumbents.

    Args:
        examples: number of examples, N.
        calls: budget of calls, one an example.
        initial: candidates that get a first mini-batch before any candidate is continued.
        error: probability of giving up a better candidate, in [0, 1).
        first: examples of the first mini-batch.
        batch: examples of each further mini-batch.
        bounds: lowest and highest score of an example.
        binary: scores equal one of the bounds.
        seed: seed of the orders.

    Raises:
        ConfigError: a setting is out of range; names the setting.
    """

    def __init__(
        self,
        examples: int,
        calls: int,
        *,
        initial: int = 1,
        error: float = DEFAULT_ERROR,
        first: int = DEFAULT_FIRST,
        batch: int = DEFAULT_BATCH,
        bounds: tuple[float, float] = (0.0, 1.0),
        binary: bool = True,
        seed: int = 0,
    ) -> None:
        check_settings(error, first, batch)
        low, high = (as_number("race: bounds", bound) for bound in bounds)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"race: bounds must be finite and ascending, got {bounds}")
        if calls < examples:
            raise ConfigError(f"race: {calls} calls are too few to score one prompt on {examples} examples")
        self.examples, self.calls, self.error = examples, calls, error
        self._low, self._range, self._binary = low, high - low, binary
        self._seed = seed
        self.batch = batch = max(batch, math.ceil((examples - first) / MAX_LOOKS))
        self.looks = (*range(min(first, examples), examples, batch), examples)
        self._initial, self._begun = initial, 0
        self._candidates: dict[int, Candidate] = {}
        self._open: dict[int, None] = {}  # neither given up nor complete, in order of their start
        self.spent = 0
        """Calls spent, those in flight included."""
        self.best: tuple[int, float] | None = None
        """Index and mean of the incumbent."""

    # ---- scores -----------------------------------------------------------------------------

    def order(self, index: int) -> tuple[int, ...]:
        """Return the indices of all examples in the order of a candidate."""
        return tuple(np.random.default_rng([self._seed, 5, index]).permutation(self.examples).tolist())

    def scores(self, index: int) -> tuple[float, ...]:
        """Return the scores of a candidate so far, in its order of examples."""
        candidate = self._candidates.get(index)
        return () if candidate is None else tuple(candidate.scores)

    def in_order(self, index: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the indices of a candidate's scored examples, ascending, and the scores there."""
        pairs = sorted(zip(self.order(index), self.scores(index), strict=False))
        return tuple(place for place, _ in pairs), tuple(score for _, score in pairs)

    def mean(self, index: int) -> float:
        """Return the mean of a candidate's scores so far."""
        scores = self._candidates[index].scores
        return math.fsum(scores) / len(scores)

    def noise(self, index: int) -> float:
        """Return the variance of `mean` around the mean over all examples; 0 for a complete candidate.

        For 0/1 scores the variance of a Beta posterior with uniform prior; for others the sample variance
        with one more score at each bound, which shrinks it towards that prior. Both are multiplied by
        1 - n/N, because sampling is without replacement.
        """
        scores = self._candidates[index].scores
        n = len(scores)
        ends = [*scores, self._low, self._low + self._range]
        return float(np.var(ends)) / (n + 3) * (1.0 - n / self.examples)

    def is_complete(self, index: int) -> bool:
        """Return whether a candidate has been scored on all examples."""
        return len(self.scores(index)) == self.examples

    @property
    def running(self) -> int:
        """Number of candidates with a mini-batch in flight."""
        return sum(candidate.running > 0 for candidate in self._candidates.values())

    def can_start(self, index: int) -> bool:
        """Return whether a mini-batch of a candidate can start: it is new, or waits for its next one."""
        candidate = self._candidates.get(index)
        return candidate is None or (not candidate.running and len(candidate.scores) < self.examples)

    def has_begun(self, index: int) -> bool:
        """Return whether a candidate has had a mini-batch."""
        return index in self._candidates

    # ---- scheduling --------------------------------------------------------------------------------

    def choose(self, fresh: bool = True) -> int | None:
        """Return the candidate whose mini-batch is next; NEW: one without scores; None: wait, or the end.

        First, each initial candidate gets its first mini-batch. Then the waiting candidate with the highest
        shrunk mean continues, and a new one starts where none waits. No candidate starts that could not be
        completed after all open ones. At the end, candidates given up are completed, the most promising
        first, while they can still win.

        Args:
            fresh: whether the search has a candidate without scores.
        """
        left = self.calls - self.spent
        owed = sum(self._missing(i) for i in self._open)
        if (
            fresh
            and self._begun < self._initial
            and left >= self.looks[0] + self.examples * bool(self._begun)
        ):
            return NEW
        waiting = [i for i in self._open if not self._candidates[i].running and self._missing(i) <= left]
        if waiting:
            return max(waiting, key=self._promise)
        if fresh and left - owed >= self.examples:
            return NEW
        if self.running:
            return None
        given_up = [i for i, r in self._candidates.items() if r.is_given_up and self._missing(i) <= left]
        given_up = [i for i in given_up if not self._out_of_reach(self._candidates[i])]
        return max(given_up, key=self._promise) if given_up else None

    def start(self, index: int) -> tuple[int, ...]:
        """Start the next mini-batch of a candidate; return the indices of its examples."""
        candidate = self._candidates.get(index)
        if candidate is None:
            candidate = self._candidates[index] = Candidate()
            self._begun += 1
        if candidate.is_given_up:
            candidate.is_given_up, candidate.is_revived = False, True
        self._open[index] = None
        had = len(candidate.scores)
        end = self.examples if candidate.is_revived else next(look for look in self.looks if look > had)
        candidate.running = end - had
        self.spent += candidate.running
        return self.order(index)[had:end]

    def finish(self, index: int, scores: Sequence[float]) -> list[int]:
        """Add the scores of a mini-batch; return the candidates given up because of them.

        Raises:
            InputError: the number of scores differs from that of the mini-batch, or a score is out of bounds.
        """
        candidate = self._candidates[index]
        if len(scores) != candidate.running:
            raise InputError(f"race: {len(scores)} scores for {candidate.running} examples of prompt {index}")
        for score in scores:
            inside = self._low <= score <= self._low + self._range
            if not inside or (self._binary and score not in (self._low, self._low + self._range)):
                between = f"{self._low:g} {'or' if self._binary else 'to'} {self._low + self._range:g}"
                raise InputError(f"race: a score must be {between}, got {score}")
        candidate.running = 0
        candidate.scores += scores
        candidate.total += math.fsum((score - self._low) / self._range for score in scores)
        asked = [index]
        if len(candidate.scores) == self.examples:
            self._open.pop(index)
            asked = []
            if self.best is None or self.mean(index) > self.best[1]:
                self.best = index, self.mean(index)
                asked = [i for i in self._open if not self._candidates[i].running]
        return [i for i in asked if self._gives_up(i)]

    def abandon(self, index: int) -> None:
        """Remove a candidate whose mini-batch failed, and refund the calls of that mini-batch."""
        candidate = self._candidates[index]
        self.spent -= candidate.running
        candidate.running = 0
        self._open.pop(index, None)
        if not candidate.scores:
            self._begun -= 1

    # ---- internal ------------------------------------------------------------------------------------

    def _missing(self, index: int) -> int:
        """Return the number of examples that would complete a candidate."""
        candidate = self._candidates[index]
        return self.examples - len(candidate.scores) - candidate.running

    def _promise(self, index: int) -> tuple[float, int]:
        """Return the priority of a candidate: its mean, shrunk towards 1/2, then its number of scores."""
        candidate = self._candidates[index]
        return (candidate.total + 1.0) / (len(candidate.scores) + 2.0), len(candidate.scores)

    def _target(self) -> float:
        """Return the incumbent's sum of scores, in units of the bounds."""
        assert self.best is not None  # callers have checked
        return self._candidates[self.best[0]].total

    def _out_of_reach(self, candidate: Candidate) -> bool:
        left = self.examples - len(candidate.scores)
        return self.best is not None and candidate.total + left <= self._target() + 1e-9

    def _gives_up(self, index: int) -> bool:
        candidate = self._candidates[index]
        if self.best is None or candidate.is_revived or not candidate.scores:
            return False
        if self._binary:
            needed = round(self._target()) + 1
            looks = tuple(look for look in self.looks if look <= len(candidate.scores))
            earlier = candidate.limits[: len(looks) - 1]
            earlier += (-1,) * (len(looks) - 1 - len(earlier))  # looks before the first incumbent
            limit = binary_limit(self.examples, needed, looks, earlier, self.error)
            limit = max(limit, *candidate.limits[len(looks) - 1 :], -1)
            candidate.limits = (*earlier, limit)
            is_out = round(candidate.total) <= limit
        else:
            units = [(score - self._low) / self._range for score in candidate.scores]
            evidence = evidence_below(units, self.examples, self._target())
            is_out = evidence >= 1.0 / self.error if self.error > 0 else math.isinf(evidence)
        if is_out:
            candidate.is_given_up = True
            self._open.pop(index)
        return is_out


def check_settings(error: float, first: int, batch: int) -> None:
    """Check the settings of a race.

    Raises:
        ConfigError: a setting is out of range; names the setting.
    """
    if not 0.0 <= as_number("race error", error) < 1.0:
        raise ConfigError(f"race error must be a probability from 0 to below 1, got {error}")
    for name, value in (("first mini-batch", first), ("mini-batch", batch)):
        if as_integer(name, value) < 1:
            raise ConfigError(f"{name} must have at least one example, got {value}")


def tell(optimizer: Zopo, race: Race, index: int, given_up: Sequence[int]) -> None:
    """Report a mini-batch to a search: the mean with its noise, and the candidates given up.

    A candidate given up stays in the search's model as a partial score and refunds its share of the budget;
    the race may still complete it.
    """
    if race.is_complete(index):
        optimizer.tell(index, race.mean(index))
    else:
        optimizer.tell(index, race.mean(index), noise=race.noise(index), final=False)
    for one in given_up:
        optimizer.discard(one)
