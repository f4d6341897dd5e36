"""Embeddings of a server that may fail."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import server_behaviours as behaviours
from fake_server import Behaviour, FakeServer, Plan, edited, hashed_vector, no_usage, ok, slow, status
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


def refusal(code: int, message: str) -> Behaviour:
    return status(code, text=message)


REFUSALS = {
    "TEI": refusal(422, "batch size 64 > maximum allowed batch size 32"),
    "TEI 413": refusal(413, "batch size 64 > maximum allowed batch size 32"),
    "nginx": Behaviour("413", status=413, raw=b"<html>413 Request Entity Too Large</html>"),
    "OpenAI": refusal(
        400, "Invalid 'input': array too long. Expected an array with maximum length 2048, but got 3000."
    ),
    "OpenAI in sum": refusal(400, "Requested 400000 tokens, max 300000 tokens per request"),
    "OpenAI 429": refusal(429, "Request too large for e on tokens per min: Limit 4000, Requested 6000"),
    "Azure": refusal(400, "Too many inputs. The max number of inputs is 16."),
    "Cohere": refusal(400, "invalid request: total number of texts must be at most 96 - received 128"),
    "Voyage": refusal(400, "The max allowed tokens per submitted batch is 120000. Please lower the number."),
    "Gemini": refusal(400, "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch"),
    "Mistral": refusal(400, "Too many tokens in batch. Max is 16384 got 20000"),
    "DashScope": refusal(400, "Value error, batch size is invalid, it should not be larger than 10.: input"),
    "pydantic": Behaviour(
        "422", status=422,
        raw=b'{"detail":[{"type":"too_long","loc":["body"],"msg":"List should have at most 5 items"}]}',
    ),
    "no reason": refusal(400, "Bad Request"),
    "another language": refusal(400, "input数组最大不得超过64条"),
    "with status 200": Behaviour(
        "200", raw=b'{"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"}'
    ),
    "llama.cpp": refusal(500, "input is too large to process. increase the physical batch size"),
    "out of memory": refusal(500, "CUDA out of memory. Tried to allocate 2.00 GiB"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_batch_that_is_too_large_is_halved_and_its_size_is_kept(case: str) -> None:
    texts = [f"text number {number}" for number in range(32)]

    async def scenario() -> None:
        plan = behaviours.batch_limit(5, REFUSALS[case])
        async with (
            FakeServer(plan=plan) as server,
            make(server, embedding_model="e", embedding_batch=16, concurrency=1) as client,
        ):
            for _ in range(2):
                vectors = await client.embed(texts)
                expected = np.array([hashed_vector(text) for text in texts], np.float32)
                np.testing.assert_array_equal(vectors, expected)
            sizes = [len(request.body["input"]) for request in server.requests]
            assert sizes == [16, 8, *[4] * 16]
            assert client.usage == Usage(32 * 2 * 3, 0, calls=16)

    run(scenario())


def test_concurrent_batches_learn_the_size_from_each_other() -> None:
    async def scenario() -> None:
        plan = behaviours.batch_limit(4, REFUSALS["TEI"])
        async with (
            FakeServer(plan=plan) as server,
            make(server, embedding_model="e", embedding_batch=8, concurrency=2) as client,
        ):
            texts = [str(number) for number in range(80)]
            vectors = await client.embed(texts)
            np.testing.assert_array_equal(vectors, np.array([hashed_vector(t) for t in texts], np.float32))
            # The two batches in flight are refused, those behind them are not sent.
            assert [len(r.body["input"]) for r in server.requests].count(8) == 2

    run(scenario())


def test_the_text_that_is_refused_alone_is_named() -> None:
    def plan(request: Any) -> Behaviour:
        long = any("long" in text for text in request.body["input"])
        return refusal(400, "maximum context length is 512 tokens, requested 900 tokens") if long else ok()

    async def scenario() -> None:
        async with (
            FakeServer(plan=plan) as server,
            make(server, embedding_model="e", embedding_batch=8) as client,
        ):
            texts = [f"text {number}" for number in range(8)]
            with pytest.raises(errors.RequestRejectedError) as caught:
                await client.embed([*texts[:5], "a long text", *texts[5:]])
            assert type(caught.value) is errors.RequestRejectedError
            assert "text 6 of 9, 'a long text' (11 characters), cannot be embedded" in str(caught.value)
            assert "maximum context length is 512" in str(caught.value)
            server.requests.clear()
            await client.embed(texts)  # the size was not the reason
            assert [len(request.body["input"]) for request in server.requests] == [8]

    run(scenario())


@pytest.mark.parametrize(
    "message",
    [
        "Unrecognized request argument supplied: dimensions",
        "Invalid value for parameter encoding_format",
        "The model `e` does not exist",
        "This model does not support matryoshka representation",
    ],
)
def test_a_refusal_for_another_reason_is_not_halved(message: str) -> None:
    async def scenario() -> None:
        async with (
            FakeServer(plan=refusal(400, message)) as server,
            make(server, embedding_model="e", concurrency=1) as client,
        ):
            with pytest.raises(errors.LLMError, match="HTTP 400"):
                await client.embed(["a", "b", "c", "d"])
            assert len(server.requests) == 1

    run(scenario())


def test_a_refusal_of_every_batch_costs_few_calls() -> None:
    async def scenario() -> None:
        async with (
            FakeServer(plan=refusal(400, "this is a chat model")) as server,
            make(server, embedding_model="e") as client,
        ):
            with pytest.raises(errors.RequestRejectedError, match=r"text 1 of 64, '0'"):
                await client.embed([str(number) for number in range(64)])
            assert [len(request.body["input"]) for request in server.requests] == [64, 32, 16, 8, 4, 2, 1]

    run(scenario())


NATIVE = {
    "Ollama, Cohere": lambda rows: {"embeddings": rows},
    "Cohere by type": lambda rows: {"embeddings": {"float": rows}},
    "TEI": lambda rows: rows,
    "rows as data": lambda rows: {"data": rows},
    "without index": lambda rows: {"data": [{"embedding": row} for row in rows]},
    "null index": lambda rows: {"data": [{"index": None, "embedding": row} for row in rows]},
    "llama.cpp": lambda rows: [{"index": i, "embedding": [row]} for i, row in enumerate(rows)],
    "Gemini": lambda rows: {"embeddings": [{"values": row} for row in rows]},
}


@pytest.mark.parametrize("shape", NATIVE)
def test_vectors_in_the_shapes_of_other_servers(shape: str) -> None:
    texts = ["a", "b", "c"]
    vectors, _, _ = embed([behaviours.native_vectors(NATIVE[shape])], texts)
    np.testing.assert_array_equal(vectors, np.array([hashed_vector(text) for text in texts], np.float32))


def test_the_vector_of_a_single_text_may_stand_alone() -> None:
    vectors, _, _ = embed([behaviours.native_vectors(lambda rows: {"embedding": rows[0]})], ["a"])
    np.testing.assert_array_equal(vectors, np.array([hashed_vector("a")], np.float32))


def test_vectors_in_base64() -> None:
    texts = ["a", "b", "c"]
    vectors, _, server = embed(
        [behaviours.base64_vectors()], texts, embedding_body={"encoding_format": "base64"}
    )
    np.testing.assert_array_equal(vectors, np.array([hashed_vector(text) for text in texts], np.float32))
    assert server.requests[0].body["encoding_format"] == "base64"


@pytest.mark.parametrize(
    "text", ["AAAA", "AACAfwAAAAA=", "", "not base64!"], ids=["3 bytes", "inf", "none", "-"]
)
def test_base64_that_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(errors.MalformedAnswerError, match=r"list of numbers|not float32"):
        embed([edited(lambda answer: {"data": [{"embedding": text}]})], ["a"])
