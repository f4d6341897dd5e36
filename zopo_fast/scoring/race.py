"""Race: candidates are scored in looks of a few examples, and the calls go where they help the choice most.

Bookkeeping only, without I/O and event loop: the next candidate, its examples, and the candidates given up.
The model of the scores is in two_way.py, the value of a call in knowledge_gradient.py, and the tests that
give a candidate up in futility.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.checks import as_integer, as_number
from zopo_fast.errors import ConfigError, InputError
from zopo_fast.scoring.candidates import Candidate, Predictions
from zopo_fast.scoring.futility import Duel
from zopo_fast.scoring.knowledge_gradient import Beliefs, log_rates, look_sizes
from zopo_fast.scoring.two_way import TwoWayModel

if TYPE_CHECKING:
    from zopo_fast.search.optimizer import Zopo

NEW = -1
"""Result of `Race.choose`: a candidate without scores, to be asked from the search."""
GROWTH = 0.35
"""A look grows with the scores so far, so that a candidate has about log N of them."""
FRESH = 64
"""Candidates without scores that are weighed against those with scores."""
DEFAULT_ERROR = 0.2
MAX_FIRST = 4
FIRST_COMPLETE = 0.5
"""Share of the calls after which the favorite is completed, so that a run that breaks off has a result."""
MIN_VARIANCE = 1e-5  # of a prediction and of a score, in units of the bounds


class Race:
    """Race of candidates for a budget of calls.

    Each candidate sees the examples in its own random order, in which those that tell most tend to come
    first (`TwoWayModel`). Partial means are corrected for the difficulty of the examples they cover and
    combined with the prediction of the search. The next look belongs to the candidate, new or continued,
    whose scores improve the expected final choice most per call (`log_rates`). The incumbent is the best
    candidate scored on all examples, so the winner is never a lucky partial mean. Calls that complete the
    favorite are always kept.

    After each look a candidate is given up if its mean over all examples is unlikely to exceed the
    incumbent's. `error` bounds the probability that a single candidate is given up although its full mean
    exceeds that of the incumbent it was compared with. The test is on the examples where both differ
    (`Duel`). Given these, it is exact over their orders if the order does not depend on who wins. The race
    orders examples by difficulty, on which the winner does not depend in the two-way model; where it does,
    the bound is as good as the model. A candidate that merely waits, because others promise more, is not
    given up. One given up keeps its scores, and is completed if calls are left that no other candidate can
    use.

    A common order of examples would let similar prompts fail together on the first ones, so the decisions
    would be wrong together, and more often than stated.

    Args:
        examples: number of examples, N.
        calls: budget of calls, one an example.
        initial: candidates that get a first look before any candidate is continued.
        error: probability of giving up a better candidate, in [0, 1).
        first: examples of the first look; None: a tenth of all, from 1 to 4.
        batch: least number of examples of each further look.
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
        first: int | None = None,
        batch: int = 1,
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
        first = min(max(examples // 10, 1), MAX_FIRST) if first is None else first
        self.first, self.batch = min(first, examples), batch
        self._initial, self._begun = initial, 0
        self._candidates: dict[int, Candidate] = {}
        self._open: dict[int, None] = {}  # neither given up nor complete, in order of their start
        self._model = TwoWayModel(examples, seed)
        self.spent = 0
        """Calls spent, those in flight included."""
        self.best: tuple[int, float] | None = None
        """Index and mean of the incumbent."""

    # ---- scores -----------------------------------------------------------------------------

    def order(self, index: int) -> tuple[int, ...]:
        """Return the indices of a candidate's started examples in their order."""
        candidate = self._candidates.get(index)
        return () if candidate is None else tuple(candidate.order)

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

    def quality(self, index: int) -> tuple[float, float]:
        """Return the estimated mean of a candidate over all examples, and the variance of the estimate.

        The estimate uses the candidate's own scores and the difficulty of their examples, not the search.
        """
        if self.is_complete(index):
            return self.mean(index), 0.0
        row = self._model.row(index)
        quality = float(self._model.estimates().quality[row])
        return self._low + self._range * quality, self._range**2 * self._model.noise(index)

    def standings(self, predictions: Predictions | None) -> dict[int, float]:
        """Return the expected mean over all examples of each candidate with scores that has not failed."""
        if not len(self._model):
            return {}
        indices, beliefs = self._beliefs(predictions, fresh=False)
        means = zip(indices.tolist(), (self._low + self._range * beliefs.mean).tolist(), strict=True)
        failed = {i for i in self._candidates if not (i in self._open or self._candidates[i].is_given_up)}
        return {i: mean for i, mean in means if i not in failed or self.is_complete(i)}

    def charge(self, calls: int) -> None:
        """Count calls that score nothing, such as those of writers."""
        self.spent += calls

    def is_complete(self, index: int) -> bool:
        """Return whether a candidate has been scored on all examples."""
        return len(self.scores(index)) == self.examples

    @property
    def running(self) -> int:
        """Number of candidates with a look in flight."""
        return sum(candidate.running > 0 for candidate in self._candidates.values())

    def can_start(self, index: int) -> bool:
        """Return whether a look of a candidate can start: it is new, or waits for its next one."""
        candidate = self._candidates.get(index)
        return candidate is None or (not candidate.running and len(candidate.scores) < self.examples)

    def has_begun(self, index: int) -> bool:
        """Return whether a candidate has had a look."""
        return index in self._candidates

    # ---- scheduling --------------------------------------------------------------------------------

    def choose(self, predictions: Predictions | None = None, fresh: bool = True) -> int | None:
        """Return the candidate whose look is next; NEW: one without scores; None: wait, or the end.

        First, each initial candidate gets its first look. Then the candidate continues, or a new one starts,
        whose look has the highest expected improvement of the final choice per call. A candidate also
        competes with the gain that its completion promises: over the incumbent, or before there is one over
        the second. A first favorite is completed once half of the calls is spent. No look starts that
        would leave too few calls to complete the favorite. At the end, candidates given up are completed,
        the most promising first, while they can still win.

        Args:
            predictions: of the search; None: candidates are alike before their scores.
            fresh: whether the search has a candidate without scores.
        """
        left = self.calls - self.spent
        if fresh and self._begun < self._initial and left >= self.first + self.examples * bool(self._begun):
            return NEW
        if left < 1:
            return None
        if len(self._model):
            found = self._most_valuable(predictions, fresh, left)
            if found is not None:
                return found
        if self.running:
            return None
        if fresh and left >= self.examples and not self._open:
            return NEW
        last = [i for i in self._open if self._missing(i) <= left] or [
            i
            for i, candidate in self._candidates.items()
            if candidate.is_given_up and self._missing(i) <= left and not self._out_of_reach(candidate)
        ]
        return max(last, key=self._promise, default=None)

    def _most_valuable(self, predictions: Predictions | None, fresh: bool, left: int) -> int | None:
        """Return the candidate of the most valuable look that can start; None: none can."""
        indices, beliefs = self._beliefs(predictions, fresh)
        raced = len(self._model)
        known = indices[:raced].tolist()
        candidates = [self._candidates[i] for i in known]
        missing, step = np.full(len(indices), float(self.examples)), np.full(len(indices), float(self.first))
        missing[:raced] = [self._missing(i) for i in known]
        step[:raced] = [self._step(candidate) for candidate in candidates]
        is_in = np.ones(len(indices), dtype=bool)
        is_in[:raced] = [i in self._open or self._missing(i) == 0 for i in known]
        mean = np.where(is_in, beliefs.mean, -math.inf)
        favorite = int(np.argmax(mean[:raced]))
        reserve = self._missing(int(indices[favorite])) if is_in[favorite] else 0
        allowed = np.full(len(indices), float(left - reserve))
        allowed[favorite] = left
        can_start = is_in & (missing >= 1) & (missing <= left)
        can_start[:raced] &= [not candidate.running for candidate in candidates]
        can_start &= np.minimum(step, missing) <= allowed
        if not can_start.any():
            return None
        if self.best is None and can_start[favorite] and self.spent >= FIRST_COMPLETE * self.calls:
            return int(indices[favorite])
        sizes = look_sizes(step, np.minimum(missing, allowed))
        model = self._model
        after = np.concatenate(
            [model.gains(np.arange(raced)[:, None], sizes[:raced]), model.new_gains(sizes[raced:])]
        )
        before = np.concatenate([model.estimates().effective, np.zeros(len(indices) - raced)])
        rates = log_rates(replace(beliefs, mean=mean), self.examples, sizes, before, after)
        if self.best is not None or np.count_nonzero(is_in[:raced]) > 1:
            target = np.partition(mean[:raced], -2)[-2] if self.best is None else self._target()
            gain = beliefs.mean - target
            certain = np.log(np.maximum(gain, 1e-300)) - np.log(np.maximum(missing, 1.0))
            rates = np.where(gain > 0.0, np.maximum(rates, certain), rates)
        rates[~can_start] = -math.inf
        chosen = int(np.argmax(rates))
        if not rates[chosen] > -math.inf:
            return None
        return int(indices[chosen]) if chosen < raced else NEW

    def _beliefs(self, predictions: Predictions | None, fresh: bool) -> tuple[NDArray[np.int64], Beliefs]:
        """Return candidates, those with scores first, and beliefs about them."""
        model = self._model
        known = np.array(model.indices, dtype=np.int64)
        estimates = model.estimates()
        mean, variance = model.population()
        prior_mean, prior_variance = np.full(len(known), mean), np.full(len(known), variance)
        new = np.zeros(int(fresh), dtype=np.int64) + NEW
        new_mean, new_variance = np.full(len(new), mean), np.full(len(new), variance)
        if predictions is not None and len(predictions.index):
            at = predictions.index
            sorter = None if (np.diff(at) > 0).all() else np.argsort(at)
            places = np.searchsorted(at, known, sorter=sorter).clip(max=len(at) - 1)
            places = places if sorter is None else sorter[places]
            found = at[places] == known
            units = (predictions.mean - self._low) / self._range
            spread = predictions.variance / self._range**2
            prior_mean = np.where(found, units[places], prior_mean)
            prior_variance = np.where(found, spread[places], prior_variance)
            if fresh and predictions.fresh.any():
                which = np.flatnonzero(predictions.fresh)
                if len(which) > FRESH:
                    bound = units[which] + np.sqrt(spread[which])
                    which = which[np.argpartition(-bound, FRESH)[:FRESH]]
                new, new_mean, new_variance = at[which], units[which], spread[which]
        new_mean, prior_mean = np.clip(new_mean, 0.0, 1.0), np.clip(prior_mean, 0.0, 1.0)
        new_variance = np.maximum(new_variance, MIN_VARIANCE)
        prior_variance = np.maximum(prior_variance, MIN_VARIANCE)
        n, e = estimates.count, estimates.effective
        residual = np.maximum(model.residual(prior_mean) + estimates.difficulty, MIN_VARIANCE)
        ratio = residual / prior_variance
        quality = (e * estimates.quality + ratio * prior_mean) / (e + ratio)
        # The examples without a score are those that differ less between prompts.
        rest = estimates.unseen * (self.examples - n) + (quality - estimates.quality) * (self.examples - e)
        posterior = np.concatenate([(n * estimates.mean + rest) / self.examples, new_mean])
        residual = model.residual(posterior)
        residual[: len(known)] += estimates.difficulty
        beliefs = Beliefs(
            posterior,
            np.maximum(residual, MIN_VARIANCE),
            np.concatenate([prior_variance, new_variance]),
        )
        return np.concatenate([known, new]), beliefs

    def start(self, index: int, examples: Sequence[int] | None = None) -> tuple[int, ...]:
        """Start the next look of a candidate; return the indices of its examples.

        Args:
            index: of the candidate.
            examples: that a log names; None: the next ones in the order of the model.

        Raises:
            InputError: no example is named, or one that does not exist or that the candidate has had.
        """
        candidate = self._candidates.get(index) or Candidate()
        if examples is None:
            look = tuple(self._model.upcoming(index)[: self._step(candidate)].tolist())
        else:
            look = tuple(examples)
            known = set(range(self.examples)).difference(candidate.order)
            if not look or len(known.intersection(look)) < len(look):
                raise InputError(f"race: prompt {index} cannot be scored on examples {list(look)} now")
        if index not in self._candidates:
            self._candidates[index] = candidate
            self._begun += 1
        if candidate.is_given_up:
            candidate.is_given_up, candidate.is_revived = False, True
        self._open[index] = None
        candidate.order += look
        candidate.running = len(look)
        self.spent += len(look)
        return look

    def _step(self, candidate: Candidate) -> int:
        """Return the number of examples of a candidate's next look, which its scores do not influence."""
        had = len(candidate.scores)
        if candidate.is_given_up or candidate.is_revived:
            return self.examples - had  # it is not given up again, so a smaller look would tell nothing
        if not had:
            return self.first
        step = max(self.batch, math.ceil(GROWTH * had))
        return min(step, self.examples - had)

    def finish(self, index: int, scores: Sequence[float]) -> list[int]:
        """Add the scores of a look; return the candidates given up because of them.

        Raises:
            InputError: the number of scores differs from that of the look, or a score is out of bounds.
        """
        candidate = self._candidates[index]
        if len(scores) != candidate.running:
            raise InputError(f"race: {len(scores)} scores for {candidate.running} examples of prompt {index}")
        for score in scores:
            inside = self._low <= score <= self._low + self._range
            if not inside or (self._binary and score not in (self._low, self._low + self._range)):
                between = f"{self._low:g} {'or' if self._binary else 'to'} {self._low + self._range:g}"
                raise InputError(f"race: a score must be {between}, got {score}")
        had = len(candidate.scores)
        candidate.running = 0
        candidate.scores += scores
        units = [(score - self._low) / self._range for score in scores]
        candidate.units += units
        candidate.looks.append(len(candidate.scores))
        self._model.add(index, candidate.order[had : had + len(units)], units)
        asked = [index]
        if len(candidate.scores) == self.examples:
            self._open.pop(index)
            asked = []
            if self.best is None or self.mean(index) > self.best[1]:
                self.best = index, self.mean(index)
                asked = [i for i in self._open if not self._candidates[i].running]
        return [i for i in asked if self._gives_up(i)]

    def abandon(self, index: int) -> None:
        """Remove a candidate whose look failed, and refund the calls of that look."""
        candidate = self._candidates[index]
        self.spent -= candidate.running
        del candidate.order[len(candidate.scores) :]
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
        """Return the priority of a candidate at the end: its quality, shrunk towards 1/2, then its scores."""
        count = len(self._candidates[index].scores)
        quality = float(self._model.estimates().quality[self._model.row(index)]) if count else 0.0
        return (quality * count + 1.0) / (count + 2.0), count

    def _incumbent(self) -> Candidate:
        assert self.best is not None  # callers have checked
        return self._candidates[self.best[0]]

    def _target(self) -> float:
        """Return the incumbent's mean, in units of the bounds."""
        assert self.best is not None  # callers have checked
        return (self.best[1] - self._low) / self._range

    def _out_of_reach(self, candidate: Candidate) -> bool:
        left = self.examples - len(candidate.scores)
        return self.best is not None and candidate.total + left <= self._incumbent().total + 1e-9

    def _gives_up(self, index: int) -> bool:
        candidate = self._candidates[index]
        if self.best is None or candidate.is_revived or not candidate.scores:
            return False
        is_out = self._out_of_reach(candidate) or self._loses_duel(candidate)
        if is_out:
            candidate.is_given_up = True
            self._open.pop(index)
        return is_out

    def _loses_duel(self, candidate: Candidate) -> bool:
        """Return whether a candidate fails the test on the examples where it differs from the incumbent."""
        assert self.best is not None
        duel = candidate.duel
        if duel is None or duel.incumbent != self.best[0]:
            number = 1 if duel is None else duel.number + 1
            rival = self._incumbent()
            scores = dict(zip(rival.order, rival.units, strict=True))
            duel = candidate.duel = Duel(self.best[0], number, scores, self._binary)
        return duel.is_lost(candidate.order, candidate.units, candidate.looks, self.error)


def check_settings(error: float, first: int | None, batch: int) -> None:
    """Check the settings of a race.

    Raises:
        ConfigError: a setting is out of range; names the setting.
    """
    if not 0.0 <= as_number("race error", error) < 1.0:
        raise ConfigError(f"race error must be a probability from 0 to below 1, got {error}")
    for name, value in (("first look", first), ("look", batch)):
        if value is not None and as_integer(name, value) < 1:
            raise ConfigError(f"{name} must have at least one example, got {value}")


def tell(optimizer: Zopo, race: Race, index: int, given_up: Sequence[int]) -> None:
    """Report a look to a search: the corrected mean with its variance, and the candidates given up.

    A candidate given up stays in the search's model as a partial score and refunds its share of the budget;
    the race may still complete it.
    """
    score, noise = race.quality(index)
    if race.is_complete(index):
        optimizer.tell(index, score)
    else:
        optimizer.tell(index, score, noise=noise, final=False)
    for one in given_up:
        optimizer.discard(one)
