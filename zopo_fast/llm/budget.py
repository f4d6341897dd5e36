"""Hard limits of a run: what a call may take at most is reserved before it is sent, and settled after it.

    account = Account(Limits(calls=1000, cost=2.0), Prices(prompt=0.15, completion=0.60))
    model = MeteredModel(client, account)
    try:
        answer = await model.chat(messages)
    except LimitReachedError as reached:
        print(reached.limit, account.spent)

What is spent and what is reserved together never exceed a limit, however many calls are in flight. An attempt
that may be billed although its answer was lost counts with all that was reserved for it.
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
    """Keeps what an account does, so that a run that is killed knows what it may have spent.

    A reservation that was never settled counts in full. `settled` may name one that was not written, where
    writing it was cut short.
    """

    async def reserved(self, reservation_id: str, calls: int, tokens: int, cost: float, /) -> None:
        """Keep a reservation; returns once it is safe, and only then is the call sent."""

    def settled(self, reservation_id: str, calls: int, tokens: int, cost: float, /) -> None:
        """Keep what a reservation came to in the end."""


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
            raise ConfigError("a limit of cost needs the prices of a million tokens in and out")
        self.limits = limits
        self.prices = prices
        self._ledger = ledger
        self._clock = clock
        self._begun = clock()
        self._calls, self._tokens, self._cost = 0, 0, 0.0
        self._held: set[str] = set()
        self._held_calls, self._held_prompt, self._held_completion = 0, 0, 0
        self._queue: deque[tuple[Reservation, asyncio.Future[None]]] = deque()

    @property
    def bounded(self) -> bool:
        """Whether a call's tokens have to be bounded before it is sent."""
        return self.limits.tokens is not None or self.limits.cost is not None

    @property
    def spent(self) -> Spent:
        """What is spent; not what is only reserved."""
        return Spent(self._calls, self._tokens, self._cost, self._clock() - self._begun)

    @property
    def outstanding(self) -> int:
        """Reservations that have not ended."""
        return len(self._held)

    @property
    def deadline(self) -> float | None:
        """When the time is up, by the account's clock; None: never."""
        return None if self.limits.seconds is None else self._begun + self.limits.seconds

    def left(self) -> Left:
        """What is still there for new calls."""
        limits = self.limits
        calls, tokens, cost = self._committed()
        return Left(
            None if limits.calls is None else max(0, limits.calls - calls),
            None if limits.tokens is None else max(0, limits.tokens - tokens),
            None if limits.cost is None else max(0.0, limits.cost - cost),
            None if self.deadline is None else max(0.0, self.deadline - self._clock()),
        )

    async def expired(self) -> None:
        """Return when the time is up: at once where it is, never where there is no limit."""
        while (seconds := self.left().seconds) != 0:
            if seconds is None:
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(seconds)

    def state(self) -> dict[str, float]:
        """Return what `restore` takes, JSON values; what is reserved now counts as spent in it."""
        calls, tokens, cost = self._committed()
        return {"calls": calls, "tokens": tokens, "cost": cost, "seconds": self._clock() - self._begun}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what was spent before: calls, tokens, cost and seconds; what is left out is 0."""
        self._calls += int(state.get("calls", 0))
        self._tokens += int(state.get("tokens", 0))
        self._cost += float(state.get("cost", 0.0))
        self._begun -= float(state.get("seconds", 0.0))
        self._advance()

    # ---- reservations ------------------------------------------------------------------------------

    async def reserve(self, bound: Usage) -> Reservation:
        """Reserve the most that one attempt can take: `bound.calls` (at least 1) and its tokens.

        Waits, in order of arrival, while other reservations are outstanding, which may leave room. Raises
        `LimitReachedError` where there is no room and none is outstanding, or the time is up.
        """
        prompt, completion = bound.prompt_tokens, bound.completion_tokens
        cost = self._price(prompt, completion)
        reservation = Reservation(uuid.uuid4().hex, max(1, bound.calls), prompt, completion, cost)
        await self._room(reservation)
        if self._ledger is not None:
            try:
                await self._ledger.reserved(
                    reservation.id, reservation.calls, reservation.tokens, reservation.cost
                )
            except BaseException:
                with suppress(ZopoError):  # where nothing can be written that is the error to raise
                    self.release(reservation)
                raise
        return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Charge what an answered attempt took; tokens that are an estimate count as all that was reserved.

        More than was reserved, which no server should state, is charged too and logged as a warning.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if usage.estimated_calls:
            prompt, completion = max(prompt, reservation.prompt), max(completion, reservation.completion)
        calls = usage.calls + usage.lost_calls or (0 if usage.cached else 1)
        cost = self._price(prompt, completion)
        over = self.bounded and (prompt > reservation.prompt or completion > reservation.completion)
        if reservation.id in self._held and (over or calls > reservation.calls):
            _log.warning(
                "a call took more than the most it can take: %d calls, %d + %d tokens stated, "
                "%d calls, %d + %d reserved; charged as stated",
                *(calls, prompt, completion, reservation.calls, reservation.prompt, reservation.completion),
            )
        self._end(reservation, calls, prompt + completion, cost)

    def release(self, reservation: Reservation) -> None:
        """Free all that was reserved: the attempt was surely not billed."""
        self._end(reservation, 0, 0, 0.0)

    def forfeit(self, reservation: Reservation) -> None:
        """Charge all that was reserved: the attempt may be billed, its answer is lost."""
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
        """Calls, tokens and cost that are spent or reserved."""
        tokens = self._tokens + self._held_prompt + self._held_completion
        cost = self._cost + self._price(self._held_prompt, self._held_completion)
        return self._calls + self._held_calls, tokens, cost

    def _take(self, reservation: Reservation) -> None:
        self._held.add(reservation.id)
        self._held_calls += reservation.calls
        self._held_prompt += reservation.prompt
        self._held_completion += reservation.completion

    def _drop(self, reservation: Reservation) -> bool:
        """Give back what a reservation reserves; false where that was done before."""
        if reservation.id not in self._held:
            return False
        self._held.remove(reservation.id)
        self._held_calls -= reservation.calls
        self._held_prompt -= reservation.prompt
        self._held_completion -= reservation.completion
        return True

    async def _room(self, reservation: Reservation) -> None:
        """Take the room for a reservation, once all that came before have theirs."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((reservation, future))
        self._advance()
        seconds = self.left().seconds
        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._advance)
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._drop(reservation)  # cancelled just after it was granted
            self._advance()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _advance(self) -> None:
        """Serve the queue as far as there is room; refuse where nothing outstanding could make any."""
        while self._queue:
            reservation, future = self._queue[0]
            problem = self._problem(reservation)
            if future.done():  # cancelled
                pass
            elif problem is None:
                self._take(reservation)
                future.set_result(None)
            elif self._held and problem.limit != "time":
                return
            else:
                future.set_exception(problem)
            self._queue.popleft()

    def _problem(self, reservation: Reservation) -> LimitReachedError | None:
        """Return why there is no room for a reservation now."""
        left, limits = self.left(), self.limits
        if left.seconds == 0:
            return LimitReachedError(f"the limit of {limits.seconds:g} s is reached", "time")
        if left.calls is not None and reservation.calls > left.calls:
            return LimitReachedError(f"the limit of {limits.calls} calls is reached", "calls")
        if left.tokens is not None and reservation.tokens > left.tokens:
            return LimitReachedError(
                f"the limit of {limits.tokens} tokens is reached: {self._tokens} are spent, the next call "
                f"may take up to {reservation.tokens}",
                "tokens",
            )
        if left.cost is not None and reservation.cost > left.cost:
            return LimitReachedError(
                f"the cost limit of {limits.cost:g} is reached: {self._cost:.6g} is spent, and the next call "
                f"may cost up to {reservation.cost:.3g}",
                "cost",
            )
        return None
