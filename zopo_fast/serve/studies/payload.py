"""Texts and embeddings of a request, decoded and validated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zopo_fast.errors import ArrayError, ConfigError
from zopo_fast.prompts.pool import Pool
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.studies.schemas import PackedArray


def decode_embeddings(given: list[list[float]] | PackedArray, limits: ServerLimits) -> np.ndarray[Any, Any]:
    """Decode the embeddings of a request.

    Args:
        given: m rows of d numbers, or a packed array of shape (m, d).
        limits: limits of the server.

    Returns:
        (m, d); float64, or the dtype of the packed array.

    Raises:
        ArrayError: rows of different lengths, or a packed array of another size than declared.
        Problem: 413, more prompts than the limit.
    """
    if isinstance(given, PackedArray):
        m, d = given.shape
        check_size(m, limits)
        dtype = np.dtype(given.dtype).newbyteorder("<")
        if math.prod((m, d, dtype.itemsize)) != len(given.base64):
            raise ArrayError(
                f"embeddings: shape {m} x {d} of {given.dtype} needs {m * d * dtype.itemsize} bytes, "
                f"got {len(given.base64)}"
            )
        rows = np.frombuffer(given.base64, dtype=dtype).reshape(m, d)
        return rows.astype(dtype.newbyteorder("="), copy=False)
    m, d = len(given), len(given[0])
    check_size(m, limits)
    rows = np.empty((m, d))
    for i, row in enumerate(given):  # row by row, so that other threads can run in between
        if len(row) != d:
            raise ArrayError(f"embeddings: row {i} has {len(row)} numbers, but row 0 has {d}")
        rows[i] = row
    return rows


def check_size(prompts: int, limits: ServerLimits) -> None:
    """Raise a Problem (413) if a pool has more prompts than the limit."""
    if prompts > limits.max_pool:
        raise Problem(
            413,
            "PoolTooLarge",
            f"the pool has {prompts} prompts, above the limit of {limits.max_pool}; "
            "send fewer, or start the server with a larger --max-pool",
        )


def normalize_texts(texts: list[str], rows: int | None, limits: ServerLimits) -> list[str]:
    """Normalise the texts of a pool, and merge equal texts if there are no embeddings.

    Args:
        texts: the texts of a request.
        rows: number of rows of embeddings; None: no embeddings were sent.
        limits: limits of the server.

    Raises:
        PoolError: a text is empty.
        ConfigError: the texts do not match the embeddings one to one.
        Problem: 413, more prompts than the limit.
    """
    check_size(len(texts), limits)
    prompts = list(Pool.from_texts(texts).prompts)
    if rows is not None and len(texts) != rows:
        raise ConfigError(f"texts: {len(texts)} texts for {rows} rows of embeddings; send one row a text")
    if rows is not None and len(prompts) != rows:
        raise ConfigError(
            f"texts: only {len(prompts)} of {rows} are distinct; remove the duplicates and their rows"
        )
    return prompts
