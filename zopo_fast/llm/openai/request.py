"""One call to an endpoint: every attempt reserved, admitted, sent, read and paid for."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from zopo_fast.llm.openai.admission import Admission, Admitted
from zopo_fast.llm.openai.retry import Bounds, Clock, Failure, Retry, Sleep
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.limits import Reservation
    from zopo_fast.llm.openai.responses import Document
    from zopo_fast.llm.types import Payer


class Parsed(Protocol):
    """What was read from an answer, with the tokens it states, None where it does not."""

    @property
    def prompt_tokens(self) -> int | None: ...

    @property
    def completion_tokens(self) -> int | None: ...


R = TypeVar("R", bound=Parsed)
Send = Callable[[float], Awaitable["Document | Failure"]]


class Call(Generic[R]):
    """A call that is sent with `send(seconds allowed)` and understood by `read`.

    `expected`: tokens for the pace. `account` and `bound`: what pays for it, and the most an attempt takes.
    """

    def __init__(
        self,
        admission: Admission,
        send: Send,
        read: Callable[[Document], R | Failure],
        *,
        expected: int = 0,
        account: Payer | None = None,
        bound: Usage | None = None,
    ) -> None:
        self.extra = Usage()
        """Retries and lost calls so far."""
        self._admission = admission
        self._send = send
        self._read = read
        self._expected = expected
        self._account = account
        self._bound = bound or Usage()
        self._admitted: Admitted | None = None
        self._reservation: Reservation | None = None

    async def __call__(self, bounds: Bounds, *, sleep: Sleep, clock: Clock, rng: random.Random) -> R:
        """Return what was read of the answer; raises the last attempt's error, or `LimitReachedError`."""
        retry: Retry[R] = Retry(bounds, self._turn, sleep=sleep, clock=clock, rng=rng)
        try:
            return await retry(self._attempt)
        finally:
            self.extra += Usage(retries=max(0, retry.attempts - 1))

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[Failure | None, None]:
        """Reservation the money and the slot of one attempt."""
        # Before the queue, where it may wait long and must hold no slot.
        self._reservation = None if self._account is None else await self._account.reserve(self._bound)
        try:
            async with self._admission.turn(self._expected) as self._admitted:
                yield self._admitted.refused
        finally:
            if self._account is not None and self._reservation is not None:
                self._account.release(self._reservation)  # where it was not sent; else it has been settled

    async def _attempt(self, allowed: float) -> R | Failure:
        outcome: R | Failure | None = None
        try:
            document = await self._send(allowed)
            outcome = document if isinstance(document, Failure) else self._read(document)
            return outcome
        finally:
            self._settle(outcome)

    def _settle(self, outcome: R | Failure | None) -> None:
        """Pay for an attempt that was sent; None: it was cancelled."""
        admitted = self._admitted
        lost = outcome is None or (isinstance(outcome, Failure) and outcome.lost)
        if lost:
            self.extra += Usage(lost_calls=1)
        if admitted is not None and outcome is not None:
            admitted.ended = True
            if isinstance(outcome, Failure):
                admitted.failure = outcome
            elif outcome.prompt_tokens is not None and outcome.completion_tokens is not None:
                admitted.tokens = outcome.prompt_tokens + outcome.completion_tokens
        if self._account is None or self._reservation is None:
            return
        if lost:
            self._account.forfeit(self._reservation)
        elif isinstance(outcome, Failure) or outcome is None:
            self._account.release(self._reservation)
        else:
            self._account.settle(self._reservation, self._charge(outcome))

    def _charge(self, reading: R) -> Usage:
        """What an answer is charged: what it does not state counts as much as it can be."""
        prompt, completion = reading.prompt_tokens, reading.completion_tokens
        return Usage(
            self._bound.prompt_tokens if prompt is None else prompt,
            self._bound.completion_tokens if completion is None else completion,
            calls=1,
        )
