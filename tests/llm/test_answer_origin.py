"""Answers in the cache belong to the model that the endpoint serves now."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cache_tools import chat, run
from fake_server import VLLM_MODELS, FakeServer, Plan, status
from llm_tools import KEY, make, no_environment  # noqa: F401
from server_behaviours import served_by

from zopo_fast import errors
from zopo_fast.llm import cached_model
from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.llm.answer_cache import AnswerCache
from zopo_fast.llm.cached_model import CachedModel
from zopo_fast.llm.model_card import read_card, tells_model
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient
from zopo_fast.llm.types import Answer, Usage

NOW = 1_750_000_000.0


async def asked(
    folder: Path, server: FakeServer, texts: str, *, at: float = NOW, together: bool = False, **settings: Any
) -> Usage:
    """Make the calls of one run; return their usage."""
    cache = AnswerCache(folder, clock=lambda: at)
    async with make(server, **settings) as client:
        model = CachedModel(client, cache)
        if together:
            answers = await asyncio.gather(*(model.chat(chat(text)) for text in texts))
        else:
            answers = [await model.chat(chat(text)) for text in texts]
        await model.written()
    cache.close()
    return sum((answer.usage for answer in answers), Usage())


def calls(folder: Path, *runs: tuple[Any, Plan], texts: str = "abcd", **settings: Any) -> list[int]:
    """Make the same calls in runs with these responses to GET /models and chats; return the live calls."""

    async def scenario() -> list[int]:
        found = []
        async with FakeServer() as server:  # one address, behind which the model changes
            for number, (models, plan) in enumerate(runs):
                server.models, server._plan = models, plan
                usage = await asked(folder, server, texts, at=NOW + number, **settings)
                assert usage.calls + usage.cached == len(texts)
                found.append(usage.calls)
        return found

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def models(**entry: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "object": "model", **entry}]}


def test_another_model_under_the_same_name_is_asked(tmp_path: Path) -> None:
    first, second = models(root="org/first"), models(root="org/second")
    assert calls(tmp_path, (first, None), (first, None), (second, None), (first, None)) == [4, 0, 4, 0]


def test_another_model_of_a_server_that_takes_any_name_is_asked(tmp_path: Path) -> None:
    first, second = ({"data": [{"id": name, "meta": {"n_params": 7}}]} for name in ("a.gguf", "b.gguf"))
    assert calls(tmp_path, (first, None), (second, None), (first, None)) == [4, 4, 0]


def test_what_changes_from_request_to_request_is_no_other_model(tmp_path: Path) -> None:
    number = count()

    def changing() -> Any:
        i = next(number)
        permission = [{"id": f"modelperm-{i}", "created": int(time.time())}]
        return models(
            created=int(time.time()) + i, permission=permission, started=f"{time.time() + i:.3f}",
            status={"value": "loaded" if i else "unloaded"}, booted=int(time.time() * 1000) + i,
            ready_since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + i)), root="org/m",
        )  # fmt: skip

    assert calls(tmp_path, (changing, None), (changing, None), (changing, None)) == [4, 0, 0]


def test_other_models_of_a_list_do_not_matter(tmp_path: Path) -> None:
    more = {"data": [{"id": "another"}, *models(root="r")["data"]]}
    assert calls(tmp_path, (models(root="r"), None), (more, None)) == [4, 0]


def listed(count: int, first: int = 0) -> dict[str, Any]:
    return {"data": [{"id": f"x{number}", "root": f"r{number}"} for number in range(first, first + count)]}


def test_a_long_list_without_the_name_tells_nothing(tmp_path: Path) -> None:
    """A provider that lists another model serves the same one under this name."""
    first, second = served_by("m-0718", "fp_1"), served_by("m-0806", "fp_2")
    runs = [(listed(9), first), (listed(10), first), (listed(300), first), (listed(300), second)]
    assert calls(tmp_path, *runs) == [4, 1, 1, 4]


def test_a_short_list_without_the_name_counts(tmp_path: Path) -> None:
    assert calls(tmp_path, (listed(8), None), (listed(8), None), (listed(8, first=1), None)) == [4, 0, 4]


def test_the_card_is_dumped_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumped = []
    original = cached_model._card_bytes
    monkeypatch.setattr(cached_model, "_card_bytes", lambda card: dumped.append(1) or original(card))
    entry = models(root="r", note="x" * 100_000)
    assert calls(tmp_path, (entry, None), (entry, None), texts="abcd") == [4, 0]
    assert len(dumped) == 2
    assert len(original({"note": "x" * 100_000})) == 32
    assert original({"b": 1, "a": 2}) == b'{"a": 2, "b": 1}'  # the keys of earlier caches


def test_the_order_of_a_list_does_not_matter(tmp_path: Path) -> None:
    entries = [{"id": "x", "root": "1"}, {"id": "y", "root": "2"}]
    assert calls(tmp_path, ({"data": entries}, None), ({"models": entries[::-1]}, None)) == [4, 0]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"data": []},
        {"error": "Unexpected endpoint or method"},
        [1],
        lambda: web.Response(text="<html>"),
        lambda: web.Response(status=401),
        lambda: web.Response(status=503),
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
)
def test_without_a_list_of_models_the_first_response_tells(tmp_path: Path, answer: Any) -> None:
    first, second = served_by("m-0718", "fp_1"), served_by("m-0806", "fp_2")
    runs = [(answer, first), (answer, first), (answer, second), (answer, first)]
    # A run makes one call to see what is served.
    assert calls(tmp_path, *runs) == [4, 1, 4, 1]


@pytest.mark.parametrize(
    "answer",
    [
        models(owned_by="system", created=1686935002),  # OpenAI
        {"data": [{"id": "m", "root": "m", "parent": None, "permission": []}]},
        {"models": [{"name": "models/m", "displayName": ""}]},
    ],
)
def test_a_list_that_tells_the_name_alone_is_not_enough(tmp_path: Path, answer: Any) -> None:
    first, second = served_by("m-0718", "fp_1"), served_by("m-0806", "fp_2")
    runs = [(answer, first), (answer, first), (answer, second), (models(owned_by="another"), second)]
    assert calls(tmp_path, *runs) == [4, 1, 4, 4]


def test_a_fingerprint_alone_or_nothing_may_be_stated(tmp_path: Path) -> None:
    runs = [(None, served_by(None, name)) for name in ("fp_1", "fp_1", "fp_2", None, None)]
    assert calls(tmp_path, *runs) == [4, 1, 4, 4, 1]


def test_alternating_fingerprints_match_once_they_are_seen(tmp_path: Path) -> None:
    def alternating(request: Any) -> Any:
        return served_by("m", f"fp_{request.index % 2}")

    async def scenario() -> None:
        async with FakeServer(plan=alternating, models=None) as server:
            assert (await asked(tmp_path, server, "abcdefgh")).calls == 8
            # The first call tells fp_0, "b" with fp_1 is made and tells fp_1, then both match.
            assert (await asked(tmp_path, server, "abcdefgh", at=NOW + 1)).calls == 2

    run(scenario())


def test_calls_at_once_wait_for_the_one_that_tells(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeServer(models=None) as server:
            assert (await asked(tmp_path, server, "abcdefgh", together=True)).calls == 8
            usage = await asked(tmp_path, server, "abcdefghi", together=True, at=NOW + 60)
            assert (usage.calls, usage.cached, usage.reused) == (2, 7, 7)  # "a", and the new "i"
            assert len(server.model_requests) == 2

    run(scenario())


def test_the_next_call_tells_where_the_first_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeServer(models=None) as server:
            await asked(tmp_path, server, "abc")
            server._plan = [status(400)]
            cache = AnswerCache(tmp_path, clock=lambda: NOW + 1)
            async with make(server) as client:
                model = CachedModel(client, cache)
                found = await asyncio.gather(
                    *(model.chat(chat(text)) for text in "abc"), return_exceptions=True
                )
            assert isinstance(found[0], errors.RequestRejectedError)
            usages = [answer.usage for answer in found[1:]]  # type: ignore[union-attr]
            # One of the two is made, and tells what the other needs.
            assert sorted((usage.calls, usage.cached) for usage in usages) == [(0, 1), (1, 0)]

    run(scenario())


def test_the_models_are_asked_for_once_with_key_headers_and_query(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeServer() as server:
            await asked(tmp_path, server, "abcabc", together=True, headers={"X-Org": "o"})
            (headers,) = server.model_requests
            assert (headers["Authorization"], headers["X-Org"]) == (f"Bearer {KEY}", "o")
            await asked(tmp_path, server, "a")
            assert len(server.model_requests) == 2  # once a run
            async with OpenAIClient(ClientConfig("m", base_url=server.url.removesuffix("/v1"))) as bare:
                assert await bare.model_card() == {
                    k: v for k, v in VLLM_MODELS["data"][0].items() if k != "created"
                }

    run(scenario())


def test_without_a_cache_the_models_are_not_asked_for() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            await client.chat(chat("a"))
            assert not server.model_requests

    run(scenario())


def test_an_object_around_a_client_tells_the_origin_as_well(tmp_path: Path) -> None:
    """An object with a `ClientConfig` calls an endpoint: its identity alone does not tell what is served."""

    class Around:
        name = "m"

        def __init__(self, client: OpenAIClient) -> None:
            self.client, self.config = client, client.config

        async def chat(self, messages: Any) -> Answer:
            return await self.client.chat(messages)

    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            found = []
            for number, name in enumerate(("one", "one", "two")):
                server._plan = served_by(name)
                cache = AnswerCache(tmp_path, clock=lambda at=NOW + number: at)  # type: ignore[misc]
                model = CachedModel(as_chat_model(Around(client), 1), cache)
                usages = [(await model.chat(chat(text))).usage for text in "abc"]
                await model.written()
                found.append(sum(usage.calls for usage in usages))
            assert found == [3, 1, 3]

    run(scenario())


def test_answers_of_an_earlier_run_have_an_age(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with FakeServer() as server:
            await asked(tmp_path, server, "ab")
            day = 86_400.0
            usage = await asked(tmp_path, server, "abcc", at=NOW + day)
            assert (usage.calls, usage.cached, usage.reused, usage.reused_age) == (1, 3, 2, day)
            usage = await asked(tmp_path, server, "cab", at=NOW + 3 * day)
            assert (usage.cached, usage.reused, usage.reused_age) == (3, 3, 3 * day)

    run(scenario())


def test_a_file_of_an_earlier_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "answers-1.sqlite3").write_bytes(b"old")
    assert calls(tmp_path, (VLLM_MODELS, None), (VLLM_MODELS, None)) == [4, 0]
    assert (tmp_path / "answers-1.sqlite3").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("response", "model", "card"),
    [
        # OpenAI
        ({"data": [{"id": "m", "created": 1686935002, "owned_by": "system"}]}, "m",
         {"id": "m", "owned_by": "system"}),
        # Ollama and Gemini list other spellings of the name
        ({"data": [{"id": "m:latest", "owned_by": "library"}, {"id": "n:latest"}]}, "m",
         {"id": "m:latest", "owned_by": "library"}),
        ({"models": [{"name": "models/m", "version": "001"}, {"name": "models/n"}]}, "m",
         {"name": "models/m", "version": "001"}),
        # llama.cpp takes any name
        ({"data": [{"id": "/m.gguf", "created": NOW, "meta": {"n_params": 7, "size": 9}}]}, "gpt-3.5",
         {"id": "/m.gguf", "meta": {"n_params": 7, "size": 9}}),
        ([{"id": "m", "digest": "sha:1", "pricing": {"prompt": 1}}], "m", {"id": "m", "digest": "sha:1"}),
        ({"data": [{"id": "m", "n_ctx_train": 2, "max_model_len": 3, "quantization": "Q4", "revision": "r"}]},
         "m", {"id": "m", "n_ctx_train": 2, "max_model_len": 3, "quantization": "Q4", "revision": "r"}),
        ({}, "m", None), ([], "m", None), ("m", "m", None), ({"data": {"id": "m"}}, "m", None),
    ],
)  # fmt: skip
def test_cards(response: Any, model: str, card: Any) -> None:
    assert read_card(json.dumps(response).encode(), model, NOW) == card


def test_a_response_that_is_no_json_is_no_card() -> None:
    assert read_card(b"<html>", "m", NOW) is None
    assert read_card(b'{"data":' * 100_000, "m", NOW) is None


def test_cards_that_tell_the_model() -> None:
    telling: list[Any] = [
        {"id": "m", "root": "org/m"}, {"id": "m", "meta": {"n_params": 7}}, {"id": "m", "digest": "1"},
        {"id": "m", "max_model_len": 4096}, {"id": "/m.gguf"}, [{"id": "a"}, {"id": "b"}],
    ]  # fmt: skip
    silent: list[Any] = [
        None, {"id": "m"}, {"id": "m", "object": "model", "owned_by": "x"},
        {"id": "m", "root": "m", "meta": {}},
    ]  # fmt: skip
    assert [tells_model(card, "m") for card in telling] == [True] * len(telling)
    assert [tells_model(card, "m") for card in silent] == [False] * len(silent)
