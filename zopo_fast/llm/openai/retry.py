"""Retries of one call: exponential backoff, Retry-After, and the rules for giving up."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

from zopo_fast.errors import LLMError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]

MIN_ATTEMPT_SECONDS = 1e-3  # aiohttp needs a positive timeout, also where a pause has overshot the budget
MAX_DOUBLINGS = 60  # of the backoff; beyond, its float would overflow

_log = logging.getLogger(__name__)


class Time:
    """Clock with its sleep. A sleep that returns early, as in tests, advances the clock all the same."""

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._ahead = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return self._clock() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        until = self.now() + seconds
        await self._sleep(seconds)
        self._ahead += max(0.0, until - self.now())


@dataclass(frozen=True)
class Failure:
    """Failed attempt. A value instead of an exception, so that no error of the transport is chained to it."""

    error: type[LLMError]
    message: str
    retry_after: float | None = None
    """Seconds the server asks to wait."""
    final: bool = False
    """A retry cannot help."""
    lost: bool = False
    """The attempt may be billed all the same."""
    max_attempts: int | None = None
    """Attempts of a call at most where one fails like this; None: as in `Bounds`."""


Admit = Callable[[], AbstractAsyncContextManager[Failure | None]]


@dataclass(frozen=True)
class Bounds:
    """Bounds of a call's attempts; times in seconds."""

    timeout: float
    max_attempts: int
    max_elapsed: float
    backoff_initial: float
    backoff_max: float


class Retry(Generic[T]):
    """Retries one call with exponential backoff and jitter, within `bounds`.

    Every attempt runs inside the context that `admit` returns; the context yields a failure where the attempt
    must not be sent. A call that backs off holds no slot. `max_elapsed` counts attempts and pauses, not the
    wait for admission, so a long queue does not make a call fail.

    Args:
        bounds: bounds of the attempts.
        admit: admits one attempt.
        sleep: pauses between attempts.
        clock: time in seconds.
        rng: jitter of the backoff.
    """

    def __init__(
        self, bounds: Bounds, admit: Admit, *, sleep: Sleep, clock: Clock, rng: random.Random
    ) -> None:
        self.attempts = 0
        """Attempts begun so far."""
        self._bounds = bounds
        self._admit = admit
        self._sleep = sleep
        self._clock = clock
        self._rng = rng
        self._elapsed = 0.0

    async def __call__(self, attempt: Callable[[float], Awaitable[T | Failure]]) -> T:
        """Return the result of `attempt(timeout in seconds)`.

        Raises:
            LLMError: the error of the last failure, with the reason for giving up.
        """
        while True:
            async with self._admit() as refused:
                outcome = await self._timed(attempt) if refused is None else refused
            if not isinstance(outcome, Failure):
                return outcome
            if refused is not None:
                reason = f"not sent again after {self._tried()}" if self.attempts else "not sent"
                raise outcome.error(f"{outcome.message} ({reason})")
            pause = self._pause_after(outcome)
            if (verdict := self._verdict(outcome, pause)) is not None:
                raise outcome.error(f"{outcome.message} ({verdict})")
            _log.info("%s; attempt %d follows in %.2f s", outcome.message, self.attempts + 1, pause)
            await self._wait(pause)

    async def _timed(self, attempt: Callable[[float], Awaitable[T | Failure]]) -> T | Failure:
        self.attempts += 1
        start = self._clock()
        try:
            return await attempt(max(min(self._bounds.timeout, self._left()), MIN_ATTEMPT_SECONDS))
        finally:
            self._elapsed += self._clock() - start

    def _pause_after(self, failure: Failure) -> float:
        bounds = self._bounds
        doublings = min(self.attempts - 1, MAX_DOUBLINGS)
        backoff = min(bounds.backoff_max, bounds.backoff_initial * 2.0**doublings)
        # Half fixed, half random: never near zero, and calls that failed together are not retried together.
        return max(backoff * (0.5 + 0.5 * self._rng.random()), failure.retry_after or 0.0)

    def _verdict(self, failure: Failure, pause: float) -> str | None:
        """Return the reason for giving up after `failure`; None: retry after `pause`."""
        bounds, left = self._bounds, self._left()
        tried = f"gave up after {self._tried()}"
        limit = min(bounds.max_attempts, failure.max_attempts or bounds.max_attempts)
        if failure.final:
            return "not retried" if self.attempts == 1 else tried
        if failure.retry_after is not None and failure.retry_after > left:
            return (
                f"{tried}: Retry-After of {failure.retry_after:g} s exceeds the {max(left, 0):.3g} s left of "
                f"max_elapsed={bounds.max_elapsed:g} s"
            )
        if self.attempts >= limit:
            return f"{tried}, max_attempts={limit}" if limit == bounds.max_attempts else tried
        if pause >= left:
            return f"{tried}, max_elapsed={bounds.max_elapsed:g} s is used up"
        return None

    async def _wait(self, seconds: float) -> None:
        start = self._clock()
        await self._sleep(seconds)
        # A replaced sleep may return early; it counts in full.
        self._elapsed += max(self._clock() - start, seconds)

    def _tried(self) -> str:
        return f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"

    def _left(self) -> float:
        return self._bounds.max_elapsed - self._elapsed


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds of a `Retry-After` header, given in seconds or as an HTTP date; None without one.

    A date is measured from the response's own `Date` header, where present: the clocks may differ.
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
