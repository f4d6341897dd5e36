"""Group-commit thread of a SQLite database.

One `fdatasync` takes milliseconds, however much data it makes durable. Statements that arrive while one
transaction is being committed therefore share the next one.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, StoreFullError

Statement = tuple[str, Sequence[object]]
MAX_GROUP = 4096  # entries of one transaction


class TransactionLog(Protocol):
    """Log outside the database, with one entry a transaction."""

    def write(self, statements: Sequence[Statement]) -> None:
        """Write one transaction durably; a StoreError ends the writer."""


@dataclass(frozen=True)
class _Entry:
    statements: Iterable[Statement]
    is_durable: bool
    committed: Future[None] | None  # None: no caller waits
    copy: Path | None = None  # file to copy the database to after the commit


class Writer:
    """Commits statements in the order of `submit`, in groups, in a thread of its own.

    After a failed commit no more is written, so the file always holds a prefix of what was submitted. Every
    later call raises the error of that commit. A process forked from the owner cannot use the writer.

    Args:
        connection: in autocommit mode (`isolation_level=None`), closed by `close`. No other object writes
            through it.
        path: of the file, for messages.
        touch: statement to commit when there is none, so that earlier commits reach the disk.
        log: written before each commit; None: none.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: str, touch: Statement, log: TransactionLog | None = None
    ) -> None:
        self._connection, self._path, self._touch, self._log = connection, path, touch, log
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # no entry may follow the end marker into the queue
        self._error: StoreError | None = None
        self._is_closed = False
        self._is_unsynced = True  # a loss of power may undo commits, perhaps of an earlier process
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="zopo-fast-store", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """True until `close`; False in a forked process."""
        return not self._is_closed and self._process == os.getpid()

    def submit(self, *statements: Statement) -> None:
        """Queue statements without waiting.

        Raises:
            StoreError: an earlier commit failed, or the writer is closed.
        """
        self._put(_Entry(statements, False, None))

    def submit_lazily(self, statements: Iterable[Statement]) -> None:
        """Queue statements that are made as they are executed, in one transaction: millions need no list.

        Raises:
            StoreError: an earlier commit failed, or the writer is closed.
        """
        self._put(_Entry(statements, False, None))

    def flush(self, *statements: Statement, durable: bool = False) -> Future[None]:
        """Queue statements; return a future that completes when these and all earlier ones are committed.

        Args:
            statements: to queue; may be none.
            durable: complete when the commit is on disk and survives a loss of power. Otherwise it survives
                the end of the process.

        Raises:
            StoreError: an earlier commit failed, or the writer is closed.
        """
        committed: Future[None] = Future()
        self._put(_Entry(statements, durable, committed))
        return committed

    def copy(self, path: Path) -> Future[None]:
        """Queue a copy of the database to a new file, with all that was queued before it.

        The copy is made in the writer's thread, between two transactions.

        Raises:
            StoreError: an earlier commit failed, or the writer is closed.
        """
        copied: Future[None] = Future()
        self._put(_Entry((), False, copied, path))
        return copied

    def close(self) -> None:
        """Commit what is queued, close the connection and end the thread.

        In a forked process this does nothing: closing the copy of the connection would remove the
        write-ahead log that the owner uses.

        Raises:
            StoreError: a commit failed; raised once.
        """
        if self._process != os.getpid():
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        if threading.current_thread() is not self._thread:  # garbage collection may run in the thread itself
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _put(self, entry: _Entry) -> None:
        if self._process != os.getpid():
            raise StoreError(f"{self._path}: was opened by the process that this one was forked from")
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                raise StoreError(f"{self._path}: is closed")
            self._queue.put(entry)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            entries, is_last = self._next_group()
            if self._error is None:
                try:
                    self._commit(entries)
                except sqlite3.Error as error:
                    self._error = as_store_error(error, self._path)
                except StoreError as error:  # of the log
                    self._error = error
                except Exception as error:  # such as an integer beyond 64 bits: waiting callers need an error
                    self._error = StoreError(f"{self._path}: could not be written: {error!r}")
            for entry in entries:
                if entry.committed is None or not entry.committed.set_running_or_notify_cancel():
                    continue
                failed = self._error or self._copied(entry.copy)
                if failed is None:
                    entry.committed.set_result(None)
                else:
                    entry.committed.set_exception(failed)
        with suppress(sqlite3.Error):  # callers have the error of the failed commit already
            self._connection.close()

    def _copied(self, path: Path | None) -> StoreError | None:
        """Copy the database; return the error of a failed copy, which concerns its reader alone."""
        if path is None:
            return None
        try:
            with closing(sqlite3.connect(path)) as target:
                self._connection.backup(target)
        except sqlite3.Error as error:
            return as_store_error(error, path)
        return None

    def _next_group(self) -> tuple[list[_Entry], bool]:
        """Wait for an entry; return all that are queued, and whether the thread ends after them."""
        entries: list[_Entry] = []
        entry = self._queue.get()
        while entry is not None:
            entries.append(entry)
            if len(entries) == MAX_GROUP:
                return entries, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return entries, False
        return entries, True

    def _commit(self, entries: Sequence[_Entry]) -> None:
        is_durable = any(entry.is_durable for entry in entries)
        is_touch = not any(entry.statements for entry in entries)
        if is_touch and not (is_durable and self._is_unsynced):
            return
        statements: Iterable[Statement] = chain.from_iterable(entry.statements for entry in entries)
        logged: list[Statement] = []
        if is_touch:
            statements = [self._touch]
        elif self._log is not None:
            statements = logged = list(statements)
        execute = self._connection.execute
        # FULL ends the commit with an fdatasync of the log, which makes all earlier commits durable too.
        execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
        execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                execute(sql, values)
            # Log between statements and commit: no entry holds a statement that failed, and the file holds
            # no transaction that the log lacks.
            if self._log is not None and logged:
                self._log.write(logged)
            execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # the first error is the cause
                if self._connection.in_transaction:
                    execute("ROLLBACK")
            raise
        self._is_unsynced = not is_durable


def as_store_error(error: Exception, path: object) -> StoreError:
    """Return the error of this package for an error of SQLite."""
    message = str(error)
    name = getattr(error, "sqlite_errorname", "")  # absent from errors that Python's module raises itself
    if name.startswith("SQLITE_FULL") or "disk is full" in message:
        return StoreFullError(f"{path}: no space left on the disk; all that was acknowledged is kept")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "is locked" in message:
        return StoreBusyError(f"{path}: another process has this study open; wait until it ends, or stop it")
    if (
        name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        or "malformed" in message
        or "not a database" in message
    ):
        return StoreDamagedError(f"{path}: the file is damaged, or is not a study file ({message})")
    return StoreError(f"{path}: cannot be used: {message}")
