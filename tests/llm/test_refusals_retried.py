"""Refusals that a retry may cure, and errors about lengths: of the input, of a setting, of neither."""

from __future__ import annotations

from typing import Any

import pytest
from llm_tools import ask, fail, no_environment  # noqa: F401
from provider_errors import MODES, openai, says

from zopo_fast.errors import RateLimitError, RequestRejectedError, ServerError
from zopo_fast.llm.openai.refusals.error_body import parse_error
from zopo_fast.llm.openai.refusals.kinds import Kind, kind_of, status_of

SLOW = "Too many tokens, please wait before trying again."


def kind(status: int, body: Any, sent: dict[str, Any] | None = None) -> Kind:
    return kind_of(status, parse_error(body), sent or {})


@pytest.mark.parametrize("status", [400, 429, 500, 503])
@pytest.mark.parametrize(
    "body",
    [
        {"__type": "ThrottlingException", "message": SLOW},
        {"__type": "com.amazon.coral.service#ThrottlingException", "message": SLOW},
        {"message": SLOW},
        openai(f'litellm.RateLimitError: BedrockException - {{"message":"{SLOW}"}}', kind=None, code="429"),
        openai(
            "litellm.APIConnectionError: BedrockException - An error occurred (ThrottlingException) when "
            f"calling the Converse operation: {SLOW}"
        ),
    ],
)
def test_throttling_is_no_long_prompt(status: int, body: Any) -> None:
    found = kind(status, body)
    assert (found.error, found.concerns, found.is_final) == (RateLimitError, "account", False)
    answer, _, server = ask([says(status, body)])
    assert answer.text == "say hello"
    assert len(server.requests) == 2


def test_throttling_with_status_200() -> None:
    assert status_of(parse_error({"error": {"__type": "ThrottlingException", "message": SLOW}})) == 429
    assert status_of(parse_error({"error": {"message": SLOW}})) == 429


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "CUDA out of memory. request is too large"),
        (503, "context window service down"),
        (502, "the context length service is not reachable"),
    ],
)
def test_a_failing_server_may_mention_lengths(status: int, message: str) -> None:
    found = kind(status, openai(message))
    assert (found.error, found.is_final, found.is_outage) == (ServerError, False, True)


@pytest.mark.parametrize("status", [409, 425, 498, 499])
@pytest.mark.parametrize("code", [None, "capacity_exceeded"])
def test_a_state_that_passes_is_waited_for(status: int, code: str | None) -> None:
    body = openai("later", code=code)
    answer, _, _ = ask([says(status, body)] * 3)
    assert answer.usage.retries == 3
    message, requests, _ = fail(says(status, body), ServerError, max_elapsed=20.0)
    assert requests > 3
    assert f"HTTP {status}" in message


@pytest.mark.parametrize(
    "message",
    [
        "Model unloaded.",
        "The model has crashed without additional information. (Exit code: 18446744072635812000)",
        "Model was unloaded while the request was still in queue",
        "Model x is currently loading",
    ],
)
def test_a_model_that_is_not_loaded_is_waited_for(message: str) -> None:
    found = kind(400, {"error": message})
    assert (found.error, found.concerns, found.is_outage) == (ServerError, "endpoint", True)
    assert ask([says(400, {"error": message})])[0].text == "say hello"


GROQ = openai(
    "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
    "`context_window` for this model",
    param="max_tokens",
)
VLLM = openai("max_tokens=64 cannot be greater than max_model_len=32. Please request fewer output tokens.")


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("body", [GROQ, VLLM])
def test_a_limit_of_the_answer_is_a_field_of_the_request(body: Any, limit: str) -> None:
    found = kind(400, body, {limit: 64, "temperature": 0})
    assert (found.error, found.concerns, found.code) == (RequestRejectedError, "endpoint", "refused_field")
    assert repr(limit) in found.meaning


@pytest.mark.parametrize("name", [n for n in MODES if MODES[n].code == "context_length_exceeded"])
def test_a_long_input_concerns_the_call_whatever_the_limit(name: str) -> None:
    mode = MODES[name].behaviour
    found = kind_of(mode.status, parse_error(mode.raw or b""), {"max_tokens": 64, "temperature": 0})
    assert (found.concerns, found.code) == ("call", "context_length_exceeded")


@pytest.mark.parametrize(
    "message",
    [
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input "
        "length or `max_tokens` and try again",
        "max_tokens must be at least 1, got -100.",
        "This model's maximum context length is 32 tokens. However, you requested 64 output tokens and your "
        "prompt contains at least 10 input tokens",
        "max_tokens is too large: 64. This model's maximum context length is 32 tokens and your "
        "messages take 10",
    ],
)
def test_a_length_of_input_and_answer_together_concerns_the_call(message: str) -> None:
    found = kind(400, openai(message, param="max_tokens"), {"max_tokens": 64})
    assert (found.concerns, found.code) == ("call", "context_length_exceeded")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Your account balance is negative", 402),
        ("Incorrect API key provided", 401),
        ("Model unloaded.", 503),
        ("System role not supported", 400),
        ("The provided model identifier is invalid.", 404),
        ("Your account has been disabled.", 403),
        ("upstream failed", None),
    ],
)
def test_the_status_of_an_error_with_status_200_by_its_text(message: str, status: int | None) -> None:
    assert status_of(parse_error({"error": message})) == status
    assert status_of(parse_error({"error": {"message": message}})) == status


@pytest.mark.parametrize("code", ["string_above_max_length", "string_too_long"])
def test_a_string_that_is_too_long_is_the_one_that_the_error_names(code: str) -> None:
    body = openai("Expected a string with maximum length 64", param="stop", code=code)
    assert kind(400, body, {"stop": "x" * 99}).concerns == "endpoint"
    assert kind(400, openai("too long", param="messages[0].content", code=code)).concerns == "call"


@pytest.mark.parametrize("message", ["Your account has been flagged.", "This organization is blocked."])
def test_a_flagged_account_is_no_flagged_input(message: str) -> None:
    assert kind(403, openai(message)).concerns == "account"


@pytest.mark.parametrize("code", ["quota_exceeded", "QuotaExceeded"])
def test_a_quota_per_minute_is_waited_for(code: str) -> None:
    body = openai("Quota exceeded for quota metric 'requests' and limit 'requests per minute'", code=code)
    assert not kind(429, body).is_final


@pytest.mark.parametrize(
    "message",
    [
        "System role not supported",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "Only user and assistant roles are supported!",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "System messages are not supported by this model",
    ],
)
def test_a_refused_role_names_its_option(message: str) -> None:
    assert "--template user" in kind(400, {"error": {"message": message}}).meaning
