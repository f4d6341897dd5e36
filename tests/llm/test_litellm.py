"""LiteLLMModel with the real package: hard limits, typed errors, secrets, and an import without a request."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cli_tools import Bench, chats, serving
from doc_tools import ROOT, blocks_of
from fake_server import (
    Behaviour,
    FakeServer,
    broken_json,
    dropped,
    no_usage,
    random_faults,
    slow,
    status,
    truncated,
)
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.cli.models import JudgeSettings, ModelSettings
from zopo_fast.llm.litellm import load_litellm

if importlib.util.find_spec("litellm") is None:  # an import here would download its list of prices
    pytest.skip("needs the extra litellm", allow_module_level=True)
# Of the package itself and of the clients that it keeps open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "sk-litellm-0123456789"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Import the package once, which takes seconds."""
    load_litellm()


def settings(url: str, model: str = "openai/m", **more: Any) -> zf.ClientConfig:
    given = {"api_key": KEY, "body": {"max_tokens": 8}, "backoff_initial": 0.01, "backoff_max": 0.02}
    return zf.ClientConfig(model, base_url=url, **{**given, **more})


def run(work: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, HANG))  # type: ignore[arg-type]


def ask(
    plan: Any, limits: zf.Limits | None = None, **more: Any
) -> tuple[Any, FakeServer, zf.Account, zf.LiteLLMModel]:
    """Return the answer or error of one call, the server, the account and the model."""

    async def work() -> Any:
        async with FakeServer(lambda _: "cold", plan=plan) as server:
            account = zf.Account(limits or zf.Limits(calls=100))
            async with zf.LiteLLMModel(settings(server.url, **more)) as model:
                try:
                    found: Any = await model.chat(HELLO, account=account)
                except zf.ZopoError as error:
                    found = error
            return found, server, account, model

    found: tuple[Any, FakeServer, zf.Account, zf.LiteLLMModel] = run(work())
    return found


# ---- answers -----------------------------------------------------------------------------------------------


def test_an_answer_has_the_tokens_that_the_provider_states() -> None:
    answer, server, account, model = ask(None)
    assert (answer.text, answer.finish_reason) == ("cold", "stop")
    assert (answer.usage.calls, answer.usage.completion_tokens, answer.usage.estimated_calls) == (1, 1, 0)
    assert model.usage == answer.usage
    assert account.spent.calls == 1
    assert server.requests[0].body["max_tokens"] == 8
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_call_has_a_span_of_its_provider(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("opentelemetry.sdk")
    spans = request.getfixturevalue("spans")
    answer, server, *_ = ask(None)
    span = spans.one("chat openai/m")
    assert span.attributes["gen_ai.provider.name"] == "openai"
    assert span.attributes["server.port"] == int(server.url.rsplit(":", 1)[1].split("/")[0])
    assert span.attributes["gen_ai.usage.output_tokens"] == answer.usage.completion_tokens
    assert KEY not in str([each.to_json() for each in spans.all()])


def test_unstated_tokens_are_estimated() -> None:
    answer, *_ = ask(no_usage())
    assert answer.usage.estimated_calls == 1


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [status(500), dropped(), truncated(), broken_json(), slow()], ids=lambda each: each.name
)
def test_an_attempt_that_may_be_billed_counts_once(failure: Behaviour) -> None:
    answer, server, account, model = ask([failure], timeout=2.0 if failure == slow() else HANG)
    assert answer.text == "cold"
    assert len(server.requests) == account.spent.calls == 1 + model.usage.lost_calls
    assert account.outstanding == 0
    assert model.usage.retries == model.usage.lost_calls >= 1
    assert failure == slow() or model.usage.lost_calls == 1


def test_a_refused_attempt_is_free_and_the_stated_wait_is_kept() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def work() -> None:
        async with FakeServer(lambda _: "cold", plan=[status(429, retry_after=7)]) as server:
            account = zf.Account(zf.Limits(calls=100))
            async with zf.LiteLLMModel(settings(server.url), sleep=sleep) as model:
                answer = await model.chat(HELLO, account=account)
            assert answer.text == "cold"
            assert (len(server.requests), account.spent.calls) == (2, 1)

    run(work())
    assert sum(slept) == pytest.approx(7, abs=0.1)


def test_limits_are_never_exceeded_under_faults() -> None:
    """Every failure of this plan may be billed, so the account counts exactly the requests of the server."""

    async def work() -> None:
        plan = random_faults(seed=3, share=0.5, kinds=(status(500), dropped(), truncated(), broken_json()))
        async with FakeServer(lambda _: "cold", plan=plan) as server:
            account = zf.Account(zf.Limits(calls=17))
            async with zf.LiteLLMModel(settings(server.url, concurrency=4)) as model:
                calls = [
                    model.chat([{"role": "user", "content": f"question {i}"}], account=account)
                    for i in range(40)
                ]
                ends = await asyncio.gather(*calls, return_exceptions=True)
            limited = [end for end in ends if isinstance(end, zf.LimitReachedError)]
            assert len(server.requests) == account.spent.calls == 17
            assert model.usage.calls + model.usage.lost_calls == 17
            assert len(limited) == 40 - model.usage.calls
            assert server.max_in_flight <= 4

    run(work())


def test_a_limit_of_tokens_needs_a_limit_of_the_answer() -> None:
    with pytest.raises(zf.ConfigError, match="max_tokens"):
        raise ask(None, zf.Limits(tokens=100), body={})[0]
    found, server, *_ = ask(None, zf.Limits(tokens=1))
    assert isinstance(found, zf.LimitReachedError)
    assert server.requests == []


@pytest.mark.parametrize("name", ["num_retries", "max_retries", "fallbacks", "timeout", "retry_policy"])
def test_retries_and_fallbacks_of_the_package_are_refused(name: str) -> None:
    with pytest.raises(zf.ConfigError, match=f"body: '{name}'"):
        zf.LiteLLMModel(zf.ClientConfig("openai/m", body={name: 3}))


def test_global_retries_and_fallbacks_of_the_package_do_not_act(monkeypatch: pytest.MonkeyPatch) -> None:
    import litellm

    monkeypatch.setattr(litellm, "num_retries", 5)
    found, server, account, _ = ask(status(500), max_attempts=1)
    assert isinstance(found, zf.ServerError)
    assert len(server.requests) == account.spent.calls == 1
    monkeypatch.setattr(litellm, "model_fallbacks", ["openai/other"])
    found, server, *_ = ask(None)
    assert isinstance(found, zf.ConfigError)
    assert "model_fallbacks" in str(found)
    assert server.requests == []


# ---- errors ------------------------------------------------------------------------------------------------

LONG = "This model's maximum context length is 8 tokens. However, you requested 9 tokens."


@pytest.mark.parametrize(
    ("failure", "kind", "concerns"),
    [
        (status(401, text=f"wrong key {KEY}"), zf.AuthenticationError, "account"),
        (status(404), zf.ModelNotFoundError, "endpoint"),
        (status(400, text=LONG), zf.RequestRejectedError, "call"),
        (status(429), zf.RateLimitError, "account"),
        (status(503), zf.ServerError, "endpoint"),
        (dropped(), zf.UnreachableError, "endpoint"),
        (slow(), zf.RequestTimeoutError, "endpoint"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_errors_are_typed_and_show_no_key(failure: Behaviour, kind: type[Exception], concerns: str) -> None:
    found, *_ = ask(failure, timeout=2.0 if failure == slow() else HANG, max_attempts=1)
    assert type(found) is kind
    assert found.concerns == concerns
    assert "litellm://openai/m" in str(found)
    assert KEY not in str(found) + repr(found.__context__)


def test_an_address_without_a_server_costs_nothing(unused_port: int) -> None:
    async def work() -> None:
        account = zf.Account(zf.Limits(calls=3))
        url = f"http://127.0.0.1:{unused_port}/v1"
        async with zf.LiteLLMModel(settings(url, max_attempts=2)) as model:
            with pytest.raises(zf.UnreachableError, match="cannot be reached"):
                await model.chat(HELLO, account=account)
        assert (account.spent.calls, model.usage.lost_calls) == (0, 0)

    run(work())


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


# ---- another provider --------------------------------------------------------------------------------------

MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "cold"}], "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip


async def with_anthropic(
    responses: Sequence[tuple[int, Any]], use: Callable[[zf.LiteLLMModel], Awaitable[Any]], **more: Any
) -> tuple[Any, int]:
    """Return the result of a call to a stub of Anthropic's interface, and the number of its requests.

    Args:
        responses: status and body of each response, then good ones.
        use: makes the call.
        more: further settings of the client.
    """
    left, requests = list(responses), 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        assert (await request.json())["max_tokens"] == 8
        code, body = left.pop(0) if left else (200, MESSAGE)
        return web.json_response(body, status=code, headers={"Retry-After": "0"} if code == 429 else {})

    app = web.Application()
    app.router.add_post("/v1/messages", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with zf.LiteLLMModel(settings(url, "anthropic/claude", **more)) as model:
            return await use(model), requests
    finally:
        await runner.cleanup()


def test_another_provider_answers_in_its_own_format_within_the_limit() -> None:
    account = zf.Account(zf.Limits(calls=4))

    async def use(model: zf.LiteLLMModel) -> zf.Usage:
        answer = await model.chat(HELLO, account=account)
        assert answer.text == "cold"
        return answer.usage

    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    limited = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    usage, requests = run(with_anthropic([(429, limited), (529, overloaded), (200, {"no": "text"})], use))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.calls, usage.retries) == (3, 2, 1, 3)
    assert requests == 4
    assert account.spent.calls == 3  # without the refusal


# ---- settings, identity, import ----------------------------------------------------------------------------


def test_identity_and_representation_hold_no_secret() -> None:
    config = settings("http://user:pass-0123456789@127.0.0.1/v1", headers={"X-Key": KEY})
    model = zf.LiteLLMModel(config)
    assert model.identity == {
        "client": "litellm", "model": "openai/m", "endpoint": "http://127.0.0.1/v1", "body": {"max_tokens": 8}
    }  # fmt: skip
    shown = repr(model) + json.dumps(dict(model.description)) + json.dumps(dict(model.identity))
    assert KEY not in shown
    assert "pass-0123456789" not in shown
    assert (model.slots, model.max_answer_tokens) == (16, 8)
    other = model.with_body({"max_tokens": 3})
    assert isinstance(other, zf.LiteLLMModel)
    assert other.max_answer_tokens == 3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(zf.MissingDependencyError, match=r"zopo-fast\[litellm\]"):
        zf.LiteLLMModel("openai/m")


IMPORT = """
import os, sys
reached = []
sys.addaudithook(lambda event, args: reached.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
import zopo_fast.llm.litellm as bridge
import zopo_fast as zf
zf.LiteLLMModel("openai/m")
assert "litellm" not in sys.modules
litellm = bridge.load_litellm()
assert litellm.suppress_debug_info
assert "LITELLM_LOCAL_MODEL_COST_MAP" not in os.environ
print(reached)
"""  # noqa: E501


def test_the_import_makes_no_request_and_leaves_the_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_command_line_names_the_model_and_resumes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with serving() as server:
        words = bench.optimize(server, "--out", "out", "--limit-calls", "20", "--no-cache", budget=4)
        words[words.index("m")] = "litellm:openai/m"
        words += ["--embedding-base-url", server.url]
        begun = bench.run(*words)
        assert begun.code == 0, begun
        assert "model openai/m by LiteLLM" in begun.err
        assert "the limit of calls is reached" in begun.out
        assert len(chats(server)) == 19  # beside the embedding call
        resumed = bench.run("optimize", "--resume", "out", "--limit-calls", "100")
        assert resumed.code == 0, resumed
        keys = [json.dumps(request.body, sort_keys=True) for request in chats(server)]
        assert len(keys) == len(set(keys)) > 19


def test_a_judge_by_litellm_does_not_get_the_headers_of_the_endpoint() -> None:
    model = ModelSettings(
        local=False, model="m", base_url="http://127.0.0.1:1/v1", concurrency=3, temperature=None,
        max_tokens=None, timeout=None, max_wait=None, requests_per_minute=None, tokens_per_minute=None,
        body={}, headers={"X-Key": KEY},
    )  # fmt: skip
    judge = JudgeSettings("litellm:openai/j", None, None, {}, None)
    task = zf.Task("t", (zf.Example("a", ("b",)),), metric="judge")

    async def work() -> Any:
        async with judge.opened(model, None, task, None) as opened:
            return opened

    opened = run(work())
    assert isinstance(opened, zf.LiteLLMModel)
    assert (opened.config.model, opened.config.base_url, opened.config.headers) == ("openai/j", None, {})
    assert opened.slots == 3


def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block.code for block in blocks_of("docs/integrations/litellm.md"))
    monkeypatch.chdir(ROOT)
    with serving(lambda _: "positive") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        given: dict[str, Any] = {}
        exec(compile(code, "<page>", "exec"), given)
    result = given["result"]
    assert len(result.trials) == 3
    assert result.usage.calls == len(chats(server))
