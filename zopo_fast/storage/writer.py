"""The one thread that writes to a database: what waits meanwhile is committed together.

One `fdatasync` costs milliseconds whatever it makes durable, so all statements that come in while one commit
is on its way share the next.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, StoreFullError

Statement = tuple[str, Sequence[object]]
MAX_GROUP = 4096  # entries of one transaction


@dataclass(frozen=True)
class _Entry:
    statements: tuple[Statement, ...]
    durable: bool
    done: Future[None] | None  # None: nobody waits


class Writer:
    """Commits statements in the order of `submit`, in groups, in a thread of its own.

    After a failed commit nothing more is written, so that what is in the file is always a prefix of what was
    submitted; every later call raises the same error. In a process forked from this one it is of no use.

    Args:
        connection: in autocommit mode (`isolation_level=None`); nothing else writes through it. Closed in
            the end.
        path: of the file, for messages.
        touch: what an empty commit writes, so that it reaches the disk.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, touch: Statement) -> None:
        self._connection, self._path, self._touch = connection, path, touch
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._turn = threading.Lock()  # nothing may come into the queue after its end
        self._error: StoreError | None = None
        self._closed = False
        self._unsynced = True  # commits, perhaps of the process before, that a loss of power may undo
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="zopo-fast-store", daemon=True)
        self._thread.start()

    def submit(self, *statements: Statement) -> None:
        """Have statements written; does not wait. Raises the StoreError of an earlier failure."""
        self._put(_Entry(statements, False, None))

    def flush(self, *statements: Statement, durable: bool = False) -> Future[None]:
        """Return a future that is done when these and all earlier statements are committed.

        Args:
            durable: wait until they are on the disk, so that they outlast a loss of power; else until they
                outlast the end of the process.
        """
        done: Future[None] = Future()
        self._put(_Entry(statements, durable, done))
        return done

    def close(self) -> None:
        """Write what is left, close the connection and end; raises the StoreError of a failed commit, once.

        Nothing in a forked process: its copy of the connection, once closed, would take the log of writes
        away from under the other one.
        """
        if self._process != os.getpid():
            return
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if threading.current_thread() is not self._thread:  # which may collect a store nobody has closed
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _put(self, entry: _Entry) -> None:
        if self._process != os.getpid():
            raise StoreError(f"{self._path}: was opened by the process that this one was forked from")
        with self._turn:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StoreError(f"{self._path}: is closed")
            self._queue.put(entry)

    def _run(self) -> None:
        last = False
        while not last:
            entries, last = self._next()
            if self._error is None:
                try:
                    self._commit(entries)
                except sqlite3.Error as error:
                    self._error = as_store_error(error, self._path)
                except Exception as error:  # such as a number of more than 64 bits: whoever waits has to hear
                    self._error = StoreError(f"{self._path}: could not be written: {error!r}")
            for entry in entries:
                if entry.done is None or not entry.done.set_running_or_notify_cancel():
                    continue
                if self._error is None:
                    entry.done.set_result(None)
                else:
                    entry.done.set_exception(self._error)
        with suppress(sqlite3.Error):  # what could not be written any more was raised before
            self._connection.close()

    def _next(self) -> tuple[list[_Entry], bool]:
        """All entries that wait, and whether the thread is to end after them."""
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

    def _commit(self, entries: Iterable[_Entry]) -> None:
        statements = [statement for entry in entries for statement in entry.statements]
        durable = any(entry.durable for entry in entries)
        if not statements:
            if not durable or not self._unsynced:
                return
            statements = [self._touch]
        run = self._connection.execute
        # FULL: the commit ends with an fdatasync of the log, and with it of all earlier commits.
        run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        run("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                run(sql, values)
            run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # the cause is the first error
                if self._connection.in_transaction:
                    run("ROLLBACK")
            raise
        self._unsynced = not durable


def as_store_error(error: Exception, path: object) -> StoreError:
    """The error of this package that says what SQLite's means."""
    said = str(error)
    name = getattr(error, "sqlite_errorname", "")  # of Python 3.11
    if name.startswith("SQLITE_FULL") or "disk is full" in said:
        return StoreFullError(f"{path}: no room is left on the disk; what was acknowledged before is kept")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "is locked" in said:
        return StoreBusyError(f"{path}: another process has this study open; wait for its end, or stop it")
    if (
        name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        or "malformed" in said
        or "not a database" in said
    ):
        return StoreDamagedError(f"{path}: the file is damaged, or no study file ({said})")
    return StoreError(f"{path}: cannot be used: {said}")
