"""Cache of answers: hits, keys, and deduplication of calls in flight."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from cache_tools import Model, chat, run, turns
from fake_server import Behaviour, FakeServer, edited, no_choices, null_content, status
from llm_tools import HELLO, KEY, make, no_environment  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.llm.answer_cache import FILE, AnswerCache
from zopo_fast.llm.budget import Account
from zopo_fast.llm.cached_model import CachedModel, key_of
from zopo_fast.llm.limits import Limits
from zopo_fast.llm.middleware import MeteredModel
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient
from zopo_fast.llm.types import Answer, ChatModel, Usage

# --- hits


def test_an_answer_is_paid_for_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        for number in range(2):  # two runs
            cache = AnswerCache(tmp_path)
            cached = CachedModel(model, cache)
            first, again = await cached.chat(chat("a")), await cached.chat(chat("a"))
            assert first.text == again.text == "A"
            assert first.finish_reason == again.finish_reason == "stop"
            assert first.usage == (Usage(cached=1, reused=1) if number else Usage(3, 4, calls=1, retries=1))
            assert again.usage == Usage(cached=1, reused=number)
            await cached.chat(chat("b"))
            await cached.written()
            assert cache.held()[0] == 2
            cache.close()
        assert model.asked == ["a", "b"]

    run(scenario())


def test_what_an_answer_depends_on_is_in_its_key() -> None:
    identity = {"model": "m", "endpoint": "e", "body": {"a": 1, "b": [2]}}
    assert key_of(identity, HELLO) == key_of({"body": {"b": [2], "a": 1}, **identity}, [dict(HELLO[0])])
    keys = {
        key_of(identity, HELLO),
        key_of({**identity, "model": "n"}, HELLO),
        key_of({**identity, "endpoint": "f"}, HELLO),
        key_of({**identity, "body": {"a": 2, "b": [2]}}, HELLO),
        key_of(identity, chat("say hallo")),
        key_of(identity, [{"role": "system", "content": "say hello"}]),
        key_of(identity, HELLO * 2),
        key_of(identity, chat("\ud800")),
    }
    assert len(keys) == 8


def test_identity_of_a_client() -> None:
    def identity(**settings: Any) -> Any:
        return OpenAIClient(ClientConfig(**{"model": "m", "base_url": "http://h/v1", **settings})).identity

    plain = identity()
    assert plain == identity(api_key=KEY, concurrency=3, base_url="http://me:secret99@h/v1/")
    different = [
        plain,
        identity(model="n"),
        identity(base_url="http://h2/v1"),
        identity(base_url="http://h/v1?api-version=2"),
        identity(body={"temperature": 0}),
    ]
    assert len({str(one) for one in different}) == 5
    shown = str(identity(api_key=KEY, base_url="http://me:secret99@h/v1?api_key=secret99&x=1"))
    assert "secret99" not in shown
    assert KEY not in shown

    class Named:
        name = "m"

        async def chat(self, messages: Any) -> Answer:
            raise AssertionError

    client = OpenAIClient(ClientConfig("m", base_url="http://h/v1"))
    assert MeteredModel(client, Account(Limits())).identity == plain
    assert as_chat_model(Named(), 1).identity is None
    assert as_chat_model(print, 1).identity is None


def test_a_model_that_is_not_known_is_not_cached(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        model.identity = None
        cached = CachedModel(model, AnswerCache(tmp_path))
        await cached.chat(chat("a"))
        await cached.chat(chat("a"))
        assert model.asked == ["a", "a"]
        assert not (tmp_path / FILE).exists()

    run(scenario())


@pytest.mark.parametrize(
    ("finish", "text", "kept"),
    [
        (None, "a", 1),
        ("stop", "a", 1),
        ("STOP", "a", 1),
        ("length", "a", 1),  # the limit of the length is in the key
        ("stop", "<think>hm</think>a", 1),
        ("content_filter", "a", 0),
        ("SAFETY", "a", 0),
        ("tool_calls", "a", 0),
        ("function_call", "a", 0),
        ("error", "a", 0),
        ("insufficient_system_resource", "a", 0),
        ("stop", "", 0),
        ("stop", " \n", 0),
        ("length", "<think>hm", 0),
        ("stop", "<think>hm</think>\n", 0),
    ],
)
def test_only_whole_answers_are_kept(tmp_path: Path, finish: str | None, text: str, kept: int) -> None:
    async def scenario() -> None:
        cache = AnswerCache(tmp_path)
        cached = CachedModel(Model(finish), cache)
        assert (await cached.chat(chat(text))).finish_reason == finish
        await cached.written()
        assert cache.held()[0] == kept

    run(scenario())


def test_failures_are_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        model.error = errors.ServerError("HTTP 500")
        cached = CachedModel(model, AnswerCache(tmp_path))
        with pytest.raises(errors.ServerError):
            await cached.chat(chat("a"))
        model.error = None
        assert (await cached.chat(chat("a"))).usage.calls == 1

    run(scenario())


@pytest.mark.parametrize(
    "failure",
    [
        no_choices(),
        null_content(),
        edited(lambda answer: {"error": {"message": "upstream failed", "code": 502}}),
        edited(
            lambda answer: {**answer, "choices": [{"message": {"content": "x"}, "finish_reason": "error"}]}
        ),
        edited(lambda answer: {**answer, "choices": [{"message": {"content": None, "refusal": "I cannot"}}]}),
        edited(lambda answer: {**answer, "choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
    ],
)
def test_no_failure_of_a_provider_is_kept(tmp_path: Path, failure: Behaviour) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=failure) as server, make(server, max_attempts=1) as client:
            cache = AnswerCache(tmp_path)
            model = CachedModel(client, cache)
            with contextlib.suppress(errors.LLMError):
                await model.chat(HELLO)
            await model.written()
            assert cache.held() == (0, 0)
            server._plan = None
            assert (await model.chat(HELLO)).text == "say hello"
            await model.written()
            assert cache.held()[0] == 1

    run(scenario())


def test_the_wrapper_is_the_model_otherwise(tmp_path: Path) -> None:
    assert CachedModel(Model(), AnswerCache(tmp_path)).slots == 7
    client = OpenAIClient(ClientConfig("m", base_url="http://h/v1", concurrency=5, body={"max_tokens": 9}))
    wrapped = CachedModel(MeteredModel(client, Account(Limits())), AnswerCache(tmp_path))
    assert (wrapped.slots, wrapped.max_answer_tokens) == (5, 9)
    assert (wrapped.identity, wrapped.description) == (client.identity, client.description)
    assert isinstance(wrapped, ChatModel)


def test_hits_cost_neither_budget_nor_slot(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server, concurrency=1, body={"max_tokens": 9}) as client:
            account = Account(Limits(calls=1, tokens=1000))
            model = CachedModel(MeteredModel(client, account), AnswerCache(tmp_path))
            await model.chat(HELLO)
            spent = account.spent
            server.gate = asyncio.Event()
            blocked = asyncio.ensure_future(client.chat(chat("another")))
            await server.wait_in_flight(1)  # the only slot is taken
            assert (await model.chat(HELLO)).usage == Usage(cached=1)
            assert (account.spent.calls, account.spent.tokens) == (1, spent.tokens)
            server.gate.set()
            await blocked
            with pytest.raises(errors.LimitReachedError):
                await model.chat(chat("one more"))

    run(scenario())


# --- identical calls in flight


def test_identical_calls_at_once_are_made_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        model.gate.clear()
        cached = CachedModel(model, AnswerCache(tmp_path))
        calls = [asyncio.ensure_future(cached.chat(chat("ab"[number % 2]))) for number in range(10)]
        await turns()
        model.gate.set()
        answers = await asyncio.gather(*calls)
        assert sorted(model.asked) == ["a", "b"]
        assert sum((answer.usage for answer in answers), Usage()) == Usage(6, 8, 2, 2, cached=8)
        assert not cached._flights

    run(scenario())


def test_cancelling_the_first_caller_fails_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        model.gate.clear()
        cached = CachedModel(model, AnswerCache(tmp_path))
        first, second, third = (asyncio.ensure_future(cached.chat(chat("a"))) for _ in range(3))
        await turns()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        model.gate.set()
        usages = [(await call).usage for call in (second, third)]
        assert usages == [Usage(3, 4, calls=1, retries=1), Usage(cached=1)]
        assert (model.asked, model.cancelled) == (["a"], 0)

    run(scenario())


def test_a_call_without_callers_is_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = asyncio.all_tasks()
        model = Model()
        model.gate.clear()
        cached = CachedModel(model, AnswerCache(tmp_path))
        calls = [asyncio.ensure_future(cached.chat(chat("a"))) for _ in range(2)]
        while not model.asked:  # a thread looks the answer up first
            await asyncio.sleep(0.001)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert model.cancelled == 1
        assert asyncio.all_tasks() == before
        model.gate.set()
        assert (await cached.chat(chat("a"))).text == "A"
        await cached.written()

    run(scenario())


def test_each_caller_gets_its_own_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        model.error = errors.LimitReachedError("no more calls", "calls")
        cached = CachedModel(model, AnswerCache(tmp_path))
        calls = [cached.chat(chat("a")) for _ in range(3)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert len({id(failure) for failure in failures}) == 3
        for failure in failures:
            assert isinstance(failure, errors.LimitReachedError)
            assert (str(failure), failure.limit) == ("no more calls", "calls")
        assert model.asked == ["a"]

    run(scenario())


def test_a_failure_of_the_endpoint_reaches_all_callers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=status(400)) as server, make(server) as client:
            model = CachedModel(client, AnswerCache(tmp_path))
            failures = await asyncio.gather(*(model.chat(HELLO) for _ in range(5)), return_exceptions=True)
            assert {type(failure) for failure in failures} == {errors.RequestRejectedError}
            assert len(server.requests) == 1

    run(scenario())


def test_the_identity_of_the_embedded_model() -> None:
    local = pytest.importorskip("zopo_fast.llm.local")
    try:
        model = local.LocalModel(body={"max_tokens": 5})
    except errors.MissingDependencyError as missing:
        pytest.skip(str(missing))
    identity = model.identity
    assert identity is not None
    assert identity["local"] == model.name
    assert identity["body"] == {"temperature": 0, "seed": 0, "max_tokens": 5}
    assert identity != local.LocalModel(body={"max_tokens": 6}).identity
