"""Failures sorted by whom they concern: the call, the account, the endpoint."""

from __future__ import annotations

import asyncio
import re

import pytest
from fake_server import Behaviour, FakeServer, Request, dropped, ok, status
from llm_tools import HELLO, KEY, Pauses, fail, make, no_environment, run, timed_out  # noqa: F401
from provider_errors import MODES, Mode, says

from zopo_fast import errors
from zopo_fast.errors import LLMError
from zopo_fast.llm.openai.health import MIN_LONE
from zopo_fast.llm.openai.refusals.error_body import parse_error


def failure(behaviour: Behaviour, **settings: object) -> LLMError:
    async def scenario() -> LLMError:
        async with FakeServer(plan=behaviour) as server, make(server, **settings) as client:
            with pytest.raises(LLMError) as caught:
                await client.chat(HELLO)
            return caught.value

    return run(scenario())


@pytest.mark.parametrize("name", MODES)
def test_an_error_of_a_provider_is_sorted(name: str) -> None:
    mode: Mode = MODES[name]
    error = failure(mode.behaviour)
    assert (type(error).__name__, error.concerns, error.code) == (mode.error, mode.concerns, mode.code)


@pytest.mark.parametrize("name", [name for name in MODES if MODES[name].behaviour.status >= 400])
def test_a_refusal_is_not_repeated(name: str) -> None:
    kind = getattr(errors, MODES[name].error)
    message, requests, _ = fail(MODES[name].behaviour, kind)
    assert requests == 1
    assert "(not retried)" in message


@pytest.mark.parametrize(
    ("code", "kind"), [(500, errors.ServerError), (503, errors.ServerError), (429, errors.RateLimitError)]
)
def test_the_status_counts_without_a_code(code: int, kind: type[LLMError]) -> None:
    error = failure(status(code), max_elapsed=20.0)
    assert type(error) is kind
    assert (error.concerns, error.code) == ("account" if code == 429 else "endpoint", f"HTTP {code}")


def test_a_rate_limit_by_its_code_is_waited_for() -> None:
    """The code counts before the status: a 403 of Google's older APIs and a 400 of proxies."""
    for code in ("rateLimitExceeded", "rate_limit_exceeded", "too_many_requests"):
        error = failure(says(403, {"error": {"code": code, "message": "slow down"}}), max_elapsed=5.0)
        assert isinstance(error, errors.RateLimitError)
        assert error.concerns == "account"


def test_a_key_in_an_error_is_masked() -> None:
    body = {"error": {"code": "content_filter", "message": f"refused {KEY}"}}
    message, _, _ = fail(says(400, body), errors.RequestRejectedError)
    assert KEY not in message


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "JUDGE_KEY"])
@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_names_its_variable(code: int, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, KEY)
    error = failure(status(code), api_key=None, key_env=variable)
    assert f"check {variable}" in str(error)


def test_a_parameter_of_the_user_names_its_option() -> None:
    for body, option in (({"temperature": 0.5}, "--temperature"), ({"top_k": 3}, "--body")):
        (field,) = body
        error = failure(says(400, {"error": {"message": f"Unknown parameter: '{field}'."}}), body=body)
        assert error.concerns == "endpoint"
        assert f"refuses '{field}'" in str(error)
        assert option in str(error)
        assert f'{{"{field}": "unset"}}' in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b'{"error": null}', b"[" * 90_000]
)
def test_an_error_without_a_shape_is_sorted_by_its_status(body: bytes) -> None:
    error = failure(Behaviour("odd", status=400, raw=body))
    assert (error.concerns, error.code) == ("call", "HTTP 400")
    parse_error(body)


def test_an_error_nested_without_end_is_read_in_bounded_time() -> None:
    nested: dict[str, object] = {"message": "x"}
    for _ in range(300):
        nested = {"error": nested, "details": [nested] * 3, "innererror": nested}
    assert parse_error(nested).status is None


# --- a failure of one call beside others


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}]


@pytest.mark.parametrize("concurrency", [1, 2, 16])
@pytest.mark.parametrize("bad", [(3,), (8,), (2, 7), (9,), (8, 9), (4, 5)])
def test_an_input_that_always_gets_500_concerns_itself(concurrency: int, bad: tuple[int, ...]) -> None:
    refused = {f"question {number}" for number in bad}

    def plan(request: Request) -> Behaviour:
        return status(500) if request.body["messages"][0]["content"] in refused else ok()

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server, concurrency=concurrency) as client:
            calls = (client.chat(question(number)) for number in range(10))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for number, outcome in enumerate(outcomes):
                assert isinstance(outcome, LLMError) is (number in bad)
                if isinstance(outcome, LLMError):
                    assert (outcome.concerns, outcome.code) == ("call", "HTTP 500")
                    assert re.search(r"gave up after [67] attempts; other calls were answered", str(outcome))
            assert client._time.now() < 60.0 * len(bad)

    run(scenario())


@pytest.mark.parametrize(
    "fault", [status(502), status(503), status(529), dropped()], ids=lambda fault: fault.name
)
def test_an_input_that_always_fails_while_others_are_answered_concerns_itself(fault: Behaviour) -> None:
    def plan(request: Request) -> Behaviour:
        return fault if 'question 3"' in request.key else ok()

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server, concurrency=4) as client:
            await client.chat(question(0))
            numbers = [3, *range(10, 70)]
            calls = (client.chat(question(number)) for number in numbers)
            bad, *others = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(bad, LLMError)
            assert (bad.concerns, bad.code) == ("call", fault.name.replace("status", "HTTP"))
            assert "gave up after 6 attempts; other calls were answered" in str(bad)
            assert not any(isinstance(other, LLMError) for other in others)

    run(scenario())


def test_many_such_inputs_do_not_open_the_circuit_breaker() -> None:
    """Only they are left at the end, and fail many times in a row; the endpoint is up all the same."""

    def plan(request: Request) -> Behaviour:
        return status(502) if "question 3" in request.key else ok()

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server, concurrency=4) as client:
            calls = (client.chat(question(number)) for number in range(60))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, LLMError)]
            assert len(failed) == 11  # 3 and 30 to 39
            assert {(error.concerns, error.code) for error in failed} == {("call", "HTTP 502")}
            assert not client._breaker.is_open
            assert len(server.requests) == 49 + 11 * 6

    run(scenario())


def test_an_input_that_always_gets_500_in_calls_one_by_one() -> None:
    def plan(request: Request) -> Behaviour:
        return status(500) if "question 3" in request.key else ok()

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server) as client:
            for number in range(3):
                await client.chat(question(number))
            with pytest.raises(errors.ServerError) as caught:
                await client.chat(question(3))
            assert (caught.value.concerns, len(server.requests)) == ("call", 9)

    run(scenario())


@pytest.mark.parametrize("answered", [0, 1])
def test_many_failures_in_a_row_concern_the_endpoint(answered: int) -> None:
    """A few calls may be at fault by themselves; without an answer in between, the server is."""

    async def scenario() -> None:
        plan = [ok()] * answered
        settings = {"max_elapsed": 120.0, "concurrency": 1}
        async with FakeServer(plan=plan) as server, make(server, **settings) as client:
            for _ in range(answered):
                await client.chat(question(0))
            server._plan = status(500)
            for concerns in (["call"] * MIN_LONE if answered else []) + ["endpoint"]:
                with pytest.raises(errors.ServerError) as caught:
                    await client.chat(question(1))
                assert caught.value.concerns == concerns
            assert "max_elapsed=120 s (--max-wait) is used up" in str(caught.value)

    run(scenario())


def test_a_server_that_fails_every_call_at_once_is_waited_for() -> None:
    """All slots get 500 after calls were answered: that is an outage, not sixteen bad inputs."""

    async def scenario() -> None:
        async with FakeServer() as server, make(server, concurrency=16) as client:
            await client.chat(question(0))
            back = client._time.now() + 60.0
            server._plan = lambda _: ok() if client._time.now() >= back else status(500)
            answers = await asyncio.gather(*(client.chat(question(number)) for number in range(16)))
            assert len(answers) == 16

    run(scenario())


def test_an_input_that_always_times_out_concerns_itself() -> None:
    held = timed_out(30.0)

    def plan(request: Request) -> Behaviour:
        return held(request) if "question 3" in request.key else ok()

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server, timeout=30.0, concurrency=1) as client:
            await client.chat(question(0))
            with pytest.raises(errors.RequestTimeoutError) as caught:
                await client.chat(question(3))
            assert (caught.value.concerns, caught.value.code) == ("call", "timeout")
            assert len(server.requests) == 7

    run(scenario())


@pytest.mark.parametrize("code", [502, 503, 529])
def test_an_overloaded_server_is_waited_for(code: int) -> None:
    """These statuses come from a server that restarts or is overloaded, not from an input."""

    async def scenario() -> None:
        async with FakeServer(plan=[ok(), *[status(code)] * 12]) as server, make(server) as client:
            await client.chat(question(0))
            assert (await client.chat(question(1))).usage.retries == 12

    run(scenario())


def test_timeouts_end_after_six_attempts() -> None:
    error_message, requests, usage = fail(timed_out(30.0), errors.RequestTimeoutError, timeout=30.0)
    assert "gave up after 6 attempts" in error_message
    assert requests == usage.lost_calls == 6


def test_the_body_of_an_error_names_no_call_twice() -> None:
    error = parse_error(MODES["azure content filter"].behaviour.raw or b"")
    assert error.codes[:2] == ("content_filter", "responsibleaipolicyviolation")
    assert error.params == ("prompt",)
    assert error.status == 400
    assert not re.search(r"(.{30,}) \1", error.message)
