"""Embeddings of a server that may fail."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fake_server import Behaviour, FakeServer, Plan, edited, hashed_vector, no_usage, slow, status
from llm_tools import make, no_environment, run  # noqa: F401

from zopo_fast import errors
from zopo_fast.llm.openai.client import Usage
from zopo_fast.llm.tokens import count_tokens


def embed(plan: Plan, texts: list[str], **settings: Any) -> tuple[np.ndarray, Usage, FakeServer]:
    async def scenario() -> tuple[np.ndarray, Usage, FakeServer]:
        settings.setdefault("embedding_model", "e")
        async with FakeServer(plan=plan) as server, make(server, **settings) as client:
            return await client.embed(texts), client.usage, server

    return run(scenario())


def test_embeddings_come_in_batches_and_in_order() -> None:
    texts = [f"text number {number}" for number in range(10)]
    vectors, usage, server = embed(None, texts, embedding_batch=4, embedding_body={"dimensions": 8})
    np.testing.assert_array_equal(vectors, np.array([hashed_vector(text) for text in texts], np.float32))
    assert vectors.dtype == np.float32
    assert sorted(len(request.body["input"]) for request in server.requests) == [2, 4, 4]
    assert all(
        request.body["model"] == "e" and request.body["dimensions"] == 8 for request in server.requests
    )
    assert usage == Usage(30, 0, calls=3)


def test_embeddings_are_put_in_the_order_of_their_index() -> None:
    texts = ["a", "b", "c"]
    vectors, _, _ = embed([edited(lambda answer: {**answer, "data": answer["data"][::-1]})], texts)
    np.testing.assert_array_equal(vectors, np.array([hashed_vector(text) for text in texts], np.float32))


def test_embeddings_are_repeated_and_estimated_like_chats() -> None:
    _, usage, _ = embed([status(500), no_usage()], ["say hello"])
    assert usage == Usage(count_tokens("say hello", "e").tokens, 0, calls=1, retries=1, estimated_calls=1)


def test_no_texts_need_no_call() -> None:
    vectors, _, server = embed(None, [])
    assert vectors.shape == (0, 0)
    assert server.requests == []


def _with_vector(vector: Any) -> Behaviour:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["data"][1]["embedding"] = vector
        return answer

    return edited(edit)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (edited(lambda answer: {}), "no embeddings"),
        (edited(lambda answer: {**answer, "data": None}), "no embeddings"),
        (edited(lambda answer: {**answer, "data": [1, 2, 3]}), "no embeddings"),
        (edited(lambda answer: {**answer, "data": answer["data"][:2]}), "2 embeddings for 3 texts"),
        (edited(lambda answer: {**answer, "data": [answer["data"][0]] * 3}), "indices"),
        (_with_vector([1.0]), "different dimensions"),
        (_with_vector([float("nan")] * 8), "NaN"),
        (_with_vector([float("inf")] * 8), "NaN"),
        (_with_vector([1e300] * 8), "float32"),
        (_with_vector([10**400] * 8), "not a list of numbers"),
        (_with_vector(["1"] * 8), "not a list of numbers"),
        (_with_vector([None] * 8), "not a list of numbers"),
        (_with_vector([[1.0], [2.0, 3.0]]), "not a list of numbers"),
        (_with_vector("base64"), "not a list of numbers"),
        (_with_vector([]), "not a list of numbers"),
        (_with_vector(None), "not a list of numbers"),
    ],
)
def test_embeddings_that_cannot_be_are_refused(behaviour: Behaviour, says: str) -> None:
    with pytest.raises(errors.MalformedAnswerError, match=says):
        embed([behaviour], ["a", "b", "c"])


def test_batches_of_different_dimension_are_refused() -> None:
    async def scenario() -> None:
        server = FakeServer(embed=lambda text: [0.0] * len(text))
        async with server, make(server, embedding_model="e", embedding_batch=1) as client:
            with pytest.raises(errors.MalformedAnswerError, match="dimension"):
                await client.embed(["a", "bb"])

    run(scenario())


def test_one_batch_that_fails_ends_the_others() -> None:
    def plan(request: Any) -> Behaviour:
        return status(400) if request.body["input"] == ["bad"] else slow()

    async def scenario() -> None:
        server = FakeServer(plan=plan)
        async with server, make(server, embedding_model="e", embedding_batch=1) as client:
            with pytest.raises(errors.RequestRejectedError):
                await client.embed(["good", "bad", "fine"])
            assert not [task for task in asyncio.all_tasks() if "_embed_batch" in repr(task)]

    run(scenario())


@pytest.mark.parametrize("texts", ["one", [1], [None]])
def test_texts_are_checked(texts: Any) -> None:
    with pytest.raises(errors.InputError):
        embed(None, texts)


def test_embeddings_need_a_model() -> None:
    with pytest.raises(errors.ConfigError, match="embedding_model"):
        embed(None, ["a"], embedding_model=None)
