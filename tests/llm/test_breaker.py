"""Circuit breaker: opening, probing and closing."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
from fake_server import Behaviour, FakeServer, dropped, ok, random_faults, status
from llm_tools import HELLO, Pauses, make, no_environment, run  # noqa: F401

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
    was_probe = breaker.is_open
    if not breaker.enter():
        return False
    breaker.leave(outcome, was_probe=was_probe)
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
    clock.now = 10.9
    assert not breaker.enter()
    clock.now = 10.0 + 30.0 / 32
    assert breaker.enter()
    assert not breaker.enter()
    breaker.leave(outcome, was_probe=True)
    assert breaker.is_open is (outcome is not Outcome.ANSWERED)
    assert breaker.enter() is (outcome is not Outcome.DOWN)
    clock.now = 70.0
    assert attempt(breaker, Outcome.ANSWERED) or outcome is Outcome.UNKNOWN


def test_the_pauses_between_probes_double_up_to_the_longest() -> None:
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(8):
        pauses.append(breaker.delay())
        clock.now += breaker.delay()
        assert attempt(breaker, Outcome.DOWN)
    assert pauses == pytest.approx([30 / 32, 30 / 16, 30 / 8, 30 / 4, 30 / 2, 30, 30, 30])
    assert breaker.open_seconds == pytest.approx(sum(pauses))
    clock.now += 30.0
    assert attempt(breaker, Outcome.ANSWERED)
    clock.now += 1000.0
    assert breaker.open_seconds == pytest.approx(sum(pauses) + 30.0)


def test_an_attempt_from_before_it_opened_does_not_delay_the_probe() -> None:
    clock = Clock()
    breaker = opened(clock)
    due = breaker.delay()
    breaker.leave(Outcome.DOWN, was_probe=False)
    assert breaker.delay() == due


def test_faults_of_a_third_never_open_it() -> None:
    clock, rng = Clock(), random.Random(1)
    breaker = CircuitBreaker(ClientConfig("m").breaker_failures, 30.0, now=clock)
    for _ in range(300_000):
        clock.now += 1.0
        assert attempt(breaker, Outcome.DOWN if rng.random() < 0.3 else Outcome.ANSWERED)


# --- the client


@pytest.mark.parametrize("fault", [status(500), dropped()], ids=["500", "dropped"])
def test_calls_queue_while_the_endpoint_is_down_and_are_answered_after(fault: Behaviour) -> None:
    async def scenario() -> None:
        pauses = Pauses()
        async with FakeServer() as server, make(server, pauses, breaker_failures=4) as client:
            up_at = client._time.now() + 60.0
            server._plan = lambda _: ok() if client._time.now() >= up_at else fault
            await client._time.sleep(0.0)
            client._exchange.facts.has_response = True
            answers = await asyncio.gather(*(client.chat(HELLO) for _ in range(16)))
            assert {answer.text for answer in answers} == {"say hello"}
            assert not client._breaker.is_open
            assert client._time.now() <= up_at + 31.0
            assert len(server.requests) < 110  # probes, not all calls, while it is open

    run(scenario())


@pytest.mark.parametrize("fault", [status(503, text="Loading model"), dropped()], ids=["503", "dropped"])
def test_an_endpoint_that_stays_down_ends_the_calls_with_its_last_words(fault: Behaviour) -> None:
    async def scenario() -> None:
        settings = {"breaker_failures": 4, "max_elapsed": 100.0}
        async with FakeServer(plan=fault) as server, make(server, Pauses(), **settings) as client:
            client._exchange.facts.has_response = True
            outcomes = await asyncio.gather(*(client.chat(HELLO) for _ in range(16)), return_exceptions=True)
            down = [outcome for outcome in outcomes if isinstance(outcome, errors.EndpointDownError)]
            assert down
            words = "Loading model" if fault.status == 503 else "dropped the connection"
            for error in outcomes:
                assert isinstance(error, errors.LLMError)
                assert error.concerns == "endpoint"
                assert words in str(error)
            assert {error.code for error in down} == {"endpoint_down"}
            assert 100.0 <= client._time.now() <= 240.0
            # A later call has its own time: the endpoint may be back.
            server._plan = ok()
            assert (await client.chat(HELLO)).text == "say hello"

    run(scenario())


def test_refused_connections() -> None:
    """A wrong address fails in seconds: no response has ever come from there."""
    with socket.socket() as taken:  # bound, not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

        async def scenario() -> None:
            pauses = Pauses()
            config = ClientConfig("m", base_url=url, breaker_failures=99)
            async with OpenAIClient(config, sleep=pauses, clock=lambda: 0.0, rng=random.Random(0)) as client:
                with pytest.raises(errors.UnreachableError, match="gave up after 6 attempts") as caught:
                    await client.chat(HELLO)
            assert (caught.value.concerns, caught.value.code) == ("endpoint", "unreachable")
            assert 5.0 <= sum(pauses) <= 15.5

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
