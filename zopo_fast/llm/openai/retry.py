"""Retries of one call: exponential backoff, stated waits, and the rules for giving up."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from zopo_fast.errors import LLMError, UnreachableError
from zopo_fast.llm.openai.health import CallHealth
from zopo_fast.llm.openai.refusals.stated_wait import Wait

if TYPE_CHECKING:
    from zopo_fast.errors import Concern

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]

MIN_ATTEMPT_SECONDS = 1e-3  # aiohttp needs a positive timeout, also where a pause has overshot the budget
MAX_DOUBLINGS = 60  # of the backoff; beyond, its float would overflow

OUTAGE_ATTEMPTS = 6
"""Attempts after which a call that fails alone gives up, or one whose endpoint has never responded."""
MAX_TIMEOUTS = 6
"""Attempts of a call that end in a timeout; each may be billed."""
LONG_WAIT = 15.0
"""Seconds of waiting from which on a warning tells why."""
WARNING_INTERVAL = 30.0
"""Seconds between two such warnings of a client."""

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
    wait: Wait | None = None
    """Wait that the endpoint asks for."""
    final: bool = False
    """A retry cannot help."""
    lost: bool = False
    """The attempt may be billed all the same."""
    max_attempts: int | None = None
    """Attempts of a call at most where one fails like this; None: as in `Bounds`."""
    concerns: Concern | None = None
    """Part that the failure concerns; None: as for its class."""
    code: str | None = None
    """Short reason, such as "content_filter"."""
    is_outage: bool = False
    """The failure concerns the call if other calls are answered meanwhile, else the endpoint."""


@dataclass(frozen=True)
class Permit:
    """Permission to send an attempt, or the reason against it."""

    refused: Failure | None = None
    waited: float = 0.0
    """Seconds for which the attempt waited because the endpoint is down."""


Admit = Callable[[float], AbstractAsyncContextManager[Permit]]
"""Admits one attempt of a call that has the given seconds left."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a call's attempts; times in seconds; `max_attempts` of None: no bound but the time."""

    timeout: float
    max_attempts: int | None
    max_elapsed: float
    backoff_initial: float
    backoff_max: float


class WaitWarnings:
    """Warnings about long waits of one client, at most one in `WARNING_INTERVAL` seconds."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._next = 0.0

    def add(self, text: str) -> None:
        """Log `text`, unless the last warning is recent."""
        now = self._now()
        if now >= self._next or self._next == 0.0:
            self._next = now + WARNING_INTERVAL
            _log.warning("%s", text)


class Retry(Generic[T]):
    """Retries one call with exponential backoff and jitter, within `bounds`.

    Every attempt runs inside the context that `admit` returns; its permit holds a failure where the attempt
    must not be sent. A call that backs off holds no slot. `max_elapsed` counts attempts, pauses and the time
    that the endpoint is down, not the wait for a slot, so a long queue does not make a call fail.

    A call whose endpoint is down is retried until `max_elapsed`. Three cases end after six attempts: other
    calls are answered meanwhile, so that the failure concerns this call alone; the endpoint has never sent
    any response, so that its address is probably wrong; every attempt timed out, which may be billed.

    Args:
        bounds: bounds of the attempts.
        admit: admits one attempt.
        sleep: pauses between attempts.
        clock: time in seconds.
        rng: jitter of the backoff.
        health: failures of this call beside the other calls of the client.
        has_response: returns whether the endpoint has ever sent a response.
        warnings: receives the warnings about long waits.
    """

    def __init__(
        self,
        bounds: Bounds,
        admit: Admit,
        *,
        sleep: Sleep,
        clock: Clock,
        rng: random.Random,
        health: CallHealth,
        has_response: Callable[[], bool],
        warnings: WaitWarnings,
    ) -> None:
        self.attempts = 0
        """Attempts begun so far."""
        self._bounds = bounds
        self._admit = admit
        self._sleep = sleep
        self._clock = clock
        self._rng = rng
        self._health = health
        self._has_response = has_response
        self._warnings = warnings
        self._elapsed = 0.0
        self._is_last = False

    async def __call__(self, attempt: Callable[[float], Awaitable[T | Failure]]) -> T:
        """Return the result of `attempt(timeout in seconds)`.

        Raises:
            LLMError: the error of the last failure, with the reason for giving up.
        """
        while True:
            async with self._admit(self._left()) as permit:
                self._elapsed += permit.waited
                refused = permit.refused
                outcome = await self._timed(attempt) if refused is None else refused
            if not isinstance(outcome, Failure):
                self._health.answered()
                return outcome
            if refused is not None:
                reason = f"not sent again after {self._tried()}" if self.attempts else "not sent"
                raise self._error(outcome, reason)
            self._health.failed(outcome, enough=self.attempts >= OUTAGE_ATTEMPTS)
            pause = self._pause_after(outcome)
            if (verdict := self._verdict(outcome, pause)) is not None:
                raise self._error(outcome, verdict)
            _log.info("%s; attempt %d follows in %.2f s", outcome.message, self.attempts + 1, pause)
            if self._elapsed + pause >= LONG_WAIT:
                self._warnings.add(self._reason_to_wait(outcome))
            await self._wait(pause)

    def _error(self, failure: Failure, reason: str) -> LLMError:
        concerns = failure.concerns
        if failure.is_outage:
            concerns = "call" if self._health.is_single() else "endpoint"
        if not failure.final or failure.is_outage:
            self._health.given_up()
        return failure.error(f"{failure.message} ({reason})", concerns=concerns, code=failure.code)

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
        backoff *= 0.5 + 0.5 * self._rng.random()
        if failure.code == "HTTP 500" and self._health.others_are_answered:
            backoff = min(backoff, bounds.backoff_initial)  # the endpoint is up: a wait does not help
        if failure.wait is not None:
            return max(backoff, failure.wait.seconds)
        left = self._left()
        if backoff >= left > bounds.backoff_initial and not self._is_last:  # one more attempt in that time
            self._is_last = True
            return max(left, 0.0) / 2.0
        return backoff

    def _verdict(self, failure: Failure, pause: float) -> str | None:  # noqa: PLR0911 - one return a rule
        """Return the reason for giving up after `failure`; None: retry after `pause`."""
        bounds, left = self._bounds, self._left()
        tried = f"gave up after {self._tried()}"
        if failure.final:
            return "not retried" if self.attempts == 1 else tried
        if (wait := failure.wait) is not None and wait.seconds > left:
            return (
                f"{tried}: the endpoint asks to wait {wait.seconds:g} s ({wait.source}), longer than the "
                f"{max(left, 0):.3g} s left of max_elapsed={bounds.max_elapsed:g} s (--max-wait)"
            )
        if bounds.max_attempts is not None and self.attempts >= bounds.max_attempts:
            return f"{tried}, max_attempts={bounds.max_attempts}"
        if failure.max_attempts is not None and self.attempts >= failure.max_attempts:
            return tried
        if self.attempts >= OUTAGE_ATTEMPTS and (reason := self._hopeless(failure)) is not None:
            return f"{tried}; {reason}"
        if pause >= left:
            return f"{tried}, max_elapsed={bounds.max_elapsed:g} s (--max-wait) is used up"
        return None

    def _hopeless(self, failure: Failure) -> str | None:
        """Return why a wait for the endpoint does not help; None: it may."""
        if failure.is_outage and self._health.is_single():
            return "other calls were answered"
        if issubclass(failure.error, UnreachableError) and not self._has_response():
            return "the endpoint has never sent a response"
        return None

    def _reason_to_wait(self, failure: Failure) -> str:
        if failure.wait is not None and failure.wait.seconds >= LONG_WAIT:
            wait = failure.wait
            return f"the endpoint asks to wait {wait.seconds:.4g} s ({wait.source}): {failure.message}"
        return (
            f"waiting for the endpoint, {self._elapsed:.0f} s so far, at most {self._left():.0f} s more: "
            f"{failure.message}"
        )

    async def _wait(self, seconds: float) -> None:
        start = self._clock()
        await self._sleep(seconds)
        # A replaced sleep may return early; it counts in full.
        self._elapsed += max(self._clock() - start, seconds)

    def _tried(self) -> str:
        return f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"

    def _left(self) -> float:
        return self._bounds.max_elapsed - self._elapsed
