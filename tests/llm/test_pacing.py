"""Rate limiter: fixed limits, and the adaptive limit after 429 responses."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from fake_server import FakeServer, Request, ok, status
from llm_tools import HELLO, Pauses, make, no_environment, run, settle  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.rate_limit import MIN_RATE, RateLimiter, Ticket
from zopo_fast.llm.openai.retry import Time


class Simulation:
    """Server and endless calls in simulated time; `refuses(now, recent sends)` decides on a 429."""

    def __init__(self, limits: dict[str, Any], slots: int, latency: float = 0.5) -> None:
        self.now = 0.0
        self.slots, self.latency = slots, latency
        self.limiter = RateLimiter(**{"requests_per_minute": None, "tokens_per_minute": None, **limits},
                           now=lambda: self.now, patience=180.0)  # fmt: skip
        self.sent: list[float] = []
        self.good = self.bad = 0

    def run(self, seconds: float, refuses: Callable[[float, list[float]], bool], tokens: int = 0) -> None:
        end = self.now + seconds
        flying: list[tuple[float, int, bool, Ticket]] = []
        order = count()
        while self.now < end:
            delay = self.limiter.delay()
            if len(flying) < self.slots and delay <= 0:
                bad = refuses(self.now, self.sent)
                ticket = self.limiter.take(tokens)
                self.sent.append(self.now)
                takes = 0.05 if bad else self.latency
                heapq.heappush(flying, (self.now + takes, next(order), bad, ticket))
                continue
            after = [self.now + delay] if len(flying) < self.slots else []
            self.now = min([*after, *(one[0] for one in flying[:1])])
            while flying and flying[0][0] <= self.now:
                _, _, bad, ticket = heapq.heappop(flying)
                self.bad += bad
                self.good += not bad
                if bad:
                    self.limiter.refused(ticket, None)
                else:
                    self.limiter.answered(ticket, tokens)


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= other < start + 59.999 for other in times) for start in times)


def never(now: float, sent: list[float]) -> bool:
    return False


def above(per_second: float) -> Callable[[float, list[float]], bool]:
    """Limit of a server: a token bucket of one second, at least one request."""
    level, last = [max(1.0, per_second)], [0.0]

    def refuses(now: float, sent: list[float]) -> bool:
        level[0] = min(max(1.0, per_second), level[0] + (now - last[0]) * per_second)
        last[0] = now
        if level[0] < 1.0:
            return True
        level[0] -= 1.0
        return False

    return refuses


def test_without_limits_nothing_waits() -> None:
    simulation = Simulation({}, slots=16)
    simulation.run(60.0, never)
    assert len(simulation.sent) >= 16 * 119
    assert simulation.limiter.rate is None


@pytest.mark.parametrize("limit", [6, 60, 600])
def test_requests_of_a_minute_are_limited_and_used(limit: int) -> None:
    simulation = Simulation({"requests_per_minute": limit}, slots=16)
    simulation.run(180.0, never)
    assert limit - 1 <= most_in_a_minute(simulation.sent) <= limit
    assert len(simulation.sent) >= 3 * limit - 1
    gaps = [after - before for before, after in zip(simulation.sent, simulation.sent[1:], strict=False)]
    assert min(gaps) > 0.99 * 60.0 / limit  # no bursts


def test_tokens_of_a_minute_are_limited() -> None:
    simulation = Simulation({"tokens_per_minute": 6000}, slots=16)
    simulation.run(180.0, never, tokens=100)
    assert 59 <= most_in_a_minute(simulation.sent) <= 60


def test_tokens_are_corrected_by_what_was_taken() -> None:
    now = [0.0]
    limiter = RateLimiter(None, 600.0, now=lambda: now[0], patience=180.0)
    ticket = limiter.take(100)
    assert limiter.delay() == pytest.approx(10.0)
    limiter.answered(ticket, 20)
    assert limiter.delay() == pytest.approx(2.0)
    limiter.answered(limiter.take(10), 60)
    assert limiter.delay() == pytest.approx(8.0)


@pytest.mark.parametrize(("limit", "refused"), [(1.0, 0.4), (5.0, 0.15), (20.0, 0.1)])
def test_an_unknown_limit_is_found(limit: float, refused: float) -> None:
    simulation = Simulation({}, slots=16)
    refuses = above(limit)
    simulation.run(60.0, refuses)
    simulation.good = simulation.bad = 0
    simulation.run(600.0, refuses)
    assert simulation.good >= 0.7 * 600 * limit
    assert simulation.bad <= refused * simulation.good


def test_it_recovers_when_the_limit_is_gone() -> None:
    simulation = Simulation({}, slots=16)
    simulation.run(30.0, above(1.0))
    slow = simulation.limiter.rate
    assert slow is not None
    assert slow < 4.0
    simulation.run(240.0, never)
    assert simulation.limiter.rate is None


def test_it_slows_down_to_a_floor() -> None:
    simulation = Simulation({}, slots=16)
    simulation.run(170.0, lambda now, sent: True)
    assert simulation.limiter.rate == MIN_RATE


@pytest.mark.parametrize(("share", "least"), [(0.1, 0.6), (0.3, 0.4)])
def test_429s_that_come_at_any_rate_do_not_stop_everything(share: float, least: float) -> None:
    rng = random.Random(0)
    simulation = Simulation({}, slots=16)
    simulation.run(300.0, lambda now, sent: rng.random() < share)
    assert simulation.good > least * 300 * 16 / simulation.latency


def test_a_few_429s_are_left_to_the_backoff() -> None:
    now = [0.0]
    limiter = RateLimiter(None, None, now=lambda: now[0], patience=180.0)
    for _ in range(100):
        limiter.refused(limiter.take(0), None)
        now[0] += 2.0
        assert limiter.rate is None


def test_retry_after_stops_everything() -> None:
    now = [0.0]
    limiter = RateLimiter(None, None, now=lambda: now[0], patience=180.0)
    limiter.refused(limiter.take(0), 7.0)
    assert limiter.delay() == 7.0
    limiter.refused(limiter.take(0), 3.0)
    assert limiter.delay() == 7.0
    limiter.refused(limiter.take(0), float("inf"))
    assert limiter.delay() == 180.0
    assert limiter.is_hopeless()
    now[0] = 180.0
    assert limiter.delay() == 0.0


def test_only_429_responses_become_hopeless() -> None:
    now = [0.0]
    limiter = RateLimiter(None, None, now=lambda: now[0], patience=180.0)
    while now[0] < 179.0:
        assert not limiter.is_hopeless()
        limiter.refused(limiter.take(0), None)
        now[0] += 5.0
    assert limiter.is_hopeless()
    now[0] += 3600.0  # an hour without requests
    assert not limiter.is_hopeless()
    limiter.refused(limiter.take(0), None)
    assert not limiter.is_hopeless()


# --- the client


def test_a_sleep_that_returns_early_counts() -> None:
    async def scenario() -> None:
        time = Time(lambda: 5.0, Pauses())
        await asyncio.gather(time.sleep(10.0), time.sleep(4.0))
        assert time.now() == 15.0

    run(scenario())


def test_calls_are_sent_at_the_pace_that_was_set() -> None:
    async def scenario() -> None:
        pauses = Pauses()
        async with FakeServer() as server, make(server, pauses, requests_per_minute=60) as client:
            await asyncio.gather(*(client.chat(HELLO) for _ in range(10)))
            assert sum(pauses) == pytest.approx(9.0)

    run(scenario())


def test_tokens_are_paced_by_what_a_call_may_take() -> None:
    async def scenario() -> None:
        pauses = Pauses()
        settings: dict[str, Any] = {"tokens_per_minute": 600, "body": {"max_tokens": 98}, "concurrency": 1}
        async with FakeServer() as server, make(server, pauses, **settings) as client:
            await asyncio.gather(*(client.chat(HELLO) for _ in range(3)))
            assert sum(pauses) == pytest.approx(0.8, abs=0.2)  # 4 tokens each are stated
        async with FakeServer() as server:
            server.gate = asyncio.Event()
            pauses = Pauses()
            async with make(server, pauses, **{**settings, "concurrency": 3}) as client:
                calls = asyncio.gather(*(client.chat(HELLO) for _ in range(3)))
                await server.wait_in_flight(3)
                assert sum(pauses) == pytest.approx(20.0, abs=1.0)  # 100 tokens each are expected
                server.gate.set()
                await calls

    run(scenario())


def test_retry_after_holds_up_every_call() -> None:
    def plan(request: Request) -> Any:
        return status(429, retry_after=20) if request.index == 0 else ok()

    async def scenario() -> None:
        pauses = Pauses()
        async with FakeServer(plan=plan) as server, make(server, pauses, concurrency=1) as client:
            await asyncio.gather(*(client.chat(HELLO) for _ in range(4)))
            assert len(server.requests) == 5
            assert max(pauses) == pytest.approx(20.0)
            assert len(pauses) == 2  # the backoff of the call, and the pause of the first in the queue

    run(scenario())


def test_waiting_holds_no_slot_and_can_be_cancelled() -> None:
    async def scenario() -> None:
        asleep, wake = asyncio.Event(), asyncio.Event()

        async def sleep(seconds: float) -> None:
            asleep.set()
            await wake.wait()

        async with FakeServer() as server:
            client = make(server, sleep, requests_per_minute=1, concurrency=1)  # type: ignore[arg-type]
            async with client:
                await client.chat(HELLO)
                waiting = asyncio.ensure_future(client.chat(HELLO))
                queued = asyncio.ensure_future(client.chat(HELLO))
                await asleep.wait()
                _, admission = client._home()
                assert not admission._slots.locked()
                asleep.clear()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await asleep.wait()  # the next call is the first in the queue now
                wake.set()
                assert (await queued).text == "say hello"
                assert len(server.requests) == 2

    run(scenario())


@pytest.mark.parametrize("retry_after", [None, 5, 3600])
def test_a_server_that_only_says_429_ends_in_bounded_time(retry_after: float | None) -> None:
    async def scenario() -> None:
        pauses = Pauses()
        settings = {"concurrency": 8, "max_elapsed": 60.0, "max_attempts": 99}
        server = FakeServer(plan=status(429, retry_after=retry_after))
        async with server, make(server, pauses, **settings) as client:
            start = client._time.now()
            calls = [client.chat(HELLO) for _ in range(100)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {errors.RateLimitError}
            assert client._time.now() - start <= 130.0  # twice max_elapsed and a pause
            assert await settle(lambda: server.in_flight == 0)

    run(scenario())
