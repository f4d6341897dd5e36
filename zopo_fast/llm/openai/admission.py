"""Queue of attempts to an endpoint: circuit breaker, rate limit, concurrency slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from zopo_fast.errors import (
    EndpointDownError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    UnreachableError,
)
from zopo_fast.llm.openai.circuit_breaker import CircuitBreaker, Outcome
from zopo_fast.llm.openai.rate_limit import RateLimiter, Ticket
from zopo_fast.llm.openai.retry import LONG_WAIT, Failure, Time, WaitWarnings

_DOWN = (UnreachableError, RequestTimeoutError, ServerError)


@dataclass
class Admitted:
    """Admitted attempt; the caller sets its outcome."""

    ticket: Ticket
    refused: Failure | None = None
    """Reason why the attempt must not be sent."""
    waited: float = 0.0
    """Seconds of waiting while the circuit breaker was open."""
    is_probe: bool = False
    """The circuit breaker is open, and the attempt tells whether it may close."""
    failure: Failure | None = None
    """Failure of the attempt."""
    is_single: bool = False
    """Other calls were answered since this one failed first, so that its failures say nothing about them."""
    tokens: int | None = None
    """Tokens of an answered attempt, where the response states them."""
    ended: bool = field(default=False)
    """The attempt was answered or failed; false where it was cancelled."""


class Admission:
    """Queue to an endpoint, of one event loop.

    Attempts are admitted in order of arrival. The first in the queue acquires a slot and asks the rate
    limiter; where it is too early, it releases the slot and sleeps. So a waiting attempt holds no slot, and a
    pause of the rate limiter delays the whole queue. While the circuit breaker is open, the first in the
    queue waits until it may be sent as a probe, or until its time is used up.

    Budgets are reserved before: an attempt in this queue holds a reservation, an attempt that waits for a
    reservation holds no slot, so the two cannot deadlock.
    """

    def __init__(
        self,
        concurrency: int,
        rate_limiter: RateLimiter,
        breaker: CircuitBreaker,
        time: Time,
        where: str,
        warnings: WaitWarnings,
    ) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._first = asyncio.Lock()
        self._rate_limiter = rate_limiter
        self._breaker = breaker
        self._time = time
        self._where = where
        self._warnings = warnings
        self._in_flight = 0
        self._ended = asyncio.Event()  # set, and replaced, whenever an attempt ends
        self._last_words = ""

    @asynccontextmanager
    async def admit(self, tokens: int, left: float) -> AsyncGenerator[Admitted, None]:
        """Admit an attempt of about `tokens` tokens; the block holds its slot.

        Args:
            tokens: tokens that the attempt may take.
            left: seconds after which the attempt is refused while the circuit breaker is open.
        """
        admitted = await self._enter(tokens, left)
        if admitted.refused is not None:
            yield admitted
            return
        try:
            yield admitted
        finally:
            self._slots.release()
            self._leave(admitted)

    async def _enter(self, tokens: int, left: float) -> Admitted:
        before = self._breaker.open_seconds
        async with self._first:
            while True:
                await self._slots.acquire()
                delay = self._rate_limiter.delay()
                is_probe = self._breaker.is_open
                waited = self._breaker.open_seconds - before
                if delay <= 0.0 and (not is_probe or waited < left) and self._breaker.enter():
                    self._in_flight += 1
                    ticket = self._rate_limiter.take(tokens)
                    return Admitted(ticket, waited=waited, is_probe=is_probe)
                self._slots.release()
                if (refused := self._refusal(delay, left - waited)) is not None:
                    return Admitted(Ticket(0.0, 0), refused)
                await self._pause(delay, left - waited)

    def _refusal(self, delay: float, left: float) -> Failure | None:
        said = f"; its last response: {self._last_words}" if self._last_words else ""
        if self._breaker.is_open and left <= 0.0:
            problem = f"the endpoint is down: {self._breaker.failed} attempts in a row failed{said}"
            return Failure(
                EndpointDownError,
                f"{self._where}: {problem}",
                final=True,
                concerns="endpoint",
                code="endpoint_down",
            )
        if self._rate_limiter.is_hopeless():
            problem = f"too many requests: only 429 responses, and {delay:.3g} s more to wait{said}"
            return Failure(
                RateLimitError, f"{self._where}: {problem}", final=True, concerns="account", code="HTTP 429"
            )
        return None

    async def _pause(self, delay: float, left: float) -> None:
        if not self._breaker.is_open:
            await self._time.sleep(delay)
        elif self._breaker.is_probing and self._in_flight:
            await self._ended.wait()
        else:
            # The probe of another event loop ends unseen: look again after a second.
            until = max(delay, self._breaker.delay()) or 1.0
            if until >= LONG_WAIT:
                self._warnings.add(
                    f"{self._where}: the endpoint is down, the next attempt follows in {until:.3g} s; its "
                    f"last response: {self._last_words}"
                )
            await self._time.sleep(min(until, left))

    def _leave(self, admitted: Admitted) -> None:
        self._in_flight -= 1
        failure = admitted.failure
        outcome = Outcome.UNKNOWN
        if failure is not None:
            self._last_words = failure.message
        if admitted.ended and failure is None:
            outcome = Outcome.ANSWERED
            self._rate_limiter.answered(admitted.ticket, admitted.tokens)
        elif admitted.ended and failure is not None:
            if issubclass(failure.error, _DOWN) and not failure.final and not admitted.is_single:
                outcome = Outcome.DOWN
            if failure.error is RateLimitError:
                seconds = None if failure.wait is None else failure.wait.seconds
                self._rate_limiter.refused(admitted.ticket, seconds)
        self._breaker.leave(outcome, was_probe=admitted.is_probe)
        self._ended.set()
        self._ended = asyncio.Event()
