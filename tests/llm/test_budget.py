"""Hard limits: spent and reserved budget never exceeds them, for any outcome of the calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, strategies as st

from zopo_fast.errors import (
    ConfigError,
    LimitReachedError,
    StoreFullError,
)
from zopo_fast.llm.budget import Account
from zopo_fast.llm.limits import Limits, Prices, Reservation
from zopo_fast.llm.types import Usage

PRICES = Prices(prompt=1e6, completion=2e6)  # one and two a token


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def call(prompt: int = 0, completion: int = 0) -> Usage:
    return Usage(prompt, completion, calls=1)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- limits and prices


@pytest.mark.parametrize("name", ["calls", "tokens", "cost", "seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "many", True])
def test_limits_that_cannot_be_are_named(name: str, value: Any) -> None:
    if value is True and name in ("cost", "seconds"):
        return  # True is the number 1
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "much"])
def test_prices_that_cannot_be_are_named(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"prices\.completion"):
        Prices(1.0, value)


def test_a_limit_of_cost_needs_prices() -> None:
    with pytest.raises(ConfigError, match="prices"):
        Account(Limits(cost=1.0))


# --- reservations


def test_a_call_is_reserved_settled_and_counted() -> None:
    async def scenario() -> None:
        account = Account(Limits(calls=10, tokens=1000, cost=2000.0), PRICES)
        reservation = await account.reserve(call(100, 50))
        left = account.left()
        assert (left.calls, left.tokens, left.cost, left.seconds) == (9, 850, 1800.0, None)
        account.settle(reservation, call(60, 10))
        spent = account.spent
        assert (spent.calls, spent.tokens, spent.cost) == (1, 70, 80.0)
        assert account.outstanding == 0
        account.forfeit(reservation)  # the reservation has ended: no effect
        account.settle(reservation, call(1, 1))
        assert account.spent.tokens == 70
        account.release(await account.reserve(call(100, 50)))
        assert account.spent.tokens == 70
        account.forfeit(await account.reserve(call(100, 50)))
        spent = account.spent
        assert (spent.calls, spent.tokens, spent.cost) == (2, 220, 280.0)

    run(scenario())


@pytest.mark.parametrize(
    ("limits", "limit"),
    [(Limits(calls=3), "calls"), (Limits(tokens=30), "tokens"), (Limits(cost=40.0), "cost")],
)
def test_the_error_names_the_limit(limits: Limits, limit: str) -> None:
    async def scenario() -> None:
        account = Account(limits, PRICES)
        for _ in range(3):
            account.settle(await account.reserve(call(8, 2)), call(8, 2))
        with pytest.raises(LimitReachedError, match="limit") as caught:
            await account.reserve(call(8, 2))
        assert caught.value.limit == limit
        assert account.spent.calls == 3

    run(scenario())


def test_a_reservation_waits_for_those_outstanding() -> None:
    async def scenario() -> None:
        account = Account(Limits(tokens=100))
        first, second = await account.reserve(call(50)), await account.reserve(call(50))
        waiting = [asyncio.ensure_future(account.reserve(call(size))) for size in (60, 10)]
        await turns()
        assert not any(task.done() for task in waiting)
        account.settle(first, call(5))
        await turns()
        assert not any(task.done() for task in waiting)  # 45 left: the first in the queue needs more
        account.settle(second, call(5))
        await turns()
        assert all(task.done() for task in waiting)
        assert account.left().tokens == 20
        third = asyncio.ensure_future(account.reserve(call(91)))
        account.settle(waiting[0].result(), call(5))
        await turns()
        assert not third.done()
        account.settle(waiting[1].result(), call(5))
        with pytest.raises(LimitReachedError):  # 80 left, and no open reservation
            await third
        account.settle(await account.reserve(call(80)), call(80))

    run(scenario())


@pytest.mark.parametrize("granted", [False, True])
def test_a_cancelled_reservation_is_freed(granted: bool) -> None:
    async def scenario() -> None:
        account = Account(Limits(calls=1))
        first = await account.reserve(call())
        second, third = (asyncio.ensure_future(account.reserve(call())) for _ in range(2))
        await turns()
        if granted:
            account.release(first)  # granted, and cancelled before the task runs
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        account.release(first)
        account.settle(await third, call())
        assert account.spent.calls == 1

    run(scenario())


def test_a_usage_above_the_reservation_is_charged_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        account = Account(Limits(tokens=100))
        account.settle(await account.reserve(call(10, 10)), call(10, 500))
        assert account.spent.tokens == 510
        assert "stated 1 calls, 10 + 500 tokens" in caplog.text
        with pytest.raises(LimitReachedError):
            await account.reserve(call(1))

    run(scenario())


def test_an_estimate_is_charged_as_all_that_was_reserved() -> None:
    async def scenario() -> None:
        account = Account(Limits(tokens=100))
        account.settle(await account.reserve(call(10, 10)), Usage(3, 4, calls=1, estimated_calls=1))
        assert account.spent.tokens == 20
        account.settle(await account.reserve(call(10, 10)), Usage(cached=1))
        assert (account.spent.calls, account.spent.tokens) == (1, 20)

    run(scenario())


def test_the_time_is_limited() -> None:
    now = [100.0]

    async def scenario() -> None:
        account = Account(Limits(seconds=60), clock=lambda: now[0])
        assert account.deadline == 160.0
        account.settle(await account.reserve(call()), call())
        now[0] = 159.0
        reservation = await account.reserve(call())
        now[0] = 160.0
        with pytest.raises(LimitReachedError) as caught:
            await account.reserve(call())
        assert caught.value.limit == "time"
        await account.expired()
        account.forfeit(reservation)

    run(scenario())


def test_a_reservation_that_waits_ends_with_the_time() -> None:
    async def scenario() -> None:
        account = Account(Limits(calls=1, seconds=0.05))
        await account.reserve(call())
        with pytest.raises(LimitReachedError) as caught:
            await account.reserve(call())
        assert caught.value.limit == "time"
        await asyncio.wait_for(account.expired(), 5)

    run(scenario())


def test_what_was_spent_before_counts() -> None:
    now = [0.0]

    async def scenario() -> None:
        before = Account(Limits(calls=5, tokens=100, seconds=60), clock=lambda: now[0])
        before.settle(await before.reserve(call(5, 5)), call(5, 5))
        await before.reserve(call(20, 20))  # in flight when the process is killed
        now[0] = 40.0
        state = before.state()
        assert state == {"calls": 2, "tokens": 50, "cost": 0.0, "seconds": 40.0}
        after = Account(Limits(calls=5, tokens=100, seconds=60), clock=lambda: now[0])
        after.restore(state)
        left = after.left()
        assert (left.calls, left.tokens, left.seconds) == (3, 50, 20.0)

    run(scenario())


# --- the ledger


class Book:
    """Ledger in memory; `full` refuses to write."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, int, int, float]] = {}
        self.full = False
        self.slow = asyncio.Event()
        self.slow.set()

    async def reserved(self, hold_id: str, calls: int, tokens: int, cost: float) -> None:
        await self.slow.wait()
        if self.full:
            raise StoreFullError("no room left")
        self.rows[hold_id] = ("reserved", calls, tokens, cost)

    def settled(self, hold_id: str, calls: int, tokens: int, cost: float) -> None:
        if self.full:
            raise StoreFullError("no room left")
        self.rows[hold_id] = ("settled", calls, tokens, cost)


def test_the_ledger_is_written_before_a_reservation_is_used() -> None:
    async def scenario() -> None:
        book = Book()
        account = Account(Limits(calls=9), PRICES, ledger=book)
        book.slow.clear()
        pending = asyncio.ensure_future(account.reserve(call(3, 4)))
        await turns()
        assert not pending.done()
        book.slow.set()
        reservation = await pending
        assert book.rows == {reservation.id: ("reserved", 1, 7, 11.0)}
        account.settle(reservation, call(1, 1))
        assert book.rows == {reservation.id: ("settled", 1, 2, 3.0)}
        other = await account.reserve(call(3, 4))
        account.forfeit(other)
        assert book.rows[other.id] == ("settled", 1, 7, 11.0)

    run(scenario())


@pytest.mark.parametrize("how", ["full", "cancelled"])
def test_a_reservation_that_cannot_be_kept_is_none(how: str) -> None:
    async def scenario() -> None:
        book = Book()
        account = Account(Limits(calls=1), ledger=book)
        book.full = how == "full"
        book.slow.clear()
        pending = asyncio.ensure_future(account.reserve(call()))
        await turns()
        book.slow.set()
        if how == "cancelled":
            pending.cancel()
        with pytest.raises((StoreFullError, asyncio.CancelledError)):
            await pending
        book.full = False
        assert account.left().calls == 1
        await account.reserve(call())

    run(scenario())


# --- never exceeded


@given(seed=st.integers(0, 10_000), calls=st.integers(1, 40), tokens=st.integers(20, 3000))
def test_limits_hold_for_64_concurrent_calls_of_any_outcome(seed: int, calls: int, tokens: int) -> None:
    rng = random.Random(seed)
    limits = Limits(calls=calls, tokens=tokens, cost=1.5 * tokens)
    worst = [0, 0, 0.0]  # upper bound of what the server bills

    async def one(account: Account) -> None:
        bound = call(rng.randint(1, 40), rng.randint(1, 40))
        try:
            reservation = await account.reserve(bound)
        except LimitReachedError:
            return
        how = rng.choice(["settle", "forfeit", "release"])
        took = call(rng.randint(1, bound.prompt_tokens), rng.randint(0, bound.completion_tokens))
        billed = Usage() if how == "release" else took if how == "settle" else bound
        try:
            worst[0] += billed.calls  # sent: may be billed from here on
            worst[1] += billed.total_tokens
            worst[2] += PRICES.of(billed.prompt_tokens, billed.completion_tokens)
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
            if how == "release":
                account.release(reservation)
            elif how == "settle":
                account.settle(reservation, took)
        finally:
            account.forfeit(reservation)  # lost or cancelled
        spent = account.spent
        assert spent.calls <= calls
        assert spent.tokens <= tokens

    async def scenario() -> None:
        account = Account(limits, PRICES)
        tasks = [asyncio.ensure_future(one(account)) for _ in range(64)]
        for task in rng.sample(tasks, 8):
            await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in ended if isinstance(error, Exception)] == []
        assert account.outstanding == 0
        spent = account.spent
        assert worst[0] <= spent.calls <= calls
        assert worst[1] <= spent.tokens <= tokens
        assert worst[2] <= spent.cost <= 1.5 * tokens

    run(scenario())


def test_tokens_of_a_reservation() -> None:
    assert Reservation("a", 1, 2, 3, 0.5).tokens == 5
