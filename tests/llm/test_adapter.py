"""Functions and objects of the caller as the chat and embedding models of the package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cache_tools import Model
from llm_tools import HELLO, no_environment  # noqa: F401

from zopo_fast.errors import ConfigError, LLMError, MetricError
from zopo_fast.llm.adapter import as_chat_model, as_embedding_model
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient
from zopo_fast.llm.types import Answer, ChatModel, EmbeddingModel, Usage


class Bare:
    """Model with `chat` and the given attributes only."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    async def chat(self, messages: Any) -> Answer:
        return Answer(messages[-1]["content"].upper(), Usage(1, 2, calls=1))


def test_a_chat_model_stays_what_it_is() -> None:
    client = OpenAIClient(ClientConfig("m", base_url="http://h/v1", concurrency=5, body={"max_tokens": 9}))
    for model in (client, Model()):
        assert isinstance(model, ChatModel)
        assert as_chat_model(model, 16) is model
    assert (client.slots, client.max_answer_tokens) == (5, 9)
    assert client.description == {"model": "m", "body": {"max_tokens": 9}}


def test_an_object_with_chat_alone_is_a_model() -> None:
    model = as_chat_model(Bare(), 16)
    assert isinstance(model, ChatModel)
    assert (model.identity, model.slots, model.max_answer_tokens) == (None, 16, None)
    assert model.description == {"model": "Bare", "body": None}
    assert asyncio.run(model.chat(HELLO)).text == "SAY HELLO"


def test_attributes_of_an_object_count() -> None:
    model = as_chat_model(Bare(name="n", slots=3, body={"max_tokens": 7}), 16)
    assert (model.identity, model.slots, model.max_answer_tokens) == (None, 3, 7)
    assert model.description == {"model": "n", "body": {"max_tokens": 7}}
    config = ClientConfig("m", base_url="http://h/v1", concurrency=5, body={"max_tokens": 9})
    client = OpenAIClient(config)
    model = as_chat_model(Bare(name="n", config=config), 16)
    assert (model.identity, model.description) == (client.identity, client.description)
    assert (model.slots, model.max_answer_tokens) == (5, 9)
    assert as_chat_model(Bare(config=SimpleNamespace(body={})), 16).slots == 16


async def asynchronous(messages: Any) -> str:
    return str(messages[-1]["content"])


def synchronous(messages: Any) -> str:
    return str(messages[-1]["content"])


def answering(messages: Any) -> Answer:
    return Answer(str(messages[-1]["content"]), Usage(calls=1))


@pytest.mark.parametrize("function", [asynchronous, synchronous, answering])
def test_a_function_is_a_model(function: Any) -> None:
    model = as_chat_model(function, 4)
    assert (model.identity, model.slots) == (None, 4)
    assert model.description == {"model": "function", "body": None}
    assert asyncio.run(model.chat(HELLO)) == Answer("say hello", Usage(calls=1))


def test_a_function_runs_in_as_many_slots_as_it_was_given() -> None:
    async def scenario() -> None:
        running, most = 0, 0

        async def function(_: Any) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return "x"

        model = as_chat_model(function, 3)
        await asyncio.gather(*(model.chat(HELLO) for _ in range(9)))
        assert most == 3

    asyncio.run(scenario())


def test_a_function_that_fails_is_a_model_that_fails() -> None:
    with pytest.raises(LLMError, match="ZeroDivisionError"):
        asyncio.run(as_chat_model(lambda _: 1 // 0, 1).chat(HELLO))
    with pytest.raises(MetricError, match="returned int, expected str or Answer"):
        asyncio.run(as_chat_model(lambda _: 1, 1).chat(HELLO))


def test_anything_else_is_refused_by_the_name_of_its_argument() -> None:
    with pytest.raises(ConfigError, match=r"^llm: NoneType is no model"):
        as_chat_model(None, 1)
    with pytest.raises(ConfigError, match=r"^judge: int is no model"):
        as_chat_model(3, 1, "judge")


def test_embedders_of_the_caller() -> None:
    class Embedder:
        async def embed(self, texts: Sequence[str]) -> Any:
            return np.ones((len(texts), 2), np.float32)

    class Counting(Embedder):
        usage = Usage(9, calls=1)
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    plain = as_embedding_model(Embedder())
    assert isinstance(plain, EmbeddingModel)
    assert plain.usage == Usage()
    assert asyncio.run(plain.embed(["a", "b"])).shape == (2, 2)
    asyncio.run(plain.aclose())
    counting = Counting()
    assert as_embedding_model(counting) is counting
