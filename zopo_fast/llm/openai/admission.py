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
from zopo_fast.llm.openai.retry import Failure, Time

_DOWN = (UnreachableError, RequestTimeoutError, ServerError)


@dataclass
class Admitted:
    """Admitted attempt; the caller sets its outcome."""

    ticket: Ticket
    refused: Failure | None = None
    """Reason why the attempt must not be sent."""
    failure: Failure | None = None
    """Failure of the attempt."""
    tokens: int | None = None
    """Tokens of an answered attempt, where the response states them."""
    ended: bool = field(default=False)
    """The attempt was answered or failed; false where it was cancelled."""


class Admission:
    """Queue to an endpoint, of one event loop.

    Attempts are admitted in order of arrival. The first in the queue acquires a slot and asks the rate
    limiter; where it is too early, it releases the slot and sleeps. So a waiting attempt holds no slot, and a
    pause of the rate limiter delays the whole queue. Budgets are reserved before: an attempt in this queue
    holds a reservation, an attempt that waits for a reservation holds no slot, so the two cannot deadlock.
    """

    def __init__(
        self, concurrency: int, rate_limiter: RateLimiter, breaker: CircuitBreaker, time: Time, where: str
    ) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._first = asyncio.Lock()
        self._rate_limiter = rate_limiter
        self._breaker = breaker
        self._time = time
        self._where = where

    @asynccontextmanager
    async def admit(self, tokens: int) -> AsyncGenerator[Admitted, None]:
        """Admit an attempt of about `tokens` tokens; the block holds its slot."""
        admitted = await self._enter(tokens)
        if admitted.refused is not None:
            yield admitted
            return
        try:
            yield admitted
        finally:
            self._slots.release()
            self._leave(admitted)

    async def _enter(self, tokens: int) -> Admitted:
        async with self._first:
            while True:
                await self._slots.acquire()
                delay = self._rate_limiter.delay()
                if delay <= 0.0 and self._breaker.enter():
                    return Admitted(self._rate_limiter.take(tokens))
                self._slots.release()
                if (refused := self._refusal(delay)) is not None:
                    return Admitted(Ticket(0.0, 0), refused)
                await self._time.sleep(delay)

    def _refusal(self, delay: float) -> Failure | None:
        if self._breaker.is_open:
            problem = f"the endpoint is down: {self._breaker.failed} attempts in a row failed"
            return Failure(EndpointDownError, f"{self._where}: {problem}", final=True)
        if self._rate_limiter.is_hopeless():
            problem = f"too many requests: only 429 responses, and {delay:.3g} s more to wait"
            return Failure(RateLimitError, f"{self._where}: {problem}", final=True)
        return None

    def _leave(self, admitted: Admitted) -> None:
        failure = admitted.failure
        if not admitted.ended:
            self._breaker.leave(Outcome.UNKNOWN)
        elif failure is None:
            self._breaker.leave(Outcome.ANSWERED)
            self._rate_limiter.answered(admitted.ticket, admitted.tokens)
        else:
            self._breaker.leave(Outcome.DOWN if issubclass(failure.error, _DOWN) else Outcome.UNKNOWN)
            if failure.error is RateLimitError:
                self._rate_limiter.refused(admitted.ticket, failure.retry_after)
