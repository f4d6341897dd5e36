"""What an attempt passes on its way to the endpoint: the breaker, the pace, a free slot."""

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
    """An attempt that may be made, or why not; whoever makes it says what came of it."""

    ticket: Ticket
    refused: Failure | None = None
    failure: Failure | None = None
    """Set where the attempt failed."""
    tokens: int | None = None
    """Set where it was answered and said what it took."""
    ended: bool = field(default=False)
    """Set once it came to an end, good or bad; not where it was cancelled."""


class Admission:
    """One event loop's queue to an endpoint.

    Attempts are let in one after another, in the order they came. The first in the queue waits for a slot,
    then looks at the pace, and where it is too early gives the slot back and waits: nothing is held by one
    that waits, and none is sent later than it was paced for. All others wait for the first, so a pause holds
    up everyone. Budgets are reserved before: those in this queue hold reservations, those that wait for one
    are not in the queue and hold no slot, so the two cannot wait for each other.
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
    async def turn(self, tokens: int) -> AsyncGenerator[Admitted, None]:
        """Wait for the turn of an attempt that may take so many tokens; a slot is held inside the block."""
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
            problem = f"the endpoint is down: {self._breaker.failed} attempts in a row came to nothing"
            return Failure(EndpointDownError, f"{self._where}: {problem}", final=True)
        if self._rate_limiter.is_hopeless():
            problem = f"too many requests: nothing but 429, and {delay:.3g} s more to wait"
            return Failure(RateLimitError, f"{self._where}: {problem}", final=True)
        return None

    def _leave(self, admitted: Admitted) -> None:
        failure = admitted.failure
        if not admitted.ended:
            self._breaker.leave(Outcome.NEITHER)
        elif failure is None:
            self._breaker.leave(Outcome.GOOD)
            self._rate_limiter.answered(admitted.ticket, admitted.tokens)
        else:
            self._breaker.leave(Outcome.DOWN if issubclass(failure.error, _DOWN) else Outcome.NEITHER)
            if failure.error is RateLimitError:
                self._rate_limiter.refused(admitted.ticket, failure.retry_after)
