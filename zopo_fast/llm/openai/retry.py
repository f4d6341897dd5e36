"""When to repeat a call to a model, after how long, and when to give up."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from zopo_fast.errors import LLMError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]

_log = logging.getLogger(__name__)


class Time:
    """A clock and its sleep: one that returns early, as those of tests do, counts as if it had not."""

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._ahead = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return self._clock() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        until = self.now() + seconds
        await self._sleep(seconds)
        self._ahead += max(0.0, until - self.now())


@dataclass(frozen=True)
class Failure:
    """An attempt that brought no answer. A value, not an exception: nothing of the transport's is chained."""

    error: type[LLMError]
    message: str
    retry_after: float | None = None
    """Seconds the server asks to wait."""
    final: bool = False
    """Repeating cannot help."""
    lost: bool = False
    """It may be billed all the same."""
    most: int | None = None
    """Attempts of a call at most where one fails like this; None: as many as the bounds allow."""


Turn = Callable[[], AbstractAsyncContextManager[Failure | None]]


@dataclass(frozen=True)
class Bounds:
    """How often, how long and how eagerly a call is repeated; times in seconds."""

    timeout: float
    max_attempts: int
    max_elapsed: float
    backoff_initial: float
    backoff_max: float


class Retry(Generic[T]):
    """Repeats one call with exponential backoff and jitter until it is answered or its bounds are reached.

    Each attempt takes its `turn`, a context it is made in, which gives the reason where it is not to be
    made at all. A call that backs off holds none and lets others through. `max_elapsed` counts attempts and
    pauses, not the wait for a turn, so a long queue does not make a call fail.
    """

    def __init__(self, bounds: Bounds, turn: Turn, *, sleep: Sleep, clock: Clock, rng: random.Random) -> None:
        self.attempts = 0
        """Attempts begun so far."""
        self._bounds = bounds
        self._turn = turn
        self._sleep = sleep
        self._clock = clock
        self._rng = rng
        self._spent = 0.0
        self._delay = 0.0
        self._verdict = ""

    async def __call__(self, attempt: Callable[[float], Awaitable[T | Failure]]) -> T:
        """Return what `attempt(seconds it may take)` answers; raises the last failure's error."""
        retrying = AsyncRetrying(
            sleep=self._pause,
            wait=lambda retry_state: self._delay,
            stop=lambda retry_state: bool(self._verdict),
            retry=retry_if_result(lambda outcome: isinstance(outcome, Failure)),
            retry_error_callback=_last_outcome,
        )
        # tenacity's objects refer to each other: what they were given would live, with the client behind it,
        # until the next collection of garbage.
        given = [attempt]
        try:
            outcome: T | Failure = await retrying(self._once, given)
        finally:
            given.clear()
            del self._turn
        if isinstance(outcome, Failure):
            raise outcome.error(f"{outcome.message} ({self._verdict})")
        return outcome

    async def _once(self, given: Sequence[Callable[[float], Awaitable[T | Failure]]]) -> T | Failure:
        (attempt,) = given
        outcome: T | Failure
        async with self._turn() as refused:
            if refused is not None:
                self._verdict = f"not sent again after {self._tried()}" if self.attempts else "not sent"
                return refused
            self.attempts += 1
            start = self._clock()
            try:
                # A pause may overshoot its bound by a little; an attempt still needs a positive limit.
                outcome = await attempt(max(min(self._bounds.timeout, self._left()), 1e-3))
            finally:
                self._spent += self._clock() - start
        if isinstance(outcome, Failure):
            self._decide(outcome)
        return outcome

    def _decide(self, failure: Failure) -> None:
        """Set the pause before the next attempt, or the reason why there is none."""
        bounds, left = self._bounds, self._left()
        ceiling = min(bounds.backoff_max, bounds.backoff_initial * 2.0 ** min(self.attempts - 1, 60))
        # Half fixed, half random: never near zero, and callers that failed together do not return together.
        self._delay = max(ceiling * (0.5 + 0.5 * self._rng.random()), failure.retry_after or 0.0)
        tried = f"gave up after {self._tried()}"
        most = min(bounds.max_attempts, failure.most or bounds.max_attempts)
        if failure.final:
            self._verdict = "not repeated" if self.attempts == 1 else tried
        elif failure.retry_after is not None and failure.retry_after > left:
            self._verdict = (
                f"{tried}: it asks to wait {failure.retry_after:g} s, longer than the "
                f"{max(left, 0):.3g} s left of max_elapsed={bounds.max_elapsed:g} s"
            )
        elif self.attempts >= most:
            self._verdict = f"{tried}, max_attempts={most}" if most == bounds.max_attempts else tried
        elif self._delay >= left:
            self._verdict = f"{tried}, max_elapsed={bounds.max_elapsed:g} s is used up"
        else:
            _log.info("%s; attempt %d follows in %.2f s", failure.message, self.attempts + 1, self._delay)

    async def _pause(self, seconds: float) -> None:
        start = self._clock()
        await self._sleep(seconds)
        # A sleep that was replaced may return early; it counts as if it had not.
        self._spent += max(self._clock() - start, seconds)

    def _tried(self) -> str:
        return f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"

    def _left(self) -> float:
        return self._bounds.max_elapsed - self._spent


def _last_outcome(retry_state: RetryCallState) -> Any:
    return None if retry_state.outcome is None else retry_state.outcome.result()


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that `Retry-After` asks for, as seconds or as an HTTP date; None without one.

    A date is measured from the answer's own `Date`, where it has one: the two clocks may differ.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return float(value)
    until = _timestamp(value)
    if until is None:
        return None
    since = _timestamp(headers.get("Date", ""))
    return max(0.0, until - (now() if since is None else since))


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
