"""Tables of a study file, their migrations, and the checksum at the end of each row.

SQLite detects damage to its own structure, not to the values: a flipped bit in a score would be a score.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zopo_fast.errors import StoreError
from zopo_fast.storage.writer import Statement, as_store_error

APPLICATION_ID = 0x5A4F504F  # "ZOPO": marks SQLite files of this package

# One script a version, the first from an empty file to version 1. The last column of each table is the
# checksum of the others. A semicolon may only end a statement.
MIGRATIONS: list[str] = [
    """
    CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE pool (
      idx INTEGER PRIMARY KEY, prompt TEXT NOT NULL, count INTEGER NOT NULL, score REAL,
      crc INTEGER NOT NULL);
    CREATE TABLE arrays (
      name TEXT, part INTEGER, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL,
      crc INTEGER NOT NULL, PRIMARY KEY (name, part));
    CREATE TABLE events (
      seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE answers (
      id INTEGER PRIMARY KEY, key BLOB NOT NULL, role TEXT NOT NULL, data TEXT NOT NULL,
      crc INTEGER NOT NULL);
    CREATE TABLE trials (number INTEGER PRIMARY KEY, data TEXT NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE charges (
      id TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL,
      settled INTEGER NOT NULL, crc INTEGER NOT NULL);
    """,
]

# Column by which the rows of each table are ordered.
KEY_COLUMNS = {
    "study": "name", "pool": "idx", "arrays": "rowid", "events": "seq", "answers": "id", "trials": "number",
    "charges": "id",
}  # fmt: skip


def insert(table: str, *values: object, verb: str = "INSERT") -> Statement:
    """Return the statement that inserts a row with its checksum.

    Args:
        table: its name.
        values: str, int, float, bytes or None; one a column, without the checksum.
        verb: what to do about a row with the same key, as in "INSERT OR REPLACE".
    """
    marks = ", ".join("?" * (len(values) + 1))
    return f"{verb} INTO {table} VALUES ({marks})", (*values, checksum(values))


def checksum(values: Sequence[object]) -> int:
    """Return the CRC-32 of a row; a text and its UTF-8 bytes have the same one."""
    crc = 0
    for value in values:
        part = value if isinstance(value, bytes) else str(value).encode()
        crc = zlib.crc32(part, zlib.crc32(b"\0", crc))
    return crc


def is_intact(row: Sequence[object]) -> bool:
    """Return whether a row matches its checksum, the last column."""
    return row[-1] == checksum(row[:-1])


def to_json(value: Any) -> str:
    """Return a value as ASCII JSON, which also holds the lone surrogates that a model may answer.

    Raises:
        StoreError: the value is not made of JSON types.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error


def migrate(
    connection: sqlite3.Connection, path: Path, more: Iterable[Statement] = (), upto: int | None = None
) -> None:
    """Bring the schema to the present version and insert rows, in one transaction.

    Args:
        connection: in autocommit mode.
        path: of the file, for messages.
        more: statements to execute after the migrations.
        upto: version to stop at; None: the present one.

    Raises:
        StoreError: a statement failed; the file is as before.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    last = len(MIGRATIONS) if upto is None else upto
    if version == last and not more:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in MIGRATIONS[version:last]:
            for statement in script.split(";"):
                connection.execute(statement)
        for sql, values in more:
            connection.execute(sql, values)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {last}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise as_store_error(error, path) from error
