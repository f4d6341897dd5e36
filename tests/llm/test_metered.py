"""MeteredModel with models that do not reserve budget themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from zopo_fast.errors import ConfigError, RateLimitError, RequestTimeoutError
from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.llm.budget import Account
from zopo_fast.llm.limits import Limits
from zopo_fast.llm.middleware import MeteredModel
from zopo_fast.llm.tokens import chat_bound
from zopo_fast.llm.types import Answer, Message, Usage


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Model:
    """Model with a fixed outcome: an answer or an error; None: it never answers."""

    def __init__(self, outcome: Any) -> None:
        self.body = {"max_tokens": 10}
        self.slots = 3
        self.outcome = outcome

    async def chat(self, messages: Sequence[Message]) -> Answer:
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        answer: Answer = self.outcome
        return answer


HELLO = [{"role": "user", "content": "hello"}]
BOUND = chat_bound(HELLO, {"max_tokens": 10}, required=True)


@pytest.mark.parametrize(
    ("outcome", "calls", "tokens"),
    [
        (Answer("hi", Usage(5, 2, calls=1)), 1, 7),
        (Answer("hi", Usage()), 1, 0),
        (Answer("hi", Usage(cached=1)), 0, 0),
        (RateLimitError("429"), 0, 0),
        (RequestTimeoutError("slow"), 1, BOUND.total_tokens),
        (ZeroDivisionError(), 1, BOUND.total_tokens),
    ],
)
def test_any_model_can_be_metered(outcome: Any, calls: int, tokens: int) -> None:
    async def scenario() -> None:
        account = Account(Limits(calls=5, tokens=10_000))
        model = MeteredModel(as_chat_model(Model(outcome), 16), account)
        assert model.slots == 3
        if isinstance(outcome, Exception):
            with pytest.raises(type(outcome)):
                await model.chat(HELLO)
        else:
            assert await model.chat(HELLO) is outcome
        assert (account.spent.calls, account.spent.tokens) == (calls, tokens)

    run(scenario())


def test_a_cancelled_call_counts_in_full() -> None:
    async def scenario() -> None:
        account = Account(Limits(calls=5, tokens=10_000))
        task = asyncio.ensure_future(MeteredModel(as_chat_model(Model(None), 16), account).chat(HELLO))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (account.spent.calls, account.spent.tokens) == (1, BOUND.total_tokens)

    run(scenario())


def test_a_model_of_unbounded_answers_is_refused_at_once() -> None:
    model = Model(None)
    model.body = {}
    MeteredModel(as_chat_model(model, 16), Account(Limits(calls=5)))
    with pytest.raises(ConfigError, match="max_tokens"):
        MeteredModel(as_chat_model(model, 16), Account(Limits(tokens=5)))
