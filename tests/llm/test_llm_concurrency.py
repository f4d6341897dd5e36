"""Concurrent calls, cancelled calls, and their sessions."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter

import aiohttp
import pytest
from fake_server import (
    Behaviour,
    FakeServer,
    Request,
    dropped,
    key_of,
    ok,
    random_faults,
    slow,
    status,
    truncated,
)
from llm_tools import HELLO, Pauses, make, no_environment, run, settle  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient, Usage

# --- concurrent calls


def test_concurrency_is_limited_and_used() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server, concurrency=5) as client:
            server.gate = asyncio.Event()
            calls = [asyncio.ensure_future(client.chat(HELLO)) for _ in range(20)]
            await server.wait_in_flight(5)
            for _ in range(500):
                await asyncio.sleep(0)
                assert server.in_flight == 5
            server.gate.set()
            await asyncio.gather(*calls)
            assert server.max_in_flight == 5

    run(scenario())


def test_a_call_that_backs_off_lets_others_through() -> None:
    async def scenario() -> None:
        backing_off, go_on = asyncio.Event(), asyncio.Event()

        async def sleep(seconds: float) -> None:
            backing_off.set()
            await go_on.wait()

        async with FakeServer(plan=[status(429)]) as server:
            config = ClientConfig("m", base_url=server.url, concurrency=1)
            async with OpenAIClient(config, sleep=sleep) as client:
                first = asyncio.ensure_future(client.chat(HELLO))
                await backing_off.wait()
                assert (await client.chat(HELLO)).text == "say hello"
                go_on.set()
                assert (await first).usage.retries == 1

    run(scenario())


def test_every_call_is_answered_once_by_a_server_that_fails() -> None:
    kinds = (
        status(429),
        status(429, retry_after=3),
        status(500),
        status(503),
        dropped(),
        truncated("length"),
        truncated("chunked"),
    )

    async def scenario() -> None:
        faults = random_faults(seed=7, share=0.3, kinds=kinds, at_most=3)
        held = {key_of([{"role": "user", "content": f"question {number}"}]) for number in (7, 100, 250)}

        def plan(request: Request) -> Behaviour:
            if request.key in held:
                held.remove(request.key)
                return slow()
            return faults(request)

        async with FakeServer(plan=plan) as server:
            pauses = Pauses()
            before = asyncio.all_tasks()
            async with make(server, pauses, concurrency=16, timeout=4.0, max_attempts=6) as client:
                chats = [[{"role": "user", "content": f"question {number}"}] for number in range(300)]
                answers = await asyncio.gather(*(client.chat(chat) for chat in chats))
            assert [answer.text for answer in answers] == [chat[0]["content"] for chat in chats]
            assert all(server.answered[key_of(chat)] == 1 for chat in chats)
            assert server.answered_total == 300
            failed = len(server.requests) - 300
            assert failed > 60
            seen = Counter(request.behaviour for request in server.requests)
            lost = seen["dropped"] + seen["truncated length"] + seen["truncated chunked"] + seen["slow"]
            assert client.usage == Usage(600, 600, calls=300, retries=failed, lost_calls=lost)
            assert len(pauses) >= failed  # retries, and pauses of the rate limiter after a 429
            assert {request.behaviour for request in server.requests} == {
                kind.name for kind in (*kinds, ok(), slow())
            }
            assert server.max_in_flight <= 16
            assert await settle(lambda: server.open_connections == 0)
            assert await settle(lambda: asyncio.all_tasks() <= before)

    run(scenario())


@pytest.mark.parametrize("during", ["attempt", "pause", "queue"])
def test_a_call_can_be_cancelled_anywhere(during: str) -> None:
    async def scenario() -> None:
        pausing = asyncio.Event()

        async def sleep(seconds: float) -> None:
            pausing.set()
            await asyncio.Event().wait()

        async with FakeServer(plan=[status(500) if during == "pause" else slow()]) as server:
            config = ClientConfig("m", base_url=server.url, concurrency=1)
            async with OpenAIClient(config, sleep=sleep) as client:
                call = asyncio.ensure_future(client.chat(HELLO))
                await server.wait_requests(1)
                if during == "pause":
                    await pausing.wait()
                if during == "queue":
                    queued = asyncio.ensure_future(client.chat(HELLO))
                    await asyncio.sleep(0)
                    queued.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await queued
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert (await client.chat(HELLO)).text == "say hello"  # its slot is free again
            assert await settle(lambda: server.open_connections == 0)

    run(scenario())


# --- sessions


def test_a_client_outlives_its_event_loop() -> None:
    clients: list[OpenAIClient] = []
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def scenario() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with FakeServer() as server:
            if not clients:
                clients.append(OpenAIClient(ClientConfig("m", base_url=server.url)))
            client = clients[0]
            client._endpoint = OpenAIClient(ClientConfig("m", base_url=server.url))._endpoint
            calls = [client.chat(HELLO) for _ in range(20)]  # more calls than slots
            assert len(await asyncio.gather(*calls)) == 20

    run(scenario())  # not closed here: the event loop closes the session at its end
    run(scenario())
    assert clients[0].usage.calls == 40
    assert loops[0]() is None  # the client holds no reference to the ended loop


def test_a_closed_client_opens_a_new_session() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server) as client:
            await client.aclose()
            await client.chat(HELLO)
            await client.aclose()
            assert await settle(lambda: server.open_connections == 0)
            assert (await client.chat(HELLO)).text == "say hello"

    run(scenario())


def test_closing_the_client_ends_a_call_in_flight() -> None:
    async def scenario() -> None:
        async with FakeServer(plan=slow()) as server, make(server) as client:
            call = asyncio.ensure_future(client.chat(HELLO))
            await server.wait_requests(1)
            await client.aclose()
            with pytest.raises(errors.LLMError, match="closed"):
                await call

    run(scenario())


def test_a_session_given_by_the_caller_stays_open() -> None:
    async def scenario() -> None:
        async with FakeServer(plan=[status(400)]) as server:
            async with aiohttp.ClientSession(raise_for_status=True) as session:
                config = ClientConfig("m", base_url=server.url)
                async with OpenAIClient(config, session=session) as client:
                    with pytest.raises(errors.RequestRejectedError):
                        await client.chat(HELLO)
                    await client.chat(HELLO)
                assert not session.closed
            with pytest.raises(errors.LLMError, match="closed"):
                await client.chat(HELLO)

    run(scenario())
