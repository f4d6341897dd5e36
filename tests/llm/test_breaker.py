"""Circuit breaker: opening, probing and closing."""

from __future__ import annotations

import random
import socket

import pytest
from fake_server import FakeServer, dropped, ok, random_faults, status
from llm_tools import HELLO, Pauses, make, no_environment, run, timed_out  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.circuit_breaker import CircuitBreaker, Outcome
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient


class Clock:
    """Clock set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(breaker: CircuitBreaker, outcome: Outcome) -> bool:
    """Enter and leave the breaker; return whether the attempt was admitted."""
    if not breaker.enter():
        return False
    breaker.leave(outcome)
    return True


def test_it_opens_after_failures_in_a_row_that_last() -> None:
    clock = Clock()
    breaker = CircuitBreaker(3, 30.0, now=clock)
    for _ in range(10):
        assert attempt(breaker, Outcome.DOWN)  # all at once: too short to count as down
    clock.now = 4.9
    assert attempt(breaker, Outcome.DOWN)
    clock.now = 5.0
    assert attempt(breaker, Outcome.DOWN)
    assert breaker.is_open
    assert not breaker.enter()


def test_a_success_in_between_keeps_it_closed() -> None:
    clock = Clock()
    breaker = CircuitBreaker(3, 30.0, now=clock)
    for second in range(100):
        clock.now = float(second)
        assert attempt(breaker, Outcome.ANSWERED if second % 3 == 0 else Outcome.DOWN)
    assert not breaker.is_open


def test_a_refusal_neither_opens_nor_resets() -> None:
    clock = Clock()
    breaker = CircuitBreaker(3, 30.0, now=clock)
    for outcome in (Outcome.DOWN, Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.DOWN):
        clock.now += 10.0
        assert attempt(breaker, outcome)
    assert not breaker.is_open
    assert attempt(breaker, Outcome.DOWN)
    assert breaker.is_open


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(1, 30.0, now=clock)
    attempt(breaker, Outcome.DOWN)
    clock.now = 10.0
    attempt(breaker, Outcome.DOWN)
    assert breaker.is_open
    return breaker


@pytest.mark.parametrize("outcome", Outcome)
def test_one_probe_at_a_time_is_let_through(outcome: Outcome) -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 39.9
    assert not breaker.enter()
    clock.now = 40.0
    assert breaker.enter()
    assert not breaker.enter()
    breaker.leave(outcome)
    assert breaker.is_open is (outcome is not Outcome.ANSWERED)
    assert breaker.enter() is (outcome is not Outcome.DOWN)
    clock.now = 70.0
    assert attempt(breaker, Outcome.ANSWERED) or outcome is Outcome.UNKNOWN


def test_faults_of_a_third_never_open_it() -> None:
    clock, rng = Clock(), random.Random(1)
    breaker = CircuitBreaker(ClientConfig("m").breaker_failures, 30.0, now=clock)
    for _ in range(300_000):
        clock.now += 1.0
        assert attempt(breaker, Outcome.DOWN if rng.random() < 0.3 else Outcome.ANSWERED)


# --- the client


@pytest.mark.parametrize("fault", [status(500), dropped(), timed_out(30.0)], ids=["500", "dropped", "slow"])
def test_calls_to_an_endpoint_that_is_down_end_at_once(fault: object) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=fault) as server:  # type: ignore[arg-type]
            pauses = Pauses()
            settings = {"max_attempts": 99, "breaker_failures": 4, "timeout": 30.0, "backoff_initial": 3.0}
            async with make(server, pauses, **settings) as client:
                with pytest.raises(
                    errors.EndpointDownError, match="not sent again after 4 attempts"
                ) as caught:
                    await client.chat(HELLO)
                assert "4 attempts in a row" in str(caught.value)
                assert len(server.requests) == 4
                with pytest.raises(errors.EndpointDownError, match="not sent"):
                    await client.chat(HELLO)
                assert len(server.requests) == 4
                server.release.set()
                await client._time.sleep(30.0)
                server._plan = ok()
                assert (await client.chat(HELLO)).text == "say hello"
                assert len(server.requests) == 5

    run(scenario())


def test_refused_connections() -> None:
    with socket.socket() as taken:  # bound, not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

        async def scenario() -> None:
            pauses = Pauses()
            config = ClientConfig("m", base_url=url, breaker_failures=5, max_attempts=50)
            async with OpenAIClient(config, sleep=pauses, clock=lambda: 0.0, rng=random.Random(0)) as client:
                with pytest.raises(errors.EndpointDownError):
                    await client.chat(HELLO)
            assert 5.0 <= sum(pauses) <= 35.0

        run(scenario())


def test_a_server_that_fails_now_and_then_is_not_down() -> None:
    async def scenario() -> None:
        kinds = (status(500), dropped())
        server = FakeServer(plan=random_faults(seed=3, share=0.3, kinds=kinds))
        async with server, make(server) as client:
            for number in range(200):
                await client.chat([{"role": "user", "content": str(number)}])
            assert not client._breaker.is_open

    run(scenario())


@pytest.mark.parametrize("code", [400, 401, 429])
def test_refusals_are_of_an_endpoint_that_is_there(code: int) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=status(code)) as server, make(server, breaker_failures=1) as client:
            for _ in range(3):
                with pytest.raises(errors.LLMError) as caught:
                    await client.chat(HELLO)
                assert not isinstance(caught.value, errors.EndpointDownError)

    run(scenario())
