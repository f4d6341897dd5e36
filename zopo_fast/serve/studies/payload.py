"""From a request's texts and embeddings to a pool that can be searched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zopo_fast.errors import ArrayError, ConfigError
from zopo_fast.prompts.pool import Pool
from zopo_fast.serve.config import Limits
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.studies.schemas import PackedArray


def unpacked(given: list[list[float]] | PackedArray, limits: Limits) -> np.ndarray[Any, Any]:
    """The (m, d) array of a request; ArrayError where it is none, a Problem beyond the limits."""
    if isinstance(given, PackedArray):
        m, d = given.shape
        check_size(m, limits)
        dtype = np.dtype(given.dtype).newbyteorder("<")
        if math.prod((m, d, dtype.itemsize)) != len(given.base64):
            raise ArrayError(
                f"embeddings: {len(given.base64)} bytes are not {m} x {d} numbers of {dtype.itemsize} bytes"
            )
        return (
            np.frombuffer(given.base64, dtype=dtype).reshape(m, d).astype(dtype.newbyteorder("="), copy=False)
        )
    m, d = len(given), len(given[0])
    check_size(m, limits)
    rows = np.empty((m, d))
    for place, row in enumerate(given):  # row by row: other threads have their turn in between
        if len(row) != d:
            raise ArrayError(f"embeddings: row {place} has {len(row)} numbers, the first has {d}")
        rows[place] = row
    return rows


def check_size(prompts: int, limits: Limits) -> None:
    """413 beyond the largest pool."""
    if prompts > limits.max_pool:
        raise Problem(413, "PoolTooLarge", f"at most {limits.max_pool} prompts, got {prompts}")


def texts_of(texts: list[str], rows: int | None, limits: Limits) -> list[str]:
    """The texts, normalised; merged where no embeddings belong to them. Raises PoolError, ConfigError."""
    check_size(len(texts), limits)
    prompts = list(Pool.from_texts(texts).prompts)
    if rows is not None and len(texts) != rows:
        raise ConfigError(f"{len(texts)} texts for {rows} rows of embeddings")
    if rows is not None and len(prompts) != rows:
        raise ConfigError(
            f"only {len(prompts)} of the {rows} texts are distinct: leave out the others and their rows"
        )
    return prompts
