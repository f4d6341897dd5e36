"""Rows of a study as they are kept: each ends with a checksum of its other columns.

SQLite notices damage to its own structure, not to what it holds: a flipped bit in a score would be a score.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from zopo_fast.errors import StoreError
from zopo_fast.store_writer import Statement


def insert(table: str, *values: object, verb: str = "INSERT") -> Statement:
    """A statement that puts a row into a table; values: str, int, float, bytes or None."""
    marks = ", ".join("?" * (len(values) + 1))
    return f"{verb} INTO {table} VALUES ({marks})", (*values, checksum(values))


def checksum(values: Sequence[object]) -> int:
    """CRC-32 of a row; texts may be given as they are or in UTF-8."""
    crc = 0
    for value in values:
        part = value if isinstance(value, bytes) else str(value).encode()
        crc = zlib.crc32(part, zlib.crc32(b"\0", crc))
    return crc


def is_whole(row: Sequence[object]) -> bool:
    """Whether a row, with texts in UTF-8, is as it was written."""
    return row[-1] == checksum(row[:-1])


def as_json(value: Any) -> str:
    """JSON text; ASCII, so that half a surrogate pair, as a model may answer, is kept too."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot be kept as JSON: {error}") from error
