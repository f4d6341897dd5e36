"""One study's file: what it was created with, and its log as far as the journal was moved into it.

A file is there as a whole or not at all. Events carry numbers, so that moving the same ones twice changes
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreDamagedError, StoreError, StoreFullError, StoreVersionError
from .journal import Event, store_error

VERSION = 1
SUFFIX = ".sqlite3"
_PARTIAL = ".partial"
_TABLES = (
    "CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE pool (idx INTEGER PRIMARY KEY, prompt TEXT NOT NULL, count INTEGER NOT NULL, score REAL)",
    "CREATE TABLE arrays (name TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, "
    "data BLOB NOT NULL, digest BLOB NOT NULL)",
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL)",
)


@dataclass(frozen=True)
class Saved:
    """What a study's file holds; no texts: a pool of embeddings alone. Embeddings are (m, d)."""

    meta: dict[str, Any]
    prompts: list[str] | None
    embeddings: np.ndarray[Any, Any]
    events: list[tuple[int, str, bytes]]


class StudyFile:
    """A study's file by its path; raises a StoreError for whatever is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(
        self, meta: dict[str, Any], prompts: Sequence[str] | None, embeddings: np.ndarray[Any, Any]
    ) -> None:
        """Write the file; on return it is on disk, or nothing of it is left."""
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}{_PARTIAL}")
        try:
            with _opened(partial, new=True) as connection:
                connection.execute("BEGIN")
                for table in _TABLES:
                    connection.execute(table)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                rows = ((name, json.dumps(value)) for name, value in meta.items())
                connection.executemany("INSERT INTO study VALUES (?, ?)", rows)
                texts = ((i, text) for i, text in enumerate(prompts or ()))
                connection.executemany("INSERT INTO pool VALUES (?, ?, 1, NULL)", texts)
                data = embeddings.data.cast("B")
                connection.execute(
                    "INSERT INTO arrays VALUES ('embeddings', ?, ?, ?, ?)",
                    (embeddings.dtype.str, json.dumps(embeddings.shape), data, _digest(data)),
                )
                connection.execute("COMMIT")
            partial.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        finally:
            for left in (partial, partial.with_name(partial.name + "-journal")):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)

    def append(self, events: Sequence[Event]) -> None:
        """Add events; those that are there already stay as they are. On return they are on disk."""
        rows = ((event.seq, event.kind, bytes(event.data).decode()) for event in events)
        with _opened(self.path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")

    def meta(self) -> dict[str, Any]:
        """What the study was created with."""
        with _opened(self.path) as connection:
            return self._meta(connection)

    def read(self) -> Saved:
        """Read everything."""
        with _opened(self.path) as connection:
            prompts = [text for (text,) in connection.execute("SELECT prompt FROM pool ORDER BY idx")]
            row = connection.execute(
                "SELECT dtype, shape, data, digest FROM arrays WHERE name = 'embeddings'"
            ).fetchone()
            events = [
                (seq, kind, data.encode())
                for seq, kind, data in connection.execute("SELECT seq, kind, data FROM events ORDER BY seq")
            ]
            meta = self._meta(connection)
        if row is None or _digest(row[2]) != row[3]:
            raise StoreDamagedError(f"{self.path}: the embeddings are not those that were written")
        embeddings = np.frombuffer(row[2], dtype=row[0]).reshape(json.loads(row[1]))
        return Saved(meta, prompts or None, embeddings, events)

    def delete(self) -> None:
        """Remove the file; on return it stays removed."""
        try:
            self.path.unlink(missing_ok=True)
            for end in ("-wal", "-shm", "-journal"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            sync_folder(self.path.parent)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be deleted: {error.strerror or error}") from error

    def _meta(self, connection: sqlite3.Connection) -> dict[str, Any]:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StoreVersionError(f"{self.path}: version {version}; this package reads up to {VERSION}")
        return {
            name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM study")
        }


def remove_partial(folder: Path) -> None:
    """Remove what creations that were cut off left behind."""
    for path in folder.glob(f".*{_PARTIAL}*"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on disk, where the system knows such a thing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path, new: bool = False) -> Iterator[sqlite3.Connection]:
    try:
        # Only what is there is opened: a study that is gone must not come back as an empty file.
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if new else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    except (ValueError, TypeError) as error:
        raise StoreDamagedError(f"{path}: {error}") from error
    except OverflowError as error:
        raise StoreFullError(f"{path}: too large for one file: {error}") from error


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
