"""The driver: keeps prompts in flight, tells their scores to the search, and compares the winner.

Scheduling: all calls of a prompt are begun at once, and enough prompts are in flight that the model's
slots stay full while one of them ends; the search hears of a score as soon as its prompt is done.
In a race the same holds of a prompt's mini-batches: it waits for its own, and for nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import racing
from .concurrency import all_or_none, end
from .errors import InputError, LLMError, MalformedAnswerError, NothingToAsk, RequestRejectedError, ZopoError
from .result import HeldOut, Interval, Result, Trial, paired_interval
from .scoring import Score
from .usage import Usage

if TYPE_CHECKING:
    from .optimizer import Zopo
    from .pool import Pool
    from .run import RunConfig
    from .scoring import Scorer

# What is wrong with one prompt (too long, refused by a filter) says nothing about the next.
OF_THE_PROMPT = (RequestRejectedError, MalformedAnswerError)

OnTrial = Callable[[Trial], Any]
OnPhase = Callable[[str], Any]


@dataclass(frozen=True)
class _Work:
    """A prompt being scored, on all examples or in a race on those of a mini-batch."""

    index: int
    examples: tuple[int, ...] | None
    begun: float


@dataclass
class _Spent:
    """What a prompt of a race has taken since it was last reported."""

    usage: Usage
    seconds: float


class Driver:
    """One run: search, then compare. With a `race`, prompts are scored as it says."""

    def __init__(
        self,
        optimizer: Zopo,
        pool: Pool,
        scorer: Scorer,
        config: RunConfig,
        in_flight: int,
        on_trial: OnTrial | None,
        phase: OnPhase,
        stop: asyncio.Event,
        race: racing.Race | None = None,
    ) -> None:
        self._optimizer, self._pool, self._scorer, self._config = optimizer, pool, scorer, config
        self._in_flight, self._on_trial, self._phase, self._stop = in_flight, on_trial, phase, stop
        self._race = race
        self._unreported: dict[int, _Spent] = {}  # of the race, by prompt
        self._trials: list[Trial] = []
        self._scores: dict[int, Score] = {}  # of every prompt scored in this run, in a race also in part
        self._failed: set[int] = set()
        self._failures_in_a_row = 0
        self._error: Exception | None = None
        self._started = time.monotonic()

    async def run(self, seed_prompt: int) -> Result:
        """Search, then compare."""
        self._phase("search")
        stopped_by = await self._search()
        for index in list(self._unreported):  # a race's open ones: cut off, but paid for
            await self._report_raced(index)
        if not self._scores and self._error is not None:
            raise self._error
        heldout: list[HeldOut] = []
        if self._best() and not self._stop.is_set() and self._error is None and self._config.heldout:
            heldout = await self._until_stopped(self._compare(seed_prompt)) or []
        best = self._best()
        if best is None:
            if self._error is not None:
                raise self._error
            raise ZopoError(
                "the run was stopped before any prompt was scored" + " in full" * (self._race is not None)
            )
        index, score = best
        return Result(
            best_prompt=self._pool.prompts[index],
            best_score=score,
            best_index=index,
            trials=self._trials,
            usage=self._scorer.spent,
            stopped_by="interrupted" if self._stop.is_set() else stopped_by,
            seconds=time.monotonic() - self._started,
            heldout=heldout,
            error=self._error,
        )

    def _best(self) -> tuple[int, float] | None:
        """Index and score of the best prompt, never a partial one; None before there is one."""
        race = self._race
        if race is not None and race.best is None and not self._pool.scores:
            return None
        try:
            return self._optimizer.best  # final scores before partial ones
        except NothingToAsk:
            return None

    # ---- search ------------------------------------------------------------------------------------

    async def _search(self) -> str:
        """Keep prompts in flight until something ends the run; return what did."""
        running: dict[asyncio.Future[Any], _Work] = {}
        stopping = asyncio.ensure_future(self._stop.wait())
        reason: str | None = None
        try:
            while reason is None and not stopping.done():
                self._start(running)
                if not running:  # done, or nothing is left but what has failed before
                    return "budget" if self._spent() else "pool"
                await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
                for future in [f for f in running if f.done()]:  # in the order of asking
                    ended = await self._finish(future, running.pop(future))
                    reason = reason or ended
            return reason or "interrupted"
        finally:
            await end([*running, stopping])

    def _spent(self) -> bool:
        """Whether it was the budget, not the pool, that came to its end."""
        if self._race is not None:
            return self._race.calls - self._race.spent < self._race.examples
        return self._optimizer.done and len(self._pool) > self._config.budget

    def _start(self, running: dict[asyncio.Future[Any], _Work]) -> None:
        while len(running) < self._in_flight:
            chosen = self._asked() if self._race is None else self._raced(self._race)
            if chosen is None:
                return
            index, examples = chosen
            future = asyncio.ensure_future(self._scorer.train(self._pool.prompts[index], examples))
            running[future] = _Work(index, examples, time.monotonic())

    def _asked(self) -> tuple[int, None] | None:
        """The prompt that the search asks for; None: none now."""
        if self._optimizer.done:
            return None
        try:
            index = self._optimizer.ask()
        except NothingToAsk:
            return None
        if index in self._failed:  # discarded before, and nothing else is left: do not try for ever
            self._optimizer.discard(index)
            return None
        return index, None

    def _raced(self, race: racing.Race) -> tuple[int, tuple[int, ...]] | None:
        """The prompt that is to go on, or that the search asks for, and its next examples; None: none now."""
        index = race.choose()
        if index == racing.NEW:
            asked = self._asked()
            index = race.choose(fresh=False) if asked is None else asked[0]
        return None if index is None else (index, race.start(index))

    async def _finish(self, future: asyncio.Future[Score], work: _Work) -> str | None:
        """Tell the score, or note the failure; return why the run has to end, if it has to."""
        error, index = future.exception(), work.index
        seconds = time.monotonic() - work.begun
        if error is None:
            try:
                return await self._told(index, future.result(), seconds)
            except InputError as refused:  # a race: a score outside the range it was promised
                error = refused
        if not isinstance(error, ZopoError):
            raise error
        self._failed.add(index)
        self._failures_in_a_row += 1
        if index in self._optimizer.pending:  # not where a race had given it up before
            self._optimizer.discard(index)
        if self._race is None:
            await self._report(index, None, seconds, str(error))
        else:
            self._race.abandon(index)
            self._add(index, Usage(), seconds)
            await self._report_raced(index, str(error))
        if isinstance(error, LLMError) and not isinstance(error, OF_THE_PROMPT):
            self._error = error
            return "error"
        if self._failures_in_a_row >= self._config.max_failures or not isinstance(error, LLMError):
            self._error = error
            return "failures"
        return None

    async def _told(self, index: int, score: Score, seconds: float) -> str | None:
        """Take a score in, in a race that of a mini-batch."""
        race = self._race
        if race is None:
            self._optimizer.tell(index, score.mean)
            self._scores[index] = score
            self._failures_in_a_row = 0
            await self._report(index, score, seconds, None)
            return self._reached(score.mean)
        self._add(index, score.usage, seconds)
        given_up = race.finish(index, score.scores)
        racing.tell(self._optimizer, race, index, given_up)
        self._failures_in_a_row = 0
        for one in {index, *given_up}:
            self._scores[one] = Score(race.mean(one), race.in_order(one)[1], Usage())
        complete = race.complete(index)
        for one in [index, *given_up] if complete else given_up:
            await self._report_raced(one)
        return self._reached(race.mean(index)) if complete else None

    def _add(self, index: int, usage: Usage, seconds: float) -> None:
        spent = self._unreported.setdefault(index, _Spent(Usage(), 0.0))
        spent.usage += usage
        spent.seconds += seconds

    async def _report_raced(self, index: int, error: str | None = None) -> None:
        """Report a prompt of a race: complete, given up, failed, or cut off by the end of the run."""
        race = self._race
        assert race is not None
        spent = self._unreported.pop(index)
        places, scores = race.in_order(index)
        score = Score(race.mean(index) if scores else math.nan, scores, spent.usage)
        await self._report(index, score, spent.seconds, error, () if race.complete(index) else places)

    def _reached(self, score: float) -> str | None:
        perfect = self._scorer.perfect
        if self._config.stop_at_perfect and perfect is not None and score >= perfect:
            return "perfect"
        if self._config.target is not None and score >= self._config.target:
            return "target"
        return None

    async def _report(
        self,
        index: int,
        score: Score | None,
        seconds: float,
        error: str | None,
        examples: tuple[int, ...] = (),
    ) -> None:
        best = self._best() if self._scores or self._pool.scores else None
        trial = Trial(
            number=len(self._trials) + 1,
            index=index,
            prompt=self._pool.prompts[index],
            score=None if score is None or error is not None else score.mean,
            scores=() if score is None else score.scores,
            usage=Usage() if score is None else score.usage,
            seconds=seconds,
            best_score=None if best is None else best[1],
            total=self._scorer.spent,
            error=error,
            examples=examples,
        )
        self._trials.append(trial)
        if self._on_trial is not None and inspect.isawaitable(called := self._on_trial(trial)):
            await called

    # ---- comparison --------------------------------------------------------------------------------

    async def _until_stopped(self, work: Coroutine[Any, Any, list[HeldOut]]) -> list[HeldOut] | None:
        """Run `work` unless stopped; an error of the model is kept, not raised: the search is done."""
        future = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([future, stopping], return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() else None
        except ZopoError as error:
            self._error = error
            return None
        finally:
            await end([future, stopping])

    async def _compare(self, seed_prompt: int) -> list[HeldOut]:
        """Score winner, seed prompt, pool median (and random sample's best) on the held-out examples."""
        winner = self._optimizer.best[0]
        self._phase("comparison")
        best = await self._heldout(winner)
        if best is None:
            return []
        roles = {"seed prompt": seed_prompt}
        initial = self._optimizer.config.initial
        drawn = [] if isinstance(initial, int) else list(initial)
        sample = [i for i in drawn if i in self._scores and i != seed_prompt] or list(self._scores)
        if self._config.compare_random:
            self._phase("random sample")
            sample = await self._random_sample() or sample
            roles["random sample"] = max(sample, key=lambda i: self._scores[i].mean)
            self._phase("comparison")
        ranked = sorted(sample, key=lambda i: self._scores[i].mean)
        roles["pool median"] = ranked[(len(ranked) - 1) // 2]

        compared = [self._row("winner", winner, best, None)]
        found: dict[int, Score | None] = {winner: best}
        for role, index in roles.items():
            if index not in found:
                found[index] = await self._heldout(index)
            score = found[index]
            if score is not None:
                ahead = paired_interval(best.scores, score.scores, seed=self._config.seed)
                compared.append(self._row(role, index, score, ahead))
        return compared

    def _row(self, role: str, index: int, score: Score, ahead: Interval | None) -> HeldOut:
        train = self._pool.scores.get(index)
        if self._in_full(index):
            train = self._scores[index].mean
        return HeldOut(role, self._pool.prompts[index], train, score.mean, score.scores, ahead)

    def _in_full(self, index: int) -> bool:
        return index in self._scores and len(self._scores[index].scores) == self._scorer.parts

    async def _heldout(self, index: int) -> Score | None:
        """Held-out score; None where there are no such examples, or the model refuses this prompt."""
        try:
            return await self._scorer.heldout(self._pool.prompts[index])
        except OF_THE_PROMPT:
            return None

    async def _train(self, index: int) -> Score | None:
        try:
            return await self._scorer.train(self._pool.prompts[index])
        except OF_THE_PROMPT:
            return None

    async def _random_sample(self) -> list[int]:
        """Random prompts for as many calls as the run made; those scored in full are not scored again."""
        rng = np.random.default_rng([self._config.seed, 1])
        count = len(self._scores) if self._race is None else self._race.spent // self._race.examples
        sample = [int(i) for i in rng.permutation(len(self._pool))[:count]]
        missing = [i for i in sample if not self._in_full(i)]
        for start in range(0, len(missing), self._in_flight):
            some = missing[start : start + self._in_flight]
            scores = await all_or_none([self._train(i) for i in some])
            self._scores.update({i: s for i, s in zip(some, scores, strict=True) if s is not None})
        return [i for i in sample if self._in_full(i)]
