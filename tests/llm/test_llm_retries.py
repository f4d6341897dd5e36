"""Retries of the client, and their bounds."""

from __future__ import annotations

import math
import random
import re
import socket

import pytest
from fake_server import Behaviour, FakeServer, Request, dropped, html, status, truncated
from llm_tools import HELLO, Pauses, ask, fail, no_environment, run, timed_out  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient, Usage

# Statuses that rule out billing. The status of a gateway, or no response, leaves it open.
UNBILLED = {"status 429", "status 500", "status 503", "status 529"}


@pytest.mark.parametrize(
    "fault",
    [
        *(status(code) for code in (429, 408, 500, 502, 503, 504, 529)),
        html(502),
        dropped(),
        truncated("length"),
        truncated("chunked"),
        truncated("close"),
    ],
    ids=lambda fault: fault.name,
)
def test_a_passing_failure_is_repeated(fault: Behaviour) -> None:
    pauses = Pauses()
    answer, usage, server = ask([fault, fault], pauses)
    assert answer.text == "say hello"
    lost = 0 if fault.name in UNBILLED else 2
    assert answer.usage == usage == Usage(2, 2, calls=1, retries=2, lost_calls=lost)
    assert len(server.requests) == 3
    assert len(pauses) == 2


def test_an_attempt_that_takes_too_long_is_repeated() -> None:
    answer, _, server = ask(timed_out(30.0, times=1), timeout=30.0)
    assert answer.usage.retries == 1
    assert server.answered_total == 1


@pytest.mark.parametrize(
    ("plan", "error", "says"),
    [
        (status(429), errors.RateLimitError, "HTTP 429"),
        (status(500), errors.ServerError, "HTTP 500"),
        (status(408), errors.RequestTimeoutError, "HTTP 408"),
        (dropped(), errors.UnreachableError, "dropped"),
        (truncated("length"), errors.UnreachableError, "dropped"),
        (truncated("close"), errors.MalformedAnswerError, "is truncated"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_attempts_are_bounded(plan: Behaviour, error: type[errors.LLMError], says: str) -> None:
    pauses = Pauses()
    message, requests, usage = fail(plan, error, pauses, max_attempts=4)
    assert says in message
    assert "gave up after 4 attempts" in message
    assert requests == 4
    assert len(pauses) == 3
    assert usage == Usage(retries=3, lost_calls=0 if plan.name in UNBILLED else 4)


def test_timeouts_are_bounded() -> None:
    message, requests, _ = fail(timed_out(30.0), errors.RequestTimeoutError, timeout=30.0, max_attempts=2)
    assert "30 s" in message
    assert requests == 2


def test_refused_connections() -> None:
    with socket.socket() as taken:  # bound, not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

        async def scenario() -> None:
            config = ClientConfig("m", base_url=url, max_attempts=2)
            async with OpenAIClient(config, sleep=Pauses()) as client:
                with pytest.raises(errors.UnreachableError, match=re.escape(url)):
                    await client.chat(HELLO)

        run(scenario())


def test_pauses_grow_with_jitter_up_to_a_ceiling() -> None:
    pauses = Pauses()
    fail(
        status(500),
        errors.ServerError,
        pauses,
        max_attempts=7,
        backoff_initial=1.0,
        backoff_max=8.0,
        max_elapsed=1000.0,
    )
    rng = random.Random(0)
    expected = [ceiling * (0.5 + 0.5 * rng.random()) for ceiling in (1, 2, 4, 8, 8, 8)]
    assert pauses == pytest.approx(expected)


def test_the_total_time_is_bounded() -> None:
    pauses = Pauses()
    message, requests, _ = fail(
        status(500), errors.ServerError, pauses, max_attempts=99, backoff_initial=10.0, max_elapsed=60.0
    )
    assert "max_elapsed=60 s (--max-wait) is used up" in message
    assert sum(pauses) < 60.0
    assert requests == len(pauses) + 1 < 10


def test_the_time_of_attempts_counts_too() -> None:
    now = [0.0]

    def plan(_: Request) -> Behaviour:
        now[0] += 50.0
        return status(500)

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server:
            config = ClientConfig("m", base_url=server.url, max_elapsed=60.0, max_attempts=99)
            async with OpenAIClient(config, sleep=Pauses(), clock=lambda: now[0]) as client:
                with pytest.raises(errors.ServerError, match="used up"):
                    await client.chat(HELLO)
            assert len(server.requests) == 2  # 50, half a second of pause, 50

    run(scenario())


@pytest.mark.parametrize("as_date", [False, True])
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured(code: int, as_date: bool) -> None:
    pauses = Pauses()
    ask([status(code, retry_after=42, as_date=as_date)], pauses)
    assert pauses == [42.0]


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_invalid_retry_after_leaves_the_backoff(value: str) -> None:
    pauses = Pauses()
    ask([Behaviour("odd", status=429, headers={"Retry-After": value}, raw=b"")], pauses)
    assert 0.25 <= pauses[0] <= 0.5


@pytest.mark.parametrize(("code", "error"), [(429, errors.RateLimitError), (503, errors.ServerError)])
@pytest.mark.parametrize("seconds", [3600, 10**400])
def test_a_retry_after_beyond_the_bound_ends_at_once(
    code: int, error: type[errors.LLMError], seconds: int
) -> None:
    pauses = Pauses()
    behaviour = Behaviour("wait", status=code, headers={"Retry-After": str(seconds)}, raw=b"")
    message, requests, _ = fail(behaviour, error, pauses, max_elapsed=60.0)
    assert f"asks to wait {float(seconds) if seconds < 10**9 else math.inf:g} s (Retry-After)" in message
    assert "max_elapsed=60 s" in message
    assert requests == 1
    assert pauses == []
