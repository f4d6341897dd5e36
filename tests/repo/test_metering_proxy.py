"""Metering proxy of the comparison of optimisers: every completion is counted, none beyond the budget."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_server import FakeServer, dropped, ok, status

from zopo_fast.bench.common.metering_proxy import BUDGET_EXHAUSTED, MeteringProxy, Tokens, messages_hash

CHAT = "chat/completions"


def body(text: str = "two words", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def post(url: str, key: str, document: Any, path: str = CHAT) -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/{path}", json=document, headers=headers) as response,
    ):
        return response.status, await response.json(), response.headers


def test_calls_are_counted_by_key_with_their_tokens() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 5, "b": 5}) as proxy:
            code, document, _ = await post(proxy.url, "a", body("one two three"))
            assert code == 200
            assert document["choices"][0]["message"]["content"] == "one two three"
            await post(proxy.url, "a", body("four"))
            await post(proxy.url, "b", body("five six"))
            assert proxy.counts == {"a": 2, "b": 1}
            assert proxy.usage("a") == Tokens(4, 4)
            assert proxy.usage("b") == Tokens(2, 2)

    asyncio.run(scenario())


def test_a_spent_budget_refuses_without_reaching_the_endpoint() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 1, "b": 1}) as proxy:
            await post(proxy.url, "a", body())
            code, document, headers = await post(proxy.url, "a", body())
            assert code == 429
            assert document["error"]["code"] == BUDGET_EXHAUSTED
            assert headers["x-should-retry"] == "false"
            assert len(server.requests) == 1
            assert proxy.refused == {"a": 1, "b": 0}
            assert (await post(proxy.url, "b", body()))[0] == 200

    asyncio.run(scenario())


def test_concurrent_calls_never_exceed_the_budget() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 7}) as proxy:
            server.gate = asyncio.Event()
            calls = [asyncio.create_task(post(proxy.url, "a", body(f"text {n}"))) for n in range(40)]
            while server.in_flight + sum(call.done() for call in calls) < 40:
                await asyncio.sleep(0.01)
            admitted = server.in_flight
            server.gate.set()
            assert admitted == 7
            assert sorted([(await call)[0] for call in calls]) == [200] * 7 + [429] * 33
            assert server.answered_total == proxy.counts["a"] == 7

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [status(503), dropped()], ids=["503", "dropped"])
def test_a_failed_call_is_free(fault: Any) -> None:
    async def scenario() -> None:
        async with FakeServer(plan=[fault, ok()]) as server, MeteringProxy(server.url, {"a": 1}) as proxy:
            assert (await post(proxy.url, "a", body()))[0] in (502, 503)
            assert proxy.counts == {"a": 0}
            assert (await post(proxy.url, "a", body()))[0] == 200
            assert [(call.outcome, call.number) for call in proxy.calls] == [("failed", None), ("ok", 1)]

    asyncio.run(scenario())


def test_an_unknown_key_and_what_cannot_be_counted_are_refused() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 9}) as proxy:
            assert (await post(proxy.url, "other", body()))[0] == 401
            assert (await post(proxy.url, "a", body(stream=True)))[0] == 400
            assert (await post(proxy.url, "a", body(n=3)))[0] == 400
            assert server.requests == []
            assert proxy.counts == {"a": 0}

    asyncio.run(scenario())


def test_other_paths_pass_through_uncounted() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 0}) as proxy:
            code, document, _ = await post(proxy.url, "a", {"model": "m", "input": ["x", "y"]}, "embeddings")
            assert code == 200
            assert len(document["data"]) == 2
            assert proxy.counts == {"a": 0}

    asyncio.run(scenario())


def test_the_endpoint_sees_its_own_key_and_not_the_callers() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 1}, upstream_key="real") as proxy:
            await post(proxy.url, "a", body())
            assert server.requests[0].headers["Authorization"] == "Bearer real"
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 1}) as proxy:
            await post(proxy.url, "a", body())
            assert "Authorization" not in server.requests[0].headers

    asyncio.run(scenario())


def test_the_log_holds_every_call_in_order(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"

    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {"a": 2, "b": 1}, log=log) as proxy:
            for key, text in (("a", "same"), ("b", "same"), ("a", "other words"), ("a", "late")):
                await post(proxy.url, key, body(text))

    asyncio.run(scenario())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["key"], line["number"], line["outcome"], line["status"]) for line in lines] == [
        ("a", 1, "ok", 200),
        ("b", 1, "ok", 200),
        ("a", 2, "ok", 200),
        ("a", None, "refused", 429),
    ]
    assert [line["prompt_tokens"] for line in lines] == [1, 1, 2, None]
    assert {line["kind"] for line in lines} == {CHAT}
    assert lines[0]["messages"] == lines[1]["messages"] == messages_hash(body("same")["messages"])
    assert lines[2]["messages"] != lines[0]["messages"]
    assert sorted(line["seconds"] for line in lines) == [line["seconds"] for line in lines]


def test_a_budget_can_be_added_and_raised() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, MeteringProxy(server.url, {}) as proxy:
            proxy.add_key("a", 1)
            assert [(await post(proxy.url, "a", body()))[0] for _ in range(2)] == [200, 429]
            proxy.add_key("a", 2)
            assert [(await post(proxy.url, "a", body()))[0] for _ in range(2)] == [200, 429]

    asyncio.run(scenario())
