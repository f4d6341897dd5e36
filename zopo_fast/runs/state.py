"""State machine of a run, driven by the entries of its log.

A RunState has no clock, no I/O and no event loop. An entry says that a prompt was asked, an example was
scored, a prompt failed, a resumed run reset the failures, an answer arrived after the end, or writers began
or ended a round. The same entries in the same order give the same state, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast.errors import InputError, NothingToAsk
from zopo_fast.llm.types import Usage
from zopo_fast.runs.log.partial import best_partial
from zopo_fast.runs.log.unanswered import AskedExamples
from zopo_fast.runs.log.work import Work
from zopo_fast.runs.result import Trial
from zopo_fast.scoring import race as racing
from zopo_fast.scoring.candidates import Predictions
from zopo_fast.scoring.scorer import Score
from zopo_fast.scoring.unanswered import Unanswered, failure_text

if TYPE_CHECKING:
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.growth.state import Describes, GrowthState
    from zopo_fast.search.optimizer import Zopo

LAST_ROUNDS = 4  # a race has at most a fourth of its remaining calls in flight


class RunState:
    """State of a run: prompts in flight, scores, trials, and the reason for the end of the search.

    Args:
        optimizer: proposes prompts and receives their scores.
        pool: the prompts.
        config: settings of the run.
        in_flight: maximum number of prompts scored concurrently.
        parts: number of examples of a full score.
        perfect: the highest possible score; None if unknown.
        race: schedules looks; None: every prompt is scored on all examples at once.
        calls_in_flight: calls of running looks from which a race starts no further look; None: unlimited.
        growth: rounds of writing; None: the pool does not grow.
        description: describes the prompts that enter a growing pool.

    Attributes:
        running: prompts in flight, by pool index.
        trials: in order of their end.
        scores: of every prompt scored in this study, by pool index; in a race also partial ones.
        spent: usage of all scores so far.
        reason: why the search has ended; None while it runs.
        asked: outcome of each example by prompt.
        last_unanswered: reason of the newest unanswered example.
        full: prompts scored in this study on all examples, unanswered ones included.
        parts: number of examples of a full score.
        fresh: (m,) array: prompts neither asked nor scored before.
        different: logged asks that this version would have made for another prompt.
        refusal: error of a score outside the bounds of a race, which ends the search as "failures".
    """

    def __init__(
        self,
        optimizer: Zopo,
        pool: Pool,
        config: RunConfig,
        in_flight: int,
        parts: int,
        perfect: float | None = None,
        race: racing.Race | None = None,
        calls_in_flight: int | None = None,
        growth: GrowthState | None = None,
        description: Describes | None = None,
    ) -> None:
        self.optimizer, self.pool, self.race = optimizer, pool, race
        self.growth, self._description = growth, description
        self.running: dict[int, Work] = {}
        self.trials: list[Trial] = []
        self.scores: dict[int, Score] = {}
        self.spent = Usage()
        self.reason: str | None = None
        self.in_flight = in_flight
        self.refusal: InputError | None = None
        self.asked = AskedExamples()
        self.last_unanswered: Unanswered | None = None
        self.full: set[int] = set()
        self.different = 0
        self._config, self.parts, self._perfect = config, parts, perfect
        self._calls_in_flight = calls_in_flight
        self._unreported: dict[int, tuple[Usage, float]] = {}  # usage and seconds of racing prompts
        self.fresh = np.ones(len(pool), dtype=bool)
        self.fresh[list(pool.scores)] = False
        self._consecutive_failures = 0.0

    # ---- entries -----------------------------------------------------------------------------------

    def ask(self, at: float, logged: int | None = None, examples: Sequence[int] | None = None) -> Work | None:
        """Start the next prompt, or its next look.

        Args:
            at: seconds into the run.
            logged: prompt that the log names; None: the search and the race choose.
            examples: that the log names for it.

        Returns:
            The prompt and its examples; None if no further prompt can start now.

        Raises:
            InputError: the logged prompt cannot start now.
        """
        if self.reason is not None or len(self.running) >= self.in_flight:
            return None
        if self.race is None:
            chosen = self._ask_search(logged)
        elif logged is not None:
            chosen = self._repeat_race(self.race, logged, examples)
        elif self._waiting >= self._most_calls(self.race) or (self.growth and self.growth.holds(self)):
            return None
        else:
            chosen = self._ask_race(self.race)
        if chosen is None:
            return None
        index, examples = chosen
        work = self.running[index] = Work(index, examples, at)
        return work

    def record_score(
        self,
        index: int,
        example: int,
        score: float | None,
        usage: Usage,
        at: float,
        unanswered: Unanswered | None = None,
    ) -> bool:
        """Record the score of one example.

        Args:
            index: of the prompt in the pool.
            example: index of the train example.
            score: of the answer; None leaves an unanswered example out of the mean.
            usage: of the answer, and of its judge.
            at: seconds into the run.
            unanswered: reason why the example has no answer; None if it has one.

        Returns:
            True if the prompt, or its look, is complete with this score. A prompt in `unanswerable` is
            not: the caller records its failure.

        Raises:
            InputError: the prompt is not being scored on that example.
        """
        self.spent += usage
        work = self.running.get(index)
        if work is None or example not in work.missing:
            raise InputError(f"prompt {index} is not being scored on example {example}")
        if score is not None:
            work.scores[example] = score
        elif unanswered is None or self.race is not None:
            raise InputError(f"example {example} of prompt {index} has no score")
        else:
            work.left_out.add(example)
        work.usage += usage
        self.asked.add(index, example, unanswered, usage)
        self.last_unanswered = unanswered or self.last_unanswered
        if work.waiting or self.asked.cannot_be_answered(index, self.parts):
            return False
        del self.running[index]
        try:
            self._complete(work, at)
        except InputError as refused:  # a score outside the bounds of the race
            self._drop(work, str(refused), at)
            self.reason, self.refusal = "failures", refused
        return True

    @property
    def unanswerable(self) -> dict[int, str]:
        """Error of each running prompt whose examples are all unanswered, by pool index."""
        waited = (index for index, work in self.running.items() if not work.waiting)
        return {index: failure_text(list(self.asked.reasons(index).values())) for index in waited}

    def record_failure(self, index: int, error: str, at: float) -> None:
        """Record that a prompt cannot be scored; too many such prompts in a row end the search."""
        self.asked.mark_failed(index)
        if not self.asked.has_answer(index):
            self.scores.pop(index, None)  # scores of unanswered examples alone, from earlier looks
        self._drop(self.running.pop(index), error, at)
        self._count_failure()

    def _count_failure(self, share: float = 1.0) -> None:
        self._consecutive_failures += share
        if self._consecutive_failures >= self._config.max_failures:
            self.reason = "failures"

    def reset_failures(self) -> None:
        """Continue in a resumed run after too many failures in a row."""
        self._consecutive_failures = 0
        if self.reason == "failures":
            self.reason = None

    def record_late(self, usage: Usage) -> None:
        """Count the usage of an answer that arrived after the end of the search."""
        self.spent += usage

    # ---- growth ------------------------------------------------------------------------------------

    @property
    def calls(self) -> tuple[int, int]:
        """Calls spent, those in flight and those of writers included, and those of the budget."""
        if self.race is not None:
            return self.race.spent, self.race.calls
        written = 0 if self.growth is None else self.growth.spent + self.growth.reserved
        return (len(self.full) + len(self.running)) * self.parts + written, self._config.budget * self.parts

    def standings(self) -> dict[int, float]:
        """Return the estimated score of every prompt with a score in this study, by pool index."""
        if self.race is not None:
            return self.race.standings(self._predictions())
        return {i: score.mean for i, score in self.scores.items() if i in self.full}

    def begin_round(self, entry: Mapping[str, Any]) -> None:
        """Begin the round of writing of a log entry, and reserve its calls; errors as for `grow`."""
        self._growth.begin(entry, self)
        if self.race is not None:
            self.race.charge(self._growth.reserved)

    def grow(self, entry: Mapping[str, Any]) -> None:
        """Add the prompts of a round to the pool, and count what it cost.

        Raises:
            InputError: the entry does not follow from those before it, or is damaged.
        """
        reserved = self._growth.reserved
        new = self._growth.end(entry, len(self.pool))
        self.spent += Usage(**entry["usage"])
        if self.race is not None:
            self.race.charge(sum(entry["calls"].values()) - reserved)
        if new:
            self._growth.add(new, entry["embeddings"], self.optimizer, self._description)
            self.pool = self.pool.with_prompts([one.prompt for one in new])
            self.fresh = np.append(self.fresh, np.ones(len(new), dtype=bool))

    # ---- results -----------------------------------------------------------------------------------

    @property
    def best(self) -> tuple[int, float] | None:
        """Index and score of the best prompt scored in full; None before there is one."""
        if self.race is not None and self.race.best is None and not self.pool.scores:
            return None
        try:
            return self.optimizer.best  # final scores before partial ones
        except NothingToAsk:
            return None

    @property
    def best_partial(self) -> tuple[int, float] | None:
        """Index and mean so far of the most promising partially scored prompt; None if there is none."""
        return best_partial(self.scores, self.running, self.race)

    @property
    def exhausted(self) -> str:
        """Name of what is exhausted when no prompt can be asked: "budget" or "pool"."""
        is_spent = self._is_spent or (self.optimizer.done and len(self.pool) > self._config.budget)
        if self.race is not None:
            is_spent = self.race.calls - self.race.spent < self.race.examples
        return "budget" if is_spent else "pool"

    @property
    def progress(self) -> tuple[int, int]:
        """Examples scored so far and in total; those of a failed prompt do not count."""
        waiting = self._waiting
        if self.race is not None:
            return self.race.spent - waiting, self.race.calls
        asked = len(self.full) + len(self.running)
        return asked * self.parts - waiting, max(asked, self.optimizer.config.budget) * self.parts

    def is_fully_scored(self, index: int) -> bool:
        """Return whether a prompt was scored in this study on all examples."""
        return index in self.full

    # ---- the end -----------------------------------------------------------------------------------

    def report_lost(self, index: int, error: str, at: float) -> None:
        """Report a prompt that an error of the whole run has interrupted."""
        self._drop(self.running.pop(index), error, at)

    def report_unfinished(self) -> None:
        """Report the prompts that a race neither completed nor stopped: their calls are paid."""
        for index in list(self._unreported):
            self._report_raced(index)

    # ---- internals ---------------------------------------------------------------------------------

    @property
    def _growth(self) -> GrowthState:
        if self.growth is None:
            raise InputError("the pool of this run does not grow")
        return self.growth

    @property
    def _is_spent(self) -> bool:
        """True when the writers have left too few calls for another prompt; a race knows by itself."""
        spent, calls = self.calls
        return self.growth is not None and self.race is None and spent + self.parts > calls

    @property
    def _waiting(self) -> int:
        return sum(work.waiting for work in self.running.values())

    def _ask_search(self, logged: int | None = None) -> tuple[int, tuple[int, ...]] | None:
        """Ask the search for a prompt; None, with no change of its state, if it has none now."""
        # Without a fresh prompt the search would offer the failed ones again, endlessly.
        if self._is_spent or self.optimizer.done or not self.fresh.any():
            return None
        try:
            if logged is None:
                index = self.optimizer.ask()
            else:
                self.different += self.optimizer.repeat_ask([logged])
                index = logged
        except NothingToAsk:
            return None
        self.fresh[index] = False
        return index, tuple(range(self.parts))

    def _most_calls(self, race: racing.Race) -> float:
        # Looks that start together cannot learn from each other: the last calls go out in smaller numbers.
        if self._calls_in_flight is None:
            return math.inf
        return min(self._calls_in_flight, max(2, (race.calls - race.spent) // LAST_ROUNDS))

    def _ask_race(self, race: racing.Race) -> tuple[int, tuple[int, ...]] | None:
        """Continue a racing prompt or start one from the search; return it with its next examples."""
        index = self._choose(race)
        if index == racing.NEW:
            asked = self._ask_search()
            index = race.choose(self._predictions(), fresh=False) if asked is None else asked[0]
        return None if index is None else (index, race.start(index))

    def _choose(self, race: racing.Race) -> int | None:
        return race.choose(self._predictions(), not self.optimizer.done and bool(self.fresh.any()))

    def _predictions(self) -> Predictions | None:
        """Return what the search predicts for each of its candidates from the scores of the others."""
        found = self.optimizer.predict()
        return None if found is None else Predictions(*found, self.fresh[found.indices])

    def _repeat_race(
        self, race: racing.Race, logged: int, examples: Sequence[int] | None
    ) -> tuple[int, tuple[int, ...]] | None:
        """Start the look that the log names, whatever the race would choose."""
        if not race.can_start(logged):
            raise InputError(f"prompt {logged} cannot start a look")
        is_new = not race.has_begun(logged)
        self.different += self._choose(race) != (racing.NEW if is_new else logged)
        if is_new and self._ask_search(logged) is None:
            return None
        return logged, race.start(logged, examples)

    def _complete(self, work: Work, at: float) -> None:
        """Tell the search the score of a prompt, or of its look."""
        scores = tuple(work.scores[example] for example in work.examples if example in work.scores)
        index, seconds, race = work.index, at - work.begun, self.race
        if race is None:
            score = Score(math.fsum(scores) / len(scores), scores, work.usage)
            self.optimizer.tell(index, score.mean)
            self.scores[index] = score
            self.full.add(index)
            self._consecutive_failures = 0
            self._report(index, score, seconds, None)
            self.reason = self._end_reason(score.mean)
            return
        stopped = race.finish(index, scores)
        self._count_racing(index, work.usage, seconds)
        racing.tell(self.optimizer, race, index, stopped)
        if has_answer := any(example not in self.asked.reasons(index) for example in work.examples):
            self._consecutive_failures = 0
        for each in {index: None, **dict.fromkeys(stopped)}:
            self.scores[each] = Score(race.mean(each), race.in_order(each)[1], Usage())
        is_complete = race.is_complete(index)
        for each in [index, *stopped] if is_complete else stopped:
            self._report_raced(each)
        if is_complete:
            self.full.add(index)
            self.reason = self._end_reason(race.mean(index))
        if not has_answer:  # too few examples tried to call it failed; a single one tells less
            self._count_failure(1.0 if len(scores) > 1 else 0.5)

    def _drop(self, work: Work, error: str, at: float) -> None:
        """Discard a prompt that could not be scored, and report it."""
        index, seconds = work.index, at - work.begun
        if index in self.optimizer.pending:  # a race may have stopped the prompt before
            self.optimizer.discard(index)
        if self.race is None:
            self._report(index, None, seconds, error)
            return
        self.race.abandon(index)
        self._count_racing(index, work.usage, seconds)
        self._report_raced(index, error)

    def _end_reason(self, score: float) -> str | None:
        if self._config.stop_at_perfect and self._perfect is not None and score >= self._perfect:
            return "perfect"
        if self._config.target is not None and score >= self._config.target:
            return "target"
        return None

    def _count_racing(self, index: int, usage: Usage, seconds: float) -> None:
        usage_before, seconds_before = self._unreported.get(index, (Usage(), 0.0))
        self._unreported[index] = usage_before + usage, seconds_before + seconds

    def _report_raced(self, index: int, error: str | None = None) -> None:
        """Report a prompt of a race: complete, stopped, failed, or interrupted by the end of the run."""
        race = self.race
        assert race is not None
        usage, seconds = self._unreported.pop(index)
        examples, scores = race.in_order(index)
        score = Score(race.mean(index) if scores else math.nan, scores, usage)
        self._report(index, score, seconds, error, () if race.is_complete(index) else examples)

    def _report(
        self,
        index: int,
        score: Score | None,
        seconds: float,
        error: str | None,
        examples: tuple[int, ...] = (),
    ) -> None:
        best = self.best if self.scores or self.pool.scores else None
        self.trials.append(
            Trial(
                number=len(self.trials) + 1,
                index=index,
                prompt=self.pool.prompts[index],
                score=None if score is None or error is not None else score.mean,
                scores=() if score is None else score.scores,
                usage=Usage() if score is None else score.usage,
                seconds=seconds,
                best_score=None if best is None else best[1],
                total=self.spent,
                error=error,
                examples=examples,
                unanswered={example: why.code for example, why in self.asked.reasons(index).items()},
            )
        )
