"""SQLite file shared by threads and processes that degrades to "no cache" on any failure."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
BUSY_SECONDS = 30.0
RETRY_SECONDS = 0.02

_log = logging.getLogger(__name__)


class SQLiteCache:
    """Cache in one SQLite file; failures are logged, never raised.

    The first failure is logged as a warning, later ones at debug level. A file that is not a database is
    renamed to `.broken` and replaced by a new one. The file is in WAL mode, so readers do not wait for a
    writer. A power failure can lose the last transactions but does not corrupt the file.

    Args:
        path: Path of the file; missing parent directories are created.
        label: Name of the cache in log messages.
        schema: SQL statements that create missing tables.
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
        self._open: list[sqlite3.Connection] = []  # at most one
        self._owner = os.getpid()
        weakref.finalize(self, _close_own, self._open, self._owner)

    def close(self) -> None:
        """Close the file; the next transaction reopens it."""
        with self._lock:
            _close_own(self._open, self._owner)

    def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run `work` in a transaction and return its result; None if the file cannot be used."""
        if self._owner != os.getpid():  # forked child: using or closing the parent's connection corrupts it
            self._inherited.append(self._open)
            self._begin()
        with self._lock:
            try:
                try:
                    return self._run_when_free(work)
                except sqlite3.DatabaseError as error:
                    _close(self._open)
                    # A locked, read-only or full file is not damaged.
                    if isinstance(error, sqlite3.OperationalError):
                        raise
                    self._log("%s %s: not a valid database, replaced by a new one: %s", error)
                    self._set_aside()
                    return self._run(work)
            except (OSError, sqlite3.Error) as error:
                _close(self._open)
                self._log("%s %s: cannot be used: %s", error)
                return None

    def _run_when_free(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a transaction, again where another process holds a lock that SQLite does not wait for.

        SQLite's timeout does not cover the change of the journal mode, which several processes make at once
        when they open a new file.
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._run(work)
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not is_busy or time.monotonic() >= until:
                    raise
                _close(self._open)
            time.sleep(RETRY_SECONDS)

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
