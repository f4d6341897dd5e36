"""Checks of texts to embed and of their vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ArrayError, InputError

Vectors = np.ndarray[Any, np.dtype[np.float32]]

_SAMPLE = 2_000  # vectors compared at most
_NOISE = 2.0**-10  # distance of two vectors, relative to their length, that rounding to float16 makes

_log = logging.getLogger(__name__)


def warn_if_blind(Z: Any, name: str | None = None) -> None:
    """Log a warning where the embeddings hold nothing to search by; arguments as in `blindness`."""
    if (warning := blindness(Z, name)) is not None:
        _log.warning("Warning: %s", warning)


def blindness(Z: Any, name: str | None = None) -> str | None:
    """Return the warning about embeddings that hold nothing to search by; None for others.

    Args:
        Z: (m, d) embeddings.
        name: name of the embedder.
    """
    count = len(Z)
    if count < 2:
        return None
    sample = np.asarray(Z[:: -(-count // _SAMPLE)], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        sample = sample / (np.abs(sample).max() or 1.0)  # no overflow in the squares below
    lengths = np.linalg.norm(sample, axis=1)
    largest = float(lengths.max())
    if not np.isfinite(largest):
        return None  # refused elsewhere
    if largest == 0.0:
        what = f"all {count} embeddings are zero"
    elif np.linalg.norm(sample - sample[0], axis=1).max() <= _NOISE * largest:
        what = f"all {count} embeddings are equal, up to rounding"
    elif 2 * (distinct := len({row.tobytes() for row in sample})) <= len(sample):
        what = f"only {distinct} of {len(sample)} embeddings differ"
    elif 2 * (zero := int((lengths == 0.0).sum())) >= len(sample):
        what = f"{zero} of {len(sample)} embeddings are zero"
    else:
        return None
    source = "" if name is None else f" of the embedder {name}"
    return (
        f"{what}{source}: the search cannot tell the prompts apart and is as good as random. Check the "
        "embedding model, its pooling, and any proxy in front of it"
    )


def checked(vectors: object, rows: int, name: str) -> Vectors:
    """Return the vectors of an embedder as a (rows, d) float32 array.

    Raises:
        ArrayError: not numbers, another shape, or NaN or infinity; names the embedder.
    """
    try:
        with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
            array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ArrayError(f"embedder {name!r}: not an array of numbers: {error}") from None
    if rows == 0 and array.size == 0:
        return np.empty((0, 0), dtype=np.float32)
    if array.ndim != 2 or array.shape[0] != rows or array.shape[1] == 0:
        raise ArrayError(f"embedder {name!r}: shape {array.shape} for {rows} texts, expected ({rows}, d)")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ArrayError(f"embedder {name!r}: NaN or infinity in row {row}")
    return array


def listed(texts: Sequence[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        InputError: not a sequence of strings, or one holds a lone surrogate.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError("texts: expected a sequence of strings")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"texts: a lone surrogate in {short_repr(text)}") from None
    return list(texts)
