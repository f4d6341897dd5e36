"""The driver: keeps prompts in flight, moves the study by their scores, and compares the winner.

Scheduling: all calls of a prompt are begun at once, and enough prompts are in flight that the model's
slots stay full while one of them ends; the search hears of a score as soon as its prompt is done.
In a race the same holds of a prompt's mini-batches: it waits for its own, and for nothing else.

What moves the study is its log, entry by entry: a score is taken in, written down and acted upon before the
next one is. A run that goes on replays the log of the one before it and is where that was.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.aio import cancel_and_wait
from zopo_fast.errors import (
    InputError,
    LimitReachedError,
    LLMError,
    StoreError,
    StudyMismatchError,
    ZopoError,
)
from zopo_fast.llm.types import Usage
from zopo_fast.runs.comparison import Comparison
from zopo_fast.runs.result import HeldOut, Result, Trial
from zopo_fast.runs.state import AGAIN, ASK, FAILED, LATE, SCORE
from zopo_fast.scoring.scorer import OF_THE_PROMPT

if TYPE_CHECKING:
    from zopo_fast.llm.budget import Account
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.state import RunState, Work
    from zopo_fast.scoring.scorer import Scorer
    from zopo_fast.storage.store import Store

OnTrial = Callable[[Trial], Any]
OnResume = Callable[[list[Trial]], Any]
OnPhase = Callable[[str], Any]


class Driver:
    """One run: search, then compare.

    Args:
        study: the search.
        scorer: asks the model.
        config: settings of the run.
        on_trial, on_resume, phase: as in `optimize`.
        stop: ends the run early.
        store: where the log is kept, and continued from; None: nowhere.
        account: hard limits; None: there are none.
    """

    def __init__(
        self,
        study: RunState,
        scorer: Scorer,
        config: RunConfig,
        *,
        on_trial: OnTrial | None,
        on_resume: OnResume | None = None,
        phase: OnPhase,
        stop: asyncio.Event,
        store: Store | None = None,
        account: Account | None = None,
    ) -> None:
        self._study, self._scorer, self._config = study, scorer, config
        self._on_trial, self._on_resume, self._phase, self._stop = on_trial, on_resume, phase, stop
        self._store, self._account = store, account
        self._running: dict[asyncio.Future[Any], Work] = {}
        self._reported = 0  # trials
        self._error: ZopoError | None = None
        self._limit: LimitReachedError | None = None
        self._lost: list[Work] = []  # by that error
        self._closing = False
        self._earlier = Usage()  # of the runs that this one goes on from
        self._began = time.monotonic()
        self._before = 0.0  # seconds of the runs that this one goes on from

    async def run(self, seed_prompt: int) -> Result:
        """Search, then compare."""
        study = self._study
        await self._replay()
        self._phase("search")
        stopped_by = await self._search()
        await self._close()
        if not study.scores and self._error is not None:
            raise self._error
        heldout: list[HeldOut] = []
        ended = self._stop.is_set() or self._error is not None or self._limit is not None
        if study.best and not ended and self._config.heldout:
            comparison = Comparison(study, self._scorer, self._config, self._phase)
            heldout = await self._until_stopped(comparison.rows(seed_prompt)) or []
        best = study.best
        in_part = best is None and self._limit is not None
        if in_part:  # a limit ends a run with the best so far, whatever that is
            best = study.best_partial
        if best is None:
            raise (
                self._error
                or self._limit
                or ZopoError(
                    "the run was stopped before any prompt was scored" + " in full" * (study.race is not None)
                )
            )
        if self._store is not None:
            await self._store.flush(durable=True)
        index, score = best
        return Result(
            best_prompt=study.pool.prompts[index],
            best_score=score,
            best_index=index,
            trials=study.trials,
            usage=self._earlier + self._scorer.spent,
            stopped_by="interrupted" if self._stop.is_set() else stopped_by,
            seconds=self._now(),
            heldout=heldout,
            error=self._error,
            in_part=in_part,
        )

    # ---- the log -----------------------------------------------------------------------------------

    def _now(self) -> float:
        """Seconds into the run, earlier ones that it goes on from included."""
        return self._before + time.monotonic() - self._began

    def _write(self, kind: str, entry: dict[str, Any]) -> None:
        if self._store is not None:
            self._store.append(kind, entry)

    async def _replay(self) -> None:
        """Move the study through the log of the run before.

        Raises:
            StudyMismatchError: it does not lead where it led then.
        """
        if self._store is None:
            return
        began = False
        for event in self._store.events():
            began = True
            try:
                self._study.replay(event.kind, event.data)
                self._before = max(self._before, float(event.data["at"]))
            except (InputError, LookupError, TypeError, ValueError) as error:
                where = f"{self._store.path}: entry {event.seq} of its log"
                raise StudyMismatchError(
                    f"{where} does not follow from those before it ({error}); was it written by another "
                    "version of zopo_fast or NumPy, or on another kind of processor?"
                ) from error
        self._reported = len(self._study.trials)
        self._earlier = self._study.spent
        self._error = self._study.refusal  # which ends this run as it has ended that one
        if self._study.reason == "failures" and self._study.refusal is None:
            self._write(AGAIN, {"at": self._now()})
            self._study.reset_failures()
        if began and self._on_resume is not None:
            await _called(self._on_resume, list(self._study.trials))

    # ---- search ------------------------------------------------------------------------------------

    async def _search(self) -> str:
        """Keep prompts in flight until something ends the search; return what did."""
        study, stopping = self._study, asyncio.ensure_future(self._stop.wait())
        try:
            # What was under way when the run before was cut off; at its end it is of no use any more.
            for work in list(study.running.values()) if self._goes_on() else ():
                self._send(work)
            self._start()
            while self._goes_on() and not stopping.done():
                if not self._running:  # done, or nothing is left but what has failed before
                    break
                left = None if self._account is None else self._account.left().seconds
                wait = [*self._running, stopping]
                await asyncio.wait(wait, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                self._settle()
                await self._report()
            return self._why(stopping.done())
        finally:
            self._closing = True
            await cancel_and_wait([*self._running, stopping])

    def _goes_on(self) -> bool:
        if self._account is not None and self._account.left().seconds == 0:
            self._limit = self._limit or LimitReachedError("the run's time is up", "time")
        over_time = self._limit is not None and self._limit.limit == "time"
        return self._study.reason is None and self._error is None and not over_time

    def _why(self, stopped: bool) -> str:
        if self._study.reason is not None:
            return self._study.reason
        if self._error is not None:
            return "error" if isinstance(self._error, LLMError) else "failures"
        if self._limit is not None:
            return self._limit.limit
        return "interrupted" if stopped else self._study.exhausted

    def _start(self) -> None:
        """Ask for prompts until enough are in flight.

        Also where they are not sent any more: what the study asks depends on its log alone, not on when a
        limit or an error has ended a run.
        """
        while (work := self._study.ask(self._now())) is not None:
            entry = {"prompt": work.index, "examples": list(work.examples), "at": work.begun}
            self._write(ASK, entry)
            if not self._closing and self._error is None and self._limit is None:
                self._send(work)

    def _send(self, work: Work) -> None:
        prompt = self._study.pool.prompts[work.index]

        def on_score(example: int, score: float, usage: Usage) -> None:
            self._scored(work, example, score, usage)

        scoring = self._scorer.score(prompt, work.missing, on_score)
        self._running[asyncio.ensure_future(scoring)] = work

    def _scored(self, work: Work, example: int, score: float, usage: Usage) -> None:
        """Write a score down and act upon it; at once, so that the log is in the order of the acts."""
        at = self._now()
        if self._study.reason is not None:  # after the end, and paid for
            if self._study.reason != "failures":  # where a run that goes on takes it from the answers
                self._write(LATE, {"usage": vars(usage), "at": at})
                self._study.record_late(usage)
            return
        entry = {"prompt": work.index, "example": example, "score": score, "usage": vars(usage), "at": at}
        self._write(SCORE, entry)
        if self._study.record_score(work.index, example, score, usage, at):
            self._start()

    def _settle(self) -> None:
        """Look at what has ended, in the order of asking: most have told their scores, some have failed."""
        for future in [f for f in self._running if f.done()]:
            work = self._running.pop(future)
            error = future.exception()
            if error is None or self._study.reason is not None:
                continue
            if not isinstance(error, ZopoError) or isinstance(error, StoreError):
                raise error
            if isinstance(error, LimitReachedError):
                self._limit = self._limit or error
            elif isinstance(error, OF_THE_PROMPT):
                at = self._now()
                self._write(FAILED, {"prompt": work.index, "error": str(error), "at": at})
                self._study.record_failure(work.index, str(error), at)
                if self._study.reason is not None:
                    self._error = error
                self._start()
            else:  # not of the prompt: not in the log, so that a run that goes on asks again
                self._lost.append(work)
                self._error = self._error or error
        self._error = self._error or self._study.refusal

    async def _close(self) -> None:
        """Report what has ended since, and what the end has cut off."""
        await self._report()
        for work in self._lost:
            self._study.report_lost(work.index, str(self._error), self._now())
        self._study.report_unfinished()
        await self._report(last=True)

    async def _report(self, last: bool = False) -> None:
        """Tell of the trials that have ended since, once they are on the disk."""
        trials = self._study.trials
        while self._reported < len(trials):
            new = trials[self._reported :]
            self._reported = len(trials)
            if self._store is not None:
                for trial in () if last else new:
                    self._store.add_trial(trial.number, asdict(trial))
                await self._store.flush(durable=True)
            for trial in new:
                if self._on_trial is not None:
                    await _called(self._on_trial, trial)

    # ---- comparison --------------------------------------------------------------------------------

    async def _until_stopped(self, work: Coroutine[Any, Any, list[HeldOut]]) -> list[HeldOut] | None:
        """Run `work` unless stopped; an error of the model is kept, not raised: the search is done."""
        future = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        left = None if self._account is None else self._account.left().seconds
        try:
            wait = [future, stopping]
            await asyncio.wait(wait, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() else None
        except LimitReachedError:
            return None  # the search has its result; there is no room to compare it
        except StoreError:
            raise
        except ZopoError as error:
            self._error = error
            return None
        finally:
            await cancel_and_wait([future, stopping])


async def _called(function: Callable[[Any], Any], argument: Any) -> None:
    if inspect.isawaitable(called := function(argument)):
        await called
