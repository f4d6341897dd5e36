"""Mirror of a study's log outside its file, from which another machine rebuilds the file.

Each transaction of the file is first written to the mirror, as one numbered row. A row is written once: of
two writers that write the same number, one is refused. A machine that takes a study over writes an empty row
first, so that an earlier writer which is still alive is refused from then on.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, StoreVersionError
from zopo_fast.storage.file import create_file
from zopo_fast.storage.schema import MIGRATIONS, insert, to_json
from zopo_fast.storage.store import Store
from zopo_fast.storage.writer import Statement

_LEVEL = 1  # of zlib: statements repeat, and the writer's thread waits


class MirrorAwayError(StoreError):
    """The mirror cannot be reached; the study can be resumed once it can."""


class Mirror(Protocol):
    """Numbered rows of one study, in a place that several machines reach; methods may block."""

    def last(self) -> int:
        """Return the highest number written; 0 without a row."""

    def write(self, number: int, data: bytes) -> None:
        """Write a row durably.

        Raises:
            StoreBusyError: another writer wrote this number.
            MirrorAwayError: the mirror cannot be reached.
            StoreError: the row cannot be written.
        """

    def read(self, upto: int) -> Iterator[bytes]:
        """Yield the rows up to a number, in order."""


class MirroredLog:
    """Writes the transactions of one study file to a mirror.

    Args:
        mirror: of the study.
        number: of the last row.
    """

    def __init__(self, mirror: Mirror, number: int) -> None:
        self._mirror, self._number = mirror, number

    def write(self, statements: Sequence[Statement]) -> None:
        """Write one transaction.

        Raises:
            StoreBusyError: another machine has taken the study over.
            StoreError: the row cannot be written.
        """
        self._mirror.write(self._number + 1, encode(statements))
        self._number += 1


def open_mirrored(path: Path, mirror: Mirror) -> Store:
    """Take a study over: refuse its earlier writer, rebuild the file from the mirror, and open the file.

    Args:
        path: of the file; there must be none.
        mirror: of the study.

    Raises:
        StoreBusyError: a later run has begun.
        StoreDamagedError: a row cannot be decoded.
        StoreVersionError: another version of this package wrote a row.
        StoreError: the file exists already or cannot be created, or the mirror cannot be used.
    """
    number = _claim(mirror)
    rebuild(path, mirror.read(number))
    return Store.open(path, MirroredLog(mirror, number))


def rebuild(path: Path, rows: Iterable[bytes]) -> None:
    """Create a study file from the rows of a mirror.

    Raises:
        StoreDamagedError: a row cannot be decoded.
        StoreVersionError: another version of this package wrote a row.
        StoreError: the file exists already, or cannot be created.
    """
    statements = [insert("study", "config", to_json({}))]
    statements += [statement for row in rows for statement in decode(row)]
    create_file(path, statements)


def _claim(mirror: Mirror) -> int:
    while True:
        number = mirror.last() + 1
        try:
            mirror.write(number, encode([]))
        except StoreBusyError:
            if mirror.last() < number:  # not the number is taken, but a later run has begun
                raise
            continue  # the earlier writer is alive still, or another machine claims too
        return number


def encode(statements: Sequence[Statement]) -> bytes:
    """Encode the statements of one transaction."""
    rows = [[sql, *map(_to_json_value, values)] for sql, values in statements]
    return zlib.compress(json.dumps([len(MIGRATIONS), rows]).encode(), _LEVEL)


def decode(row: bytes) -> list[Statement]:
    """Decode the statements of one transaction.

    Raises:
        StoreDamagedError: the row is damaged.
        StoreVersionError: another version of this package wrote the row.
    """
    try:
        version, statements = json.loads(zlib.decompress(row))
        found: list[Statement] = [
            (sql, [_from_json_value(value) for value in values]) for sql, *values in statements
        ]
    except (zlib.error, ValueError, TypeError, LookupError) as error:
        raise StoreDamagedError(f"mirror: a row is damaged: {error!r}") from error
    if version != len(MIGRATIONS):
        raise StoreVersionError(
            f"mirror: a row was written by another version of zopo_fast (schema {version}; this version uses "
            f"schema {len(MIGRATIONS)}); run the study with that version"
        )
    return found


def _to_json_value(value: object) -> object:
    return [base64.b64encode(value).decode()] if isinstance(value, bytes) else value


def _from_json_value(value: Any) -> Any:
    return base64.b64decode(value[0]) if isinstance(value, list) else value
