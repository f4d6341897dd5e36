"""Scripted chat model, and a runner of scenarios."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from llm_tools import HELLO, KEY, make, no_environment  # noqa: F401

from zopo_fast.llm.types import Answer, Message, Usage


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


class Model:
    """Chat model that answers in capitals once `gate` is set; counts calls and cancellations."""

    def __init__(self, finish: str | None = "stop") -> None:
        self.asked: list[str] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.finish = finish
        self.identity: Any = "m"
        self.description = {"model": "m", "body": None}
        self.slots = 7
        self.max_answer_tokens = None

    async def chat(self, messages: Sequence[Message], **_: Any) -> Answer:
        self.asked.append(messages[-1]["content"])
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return Answer(messages[-1]["content"].upper(), Usage(3, 4, calls=1, retries=1), self.finish)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)  # the cache looks answers up in a thread
