"""Rows of a study as they are kept: each ends with a checksum of its other columns.

SQLite notices damage to its own structure, not to what it holds: a flipped bit in a score would be a score.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zopo_fast.errors import StoreError
from zopo_fast.storage.writer import Statement, as_store_error


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


def is_intact(row: Sequence[object]) -> bool:
    """Whether a row, with texts in UTF-8, is as it was written."""
    return row[-1] == checksum(row[:-1])


def to_json(value: Any) -> str:
    """JSON text; ASCII, so that half a surrogate pair, as a model may answer, is kept too."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot be kept as JSON: {error}") from error


APPLICATION_ID = 0x5A4F504F  # "ZOPO", by which SQLite files of this package are known

# The last column of each table is the checksum of the others (store_rows.py). No semicolon but at the ends.
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

KEY_COLUMNS = {
    "study": "name", "pool": "idx", "arrays": "rowid", "events": "seq", "answers": "id", "trials": "number",
    "charges": "id",
}  # fmt: skip


def migrate(
    connection: sqlite3.Connection, path: Path, more: Sequence[Statement] = (), upto: int | None = None
) -> None:
    """Lead the schema to the present version (or to `upto`) and insert `more`: all of it, or nothing."""
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
