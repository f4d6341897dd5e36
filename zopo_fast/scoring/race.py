"""Racing: candidates are scored example by example, and those unlikely to win are given up early.

Pure bookkeeping: what to score next, on how many examples, and who is out. No I/O, no event loop; the
tests are in futility.py.
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

NEW = -1  # choose(): a candidate that has not begun yet
MOST_LOOKS = 16  # of a candidate: with more examples the mini-batches grow
ERROR, FIRST, BATCH = 0.2, 4, 2


@dataclass
class Racer:
    """One candidate: its scores in its order of examples, and how it stands."""

    scores: list[float] = field(default_factory=list)
    total: float = 0.0
    limits: tuple[int, ...] = ()  # of its looks until now, for 0/1 scores
    running: int = 0  # examples being scored
    stopped: bool = False
    revived: bool = False  # was stopped; now scored to the end


class Race:
    """Which candidate to score on which examples next, until the calls are spent.

    Every candidate sees the examples in an order of its own, drawn by the seed. After each mini-batch it is
    given up when its mean over all examples is unlikely to exceed the incumbent's: that of the best candidate
    scored in full. `error` bounds the probability, for each single candidate, over the draw of its order and
    whatever was seen of others before, that it is given up although its full mean exceeds that of the
    incumbent it was measured against. For 0/1 scores the bound is exact (binary_limit), for others within
    `bounds` it is that of a betting test (evidence_below). What was given up is not lost: it keeps its
    scores, and is taken up again when calls are left that nothing else can use.

    One order for all would allow paired tests, but these gain nothing on measured landscapes, and whole
    families of like prompts would be given up together where it begins with their failures: decisions
    would err together, and more often than stated, as the incumbents are those that it favours.

    The incumbent is scored in full before it counts as one, so that the best is never a lucky partial mean.

    Args:
        examples: N, of a full score.
        calls: examples that may be scored in all.
        initial: candidates that get a first mini-batch before any is continued.
        error: see above.
        first: examples of the first mini-batch.
        batch: of each one after it.
        bounds: least and greatest score of an example.
        binary: scores are one or the other of the bounds.
        seed: of the orders of the examples.

    Raises:
        ConfigError: a value out of range; names the setting.
    """

    def __init__(
        self,
        examples: int,
        calls: int,
        *,
        initial: int = 1,
        error: float = ERROR,
        first: int = FIRST,
        batch: int = BATCH,
        bounds: tuple[float, float] = (0.0, 1.0),
        binary: bool = True,
        seed: int = 0,
    ) -> None:
        check_settings(error, first, batch)
        low, high = (as_number("race: bounds", bound) for bound in bounds)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"race: scores need a finite least and greatest value, got {bounds}")
        if calls < examples:
            raise ConfigError(f"race: {calls} calls do not score one prompt on {examples} examples")
        self.examples, self.calls, self.error = examples, calls, error
        self._low, self._range, self._binary = low, high - low, binary
        self._seed = seed
        self.batch = batch = max(batch, math.ceil((examples - first) / MOST_LOOKS))
        self.looks = (*range(min(first, examples), examples, batch), examples)
        self._initial, self._begun = initial, 0
        self._racers: dict[int, Racer] = {}
        self._open: dict[int, None] = {}  # neither stopped nor complete, in order of beginning
        self.spent = 0  # examples scored or being scored
        self.best: tuple[int, float] | None = None  # index and mean of the incumbent

    # ---- what is known -----------------------------------------------------------------------------

    def order(self, index: int) -> tuple[int, ...]:
        """Places of all examples in the order in which a candidate sees them."""
        return tuple(np.random.default_rng([self._seed, 5, index]).permutation(self.examples).tolist())

    def scores(self, index: int) -> tuple[float, ...]:
        """A candidate's scores so far, in its order of examples; empty if it has none."""
        racer = self._racers.get(index)
        return () if racer is None else tuple(racer.scores)

    def in_order(self, index: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Places of the examples it was scored on, ascending, and its scores there."""
        pairs = sorted(zip(self.order(index), self.scores(index), strict=False))
        return tuple(place for place, _ in pairs), tuple(score for _, score in pairs)

    def mean(self, index: int) -> float:
        """Mean of its scores so far."""
        scores = self._racers[index].scores
        return math.fsum(scores) / len(scores)

    def noise(self, index: int) -> float:
        """Variance of that mean around the one over all examples; 0 when it is complete.

        Of 0/1 scores that of a Beta posterior with a uniform prior; of others the sample's, drawn towards
        that prior's by two more scores at either end. Both shrink by 1 - n/N: sampling is without
        replacement.
        """
        scores = self._racers[index].scores
        n = len(scores)
        ends = [*scores, self._low, self._low + self._range]
        return float(np.var(ends)) / (n + 3) * (1.0 - n / self.examples)

    def complete(self, index: int) -> bool:
        """Whether it has been scored on all examples."""
        return len(self.scores(index)) == self.examples

    @property
    def running(self) -> int:
        """Candidates of which a mini-batch is being scored."""
        return sum(racer.running > 0 for racer in self._racers.values())

    # ---- what to do --------------------------------------------------------------------------------

    def choose(self, fresh: bool = True) -> int | None:
        """The candidate to score on a mini-batch now; NEW: one not begun; None: wait, or the end.

        First every initial candidate gets its first mini-batch, later a new candidate begins when no open
        one waits; of those that wait the one of the highest mean goes on. None begins that could not be
        completed with the calls left if all open ones stayed in. At the very end those given up are taken up
        again, the most promising first, while they can still win.

        Args:
            fresh: whether there is a candidate that has not begun.
        """
        left = self.calls - self.spent
        owed = sum(self._missing(i) for i in self._open)
        if (
            fresh
            and self._begun < self._initial
            and left >= self.looks[0] + self.examples * bool(self._begun)
        ):
            return NEW
        waiting = [i for i in self._open if not self._racers[i].running and self._missing(i) <= left]
        if waiting:
            return max(waiting, key=self._promise)
        if fresh and left - owed >= self.examples:
            return NEW
        if self.running:
            return None
        stopped = [i for i, r in self._racers.items() if r.stopped and self._missing(i) <= left]
        stopped = [i for i in stopped if not self._out_of_reach(self._racers[i])]
        return max(stopped, key=self._promise) if stopped else None

    def start(self, index: int) -> tuple[int, ...]:
        """Begin a candidate's next mini-batch; its examples, by their place in the task."""
        racer = self._racers.get(index)
        if racer is None:
            racer = self._racers[index] = Racer()
            self._begun += 1
        if racer.stopped:
            racer.stopped, racer.revived = False, True
        self._open[index] = None
        had = len(racer.scores)
        upto = self.examples if racer.revived else next(look for look in self.looks if look > had)
        racer.running = upto - had
        self.spent += racer.running
        return self.order(index)[had:upto]

    def finish(self, index: int, scores: Sequence[float]) -> list[int]:
        """Take the scores of a mini-batch in; return the candidates that are given up by it.

        Raises:
            InputError: not as many scores as were begun, or one outside the bounds.
        """
        racer = self._racers[index]
        if len(scores) != racer.running:
            raise InputError(f"race: {len(scores)} scores for {racer.running} examples of prompt {index}")
        for score in scores:
            inside = self._low <= score <= self._low + self._range
            if not inside or (self._binary and score not in (self._low, self._low + self._range)):
                between = f"{self._low:g} {'or' if self._binary else 'to'} {self._low + self._range:g}"
                raise InputError(f"race: a score has to be {between}, got {score}")
        racer.running = 0
        racer.scores += scores
        racer.total += math.fsum((score - self._low) / self._range for score in scores)
        asked = [index]
        if len(racer.scores) == self.examples:
            self._open.pop(index)
            asked = []
            if self.best is None or self.mean(index) > self.best[1]:
                self.best = index, self.mean(index)
                asked = [i for i in self._open if not self._racers[i].running]
        return [i for i in asked if self._give_up(i)]

    def abandon(self, index: int) -> None:
        """Take a candidate out whose mini-batch came to nothing; those calls are given back."""
        racer = self._racers[index]
        self.spent -= racer.running
        racer.running = 0
        self._open.pop(index, None)
        if not racer.scores:
            self._begun -= 1

    # ---- within ------------------------------------------------------------------------------------

    def _missing(self, index: int) -> int:
        """Examples it would take to complete a candidate."""
        racer = self._racers[index]
        return self.examples - len(racer.scores) - racer.running

    def _promise(self, index: int) -> tuple[float, int]:
        """Its mean, drawn towards that of a coin: by what the one to go on is chosen."""
        racer = self._racers[index]
        return (racer.total + 1.0) / (len(racer.scores) + 2.0), len(racer.scores)

    def _target(self) -> float:
        """The incumbent's sum, in units of the bounds."""
        assert self.best is not None
        return self._racers[self.best[0]].total

    def _out_of_reach(self, racer: Racer) -> bool:
        left = self.examples - len(racer.scores)
        return self.best is not None and racer.total + left <= self._target() + 1e-9

    def _give_up(self, index: int) -> bool:
        racer = self._racers[index]
        if self.best is None or racer.revived or not racer.scores:
            return False
        if self._binary:
            needed = round(self._target()) + 1
            looks = tuple(look for look in self.looks if look <= len(racer.scores))
            earlier = racer.limits[: len(looks) - 1]
            earlier += (-1,) * (len(looks) - 1 - len(earlier))  # looks before there was an incumbent
            limit = binary_limit(self.examples, needed, looks, earlier, self.error)
            limit = max(limit, *racer.limits[len(looks) - 1 :], -1)
            racer.limits = (*earlier, limit)
            out = round(racer.total) <= limit
        else:
            units = [(score - self._low) / self._range for score in racer.scores]
            evidence = evidence_below(units, self.examples, self._target())
            out = evidence >= 1.0 / self.error if self.error > 0 else math.isinf(evidence)
        if out:
            racer.stopped = True
            self._open.pop(index)
        return out


def check_settings(error: float, first: int, batch: int) -> None:
    """Refuse settings of a race that are out of range; ConfigError names the one."""
    if not 0.0 <= as_number("race error", error) < 1.0:
        raise ConfigError(f"race error has to be a probability from 0 to below 1, got {error}")
    for name, value in (("first mini-batch", first), ("mini-batch", batch)):
        if as_integer(name, value) < 1:
            raise ConfigError(f"{name} has to have at least one example, got {value}")


def tell(optimizer: Zopo, race: Race, index: int, stopped: Sequence[int]) -> None:
    """Tell a search what a mini-batch has shown: a mean with its noise, and who is out.

    A candidate that is given up stays in the model as a partial score and gives its place in the budget
    back; it may still be completed later.
    """
    if race.complete(index):
        optimizer.tell(index, race.mean(index))
    else:
        optimizer.tell(index, race.mean(index), noise=race.noise(index), final=False)
    for one in stopped:
        optimizer.discard(one)
