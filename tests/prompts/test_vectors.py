"""Embeddings that hold nothing to search by."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.prompts.vectors import blindness

RNG = np.random.default_rng(0)
ROW = RNG.normal(size=16)
SPREAD = RNG.normal(size=(40, 16))


@pytest.mark.parametrize(
    ("Z", "says"),
    [
        (np.tile(ROW, (40, 1)), "all 40 embeddings are equal"),
        (np.tile(ROW, (5000, 1)), "all 5000 embeddings are equal"),
        (np.zeros((40, 16)), "all 40 embeddings are zero"),
        (np.tile(ROW, (40, 1)) + 1e-7 * SPREAD, "all 40 embeddings are equal, up to rounding"),
        (1e6 * np.tile(ROW, (40, 1)) + SPREAD, "all 40 embeddings are equal, up to rounding"),
        (np.tile(ROW, (2, 1)).astype(np.float16), "all 2 embeddings are equal"),
        (np.repeat(SPREAD[:4], 10, axis=0), "only 4 of 40 embeddings differ"),
        (np.where(np.arange(40)[:, None] % 3 == 0, SPREAD, 0.0), "only 15 of 40 embeddings differ"),
    ],
)
def test_embeddings_without_information_are_reported(Z: Any, says: str) -> None:
    assert says in str(blindness(Z, "endpoint:e"))
    assert "of the embedder endpoint:e: the search cannot tell the prompts apart" in str(
        blindness(Z, "endpoint:e")
    )


@pytest.mark.parametrize(
    "Z",
    [
        SPREAD,
        SPREAD.astype(np.float16),
        np.tile(ROW, (40, 1)) + 0.01 * SPREAD,  # small differences are information
        1e-30 * SPREAD,
        1e30 * SPREAD,
        1e300 * SPREAD,
        np.full((3, 2), np.nan),
        SPREAD[:1],
        np.zeros((1, 4)),
        np.vstack([SPREAD, SPREAD[:10]]),
    ],
)
def test_other_embeddings_are_not(Z: Any) -> None:
    assert blindness(Z) is None


class Constant:
    name = "constant"

    async def embed(self, texts: Any) -> Any:
        return np.ones((len(texts), 3), np.float32)


@pytest.mark.parametrize("how", [{"embedder": Constant()}, {"embeddings": np.ones((12, 3))}])
def test_a_run_warns_once(how: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    prompts = [f"prompt {number}" for number in range(12)]
    config = zf.RunConfig(budget=4, initial=2)
    with caplog.at_level(logging.WARNING):
        asyncio.run(zf.optimize(lambda prompt: float(len(prompt)), prompts, config=config, **how))
    (record,) = caplog.records
    assert "all 12 embeddings are equal" in record.getMessage()
    assert ("constant" in record.getMessage()) == ("embedder" in how)
