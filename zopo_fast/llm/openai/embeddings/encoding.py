"""Vectors in base64: decoded as little-endian float32, with a check that the bytes are such numbers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = np.ndarray[Any, np.dtype[np.float64]]

_OTHER_BITS = (1, 8, 16, 64)  # of a coordinate: binary, int8, float16, float64
_MAX_VALUE = 1e15  # of a coordinate
_MAX_SPREAD = 20.0  # standard deviation of log2 |x|; that of normal numbers is 1.6
# float16 read as float32 has 8 times its spread: the bits of the exponent move to those of 8 binades each.
_MIN_MISREAD_SPREAD = 5.0
_MAX_FLOAT16_SPREAD = 3.5
_MIN_RATIO = 2.5
_MIN_NUMBERS = 4
_MAX_BYTES = 2**20  # looked at


def decoded(text: str) -> Row | None:
    """Return the vector of a text in base64, as `encoding_format: base64` gives it; None if it is none."""
    data = _bytes(text)
    return None if not data or len(data) % 4 else _numbers(data, "<f4")


def is_other_format(texts: Sequence[str], dimensions: Any = None) -> bool:
    """Return whether vectors in base64 hold other numbers than float32, such as float16 or int8.

    Args:
        texts: vectors in base64.
        dimensions: requested dimensions, if any.
    """
    parts = [_bytes(text) for text in texts]
    if any(part is None for part in parts):
        return False  # no base64 at all
    sizes = {len(part) for part in parts if part is not None}
    if any(size % 4 for size in sizes):
        return True
    if type(dimensions) is int and any(
        size * 8 == bits * dimensions for size in sizes for bits in _OTHER_BITS
    ):
        return True
    data = b"".join(part for part in parts if part is not None)[:_MAX_BYTES]
    numbers = _numbers(data[: len(data) // 4 * 4], "<f4")
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0.0) > _MAX_VALUE:
        return True
    spread = _spread(numbers)
    return spread > _MAX_SPREAD or (spread > _MIN_MISREAD_SPREAD and _is_float16(data, spread))


def _is_float16(data: bytes, spread: float) -> bool:
    """Return whether bytes are credible as float16; `spread` is that of them read as float32."""
    halves = _numbers(data[: len(data) // 2 * 2], "<f2")
    if not np.isfinite(halves).all() or np.count_nonzero(halves) <= halves.size / 2:
        return False  # float32 of few digits has zeros in its lower halves
    own = _spread(halves)
    return own < _MAX_FLOAT16_SPREAD and spread > _MIN_RATIO * own


def _numbers(data: bytes, dtype: str) -> Row:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.frombuffer(data, dtype=dtype).astype(np.float64)


def _spread(numbers: Row) -> float:
    """Return the standard deviation of log2 |x| over the numbers that are not 0; 0 for a few numbers."""
    sizes = np.abs(numbers[numbers != 0])
    return float(np.log2(sizes).std()) if sizes.size >= _MIN_NUMBERS else 0.0


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
