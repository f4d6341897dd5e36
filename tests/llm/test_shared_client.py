"""Clients with another body that share connections, slots and limits; keys by environment variable."""

from __future__ import annotations

import asyncio
import random

import pytest
from fake_server import FakeServer, status
from llm_tools import HELLO, KEY, Pauses, make, no_environment, run  # noqa: F401

from zopo_fast.errors import AuthenticationError
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient


def test_a_client_with_another_body_shares_all_but_body_and_usage() -> None:
    async def scenario() -> None:
        async with FakeServer() as server, make(server, body={"max_tokens": 8}, concurrency=1) as client:
            other = client.with_body({"max_tokens": 900, "seed": 1})
            server.gate = asyncio.Event()
            calls = [asyncio.ensure_future(each.chat(HELLO)) for each in (client, other, other)]
            await server.wait_in_flight(1)
            await asyncio.sleep(0.05)
            server.gate.set()
            await asyncio.gather(*calls)
            assert server.max_in_flight == 1
            assert len(server.connections) == 1
            bodies = [{k: v for k, v in r.body.items() if k != "messages"} for r in server.requests]
            assert bodies == [
                {"model": "m", "max_tokens": 8},
                *[{"model": "m", "max_tokens": 900, "seed": 1}] * 2,
            ]
            assert (client.usage.calls, other.usage.calls) == (1, 2)
            assert client.identity != other.identity
            assert other.max_answer_tokens == 900

    run(scenario())


def test_both_clients_count_towards_one_rate_limit() -> None:
    async def scenario() -> None:
        pauses = Pauses()
        async with FakeServer() as server:
            config = ClientConfig("m", base_url=server.url, api_key=KEY, requests_per_minute=6)
            client = OpenAIClient(config, sleep=pauses, clock=lambda: 0.0, rng=random.Random(0))
            other = client.with_body({"seed": 1})
            for each in (client, other, client, other):
                await each.chat(HELLO)
            await client.aclose()
        assert [round(pause) for pause in pauses if pause > 0] == [10, 10, 10]

    run(scenario())


@pytest.mark.parametrize(
    ("key_env", "sent"),
    [
        ("OPENAI_API_KEY", "Bearer sk-usual"),
        ("OTHER_KEY", "Bearer sk-other"),
        ("NO_SUCH", None),
        (None, None),
    ],
)
def test_the_key_comes_from_the_variable_of_the_configuration(
    key_env: str | None, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-usual")
    monkeypatch.setenv("OTHER_KEY", " sk-other ")

    async def scenario() -> None:
        async with (
            FakeServer() as server,
            OpenAIClient(ClientConfig("m", base_url=server.url, key_env=key_env)) as client,
        ):
            await client.chat(HELLO)
            assert server.requests[0].headers.get("Authorization") == sent

    run(scenario())


def test_openai_without_a_key_names_the_variable() -> None:
    with pytest.raises(AuthenticationError, match="set MY_KEY, pass api_key"):
        OpenAIClient(ClientConfig("m", key_env="MY_KEY"))
    with pytest.raises(AuthenticationError, match="set key_env, pass api_key"):
        OpenAIClient(ClientConfig("m", key_env=None))


def test_a_refused_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other")

    async def scenario() -> None:
        async with (
            FakeServer(plan=status(401)) as server,
            OpenAIClient(ClientConfig("m", base_url=server.url, key_env="OTHER_KEY")) as client,
        ):
            with pytest.raises(AuthenticationError, match="refuses the key; check OTHER_KEY"):
                await client.chat(HELLO)

    run(scenario())
