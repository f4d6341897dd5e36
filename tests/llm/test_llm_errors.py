"""Final failures of the client, and redaction of its errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
from fake_server import (
    Behaviour,
    FakeServer,
    broken_json,
    edited,
    html,
    huge,
    no_choices,
    null_content,
    redirect,
    status,
)
from llm_tools import HELLO, KEY, Pauses, ask, fail, make, no_environment, run  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient, Usage

# --- final failures


@pytest.mark.parametrize(
    ("behaviour", "error", "says"),
    [
        (status(401), errors.AuthenticationError, "OPENAI_API_KEY"),
        (status(403), errors.AuthenticationError, "HTTP 403"),
        (status(404), errors.ModelNotFoundError, "/v1"),
        (status(400), errors.RequestRejectedError, "HTTP 400"),
        (status(422), errors.RequestRejectedError, "HTTP 422"),
        (html(404), errors.ModelNotFoundError, "HTTP 404"),
        (null_content(), errors.MalformedAnswerError, "null, finish_reason 'length'"),
        (redirect("http://elsewhere.test/v1?secret=abcd"), errors.MalformedAnswerError, "elsewhere.test/v1;"),
        (status(429, text="insufficient_quota"), errors.RateLimitError, "quota"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_lasting_failure_is_a_typed_error_at_once(
    behaviour: Behaviour, error: type[errors.LLMError], says: str
) -> None:
    pauses = Pauses()
    message, requests, usage = fail(behaviour, error, pauses)
    assert says in message
    assert re.search(r"POST http://127\.0\.0\.1:\d+/v1/chat/completions", message)
    assert requests == 1
    assert pauses == []
    assert usage == Usage(
        lost_calls=int(behaviour.name == "null content")
    )  # a response with status 200 is billed


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (html(), "web page"),
        (broken_json(), "not JSON"),
        (Behaviour("empty", raw=b""), "nothing"),
        (Behaviour("deep", raw=b"[" * 200_000), "not JSON"),
        (edited(lambda answer: [answer]), "not a JSON object"),
        (edited(lambda answer: {"error": {"message": "x"}}), "choices"),
        (no_choices(), "choices"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_useless_answer_is_repeated_a_few_times(behaviour: Behaviour, says: str) -> None:
    pauses = Pauses()
    message, requests, usage = fail(behaviour, errors.MalformedAnswerError, pauses)
    assert says in message
    assert "gave up after 4 attempts)" in message
    assert requests == 4
    assert len(pauses) == 3
    assert usage == Usage(retries=3, lost_calls=4)
    answer, usage, server = ask([behaviour] * 3)
    assert answer.text == "say hello"
    assert len(server.requests) == 4
    assert answer.usage == usage == Usage(2, 2, calls=1, retries=3, lost_calls=3)


def test_the_bound_of_attempts_goes_for_useless_answers_too() -> None:
    message, requests, _ = fail(broken_json(), errors.MalformedAnswerError, max_attempts=2)
    assert "2 attempts, max_attempts=2" in message
    assert requests == 2


def test_redirects_are_not_followed() -> None:
    async def scenario() -> None:
        async with (
            FakeServer() as other,
            FakeServer(plan=redirect(f"{other.url}/chat/completions")) as server,
        ):
            async with make(server) as client:
                with pytest.raises(errors.MalformedAnswerError, match="redirects"):
                    await client.chat(HELLO)
            assert other.requests == []

    run(scenario())


def test_the_size_of_an_answer_is_bounded() -> None:
    message, requests, _ = fail(huge(2**21), errors.MalformedAnswerError, max_response_bytes=2**20)
    assert "max_response_bytes=1048576" in message
    assert requests == 4
    fail(Behaviour("huge error", status=400, raw=b"x" * 2**21), errors.RequestRejectedError)


# --- redaction of the key


@pytest.mark.parametrize(
    "echo",
    [KEY, f"x{KEY}y", KEY.replace("/", "\\/"), "sk-test%2F0123%2B456789abcdef", "a" * 190 + KEY],
)
@pytest.mark.parametrize("code", [400, 401, 429, 500, 200])
def test_the_key_never_shows(code: int, echo: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    behaviour = Behaviour("echo", status=code, raw=f'"{echo}"'.encode())
    message, _, _ = fail(behaviour, errors.LLMError, max_attempts=2)
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for part in (KEY, echo, "456789abcdef", "sk-test"):
        assert part not in message
        assert part not in logged


def test_retries_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ask([status(503, text=f"key {KEY}")])
    assert "HTTP 503" in caplog.text
    assert KEY not in caplog.text


def test_bodies_are_quoted_short_and_without_control_characters() -> None:
    raw = b"\x1b[31mred\x00\r\n" + "\u202eevil\u2028".encode() + b"z" * 5000
    message, _, _ = fail(Behaviour("odd", status=400, raw=raw), errors.RequestRejectedError)
    quoted = message.split("The server said: ")[1]
    assert quoted.startswith("[31mred evil z")
    assert len(quoted) < 230
    assert message.isprintable()


# --- redaction of the body


SECRETS = {
    "plain": "s3cret-plain",
    "slashed": "s3cret/sl+shed",
    "bearer": "s3cret-bearer",
    "listed": "s3cret-listed",
    "nested": "s3cret nested twice",
    "lines": "s3cret-begin\ns3cret-end",
    "unicode": "s3cret-\u00fc",
    "surrogate": "s3cret-\ud800",
    "number": 73577357,
}
BODY = {
    "temperature": 0.5,
    "max_tokens": 1024,
    "stop_token_ids": [1111, 2222],
    "skip_special_tokens": True,
    "api_key": SECRETS["plain"],
    "extra": [{"dataSource": {"accessToken": SECRETS["slashed"], "pin_secret": None}}],
    "extra_headers": {"Authorization": f"Bearer {SECRETS['bearer']}"},
    "db_passwords": ["", SECRETS["listed"], "abc"],
    "Credentials": {"of": {"whom": [SECRETS["nested"]]}, "port": SECRETS["number"]},
    "pass": SECRETS["lines"],
    "client_pwd": [SECRETS["unicode"], SECRETS["surrogate"]],
    "tools": [{"parameters": {"properties": {"author": {"type": "string"}}}}],
}


@pytest.mark.parametrize("field", ["body", "embedding_body"])
def test_a_configuration_does_not_show_the_secrets_of_its_bodies(field: str) -> None:
    config = ClientConfig("m", api_key=KEY, **{field: BODY})
    shown = config.public()[field]
    assert shown == {
        **BODY,
        "api_key": "***",
        "extra": [{"dataSource": {"accessToken": "***", "pin_secret": None}}],
        "extra_headers": {"Authorization": "***"},
        "db_passwords": ["***", "***", "***"],
        "Credentials": {"of": {"whom": ["***"]}, "port": "***"},
        "pass": "***",
        "client_pwd": ["***", "***"],
    }
    for text in (repr(config), str(config.public()), repr(OpenAIClient(config))):
        assert "s3cret" not in text
        assert str(SECRETS["number"]) not in text
    assert getattr(config, field) == BODY  # the body that is sent is unchanged


@pytest.mark.parametrize(
    "spell",
    [
        str,
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: quote_plus(str(value)),
    ],
    ids=["raw", "json", "json in utf-8", "url"],
)
@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("field", ["body", "embedding_body"])
def test_the_secrets_of_a_body_never_show(field: str, name: str, spell: Callable[[Any], str]) -> None:
    if name == "surrogate":  # only JSON can encode a lone surrogate
        spell = json.dumps
    raw = b"You sent '" + spell(SECRETS[name]).encode() + b"': 1024 is too much, use a string"
    message, _, _ = fail(Behaviour("echo", status=400, raw=raw), errors.RequestRejectedError, **{field: BODY})
    assert "s3cret" not in message
    assert str(SECRETS["number"]) not in message
    assert "***" in message
    assert "1024 is too much, use a string" in message


def test_a_body_nested_too_deeply_is_refused() -> None:
    body: dict[str, Any] = {}
    for _ in range(5000):
        body = {"a": body}
    with pytest.raises(errors.ConfigError, match="body cannot be sent"):
        ClientConfig("m", body=body)
