"""Client: successful calls, settings and usage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_server import Behaviour, FakeServer, Request, absurd_usage, edited, html, no_usage, ok, status
from llm_tools import HELLO, KEY, ask, make, no_environment, run, settle  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.client import Answer, ClientConfig, OpenAIClient, Usage
from zopo_fast.llm.tokens import count_messages, count_tokens

# --- successful calls


def test_an_answer_comes_with_its_usage() -> None:
    answer, usage, server = ask(None)
    assert answer == Answer("say hello", Usage(2, 2, calls=1), "stop")
    assert usage == answer.usage
    assert usage.total_tokens == 4
    assert server.answered_total == 1


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 4, 5, 6, 7) + Usage(10, 20, 30, 40, 50, 60, 70)
    assert total == Usage(11, 22, 33, 44, 55, 66, 77)
    with pytest.raises(TypeError):
        Usage() + 1  # type: ignore[operator]


def test_headers_body_and_key_are_sent() -> None:
    body = {"temperature": 0.5, "max_tokens": 7, "seed": 1, "stop": ["\n"], "top_k": 3}
    _, _, server = ask(None, headers={"X-Team": "a"}, body=body)
    sent = server.requests[0]
    assert sent.body == {"model": "m", "messages": HELLO, **body}
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["X-Team"] == "a"
    assert sent.headers["Content-Type"] == "application/json"


def test_the_configuration_is_a_copy() -> None:
    body: dict[str, Any] = {"stop": ["a"]}
    config = ClientConfig("m", body=body)
    body["stop"].append("b")
    assert config.body == {"stop": ["a"]}


def test_half_a_surrogate_pair_is_replaced() -> None:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["choices"][0]["message"]["content"] = "a\ud800b"
        return answer

    answer, _, _ = ask([edited(edit)])
    assert answer.text == "a?b"


# --- address of the endpoint


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1", ""])
@pytest.mark.parametrize("ending", ["", "/", "?api-version=2024-02-01"])
def test_base_urls(prefix: str, ending: str) -> None:
    async def scenario() -> FakeServer:
        async with FakeServer(prefix=prefix) as server:
            server.url += ending
            async with make(server) as client:
                await client.chat(HELLO)
            return server

    server = run(scenario())
    assert [request.path for request in server.requests] == [f"{prefix}/chat/completions"]


def test_a_bare_host_is_tried_below_v1_once() -> None:
    async def scenario() -> None:
        async with FakeServer() as server:
            server.url = server.url.removesuffix("/v1")
            async with make(server) as client:
                first, second = await client.chat(HELLO), await client.chat(HELLO)
            assert (first.usage.retries, second.usage.retries) == (0, 0)
            assert len(server.requests) == 2
            assert server.unrouted == ["/chat/completions"]  # not tried again once /v1 is known

    run(scenario())


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("call", ["chat", "embed"])
def test_calls_under_way_learn_the_prefix_of_a_bare_host_too(call: str, ending: str) -> None:
    """No call fails because another one, sent at the same time, has learned the prefix."""

    async def scenario() -> None:
        async with FakeServer() as server:
            server.unrouted_gate = asyncio.Event()
            server.url = server.url.removesuffix("/v1") + ending
            async with make(server, embedding_model="e", concurrency=8) as client:
                ask = (lambda: client.chat(HELLO)) if call == "chat" else (lambda: client.embed(["a"]))
                calls = asyncio.gather(*(ask() for _ in range(8)))
                # The first call learns the prefix while the others wait for their 404.
                assert await settle(lambda: server.answered_total == 1 and len(server.unrouted) == 8)
                server.unrouted_gate.set()
                await calls
            assert server.answered_total == 8

    run(scenario())


@pytest.mark.parametrize("operation", ["chat/completions", "completions", "embeddings", "chat/completions/"])
@pytest.mark.parametrize("prefix", ["/v1", "/api/v1", ""])
@pytest.mark.parametrize("query", ["", "?api-version=2024-02-01"])
def test_the_path_of_an_operation_is_left_out_of_a_base_url(operation: str, prefix: str, query: str) -> None:
    async def scenario() -> None:
        async with FakeServer(prefix=prefix) as server:
            server.url = f"{server.url}/{operation}{query}"
            async with make(server, embedding_model="e") as client:
                await client.chat(HELLO)
                await client.embed(["a"])
                assert client.identity["endpoint"][0].endswith(f"{prefix}/chat/completions")
        paths = [f"{prefix}/chat/completions", f"{prefix}/embeddings"]
        assert [request.path for request in server.requests] == paths
        assert server.unrouted == []

    run(scenario())


@pytest.mark.parametrize(
    "missing",
    [
        status(405),
        status(410),
        status(501),
        Behaviour("lm studio", raw=b'{"error":"Unexpected endpoint or method. (POST /x)"}'),
        html(),
        html(403),
        Behaviour("page", raw=b"\n<html>", content_type="text/html"),
        Behaviour("gateway", status=403, raw=b'{"message":"Missing Authentication Token"}'),
        Behaviour("gateway", status=403, raw=b'{"message": "Forbidden"}'),
        Behaviour("health", raw=b'{"status":"ok"}'),
        Behaviour("greeting", raw=b'{"message":"Welcome", "version": "1.2"}'),
        Behaviour("text", raw=b"Server is running", content_type="text/plain"),
        Behaviour("text", raw=b'"ok"'),
        Behaviour("login", status=302, headers={"Location": "/login"}, raw=b""),
    ],
    ids=lambda value: value.name,
)
def test_a_bare_host_whose_root_says_no_in_another_way(missing: Behaviour) -> None:
    def plan(request: Request) -> Behaviour:
        return ok() if request.path.startswith("/v1/") else missing

    async def scenario() -> None:
        async with FakeServer(plan=plan, also=["/chat/completions"]) as server:
            server.url = server.url.removesuffix("/v1")
            async with make(server) as client:
                assert (await client.chat(HELLO)).text == "say hello"

    run(scenario())


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (status(401), errors.AuthenticationError),
        (status(403), errors.AuthenticationError),
        (Behaviour("key", status=401, raw=b'{"message":"No API key found"}'), errors.AuthenticationError),
        (
            Behaviour("prompt", raw=b'{"promptFeedback":{"blockReason":"SAFETY"}}'),
            errors.MalformedAnswerError,
        ),
        (Behaviour("upstream", raw=b'{"error":{"code":401}}'), errors.AuthenticationError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_refusal_of_an_api_at_the_root_stands(refusal: Behaviour, error: type[errors.ZopoError]) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=refusal, prefix="") as server, make(server) as client:
            with pytest.raises(error):
                await client.chat(HELLO)
            assert server.unrouted == []

    run(scenario())


def test_a_root_that_has_answered_is_not_left_for_one_odd_response() -> None:
    async def scenario() -> None:
        async with FakeServer(plan=[ok(), html()], prefix="", also=["/v1/chat/completions"]) as server:
            async with make(server) as client:
                for _ in range(3):
                    assert (await client.chat(HELLO)).text == "say hello"
            assert {request.path for request in server.requests} == {"/chat/completions"}

    run(scenario())


def test_a_web_site_everywhere_is_told_as_such() -> None:
    async def scenario() -> None:
        server = FakeServer(plan=html(), prefix="", also=["/v1/chat/completions"])
        async with server, make(server) as client:
            with pytest.raises(errors.MalformedAnswerError, match="check that base_url includes /v1"):
                await client.chat(HELLO)

    run(scenario())


def test_a_missing_model_below_v1_is_told_in_its_own_words() -> None:
    async def scenario() -> None:
        plan = status(404, text="model 'x' not found, try pulling it first")
        async with FakeServer(plan=plan) as server:
            server.url = server.url.removesuffix("/v1")
            async with make(server) as client:
                with pytest.raises(errors.ModelNotFoundError, match="try pulling it first"):
                    await client.chat(HELLO)

    run(scenario())


def test_endpoint_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with FakeServer() as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
            async with OpenAIClient("m") as client:
                assert (await client.chat(HELLO)).text == "say hello"
                assert KEY not in repr(client)
            assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"

    run(scenario())


def test_another_endpoint_needs_no_key() -> None:
    _, _, server = ask(None, api_key=None)
    assert "Authorization" not in server.requests[0].headers


def test_openai_needs_a_key() -> None:
    with pytest.raises(errors.AuthenticationError, match="OPENAI_API_KEY"):
        OpenAIClient("m")
    assert "key" in repr(OpenAIClient(ClientConfig("m", api_key=KEY)))


def test_credentials_in_the_url_are_sent_and_hidden() -> None:
    async def scenario() -> None:
        async with FakeServer(plan=status(400, text="hunter22")) as server:
            server.url = server.url.replace("://", "://me:hunter22@")
            async with make(server, api_key=None) as client:
                with pytest.raises(errors.RequestRejectedError) as caught:
                    await client.chat(HELLO)
            assert server.requests[0].headers["Authorization"].startswith("Basic ")
            assert "hunter22" not in str(caught.value) + repr(client)

    run(scenario())


# --- settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("base_url", "localhost:8000"),
        ("base_url", "ftp://host/v1"),
        ("base_url", "http://host:99999/v1"),
        ("base_url", "//me:Evil@host/v1?key=Evil"),
        ("default_body", {"model": "x"}),
        ("api_key", "two words"),
        ("api_key", "line\r\nX-Evil: 1"),
        ("concurrency", 0),
        ("concurrency", True),
        ("concurrency", 2.5),
        ("timeout", 0),
        ("timeout", float("nan")),
        ("timeout", "60"),
        ("max_attempts", 0),
        ("max_elapsed", float("inf")),
        ("backoff_initial", -1.0),
        ("backoff_max", 0.1),
        ("headers", {"bad name": "x"}),
        ("headers", {"X": "a\r\nb"}),
        ("headers", {"X": 1}),
        ("headers", "X: 1"),
        ("body", {"messages": []}),
        ("body", {"stream": True}),
        ("body", {"temperature": -1}),
        ("body", {"temperature": float("nan")}),
        ("body", {"max_tokens": 0}),
        ("body", {"seed": object()}),
        ("body", {1: 2}),
        ("embedding_model", ""),
        ("embedding_batch", 0),
        ("embedding_body", {"input": "x"}),
        ("max_response_bytes", 0),
        ("requests_per_minute", 0),
        ("tokens_per_minute", float("nan")),
        ("breaker_failures", 0),
        ("breaker_seconds", -1.0),
    ],
)
def test_settings_that_cannot_be_used_are_named(field: str, value: Any) -> None:
    with pytest.raises(errors.ConfigError, match=field) as caught:
        ClientConfig(**{"model": "m", field: value})
    assert caught.value.__cause__ is None
    assert "Evil" not in str(caught.value)


def test_a_configuration_does_not_show_its_secrets() -> None:
    config = ClientConfig(
        "m", "http://me:hunter22@host/v1?key=abcd1234", api_key=KEY, headers={"X-Token": "tok-tok-tok"}
    )
    shown = repr(config) + str(config.public()) + repr(OpenAIClient(config))
    for secret in (KEY, "hunter22", "abcd1234", "tok-tok-tok"):
        assert secret not in shown
    assert "http://host/v1" in shown


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "user"}], [{"role": "user", "content": None}]])
def test_messages_are_checked_before_any_call(messages: Any) -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            with pytest.raises(errors.InputError):
                await client.chat(messages)
            assert server.requests == []

    run(scenario())


# --- usage


def test_missing_usage_is_estimated_and_counted_as_such() -> None:
    answer, usage, _ = ask([no_usage()])
    assert usage.prompt_tokens == count_messages(HELLO, "m").tokens
    assert usage.completion_tokens == count_tokens("say hello", "m").tokens
    assert answer.usage == usage
    assert usage.estimated_calls == usage.calls == 1


@pytest.mark.parametrize("bad", [-5, 10**15, "7", None, True, 3.5, 0, [1]])
def test_usage_that_cannot_be_is_taken_as_missing(bad: Any) -> None:
    _, usage, _ = ask([absurd_usage(prompt=7, completion=bad)])
    assert usage == Usage(7, count_tokens("say hello", "m").tokens, calls=1, estimated_calls=1)
    _, usage, _ = ask([absurd_usage(prompt=bad, completion=7)])
    assert usage == Usage(count_messages(HELLO, "m").tokens, 7, calls=1, estimated_calls=1)


def test_usage_of_another_shape_is_taken_as_missing() -> None:
    _, usage, _ = ask([edited(lambda answer: {**answer, "usage": [1, 2]})])
    assert usage.estimated_calls == 1


@pytest.mark.parametrize(
    ("usage", "tokens", "estimated"),
    [
        # xAI and Gemini: the total holds the reasoning, completion_tokens does not.
        ({"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 1033,
          "completion_tokens_details": {"reasoning_tokens": 1000}}, (30, 1003), False),
        ({"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 1033}, (30, 1003), False),
        ({"prompt_tokens": 30, "completion_tokens": 3,
          "completion_tokens_details": {"reasoning_tokens": 1000}}, (30, 1003), False),
        # OpenAI: completion_tokens holds the reasoning.
        ({"prompt_tokens": 30, "completion_tokens": 1003, "total_tokens": 1033,
          "completion_tokens_details": {"reasoning_tokens": 1000}}, (30, 1003), False),
        ({"prompt_tokens": 30, "completion_tokens": 1003,
          "completion_tokens_details": {"reasoning_tokens": 1000}}, (30, 1003), False),
        ({"prompt_tokens": 30, "total_tokens": 33}, (30, 3), False),
        ({"prompt_tokens": 30, "completion_tokens": None, "total_tokens": 33}, (30, 3), False),
        # Totals that cannot be.
        ({"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 10**15}, (30, 3), False),
        ({"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 3}, (30, 3), False),
        ({"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": "1033"}, (30, 3), False),
        ({"prompt_tokens": 30, "completion_tokens": 3, "completion_tokens_details": None}, (30, 3), False),
        ({"prompt_tokens": 30, "completion_tokens": 3,
          "completion_tokens_details": {"reasoning_tokens": 10**15}}, (30, 3), False),
        ({"prompt_tokens": -1, "completion_tokens": 3, "total_tokens": 1033}, (None, 3), True),
    ],
)  # fmt: skip
def test_reasoning_beside_the_completion_counts_as_tokens_out(
    usage: Any, tokens: tuple[int | None, int], estimated: bool
) -> None:
    answer, counted, _ = ask([edited(lambda good: {**good, "usage": usage}, good=True)])
    prompt = count_messages(HELLO, "m").tokens if tokens[0] is None else tokens[0]
    assert counted == answer.usage == Usage(prompt, tokens[1], calls=1, estimated_calls=int(estimated))
