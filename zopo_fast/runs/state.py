"""A run's search as a state machine: what to score next, and what a score changes.

No clock, no I/O, no event loop. It moves by its entries alone: a prompt is asked, an example is scored, a
prompt fails, another run goes on after too many failures, an answer comes that nobody needs any more. The
same entries in the same order lead to the same state, bit for bit, so that a log of them is all there is to
keep of a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import InputError, NothingToAsk
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import Trial
from zopo_fast.scoring import race as racing
from zopo_fast.scoring.scorer import Score

if TYPE_CHECKING:
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.search.optimizer import Zopo

ASK, SCORE, FAILED, AGAIN, LATE = "ask", "score", "failed", "again", "late"
"""Kinds of entries."""


@dataclass
class Work:
    """A prompt being scored: on all examples, or in a race on those of a mini-batch.

    Attributes:
        index: of the prompt, in the pool.
        examples: places of the examples among the task's, in the order of asking.
        begun: seconds into the run.
    """

    index: int
    examples: tuple[int, ...]
    begun: float
    scores: dict[int, float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)

    @property
    def missing(self) -> tuple[int, ...]:
        """Places of the examples that have no score yet."""
        return tuple(place for place in self.examples if place not in self.scores)


class RunState:
    """What is being scored, what is known, and why the search has ended, if it has.

    Args:
        optimizer: proposes prompts; told the scores.
        pool: the prompts.
        config: settings of the run.
        in_flight: prompts scored at once.
        parts: examples of a full score.
        perfect: a score that cannot be beaten, where there is one.
        race: how prompts are scored in part; None: all examples at once.
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
    ) -> None:
        self.optimizer, self.pool, self.race = optimizer, pool, race
        self.running: dict[int, Work] = {}  # by prompt
        self.trials: list[Trial] = []
        self.scores: dict[int, Score] = {}  # of every prompt scored in this run, in a race also in part
        self.spent = Usage()
        self.reason: str | None = None  # why the search has ended
        self.in_flight = in_flight
        self.refusal: InputError | None = None  # a score that no race takes: why "failures" ended the search
        self._config, self._parts, self._perfect = config, parts, perfect
        self._unreported: dict[int, tuple[Usage, float]] = {}  # of a race: usage and seconds since the last
        self._fresh = set(range(len(pool))) - set(pool.scores)  # neither asked nor scored before
        self._failures_in_a_row = 0

    # ---- entries -----------------------------------------------------------------------------------

    def ask(self, at: float) -> Work | None:
        """Ask for the next prompt to score; None: none now. `at` is in seconds into the run."""
        if self.reason is not None or len(self.running) >= self.in_flight:
            return None
        chosen = self._asked() if self.race is None else self._raced(self.race)
        if chosen is None:
            return None
        index, examples = chosen
        work = self.running[index] = Work(index, examples, at)
        return work

    def record_score(self, index: int, example: int, score: float, usage: Usage, at: float) -> bool:
        """Take in the score of one example; True when it was the last one that the prompt waited for.

        Raises:
            InputError: the prompt is not being scored on that example.
        """
        self.spent += usage
        work = self.running.get(index)
        if work is None or example not in work.missing:
            raise InputError(f"prompt {index} is not being scored on example {example}")
        work.scores[example] = score
        work.usage += usage
        if work.missing:
            return False
        del self.running[index]
        try:
            self._complete(work, at)
        except InputError as refused:  # a race: a score outside the range it was promised
            self._drop(work, str(refused), at)
            self.reason, self.refusal = "failures", refused
        return True

    def record_failure(self, index: int, error: str, at: float) -> None:
        """A prompt cannot be scored, which says nothing about the next one."""
        self._drop(self.running.pop(index), error, at)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.max_failures:
            self.reason = "failures"

    def reset_failures(self) -> None:
        """Go on after too many failures in a row, in another run."""
        self._failures_in_a_row = 0
        if self.reason == "failures":
            self.reason = None

    def record_late(self, usage: Usage) -> None:
        """Count a call that was answered when the search had ended."""
        self.spent += usage

    def replay(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Take in an entry of a log.

        Raises:
            InputError: the entry does not follow from those before it.
        """
        try:
            if kind == AGAIN:
                self.reset_failures()
            elif kind == LATE:
                self.record_late(Usage(**entry["usage"]))
            elif self.reason is not None:
                raise InputError(f"{kind!r} after the end of the search ({self.reason})")
            elif kind == ASK:
                work = self.ask(entry["at"])
                asked = (entry["prompt"], tuple(entry["examples"]))
                if work is None or (work.index, work.examples) != asked:
                    now = "nothing" if work is None else (work.index, work.examples)
                    raise InputError(f"asked for {asked} then and for {now} now")
            elif kind == SCORE:
                usage = Usage(**entry["usage"])
                self.record_score(entry["prompt"], entry["example"], entry["score"], usage, entry["at"])
            elif kind == FAILED:
                self.record_failure(entry["prompt"], entry["error"], entry["at"])
            else:
                raise InputError(f"unknown entry {kind!r}")
        except (LookupError, TypeError) as error:
            raise InputError(f"damaged entry {kind!r} ({error!r})") from error

    # ---- what is known -----------------------------------------------------------------------------

    @property
    def best(self) -> tuple[int, float] | None:
        """Index and score of the best prompt, never a partial one; None before there is one."""
        if self.race is not None and self.race.best is None and not self.pool.scores:
            return None
        try:
            return self.optimizer.best  # final scores before partial ones
        except NothingToAsk:
            return None

    @property
    def best_partial(self) -> tuple[int, float] | None:
        """Index and mean so far of the most promising prompt that is not scored in full; None without one.

        By the mean drawn towards 1/2, as a race chooses which to go on with: few scores promise little.
        """
        means: dict[int, tuple[float, ...]] = {i: score.scores for i, score in self.scores.items()}
        for index, work in self.running.items():
            means[index] = (*means.get(index, ()), *work.scores.values())
        found = {index: scores for index, scores in means.items() if scores}
        if not found:
            return None
        index = max(found, key=lambda i: (math.fsum(found[i]) + 1.0) / (len(found[i]) + 2.0))
        return index, math.fsum(found[index]) / len(found[index])

    @property
    def exhausted(self) -> str:
        """Whether it is the budget or the pool that came to its end, where nothing can be asked."""
        if self.race is not None:
            spent = self.race.calls - self.race.spent < self.race.examples
        else:
            spent = self.optimizer.done and len(self.pool) > self._config.budget
        return "budget" if spent else "pool"

    def is_fully_scored(self, index: int) -> bool:
        """Whether a prompt was scored in this run on all examples."""
        return index in self.scores and len(self.scores[index].scores) == self._parts

    # ---- the end -----------------------------------------------------------------------------------

    def report_lost(self, index: int, error: str, at: float) -> None:
        """Make a trial of a prompt that an error of the whole run has cut off."""
        self._drop(self.running.pop(index), error, at)

    def report_unfinished(self) -> None:
        """Make trials of what a race has begun and neither completed nor given up: it is paid for."""
        for index in list(self._unreported):
            self._report_raced(index)

    # ---- within ------------------------------------------------------------------------------------

    def _asked(self) -> tuple[int, tuple[int, ...]] | None:
        """The prompt that the search asks for; None: none now, and then nothing has changed by asking.

        What has failed would be offered again where nothing else is left: do not try for ever.
        """
        if self.optimizer.done or not self._fresh:
            return None
        try:
            index = self.optimizer.ask()
        except NothingToAsk:
            return None
        self._fresh.discard(index)
        return index, tuple(range(self._parts))

    def _raced(self, race: racing.Race) -> tuple[int, tuple[int, ...]] | None:
        """The prompt that is to go on, or that the search asks for, and its next examples; None: none now."""
        index = race.choose()
        if index == racing.NEW:
            asked = self._asked()
            index = race.choose(fresh=False) if asked is None else asked[0]
        return None if index is None else (index, race.start(index))

    def _complete(self, work: Work, at: float) -> None:
        """Tell the search what a prompt, or a mini-batch of it, has scored."""
        scores = tuple(work.scores[place] for place in work.examples)
        index, seconds, race = work.index, at - work.begun, self.race
        if race is None:
            score = Score(math.fsum(scores) / len(scores), scores, work.usage)
            self.optimizer.tell(index, score.mean)
            self.scores[index] = score
            self._failures_in_a_row = 0
            self._report(index, score, seconds, None)
            self.reason = self._reached(score.mean)
            return
        given_up = race.finish(index, scores)
        self._add(index, work.usage, seconds)
        racing.tell(self.optimizer, race, index, given_up)
        self._failures_in_a_row = 0
        for one in [index, *(i for i in given_up if i != index)]:
            self.scores[one] = Score(race.mean(one), race.in_order(one)[1], Usage())
        complete = race.complete(index)
        for one in [index, *given_up] if complete else given_up:
            self._report_raced(one)
        self.reason = self._reached(race.mean(index)) if complete else None

    def _drop(self, work: Work, error: str, at: float) -> None:
        """Give a prompt up whose scoring came to nothing."""
        index, seconds = work.index, at - work.begun
        if index in self.optimizer.pending:  # not where a race had given it up before
            self.optimizer.discard(index)
        if self.race is None:
            self._report(index, None, seconds, error)
            return
        self.race.abandon(index)
        self._add(index, work.usage, seconds)
        self._report_raced(index, error)

    def _reached(self, score: float) -> str | None:
        if self._config.stop_at_perfect and self._perfect is not None and score >= self._perfect:
            return "perfect"
        if self._config.target is not None and score >= self._config.target:
            return "target"
        return None

    def _add(self, index: int, usage: Usage, seconds: float) -> None:
        had, before = self._unreported.get(index, (Usage(), 0.0))
        self._unreported[index] = had + usage, before + seconds

    def _report_raced(self, index: int, error: str | None = None) -> None:
        """Report a prompt of a race: complete, given up, failed, or cut off by the end of the run."""
        race = self.race
        assert race is not None
        usage, seconds = self._unreported.pop(index)
        places, scores = race.in_order(index)
        score = Score(race.mean(index) if scores else math.nan, scores, usage)
        self._report(index, score, seconds, error, () if race.complete(index) else places)

    def _report(
        self,
        index: int,
        score: Score | None,
        seconds: float,
        error: str | None,
        examples: tuple[int, ...] = (),
    ) -> None:
        best = self.best if self.scores or self.pool.scores else None
        trial = Trial(
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
        )
        self.trials.append(trial)
