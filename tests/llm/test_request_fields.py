"""Default parameters that an endpoint refuses: left out or renamed, once for all calls."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from fake_server import FakeServer, Request, ok
from llm_tools import HELLO, fail, make, no_environment, run  # noqa: F401
from provider_errors import MODES, openai, reasoning_model, refusals_of, refuses, says, unsupported

from zopo_fast import errors
from zopo_fast.llm.bodies import ANSWER_BODY, JUDGE_BODY
from zopo_fast.llm.budget import Account
from zopo_fast.llm.limits import Limits


def ask_all(plan: Any, count: int = 1, **settings: Any) -> tuple[list[str], FakeServer]:
    """Ask `count` calls at once; return the texts and the server."""

    async def scenario() -> tuple[list[str], FakeServer]:
        settings.setdefault("default_body", ANSWER_BODY)
        async with FakeServer(plan=plan) as server, make(server, **settings) as client:
            identity, description = client.identity, client.description
            answers = await asyncio.gather(*(client.chat(HELLO) for _ in range(count)))
            answers.append(await client.chat(HELLO))
            assert {answer.usage.retries for answer in answers} == {0}
            # The record and the key of the cache do not depend on refused parameters.
            assert (client.identity, client.description) == (identity, description)
            return [answer.text for answer in answers], server

    return run(scenario())


def sent(server: FakeServer) -> list[dict[str, Any]]:
    keys = ("max_tokens", "max_completion_tokens", "temperature", "seed")
    return [{key: request.body[key] for key in keys if key in request.body} for request in server.requests]


def test_a_reasoning_model_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    texts, server = ask_all(reasoning_model)
    assert texts == ["say hello"] * 2
    assert sent(server) == [
        {"temperature": 0.0, "max_tokens": 64},
        {"temperature": 0.0, "max_completion_tokens": 64},
        {"max_completion_tokens": 64},
        {"max_completion_tokens": 64},  # the second call knows
    ]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert (
        "refuses the default parameter max_tokens; the client sends max_completion_tokens instead"
        in warnings[0]
    )
    assert "refuses the default parameter temperature; the client leaves it out" in warnings[1]
    assert all(warning.startswith("m at http://127.0.0.1") for warning in warnings)


def test_calls_in_flight_are_all_answered(caplog: pytest.LogCaptureFixture) -> None:
    texts, server = ask_all(reasoning_model, count=16)
    assert texts == ["say hello"] * 17
    assert len(caplog.records) == 2  # said once, however many calls learn it
    assert sent(server)[-1] == {"max_completion_tokens": 64}


@pytest.mark.parametrize("form", refusals_of("x"))
@pytest.mark.parametrize("field", ["temperature", "seed"])
def test_a_refused_default_is_left_out(field: str, form: str) -> None:
    defaults = {**ANSWER_BODY, "seed": 0}
    _, server = ask_all(refuses(field, *refusals_of(field)[form]), default_body=defaults)
    assert [field in body for body in sent(server)] == [True, False, False]
    assert all(body["max_tokens"] == 64 for body in sent(server))


@pytest.mark.parametrize("form", refusals_of("x"))
def test_a_refused_limit_is_renamed_in_any_form(form: str) -> None:
    _, server = ask_all(refuses("max_tokens", *refusals_of("max_tokens")[form]))
    assert sent(server)[1:] == [{"temperature": 0.0, "max_completion_tokens": 64}] * 2


WORDS = [
    "Unsupported parameter(s): `{}`",
    "[{}] is not a recognized parameter",
    "Parameter '{}' is deprecated",
    "This model does not support the {} parameter",
    "unexpected keyword argument '{}'",
    "property '{}' is unsupported, did you mean another?",
    "Extra data: {} not allowed",
    'json: unknown field "{}"',
    "Additional properties are not allowed ('{}' was unexpected)",
    "The {} parameter is not supported when using reasoning",
    "invalid {}: only 1 is allowed for this model",
    "Model only supports {}=1",
    "`{}` may only be set to 1 when thinking is enabled",
    "{} must be 1",
    "{} is not supported by this model",
]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("field", ["temperature", "max_tokens"])
def test_any_words_that_name_the_parameter(field: str, words: str) -> None:
    refusal = {"error": {"message": words.format(field)}}
    _, server = ask_all(refuses(field, 400, refusal))
    assert field not in sent(server)[-1]
    shown, requests, _ = fail(refuses(field, 400, refusal), errors.RequestRejectedError, body={field: 1})
    assert requests == 1
    assert f"refuses {field!r} in the request" in shown


def test_two_parameters_that_exclude_each_other() -> None:
    """The default gives way to the given one."""
    words = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."

    def plan(request: Request) -> Any:
        return says(400, openai(words)) if {"temperature", "top_p"} <= set(request.body) else ok()

    _, server = ask_all(plan, body={"top_p": 0.5})
    assert ["temperature" in body for body in sent(server)] == [True, False, False]
    assert all(request.body["top_p"] == 0.5 for request in server.requests)


def test_a_limit_that_is_refused_under_both_names_is_left_out() -> None:
    def plan(request: Request) -> Any:
        for field in ("max_tokens", "max_completion_tokens"):
            if field in request.body:
                return says(400, unsupported(field))
        return ok()

    _, server = ask_all(plan)
    assert sent(server)[2:] == [{"temperature": 0.0}] * 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"temperature": 0.7}, "set another value in --temperature or the body"),
        ({"max_tokens": 9}, "set another value in --max-tokens or the body"),
        ({"top_k": 3}, "set another value in the body"),
        ({"max_completion_tokens": 9}, "set another value in the body"),
    ],
)
def test_a_given_parameter_is_never_dropped(body: dict[str, Any], message: str) -> None:
    (field,) = body
    plan = refuses(field, 400, unsupported(field))
    shown, requests, _ = fail(plan, errors.RequestRejectedError, body=body, default_body=ANSWER_BODY)
    assert requests == 1
    assert message in shown


@pytest.mark.parametrize("unset", [None, "unset"])
def test_an_unset_parameter_is_not_sent(unset: Any) -> None:
    _, server = ask_all(None, body={"max_tokens": unset, "temperature": unset})
    assert sent(server) == [{}, {}]
    _, server = ask_all(None, body={"max_tokens": unset}, default_body={})
    assert "max_tokens" not in server.requests[0].body
    _, server = ask_all(None, body={"max_completion_tokens": 7, "stop": unset})
    assert sent(server)[0] == {"temperature": 0.0, "max_completion_tokens": 7}
    assert "stop" not in server.requests[0].body


@pytest.mark.parametrize(
    "refusal",
    [
        MODES["azure content filter"].behaviour,
        says(400, openai("maximum context length is 9; lower max_tokens", code="context_length_exceeded")),
        says(
            400,
            openai(
                "Invalid 'messages[0].content': 'temperature' is not supported", param="messages[0].content"
            ),
        ),
        says(
            400, openai("Could not finish the message because max_tokens or model output limit was reached.")
        ),
    ],
)
def test_another_error_changes_no_parameter(refusal: Any) -> None:
    _, requests, _ = fail(refusal, errors.RequestRejectedError, default_body=ANSWER_BODY)
    assert requests == 1


def test_a_change_that_does_not_help_is_not_kept() -> None:
    """An endpoint that blames a parameter wrongly keeps it in later calls."""
    refusal = says(400, openai("'temperature' is not supported", code="unsupported_value"))

    async def scenario() -> None:
        plan = [refusal, says(400, openai("no"))]
        async with FakeServer(plan=plan) as server, make(server, default_body=ANSWER_BODY) as client:
            with pytest.raises(errors.RequestRejectedError):
                await client.chat(HELLO)
            await client.chat(HELLO)
            assert ["temperature" in body for body in sent(server)] == [True, False, True]

    run(scenario())


# --- budgets


def budget(**limits: Any) -> Account:
    return Account(Limits(**limits))


def test_a_renamed_limit_bounds_the_budget() -> None:
    async def scenario() -> None:
        async with (
            FakeServer(plan=reasoning_model) as server,
            make(server, default_body=ANSWER_BODY) as client,
        ):
            assert client.max_answer_tokens == 64
            await client.chat(HELLO, account=budget(tokens=5000))
            assert client.max_answer_tokens == 64
            with pytest.raises(errors.LimitReachedError):
                await client.chat(HELLO, account=budget(tokens=64))

    run(scenario())


def test_a_budget_needs_a_limit_of_the_answer() -> None:
    def plan(request: Request) -> Any:
        for field in ("max_tokens", "max_completion_tokens"):
            if field in request.body:
                return says(400, unsupported(field))
        return ok()

    async def scenario() -> None:
        async with FakeServer(plan=plan) as server, make(server, default_body=ANSWER_BODY) as client:
            with pytest.raises(errors.RequestRejectedError) as caught:
                await client.chat(HELLO, account=budget(tokens=5000))
            assert caught.value.concerns == "endpoint"
            await client.chat(HELLO)  # without a budget the limit may go
            assert client.max_answer_tokens is None
            with pytest.raises(errors.ConfigError, match="max_completion_tokens"):
                await client.chat(HELLO, account=budget(tokens=5000))
        body = {"max_tokens": None}
        async with FakeServer() as server, make(server, default_body=ANSWER_BODY, body=body) as client:
            with pytest.raises(errors.ConfigError, match="max_completion_tokens"):
                await client.chat(HELLO, account=budget(tokens=9))

    run(scenario())


def test_clients_of_one_endpoint_share_what_it_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with (
            FakeServer(plan=reasoning_model) as server,
            make(server, default_body=ANSWER_BODY) as client,
        ):
            await client.chat(HELLO)
            judge = client.with_body({"top_p": 1}, JUDGE_BODY)
            await judge.chat(HELLO)
            assert sent(server)[3:] == [{"max_completion_tokens": 256}]
            given = client.with_body({"max_completion_tokens": 5, "temperature": 1})
            with pytest.raises(errors.RequestRejectedError, match="--temperature"):
                await given.chat(HELLO)
            assert len(caplog.records) == 2

    run(scenario())
