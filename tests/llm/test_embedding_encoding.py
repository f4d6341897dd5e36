"""Embeddings in base64: float32 is read, other numbers are refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from fake_server import Behaviour, FakeServer, edited, hashed_vector
from llm_tools import make, no_environment, run  # noqa: F401

from zopo_fast import errors

TEXTS = ["a", "b", "c"]


def rows_of(dimension: int) -> np.ndarray:
    return np.array([hashed_vector(text, dimension) for text in TEXTS])


def encoded(rows: np.ndarray) -> Behaviour:
    """Respond with rows in base64 of their bytes."""
    items = [{"embedding": base64.b64encode(row.tobytes()).decode()} for row in rows]
    return edited(lambda answer: {**answer, "data": items}, good=True)


def embed(rows: np.ndarray, **body: Any) -> np.ndarray:
    async def scenario() -> np.ndarray:
        server = FakeServer(plan=[encoded(rows)])
        async with server, make(server, embedding_model="e", embedding_body=body) as client:
            return await client.embed(TEXTS)

    return run(scenario())


@pytest.mark.parametrize("dtype", ["<f2", "<f8", "i1", ">f4"])
@pytest.mark.parametrize("dimension", [63, 64, 256])
def test_other_numbers_are_refused(dtype: str, dimension: int) -> None:
    """float16 read as float32 gives half as many numbers, which would steer the search without a word."""
    rows = rows_of(dimension) * (127 if dtype == "i1" else 1)
    with pytest.raises(errors.MalformedAnswerError, match=r"encoding_format.*--embedding-body") as caught:
        embed(rows.astype(dtype))
    assert caught.value.code == "encoding_format"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_float16_of_any_length_is_refused(scale: float) -> None:
    rows = np.random.default_rng(0).normal(size=(len(TEXTS), 384)) * scale
    with pytest.raises(errors.MalformedAnswerError, match="float16"):
        embed(rows.astype("<f2"))


@pytest.mark.parametrize("dtype", ["<f2", "<f8", "i1"])
def test_a_dimension_other_than_requested_is_refused(dtype: str) -> None:
    with pytest.raises(errors.MalformedAnswerError, match="encoding_format"):
        embed(np.ones((len(TEXTS), 8), dtype), dimensions=8)


@pytest.mark.parametrize("dimension", [1, 2, 8, 256])
@pytest.mark.parametrize("kind", ["random", "float16", "bfloat16", "sparse", "zeros", "signs"])
def test_float32_is_kept(dimension: int, kind: str) -> None:
    """Numbers of few digits, sparse ones and zeros are float32 as well."""
    rows = rows_of(dimension).astype(np.float32)
    if kind == "float16":
        rows = rows.astype(np.float16).astype(np.float32)
    elif kind == "bfloat16":
        rows = (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    elif kind == "sparse":
        rows = np.maximum(rows, 0)
    elif kind != "random":
        rows = np.sign(rows) if kind == "signs" else rows * 0
    for body in ({}, {"dimensions": dimension}):
        np.testing.assert_array_equal(embed(rows, **body), rows)
