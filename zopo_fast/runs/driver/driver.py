"""Driver of a run: keeps prompts in flight, records their scores, and compares the winner.

All calls of a prompt start together. Enough prompts are in flight to keep the model's slots full while one
prompt ends, and the search receives a score as soon as its prompt is complete. In a race the same holds for
looks: the next one of a prompt waits for its previous one only.

The log moves the state of a run entry by entry: a score is written and applied before the next one. A resumed
run replays the log of the earlier runs and continues from the same state.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.aio import cancel_and_wait
from zopo_fast.errors import (
    ArrayError,
    InputError,
    LimitReachedError,
    LLMError,
    StoreError,
    StudyMismatchError,
    ZopoError,
)
from zopo_fast.llm.types import Usage
from zopo_fast.runs.cost.front import points, standing
from zopo_fast.runs.driver.comparison import Comparison
from zopo_fast.runs.log.entries import AGAIN, ASK, FAILED, GROW, LATE, SCORE, WRITE, replay
from zopo_fast.runs.progress import OnProgress
from zopo_fast.runs.result import Result, Trial
from zopo_fast.runs.resume import forget_refusals
from zopo_fast.scoring.unanswered import Unanswered, concerns_call

if TYPE_CHECKING:
    from zopo_fast.llm.budget import Account
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.driver.grower import Drafts, Grower
    from zopo_fast.runs.log.work import Work
    from zopo_fast.runs.state import RunState
    from zopo_fast.scoring.scorer import Scorer
    from zopo_fast.storage.store import Store

_log = logging.getLogger(__name__)

OnTrial = Callable[[Trial], Any]
OnResume = Callable[[list[Trial]], Any]
OnPhase = Callable[[str], Any]


class Driver:
    """Runs a search and the comparison after it.

    Args:
        state: state of the run.
        scorer: scores the prompts.
        config: settings of the run.
        on_trial: as in `optimize`.
        on_resume: as in `optimize`.
        on_phase: as in `optimize`.
        on_progress: as in `optimize`.
        stop: ends the run early.
        store: study that holds the log; None: the log is not kept.
        account: hard limits; None: no limits.
        grower: writes new prompts; None: the pool does not grow.
    """

    def __init__(
        self,
        state: RunState,
        scorer: Scorer,
        config: RunConfig,
        *,
        on_trial: OnTrial | None,
        on_resume: OnResume | None = None,
        on_phase: OnPhase,
        on_progress: OnProgress,
        stop: asyncio.Event,
        store: Store | None = None,
        account: Account | None = None,
        grower: Grower | None = None,
    ) -> None:
        self._state, self._scorer, self._config = state, scorer, config
        self._on_trial, self._on_resume, self._on_phase, self._stop = on_trial, on_resume, on_phase, stop
        self._on_progress = on_progress
        self._store, self._account = store, account
        self._grower = grower
        self._running: dict[asyncio.Future[Any], Work] = {}
        self._writing: asyncio.Future[Drafts] | None = None
        self._written = Usage()  # of the rounds of writing in this run
        self._reported = 0  # number of trials
        self._error: ZopoError | None = None
        self._failure: ZopoError | None = None  # of the prompt that failed last
        self._limit: LimitReachedError | None = None
        self._lost: list[Work] = []  # work that ended in that error
        self._closing = False
        self._started = time.monotonic()
        self._earlier_usage = Usage()  # of the runs that this one resumes
        self._earlier_seconds = 0.0

    async def run(self, seed_prompt: int) -> Result:
        """Search, then compare the winner with the prompt of index `seed_prompt` and others.

        Raises:
            LLMError: scoring failed before any prompt was scored.
            LimitReachedError: a limit was reached before any prompt was scored.
            ZopoError: the run was stopped before any prompt was scored.
            StoreError: the study cannot be written.
        """
        state = self._state
        await self._replay()
        self._on_phase("search")
        self._on_progress("search", *state.progress)
        stopped_by = await self._search()
        await self._close()
        if self._store is not None and isinstance(self._error, LLMError) and self._error.refuses_all:
            forget_refusals(self._store)
        if not state.scores and self._error is not None:
            raise self._error
        scores = {i: (state.scores[i].mean, state.scores[i].scores) for i in state.full if i in state.scores}
        measured = points(state.pool.prompts, scores, state.asked.tokens, self._config.prices)
        best, front = standing(measured, state.best, self._config.prefer_short)
        winner = None if best is None else best[0]
        comparison = Comparison(state, self._scorer, self._config, self._on_phase, self._on_progress, winner)
        if best and self._config.heldout and self._scorer.heldout_parts:
            await self._compare(comparison, seed_prompt)
        in_part = best is None and self._limit is not None
        if in_part:  # a run that reaches a limit returns a partial score where there is no full one
            best = state.best_partial
        if best is None:
            raise (
                self._error
                or self._limit
                or (None if self._stop.is_set() else self._failure)
                or ZopoError(
                    "the run was stopped before any prompt was scored" + " in full" * (state.race is not None)
                )
            )
        if self._store is not None:
            await self._store.flush(durable=True)
        index, score = best
        return Result(
            best_prompt=state.pool.prompts[index],
            best_score=score,
            best_index=index,
            trials=state.trials,
            usage=self._earlier_usage + self._scorer.spent + self._written,
            stopped_by="interrupted" if self._stop.is_set() else stopped_by,
            seconds=self._now(),
            heldout=comparison.rows,
            error=self._error,
            in_part=in_part,
            unanswered=state.asked.summary(self._scorer.input),
            comparison_notes=comparison.notes,
            front=front,
            prefer_short=self._config.prefer_short,
            grown=[] if state.growth is None else list(state.growth.grown),
        )

    # ---- log -----------------------------------------------------------------------------------

    def _now(self) -> float:
        """Return the seconds into the run, those of resumed runs included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def _write(self, kind: str, entry: dict[str, Any]) -> None:
        if self._store is not None:
            self._store.append(kind, entry)

    async def _replay(self) -> None:
        """Replay the log of the earlier runs.

        Raises:
            StudyMismatchError: an entry does not follow from the entries before it.
        """
        if self._store is None:
            return
        is_resumed = False
        for event in self._store.events():
            is_resumed = True
            try:
                replay(self._state, event.kind, event.data)
                self._earlier_seconds = max(self._earlier_seconds, float(event.data["at"]))
            except (InputError, LookupError, TypeError, ValueError) as error:
                raise StudyMismatchError(
                    f"{self._store.path}: entry {event.seq} of its log does not follow from the earlier ones "
                    f"({error}); the file was changed, or written by a newer version of zopo_fast"
                ) from error
        if self._state.different:
            _log.warning(
                "%s: this version would have asked for %d other prompts; its scores are kept",
                self._store.path,
                self._state.different,
            )
        self._reported = len(self._state.trials)
        self._earlier_usage = self._state.spent
        self._error = self._state.refusal  # ends this run as it ended the earlier one
        if self._state.reason == "failures" and self._state.refusal is None:
            self._write(AGAIN, {"at": self._now()})
            self._state.reset_failures()
        self._fail_unanswerable()  # the earlier run was killed before it could record the failure
        if is_resumed and self._on_resume is not None:
            await _call(self._on_resume, list(self._state.trials))

    # ---- search ------------------------------------------------------------------------------------

    async def _search(self) -> str:
        """Keep prompts in flight until the search ends; return the reason of the end."""
        state, stopping = self._state, asyncio.ensure_future(self._stop.wait())
        try:
            if self._can_continue():  # resume what was in flight when the earlier run was interrupted
                for work in list(state.running.values()):
                    self._send(work)
                self._write_round()
            self._start()
            while self._can_continue() and not stopping.done():
                if not self._running and self._writing is None:  # done, or only failed prompts are left
                    break
                left = None if self._account is None else self._account.left().seconds
                wait = [*self._running, *self._rounds, stopping]
                await asyncio.wait(wait, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                self._settle()
                self._settle_round()
                await self._report()
            return self._end_reason(stopping.done())
        finally:
            self._closing = True
            await cancel_and_wait([*self._running, *self._rounds, stopping])
            self._count_unfinished_round()

    def _can_continue(self) -> bool:
        if self._account is not None and self._account.left().seconds == 0:
            self._limit = self._limit or LimitReachedError("the run's time is up", "time")
        over_time = self._limit is not None and self._limit.limit == "time"
        return self._state.reason is None and self._error is None and not over_time

    def _end_reason(self, is_stopped: bool) -> str:
        if self._state.reason is not None:
            return self._state.reason
        if self._error is not None:
            return "error" if isinstance(self._error, LLMError | ArrayError) else "failures"
        if self._limit is not None:
            return self._limit.limit
        return "interrupted" if is_stopped else self._state.exhausted

    def _start(self) -> None:
        """Ask for prompts until enough are in flight.

        Prompts are asked even after an error or a limit, when none is sent: the asks depend on the log alone.
        """
        while True:
            # Before each ask, so that a run resumed between two asks begins no round earlier.
            self._begin_round()
            if (work := self._state.ask(self._now())) is None:
                break
            entry = {"prompt": work.index, "examples": list(work.examples), "at": work.begun}
            self._write(ASK, entry)
            if not self._closing and self._error is None and self._limit is None:
                self._send(work)
        if not self._state.running:
            self._begin_round(is_idle=True)

    def _send(self, work: Work) -> None:
        prompt = self._state.pool.prompts[work.index]

        def on_score(example: int, score: float | None, usage: Usage, why: Unanswered | None) -> None:
            self._scored(work, example, score, usage, why)

        scoring = self._scorer.score(prompt, work.missing, on_score)
        self._running[asyncio.ensure_future(scoring)] = work

    def _scored(
        self, work: Work, example: int, score: float | None, usage: Usage, unanswered: Unanswered | None
    ) -> None:
        """Write a score and apply it at once, so that the log has the order of the state's changes."""
        at = self._now()
        if self._state.reason is not None:  # arrived after the end, and paid for
            if self._state.reason != "failures":  # then a resumed run replays the answer instead
                self._write(LATE, {"usage": vars(usage), "at": at})
                self._state.record_late(usage)
            return
        entry = {"prompt": work.index, "example": example, "score": score, "usage": vars(usage), "at": at}
        if unanswered is not None:
            entry["unanswered"] = {"code": unanswered.code, "message": unanswered.message}
        self._write(SCORE, entry)
        is_complete = self._state.record_score(work.index, example, score, usage, at, unanswered)
        failed = unanswered is not None and self._fail_unanswerable()
        if failed or is_complete or self._state.race is not None:
            self._start()
        self._on_progress("search", *self._state.progress)

    def _fail_unanswerable(self) -> bool:
        """Record the failure of running prompts without any answer; return whether there are any."""
        state, failed = self._state, self._state.unanswerable
        for index, error in failed.items():
            self._record_failure(index, (state.last_unanswered or Unanswered("", "")).as_error(error))
        return bool(failed)

    def _record_failure(self, index: int, error: ZopoError) -> None:
        at = self._now()
        self._write(FAILED, {"prompt": index, "error": str(error), "at": at})
        self._state.record_failure(index, str(error), at)
        self._failure = error

    def _settle(self) -> None:
        for future in [f for f in self._running if f.done()]:
            work = self._running.pop(future)
            error = future.exception()
            if error is None or self._state.reason is not None:
                continue
            if not isinstance(error, ZopoError) or isinstance(error, StoreError):
                raise error
            if isinstance(error, LimitReachedError):
                self._limit = self._limit or error
            elif concerns_call(error):
                self._record_failure(work.index, error)
                self._start()
            else:  # not the prompt's fault: not logged, so a resumed run asks again
                self._lost.append(work)
                self._error = self._error or error
        self._error = self._error or self._state.refusal
        if self._state.reason == "failures" and self._error is None:
            self._error = self._failure or self._last_call_error()

    def _last_call_error(self) -> LLMError:
        why = self._state.last_unanswered or Unanswered("", "no prompt can be answered")
        return why.as_error(why.message)

    async def _close(self) -> None:
        """Report the remaining trials: ended, lost by an error, and unfinished."""
        await self._report()
        for work in self._lost:
            self._state.report_lost(work.index, str(self._error), self._now())
        self._state.report_unfinished()
        await self._report(last=True)

    async def _report(self, last: bool = False) -> None:
        """Report new trials once they are durable."""
        trials = self._state.trials
        while self._reported < len(trials):
            new = trials[self._reported :]
            self._reported = len(trials)
            if self._store is not None:
                for trial in () if last else new:
                    self._store.add_trial(trial.number, asdict(trial))
                await self._store.flush(durable=True)
            for trial in new:
                if self._on_trial is not None:
                    await _call(self._on_trial, trial)

    # ---- growth ------------------------------------------------------------------------------------

    @property
    def _rounds(self) -> list[asyncio.Future[Drafts]]:
        return [] if self._writing is None else [self._writing]

    def _begin_round(self, is_idle: bool = False) -> None:
        """Begin a round of writing where one is due; like an ask, it depends on the log alone."""
        growth = self._state.growth
        if growth is None or self._state.reason or not (order := growth.due(self._state, is_idle)):
            return
        if self._grower is not None:
            order = self._grower.with_failures(order, self._state, self._scorer)
        entry = order.to_entry() | {"at": self._now()}
        self._write(WRITE, entry)
        self._state.begin_round(entry)
        self._write_round()

    def _write_round(self) -> None:
        """Let the writers write the round that the log has begun."""
        growth = self._state.growth
        if self._grower is None or growth is None or growth.writing is None:
            return
        if not self._closing and self._error is None and self._limit is None:
            self._writing = asyncio.ensure_future(self._grower.write(growth.writing, self._state))

    def _settle_round(self) -> None:
        """Screen what the writers have written, and add what enters to the pool."""
        growth, future, grower = self._state.growth, self._writing, self._grower
        if future is None or not future.done() or growth is None or grower is None:
            return
        self._writing = None
        if (
            error := future.exception()
        ) is not None:  # a resumed run repeats the round, and replays the answers so far
            if not isinstance(error, ZopoError) or isinstance(error, StoreError):
                raise error
            self._written += grower.cut_off
            if isinstance(error, LimitReachedError):
                self._limit = self._limit or error
            else:
                self._error = self._error or error
            return
        drafts = future.result()
        self._written += drafts.usage
        if self._state.reason is not None or growth.writing is None:
            self._write(LATE, {"usage": vars(drafts.usage), "at": self._now()})
            self._state.record_late(drafts.usage)
            return
        entry = grower.outcome(growth.writing, drafts, self._state) | {"at": self._now()}
        self._write(GROW, entry)
        self._state.grow(entry)
        self._start()

    def _count_unfinished_round(self) -> None:
        """Count the calls of a round that was unfinished at the end of the search."""
        if self._grower is None or self._writing is None:
            return
        self._writing, usage = None, self._grower.cut_off
        self._written += usage
        if self._state.reason is not None:  # else a resumed run repeats the round, and replays its answers
            self._write(LATE, {"usage": vars(usage), "at": self._now()})
            self._state.record_late(usage)

    # ---- comparison --------------------------------------------------------------------------------

    async def _compare(self, comparison: Comparison, seed_prompt: int) -> None:
        """Make the comparison until it is complete, stopped or out of budget; note what it lacks."""
        if self._stop.is_set() or self._error is not None or self._limit is not None:
            comparison.abandon("the run ended early")
            return
        future = asyncio.ensure_future(comparison.make(seed_prompt))
        stopping = asyncio.ensure_future(self._stop.wait())
        left = None if self._account is None else self._account.left().seconds
        try:
            wait = [future, stopping]
            await asyncio.wait(wait, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                future.result()
            else:
                comparison.abandon("interrupted" if stopping.done() else "the run's time is up")
        except StoreError:
            raise
        except LimitReachedError as error:  # the search has its result; the budget is too small for more
            comparison.abandon(str(error))
        except ZopoError as error:
            self._error = error
            comparison.abandon(str(error))
        finally:
            await cancel_and_wait([future, stopping])


async def _call(function: Callable[[Any], Any], argument: Any) -> None:
    if inspect.isawaitable(result := function(argument)):
        await result
