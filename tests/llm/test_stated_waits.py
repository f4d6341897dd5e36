"""Waits that a response states, in its headers or its body."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import Any

import pytest
from fake_server import Behaviour, FakeServer, dropped, ok, status
from llm_tools import HELLO, Pauses, ask, fail, make, no_environment, run  # noqa: F401
from provider_errors import GEMINI_QUOTA, openai, says

from zopo_fast import errors
from zopo_fast.llm.openai.refusals.error_body import ErrorBody, parse_error
from zopo_fast.llm.openai.refusals.stated_wait import Wait, seconds_of, stated_wait

NOW = 1_700_000_000  # 2023-11-14T22:13:20Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("27s", 27), ("7m12s", 432), ("6h0m3s", 21_603),
        ("20ms", 0.02), ("2m59.56s", 179.56), ("1d2h", 93_600),
        ("25.3", 25.3), ("0", 0), ("6 seconds", 6), ("1 second", 1), ("2 minutes", 120), ("1 hour", 3600),
        ("1 minute and 5 seconds", 65), ("350 milliseconds", 0.35), ("1.5 hrs", 5400), ("12 sec", 12),
        ("", None), ("soon", None), ("-5", None), ("nan", None), ("7m12", None), ("m", None),
        ("1e3", 1000), ("1e9", 1e9),
        ("00:00:42", 42), ("1:02:03.5", 3723.5), ("2.01:00:00", 176_400), ("1:2", None), ("::", None),
        ("12 sevens", None), ("5 monkeys", None),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "42"}, Wait(42, "Retry-After")),
        ({"retry-after": "1.5"}, Wait(1.5, "Retry-After")),
        ({"Retry-After": "9", "retry-after-ms": "2500"}, Wait(2.5, "retry-after-ms")),
        ({"x-ms-retry-after-ms": "700"}, Wait(0.7, "x-ms-retry-after-ms")),
        ({"Retry-After": "3", "x-ratelimit-reset-requests": "7m12s"}, Wait(3, "Retry-After")),
        ({"x-ratelimit-reset-requests": "7m12s"}, Wait(432, "x-ratelimit-reset-requests")),
        ({"x-ratelimit-reset-requests": "7m12s", "x-ratelimit-remaining-requests": "0"},
         Wait(432, "x-ratelimit-reset-requests")),
        ({"x-ratelimit-reset-requests": "7m12s", "x-ratelimit-remaining-requests": "5"}, None),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "99",
          "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"},
         Wait(360, "x-ratelimit-reset-tokens")),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "0",
          "x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "0"},
         Wait(1, "x-ratelimit-reset-requests")),
        ({"x-ratelimit-reset-tokens-minute": "11.38", "x-ratelimit-remaining-tokens-minute": "0",
          "x-ratelimit-reset-requests-day": "33011.38", "x-ratelimit-remaining-requests-day": "90"},
         Wait(11.38, "x-ratelimit-reset-tokens-minute")),
        ({"X-RateLimit-Reset": str((NOW + 30) * 1000), "X-RateLimit-Remaining": "0"},
         Wait(30, "x-ratelimit-reset")),
        ({"x-ratelimit-reset": str(NOW + 30)}, Wait(30, "x-ratelimit-reset")),
        ({"x-ratelimit-reset": "30"}, Wait(30, "x-ratelimit-reset")),
        ({"ratelimit-reset": "30"}, Wait(30, "ratelimit-reset")),
        ({"RateLimit": '"default";r=0;t=30'}, Wait(30, "ratelimit")),
        ({"RateLimit": '"default";r=4;t=30'}, None),
        ({"anthropic-ratelimit-requests-reset": "2023-11-14T22:13:50Z",
          "anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-tokens-reset": "2023-11-14T23:13:50Z",
          "anthropic-ratelimit-tokens-remaining": "10"}, Wait(30, "anthropic-ratelimit-requests-reset")),
        ({"anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:14:20+00:00"},
         Wait(60, "anthropic-ratelimit-input-tokens-reset")),
        ({"Retry-After": "2023-11-14T22:13:50Z"}, Wait(30, "Retry-After")),
        ({"Retry-After": "2023-11-14T22:13:50.000+00:00"}, Wait(30, "Retry-After")),
        ({"Retry-After": "2023-11-14 22:13:50 UTC"}, Wait(30, "Retry-After")),
        ({"Retry-After": "2023-11-14T22:13:50"}, Wait(30, "Retry-After")),
        ({"Retry-After": "2023-11-14T22:00:00Z"}, Wait(0, "Retry-After")),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, Wait(30, "Retry-After")),
        ({"Retry-After": "Tue Nov 14 22:13:50 2023"}, Wait(30, "Retry-After")),
        ({"Retry-After": "120, 120"}, Wait(120, "Retry-After")),
        ({"Retry-After": "0,60"}, Wait(60, "Retry-After")),
        ({"Retry-After": "60", "retry-after": "120"}, Wait(120, "Retry-After")),
        ({"Retry-After": "00:00:42"}, Wait(42, "Retry-After")),
        ({"Retry-After": "1e9"}, Wait(1e9, "Retry-After")),
        ({"Retry-After": "1000000000"}, Wait(1e9, "Retry-After")),
        ({"Retry-After": str(NOW + 30)}, Wait(30, "Retry-After")),
        ({"Retry-After": str((NOW + 30) * 10**9)}, Wait(30, "Retry-After")),
        ({"Retry-After": "9", "retry-after-ms": "0"}, Wait(9, "Retry-After")),
        ({"Retry-After": "soon", "ratelimit-reset": "tomorrow"}, None),
        ({"x-ratelimit-limit-requests": "60"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_headers(headers: dict[str, str], wait: Wait | None) -> None:
    found = stated_wait(headers, ErrorBody(), lambda: float(NOW))
    assert (found is None) is (wait is None)
    if found is not None and wait is not None:
        assert (found.seconds, found.source) == (pytest.approx(wait.seconds), wait.source)


def test_a_time_is_measured_from_the_date_of_the_response() -> None:
    headers = {"x-ratelimit-reset": str(NOW + 30), "Date": "Tue, 14 Nov 2023 22:13:25 GMT"}
    assert stated_wait(headers, ErrorBody(), lambda: NOW + 5000.0) == Wait(25, "x-ratelimit-reset")


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (GEMINI_QUOTA, 27),
        (GEMINI_QUOTA[0], 27),
        ({"error": {"details": [{"retryDelay": "0.8s"}]}}, 0.8),
        ({"error": {"details": [{"retryDelay": {"seconds": 27, "nanos": 5}}]}}, 27),
        ({"error": "Model x is currently loading", "estimated_time": 25.3}, 25.3),
        ({"error": {"message": "slow", "retry_after": 7}}, 7),
        ({"message": "You are being rate limited.", "retry_after": "7.5"}, 7.5),
        ({"error": {"metadata": {"retry_after_ms": 1500}}}, 1.5),
        ({"error": {"code": 429, "metadata": {"headers": {"X-RateLimit-Reset": str((NOW + 9) * 1000)}}}}, 9),
        (openai("Rate limit reached for x on requests per day: Limit 200. Please try again in 7m12s."), 432),
        (openai("Rate limit reached for x. Limit: 3 / min. Please try again in 20s. Contact us"), 20),
        (openai("Limit 40000, Used 39900, Requested 200. Please try again in 350ms."), 0.35),
        (openai("Please try again in 1m26.4s. Need more tokens? Upgrade"), 86.4),
        ({"error": {"code": "429", "message": "Requests exceed the rate limit. Please retry after 6 seconds."
                                              " Please go here to increase it."}}, 6),
        ({"statusCode": 429, "message": "Rate limit is exceeded. Try again in 7 seconds."}, 7),
        ({"error": {"message": "Please retry in 27.408529s."}}, 27.408529),
        ({"detail": "Request was throttled. Your rate limit resets in ~2s."}, 2),
        ({"detail": "Please wait 12 seconds before retrying"}, 12),
        ({"detail": "Please try again in 2 minutes"}, 120),
        (openai("Please try again in 00:00:30."), 30),
        (openai("Please try again in 1:02:03 (hours)"), 3723),
        (openai(f"Please retry after {NOW + 30}."), 30),
        (openai(f"Retry after: {NOW + 30}500 ms"), 30.5),
        (openai("Retry after 2023-11-14T22:13:50Z."), 30),
        (openai("Please try again at 2023-11-14 22:13:50 UTC"), 30),
        (openai("Your quota resets at 2023-11-14T22:13:50.000+00:00, or upgrade"), 30),
        (openai("Please wait until Tue, 14 Nov 2023 22:13:50 GMT"), 30),
        (openai("Try again after 2023-11-14"), None),
        (openai("Try again at 22:13:50"), None),
        ({"error": {"retry_after": "2023-11-14T22:13:50Z"}}, 30),
        ({"error": {"retry_after": NOW + 30}}, 30),
        ({"error": {"retry_after": "00:00:30"}}, 30),
        ({"error": {"resets_in_seconds": 30}}, 30),
        (openai("Rate limit reached, try again later"), None),
        (openai("Limit 20 per 60 s"), None),
        ({"estimated_time": -1}, None),
        ({"error": {"retry_after": True}}, None),
        ([], None),
    ],
)  # fmt: skip
def test_bodies(body: Any, seconds: float | None) -> None:
    found = stated_wait({}, parse_error(json.dumps(body).encode()), lambda: float(NOW))
    assert (None if found is None else found.seconds) == (None if seconds is None else pytest.approx(seconds))


# --- the client


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "0"}, openai("Please try again in 20s."), 20),
        ({"Retry-After": "3"}, openai("Please try again in 20s."), 20),
        ({"Retry-After": "30"}, openai("Please try again in 20s."), 30),
        ({"Retry-After": "1e9"}, openai("Please try again in 20s."), 20),
        ({"Retry-After": "1e9"}, openai("no"), 1e9),
        ({"Retry-After": "0", "x-ratelimit-reset": "60"}, openai("no"), 0),
        ({"Retry-After": "0"}, {"error": {"metadata": {"headers": {"Retry-After": "20"}}}}, 20),
    ],
)
def test_the_longest_credible_wait_counts(headers: dict[str, str], body: Any, seconds: float) -> None:
    found = stated_wait(headers, parse_error(json.dumps(body).encode()), lambda: float(NOW))
    assert found is not None
    assert found.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["1e9", "1000000000", "9" * 400, "2099-01-01T00:00:00Z"])
def test_an_absurd_wait_ends_the_call_at_once(value: str) -> None:
    message, requests, _ = fail(
        says(429, {}, {"Retry-After": value}), errors.RateLimitError, Pauses(), max_elapsed=600.0
    )
    assert "the endpoint asks to wait" in message
    assert "--max-wait" in message
    assert requests == 1


@pytest.mark.parametrize("code", [429, 503, 529])
@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after-ms": "31000"}, {}, 31),
        ({"x-ratelimit-reset-requests": "7m12s"}, {}, 432),
        ({}, GEMINI_QUOTA, 27),
        ({}, openai("Please try again in 5m20s."), 320),
        ({}, {"error": "Model x is currently loading", "estimated_time": 25.3}, 25.3),
    ],
)
def test_the_client_waits_for_what_is_stated(
    code: int, headers: dict[str, str], body: Any, seconds: float
) -> None:
    pauses = Pauses()
    answer, _, server = ask([says(code, body, headers)], pauses)
    assert answer.text == "say hello"
    assert pauses[0] == pytest.approx(seconds)
    assert len(server.requests) == 2


def test_a_wait_beyond_the_time_of_the_call_ends_it_at_once() -> None:
    behaviour = says(429, openai("Please try again in 23h59m10s."))
    message, requests, _ = fail(behaviour, errors.RateLimitError, Pauses())
    assert "the endpoint asks to wait 86350 s (the response body), longer than the 600 s left" in message
    assert "--max-wait" in message
    assert requests == 1


def test_a_server_that_loads_its_model_for_25_seconds_is_waited_for() -> None:
    """Sixteen calls in flight, and not one of them fails."""

    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            loading = status(503, text="Loading model")
            server._plan = lambda _: ok() if client._time.now() >= 25.0 else loading
            answers = await asyncio.gather(*(client.chat(HELLO) for _ in range(16)))
            assert [answer.text for answer in answers] == ["say hello"] * 16
            assert client._time.now() < 60.0

    run(scenario())


def test_a_server_that_restarts_for_a_minute_is_waited_for() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            await client.chat(HELLO)
            back = client._time.now() + 60.0
            server._plan = lambda _: ok() if client._time.now() >= back else dropped()
            answers = await asyncio.gather(*(client.chat(HELLO) for _ in range(100)))
            assert {answer.text for answer in answers} == {"say hello"}
            assert client._time.now() < back + 61.0

    run(scenario())


def test_max_attempts_stays_a_hard_bound() -> None:
    _, requests, _ = fail(status(503), errors.ServerError, Pauses(), max_attempts=3)
    assert requests == 3


def test_a_call_uses_the_time_that_is_left() -> None:
    """The last pause is cut, so that an endpoint that returns within `max_elapsed` is reached."""
    pauses = Pauses()
    fail(status(503), errors.ServerError, pauses, max_elapsed=40.0)
    *before, last = pauses
    assert last == pytest.approx((40.0 - sum(before)) / 2)
    assert last < before[-1]


# --- warnings


def warnings_of(plan: Any, count: int, caplog: pytest.LogCaptureFixture, **settings: Any) -> list[str]:
    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server, **settings) as client:
            await asyncio.gather(*(client.chat(HELLO) for _ in range(count)), return_exceptions=True)

    caplog.set_level(logging.WARNING)
    run(scenario())
    return [record.getMessage() for record in caplog.records]


def test_a_long_stated_wait_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    wait = says(429, {}, {"x-ratelimit-reset-requests": "7m12s"})
    (told,) = warnings_of([wait] * 16, 16, caplog)
    assert told.startswith(
        "the endpoint asks to wait 432 s (x-ratelimit-reset-requests): POST http://127.0.0.1"
    )
    assert "HTTP 429" in told


def test_a_short_wait_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of([says(429, {}, {"retry-after": "9"}), status(503)], 1, caplog) == []


def test_a_long_outage_is_told_twice_a_minute_at_most(caplog: pytest.LogCaptureFixture) -> None:
    told = warnings_of(status(503, text="Loading model"), 16, caplog, max_elapsed=300.0)
    assert 2 <= len(told) <= 12
    assert all("Loading model" in line for line in told)
    assert re.match(r"waiting for the endpoint, \d+ s so far, at most \d+ s more: POST", told[0])


def test_ctrl_c_ends_a_stated_wait() -> None:
    async def scenario() -> None:
        plan = says(429, {}, {"Retry-After": "500"})
        async with FakeServer(plan=plan) as server:
            from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient

            async with OpenAIClient(ClientConfig("m", base_url=server.url)) as client:
                calls = [asyncio.ensure_future(client.chat(HELLO)) for _ in range(3)]
                await server.wait_requests(1)
                await asyncio.sleep(0)
                start = time.monotonic()
                for call in calls:
                    call.cancel()
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
                assert time.monotonic() - start < 100.0

    run(scenario())


# --- compressed responses


def compressed(body: bytes) -> Behaviour:
    brotli = pytest.importorskip("brotli")
    return Behaviour("br", headers={"Content-Encoding": "br"}, raw=brotli.compress(body))


ANSWER = b'{"choices": [{"message": {"content": "say hello"}, "finish_reason": "stop"}]}'


def test_a_brotli_response_is_read() -> None:
    answer, _, server = ask(compressed(ANSWER))
    assert answer.text == "say hello"
    assert "br" in server.requests[0].headers["Accept-Encoding"]


def test_a_brotli_response_without_the_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour = compressed(ANSWER)
    monkeypatch.setattr("aiohttp.http_parser.HAS_BROTLI", False)
    message, requests, _ = fail(behaviour, errors.MalformedAnswerError)
    assert "run pip install brotli" in message
    assert requests == 1


def test_an_unknown_compression_is_named() -> None:
    behaviour = Behaviour("lz", headers={"Content-Encoding": "lz4"}, raw=b"\x04\x22\x4d\x18")
    message, requests, _ = fail(behaviour, errors.MalformedAnswerError)
    assert "is compressed (lz4)" in message
    assert requests == 1


def test_a_damaged_compressed_response_is_repeated() -> None:
    damaged = Behaviour("gzip", headers={"Content-Encoding": "gzip"}, raw=b"no gzip")
    answer, _, _ = ask([damaged])
    assert answer.text == "say hello"
