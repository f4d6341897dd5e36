"""A cache in one SQLite file, shared by threads and processes; never a reason for a run to fail."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
BUSY_SECONDS = 30.0

_log = logging.getLogger(__name__)


class SQLiteCache:
    """Transactions on one file. What is wrong with it is logged, the first time as a warning, never raised.

    `schema`: statements that make the tables where they are missing. A file that is no database is set aside
    as `.broken` and begun anew. In WAL mode, so that readers do not wait for a writer; what the last
    transactions wrote may be lost with the power, the file stays whole.
    """

    def __init__(self, path: Path, label: str, schema: Sequence[str]) -> None:
        self.path = path
        self._label = label
        self._schema = schema
        self._warned = False
        self._inherited: list[list[sqlite3.Connection]] = []
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []  # one, or none
        self._owner = os.getpid()
        weakref.finalize(self, _close_own, self._open, self._owner)

    def close(self) -> None:
        """Close the file; the next transaction opens it again."""
        with self._lock:
            _close_own(self._open, self._owner)

    def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what `work` does in a transaction; None where the file cannot be used."""
        if self._owner != os.getpid():  # a fork: the parent's connection is not ours to use, nor to close
            self._inherited.append(self._open)
            self._begin()
        with self._lock:
            try:
                try:
                    return self._run(work)
                except sqlite3.DatabaseError as error:
                    _close(self._open)
                    # Locked, read-only, full: not the file's fault.
                    if isinstance(error, sqlite3.OperationalError):
                        raise
                    self._log("%s %s is broken and begun anew: %s", error)
                    self._set_aside()
                    return self._run(work)
            except (OSError, sqlite3.Error) as error:
                _close(self._open)
                self._log("%s %s cannot be used: %s", error)
                return None

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self._open:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
            self._open.append(connection)
            for statement in ("PRAGMA auto_vacuum = INCREMENTAL", "PRAGMA journal_mode = WAL"):
                connection.execute(statement).close()
            connection.execute("PRAGMA synchronous = NORMAL")
            with connection:
                for statement in self._schema:
                    connection.execute(statement)
        with self._open[0] as connection:
            return work(connection)

    def _set_aside(self) -> None:
        self.path.replace(self.path.with_suffix(".broken"))
        for ending in ("-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    def _log(self, message: str, error: Exception) -> None:
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        _log.log(level, message, self._label, self.path, error)


def _close_own(connections: list[sqlite3.Connection], owner: int) -> None:
    if os.getpid() == owner:
        _close(connections)


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()
