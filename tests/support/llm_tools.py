"""What the tests of the client share: a client, a pause that takes no time, one call."""

from __future__ import annotations

import asyncio
import gc
import random
import traceback
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from fake_server import FakeServer, Plan

from zopo_fast import errors
from zopo_fast.llm.openai.client import Answer, ClientConfig, OpenAIClient, Usage

T = TypeVar("T")
KEY = "sk-test/0123+456789abcdef"
HELLO = [{"role": "user", "content": "say hello"}]


class Pauses(list[float]):
    """A sleep that only takes note."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no endpoint but a test's own; a test file imports it to have it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what was left open warns when it is collected, and a warning is an error here."""
    result = asyncio.run(scenario)
    gc.collect()
    return result


def make(server: FakeServer, pauses: Pauses | None = None, **settings: Any) -> OpenAIClient:
    config = ClientConfig("m", base_url=server.url, **{"api_key": KEY, "timeout": 30.0, **settings})
    return OpenAIClient(config, sleep=Pauses() if pauses is None else pauses, rng=random.Random(0))


async def settle(condition: Any) -> bool:
    """Give the loop turns, with no waiting, until the condition holds."""
    for _ in range(2000):
        if condition():
            return True
        await asyncio.sleep(0)
    return False


def ask(plan: Plan, pauses: Pauses | None = None, **settings: Any) -> tuple[Answer, Usage, FakeServer]:
    """Ask once; return the answer, the client's usage and the server."""

    async def scenario() -> tuple[Answer, Usage, FakeServer]:
        async with FakeServer(plan=plan) as server, make(server, pauses, **settings) as client:
            return await client.chat(HELLO), client.usage, server

    return run(scenario())


def fail(
    plan: Plan, error: type[errors.ZopoError], pauses: Pauses | None = None, **settings: Any
) -> tuple[str, int, Usage]:
    """Ask once, in vain; return the error's message, the number of requests and the client's usage."""

    async def scenario() -> tuple[str, int, Usage]:
        async with FakeServer(plan=plan) as server, make(server, pauses, **settings) as client:
            with pytest.raises(error) as caught:
                await client.chat(HELLO)
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert KEY not in shown
            link: BaseException | None = caught.value.__context__ or caught.value.__cause__
            assert link is None  # nothing of the transport's, with its headers, hangs on the error
            return str(caught.value), len(server.requests), client.usage

    return run(scenario())
