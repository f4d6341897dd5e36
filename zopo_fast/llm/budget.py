"""Hard limits of a run: each call reserves its upper bound before it is sent and settles its cost after.

    account = Account(Limits(calls=1000, cost=2.0), Prices(prompt=0.15, completion=0.60))
    model = MeteredModel(client, account)
    try:
        answer = await model.chat(messages)
    except LimitReachedError as reached:
        print(reached.limit, account.spent)

The sum of spent and reserved budget never exceeds a limit, however many calls are in flight. An attempt whose
answer was lost may be billed: its whole reservation is charged.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError, LimitReachedError, ZopoError
from zopo_fast.llm.limits import Left, Limits, Prices, Reservation, Spent
from zopo_fast.llm.types import Usage

_log = logging.getLogger(__name__)


class Ledger(Protocol):
    """Log of reservations that survives the process, so that a resumed run knows what was spent.

    An unsettled reservation counts in full. `settled` may name a reservation that was never written, where
    writing it was interrupted.
    """

    async def reserved(self, reservation_id: str, calls: int, tokens: int, cost: float, /) -> None:
        """Write a reservation; return once it is durable. The call is sent only then."""

    def settled(self, reservation_id: str, calls: int, tokens: int, cost: float, /) -> None:
        """Write the final cost of a reservation."""


@public
class Account:
    """Budget of a run: what is spent and reserved, against the limits; belongs to one event loop.

    End each reservation once, by `settle`, `release` or `forfeit`; ending it again changes nothing.

    Args:
        limits: the limits.
        prices: prices of tokens, required by a limit of cost.
        ledger: log of reservations that survives the process.
        clock: time in seconds.

    Raises:
        ConfigError: a limit of cost without prices.
    """

    def __init__(
        self,
        limits: Limits,
        prices: Prices | None = None,
        *,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if limits.cost is not None and prices is None:
            raise ConfigError(
                "limits: a limit of cost needs prices; give the prices of a million tokens in and out"
            )
        self.limits = limits
        self.prices = prices
        self._ledger = ledger
        self._clock = clock
        self._started = clock()
        self._calls, self._tokens, self._cost = 0, 0, 0.0
        self._open: set[str] = set()
        self._reserved_calls, self._reserved_prompt, self._reserved_completion = 0, 0, 0
        self._queue: deque[tuple[Reservation, asyncio.Future[None]]] = deque()

    @property
    def bounded(self) -> bool:
        """True if the tokens of a call must be bounded before it is sent."""
        return self.limits.tokens is not None or self.limits.cost is not None

    @property
    def spent(self) -> Spent:
        """Spent budget, without reservations."""
        return Spent(self._calls, self._tokens, self._cost, self._clock() - self._started)

    @property
    def outstanding(self) -> int:
        """Number of open reservations."""
        return len(self._open)

    @property
    def deadline(self) -> float | None:
        """End of the time limit, by the account's clock; None: no limit."""
        return None if self.limits.seconds is None else self._started + self.limits.seconds

    def left(self) -> Left:
        """Return the budget left for new calls."""
        limits = self.limits
        calls, tokens, cost = self._committed()
        return Left(
            None if limits.calls is None else max(0, limits.calls - calls),
            None if limits.tokens is None else max(0, limits.tokens - tokens),
            None if limits.cost is None else max(0.0, limits.cost - cost),
            None if self.deadline is None else max(0.0, self.deadline - self._clock()),
        )

    async def expired(self) -> None:
        """Wait for the end of the time limit; without a limit, wait forever."""
        while (seconds := self.left().seconds) != 0:
            if seconds is None:
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(seconds)

    def state(self) -> dict[str, float]:
        """Return the state for `restore` as JSON values; open reservations count as spent."""
        calls, tokens, cost = self._committed()
        return {"calls": calls, "tokens": tokens, "cost": cost, "seconds": self._clock() - self._started}

    def restore(self, state: Mapping[str, float]) -> None:
        """Add the budget spent by earlier runs: calls, tokens, cost and seconds, each 0 by default."""
        self._calls += int(state.get("calls", 0))
        self._tokens += int(state.get("tokens", 0))
        self._cost += float(state.get("cost", 0.0))
        self._started -= float(state.get("seconds", 0.0))
        self._advance()

    # ---- reservations ------------------------------------------------------------------------------

    async def reserve(self, bound: Usage) -> Reservation:
        """Reserve the upper bound of one attempt.

        Waits, in order of arrival, while open reservations may still leave room.

        Args:
            bound: at least one call, and the tokens it may take.

        Raises:
            LimitReachedError: the time is up, or there is no room and no reservation is open.
        """
        prompt, completion = bound.prompt_tokens, bound.completion_tokens
        cost = self._price(prompt, completion)
        reservation = Reservation(uuid.uuid4().hex, max(1, bound.calls), prompt, completion, cost)
        await self._wait_for_room(reservation)
        if self._ledger is not None:
            try:
                await self._ledger.reserved(
                    reservation.id, reservation.calls, reservation.tokens, reservation.cost
                )
            except BaseException:
                with suppress(ZopoError):  # raise the error of the ledger, not that of the release
                    self.release(reservation)
                raise
        return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Charge an answered attempt; an estimated usage is charged at the reservation or above.

        A usage above the reservation is charged as stated and logged as a warning.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if usage.estimated_calls:
            prompt, completion = max(prompt, reservation.prompt), max(completion, reservation.completion)
        calls = usage.calls + usage.lost_calls or (0 if usage.cached else 1)
        cost = self._price(prompt, completion)
        over = self.bounded and (prompt > reservation.prompt or completion > reservation.completion)
        if reservation.id in self._open and (over or calls > reservation.calls):
            _log.warning(
                "a call exceeded its upper bound: stated %d calls, %d + %d tokens; reserved %d calls, "
                "%d + %d tokens; charged as stated",
                *(calls, prompt, completion, reservation.calls, reservation.prompt, reservation.completion),
            )
        self._end(reservation, calls, prompt + completion, cost)

    def release(self, reservation: Reservation) -> None:
        """Free a reservation: the attempt was certainly not billed."""
        self._end(reservation, 0, 0, 0.0)

    def forfeit(self, reservation: Reservation) -> None:
        """Charge a whole reservation: the attempt may be billed, and its answer is lost."""
        self._end(reservation, reservation.calls, reservation.tokens, reservation.cost)

    def _end(self, reservation: Reservation, calls: int, tokens: int, cost: float) -> None:
        if not self._drop(reservation):
            return
        self._calls, self._tokens, self._cost = self._calls + calls, self._tokens + tokens, self._cost + cost
        self._advance()
        if self._ledger is not None:
            self._ledger.settled(reservation.id, calls, tokens, cost)

    def _price(self, prompt: int, completion: int) -> float:
        return 0.0 if self.prices is None else self.prices.of(prompt, completion)

    def _committed(self) -> tuple[int, int, float]:
        """Return calls, tokens and cost, spent and reserved."""
        tokens = self._tokens + self._reserved_prompt + self._reserved_completion
        cost = self._cost + self._price(self._reserved_prompt, self._reserved_completion)
        return self._calls + self._reserved_calls, tokens, cost

    def _take(self, reservation: Reservation) -> None:
        self._open.add(reservation.id)
        self._reserved_calls += reservation.calls
        self._reserved_prompt += reservation.prompt
        self._reserved_completion += reservation.completion

    def _drop(self, reservation: Reservation) -> bool:
        """Free a reservation; return False where it had ended before."""
        if reservation.id not in self._open:
            return False
        self._open.remove(reservation.id)
        self._reserved_calls -= reservation.calls
        self._reserved_prompt -= reservation.prompt
        self._reserved_completion -= reservation.completion
        return True

    async def _wait_for_room(self, reservation: Reservation) -> None:
        """Wait for room for a reservation, in order of arrival, and take it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((reservation, future))
        self._advance()
        seconds = self.left().seconds
        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._advance)
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._drop(reservation)  # granted just before the cancellation
            self._advance()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _advance(self) -> None:
        """Serve the queue while there is room; refuse where no open reservation can make room."""
        while self._queue:
            reservation, future = self._queue[0]
            problem = self._problem(reservation)
            if future.done():  # cancelled
                pass
            elif problem is None:
                self._take(reservation)
                future.set_result(None)
            elif self._open and problem.limit != "time":
                return
            else:
                future.set_exception(problem)
            self._queue.popleft()

    def _problem(self, reservation: Reservation) -> LimitReachedError | None:
        """Return the error of a reservation that has no room; None: it has."""
        left, limits = self.left(), self.limits
        if left.seconds == 0:
            return LimitReachedError(f"the limit of {limits.seconds:g} s is reached", "time")
        if left.calls is not None and reservation.calls > left.calls:
            return LimitReachedError(f"the limit of {limits.calls} calls is reached", "calls")
        if left.tokens is not None and reservation.tokens > left.tokens:
            return LimitReachedError(
                f"the limit of {limits.tokens} tokens is reached: {self._tokens} are spent, and the next "
                f"call may take up to {reservation.tokens}",
                "tokens",
            )
        if left.cost is not None and reservation.cost > left.cost:
            return LimitReachedError(
                f"the cost limit of {limits.cost:g} is reached: {self._cost:.6g} is spent, and the next call "
                f"may cost up to {reservation.cost:.3g}",
                "cost",
            )
        return None
