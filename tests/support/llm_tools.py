"""Helpers of the client's tests: a client, a pause without waiting, one call."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from fake_server import Behaviour, FakeServer, Plan, Request, ok, slow
from time_tools import HANG

from zopo_fast import errors
from zopo_fast.llm.openai.client import Answer, ClientConfig, OpenAIClient, Usage

T = TypeVar("T")
KEY = "sk-test/0123+456789abcdef"
HELLO = [{"role": "user", "content": "say hello"}]


class Pauses(list[float]):
    """Sleep that records its seconds and returns at once."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove key and endpoint from the environment; a test file imports this fixture to use it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario and collect garbage: an open resource then warns, and a warning is an error."""
    result = asyncio.run(scenario)
    gc.collect()
    return result


def make(server: FakeServer, pauses: Pauses | None = None, **settings: Any) -> OpenAIClient:
    """Make a client for the server; its time consists of its pauses alone, on any machine."""
    config = ClientConfig("m", base_url=server.url, **{"api_key": KEY, "timeout": HANG, **settings})
    sleep = Pauses() if pauses is None else pauses
    return OpenAIClient(config, sleep=sleep, clock=lambda: 0.0, rng=random.Random(0))


def timed_out(seconds: float, times: int | None = None) -> Callable[[Request], Behaviour]:
    """Plan: hold the first `times` requests (None: all), and advance the clock of the loop by `seconds` each.

    The timeout of the call that is held expires then, on any machine and without waiting.
    """

    def plan(request: Request) -> Behaviour:
        if times is not None and request.index >= times:
            return ok()
        loop = asyncio.get_running_loop()
        now = loop.time
        # aiohttp rounds a timeout up to whole seconds.
        loop.time = lambda: now() + seconds + 1.0  # type: ignore[method-assign]
        return slow()

    return plan


async def settle(condition: Any) -> bool:
    """Wait until a condition holds that other tasks of the loop bring about."""
    end = time.monotonic() + HANG
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0)
    return bool(condition())


def ask(plan: Plan, pauses: Pauses | None = None, **settings: Any) -> tuple[Answer, Usage, FakeServer]:
    """Make one call; return the answer, the client's usage and the server."""

    async def scenario() -> tuple[Answer, Usage, FakeServer]:
        async with FakeServer(plan=plan) as server, make(server, pauses, **settings) as client:
            return await client.chat(HELLO), client.usage, server

    return run(scenario())


def fail(
    plan: Plan, error: type[errors.ZopoError], pauses: Pauses | None = None, **settings: Any
) -> tuple[str, int, Usage]:
    """Make one failing call; return the error's message, the number of requests and the client's usage."""

    async def scenario() -> tuple[str, int, Usage]:
        async with FakeServer(plan=plan) as server, make(server, pauses, **settings) as client:
            with pytest.raises(error) as caught:
                await client.chat(HELLO)
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert KEY not in shown
            link: BaseException | None = caught.value.__context__ or caught.value.__cause__
            assert link is None  # no error of the transport, which holds headers, is chained
            return str(caught.value), len(server.requests), client.usage

    return run(scenario())
