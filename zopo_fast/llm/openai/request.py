"""One call to an endpoint: each attempt is reserved, admitted, sent, parsed and charged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from zopo_fast._utils.tracing import Described
from zopo_fast.llm.openai.admission import Admission, Admitted
from zopo_fast.llm.openai.retry import Admit, Failure, Permit, Retry
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.limits import Reservation
    from zopo_fast.llm.openai.health import CallHealth
    from zopo_fast.llm.openai.responses import Document
    from zopo_fast.llm.types import Payer


class Parsed(Described, Protocol):
    """Parsed response with the token counts it states; None where it states no credible count."""

    @property
    def prompt_tokens(self) -> int | None: ...

    @property
    def completion_tokens(self) -> int | None: ...


R = TypeVar("R", bound=Parsed)
Send = Callable[[float], Awaitable["Document | Failure"]]


class Call(Generic[R]):
    """One call with its retries.

    Args:
        admission: queue to the endpoint.
        send: sends one attempt, given its timeout in seconds.
        parse: parses the response.
        expected: tokens an attempt may take, for the rate limiter.
        account: budget that pays for every attempt; None: no limit.
        bound: upper bound of an attempt's usage.
    """

    def __init__(
        self,
        admission: Admission,
        send: Send,
        parse: Callable[[Document], R | Failure],
        *,
        expected: int = 0,
        account: Payer | None = None,
        bound: Usage | None = None,
    ) -> None:
        self.extra = Usage()
        """Retries and lost calls so far."""
        self._admission = admission
        self._send = send
        self._parse = parse
        self._expected = expected
        self._account = account
        self._bound = bound or Usage()
        self._admitted: Admitted | None = None
        self._health: CallHealth | None = None
        self._reservation: Reservation | None = None

    async def __call__(self, health: CallHealth, retry_of: Callable[[Admit], Retry[R]]) -> R:
        """Return the parsed response.

        Args:
            health: failures of this call beside the other calls of the client.
            retry_of: makes the retries of a call whose attempts are admitted as given.

        Raises:
            LLMError: the last attempt failed.
            LimitReachedError: the account has no room for the next attempt.
        """
        self._health = health
        retry = retry_of(self._admit)
        try:
            return await retry(self._attempt)
        finally:
            self.extra += Usage(retries=max(0, retry.attempts - 1))

    @asynccontextmanager
    async def _admit(self, left: float) -> AsyncGenerator[Permit, None]:
        """Hold the reservation and the slot of one attempt of a call that has `left` seconds."""
        # Reserve before queueing: reserving can block for long, and must not hold a slot.
        self._reservation = None if self._account is None else await self._account.reserve(self._bound)
        try:
            async with self._admission.admit(self._expected, left) as self._admitted:
                yield Permit(self._admitted.refused, self._admitted.waited)
        finally:
            if self._account is not None and self._reservation is not None:
                # Frees the reservation of an attempt that was not sent; after settling it has no effect.
                self._account.release(self._reservation)

    async def _attempt(self, timeout: float) -> R | Failure:
        outcome: R | Failure | None = None
        try:
            document = await self._send(timeout)
            outcome = document if isinstance(document, Failure) else self._parse(document)
            return outcome
        finally:
            self._settle(outcome)

    def _settle(self, outcome: R | Failure | None) -> None:
        """Charge a sent attempt; an outcome of None means that it was cancelled."""
        admitted = self._admitted
        lost = outcome is None or (isinstance(outcome, Failure) and outcome.lost)
        if lost:
            self.extra += Usage(lost_calls=1)
        if admitted is not None and outcome is not None:
            admitted.ended = True
            if isinstance(outcome, Failure):
                admitted.failure = outcome
                admitted.is_single = self._health is not None and self._health.others_are_answered
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

    def _charge(self, parsed: R) -> Usage:
        """Return the usage to charge: a count that the response does not state is charged at its bound."""
        prompt, completion = parsed.prompt_tokens, parsed.completion_tokens
        return Usage(
            self._bound.prompt_tokens if prompt is None else prompt,
            self._bound.completion_tokens if completion is None else completion,
            calls=1,
        )
