"""Group-commit journal, shared by all studies of a server.

A commit takes as long as the disk needs to sync, whatever its size. One thread therefore writes all queued
entries as one row in one transaction. SQLite runs in WAL mode with synchronous=FULL, so the row is on disk
when the statement returns; only then are the waiting requests resolved. The exclusive lock on the file
keeps a second server out of the folder.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, StoreFullError, StoreVersionError
from zopo_fast.storage.writer import as_store_error

VERSION = 1


class JournalEvent(msgspec.Struct, array_like=True, frozen=True):
    """One event of a study's ordered log; `data` is JSON."""

    study: str
    seq: int
    kind: str
    data: msgspec.Raw


_encode = msgspec.json.Encoder().encode
decode_events = msgspec.json.Decoder(list[JournalEvent]).decode


class JournalEntry:
    """Events of one request: committed together, resolved together.

    Attributes:
        owner: passed through to the callbacks of the journal.
        encoded: the events as JSON, joined by commas.
        done: resolved by the commit, for the request that made the events. Cancelling that request
            cancels this future and nothing else.
        is_finished: the events are on disk, or their commit failed.
        error: why the commit failed.
    """

    __slots__ = ("_waiters", "done", "encoded", "error", "events", "is_finished", "owner")

    def __init__(self, owner: Any, events: list[JournalEvent], done: asyncio.Future[None]) -> None:
        self.owner, self.events, self.done = owner, events, done
        self.encoded = b",".join([_encode(event) for event in events])
        self.is_finished = False
        self.error: StoreError | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait for the commit of an entry that another request made.

        Raises:
            StoreError: the commit failed.
        """
        if not self.is_finished:
            future = self.done.get_loop().create_future()
            self._waiters.append(future)
            await future
        if self.error is not None:
            raise type(self.error)(str(self.error))

    def finish(self, error: StoreError | None) -> None:
        """Resolve all who wait for the entry."""
        self.is_finished, self.error = True, error
        _resolve(self.done, None if error is None else type(error)(str(error)))
        for future in self._waiters:
            _resolve(future, None)


def encode_entries(entries: Iterable[JournalEntry]) -> bytes:
    """Encode the events of entries, for `decode_events`."""
    return b"[" + b",".join([entry.encoded for entry in entries if entry.encoded]) + b"]"


class _ClearFailure:
    """Queue marker behind the last entry that fails together with a failed commit."""


@dataclass
class _Truncate:
    """Queue item: delete commits up to a number."""

    upto: int
    done: asyncio.Future[None]


OnCommit = Callable[[int, list[JournalEntry], float], None]
OnFailure = Callable[[list[JournalEntry], StoreError], None]


class Journal:
    """Journal file with its writer thread and queue.

    Args:
        path: SQLite file; created if missing.

    Raises:
        StoreBusyError: another server uses the file.
        StoreVersionError: a newer version of the package wrote the file.
        StoreDamagedError: the file is not a journal.
        StoreError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: queue.SimpleQueue[list[JournalEntry] | _ClearFailure | _Truncate | None] = (
            queue.SimpleQueue()
        )
        self._gathered: list[JournalEntry] = []
        self._batches_in_flight = 0  # handed to the thread, not yet returned
        self._thread: threading.Thread | None = None
        self._failure: StoreError | None = None
        self._connection = _connect(path)
        self._is_closed = False
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM journal").fetchone()
        self._last: int = last  # number of the newest commit; only the writer thread changes it

    def read(self) -> Iterator[tuple[int, list[JournalEvent]]]:
        """Iterate over the commits, oldest first. Call before `start`.

        Raises:
            StoreDamagedError: a commit cannot be decoded.
        """
        for number, data in self._connection.execute("SELECT number, data FROM journal ORDER BY number"):
            try:
                yield number, decode_events(data)
            except msgspec.DecodeError as error:
                raise StoreDamagedError(f"{self.path}: commit {number} cannot be read: {error}") from error

    def start(self, on_commit: OnCommit, on_failure: OnFailure) -> None:
        """Start the writer thread. Call in the event loop that the callbacks run in.

        After a failed commit, every entry queued before `on_failure` first returns fails as well: its
        request was applied on top of changes that are about to be undone.

        Args:
            on_commit: called as `on_commit(number, entries, seconds)` before the entries are resolved.
            on_failure: called as `on_failure(entries, error)` before the entries fail.
        """
        self._loop = asyncio.get_running_loop()
        self._on_commit, self._on_failure = on_commit, on_failure
        self._thread = threading.Thread(target=self._write, name="zopo-fast-journal", daemon=True)
        self._thread.start()

    # ---- in the event loop -------------------------------------------------------------------------

    def append(self, owner: Any, events: list[JournalEvent]) -> JournalEntry:
        """Queue events for the next commit.

        Returns:
            The entry; its future `done` is resolved by the commit, or fails with a StoreError.
        """
        entry = JournalEntry(owner, events, self._loop.create_future())
        # Hand over once all requests that are ready have run and the previous commit is over. Waking the
        # thread for each entry would cost more, and take the interpreter lock from the next request.
        self._gathered.append(entry)
        if len(self._gathered) == 1 and not self._batches_in_flight:
            self._loop.call_soon(self.flush)
        return entry

    def flush(self) -> None:
        """Hand the gathered entries to the writer thread."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._batches_in_flight += 1
            self._queue.put(gathered)

    def _return_batches(self, count: int) -> None:
        self._batches_in_flight -= count
        if self._gathered and not self._batches_in_flight:
            self._loop.call_soon(self.flush)

    async def truncate(self, upto: int) -> None:
        """Delete the commits up to a number, whose events are in the study files.

        Raises:
            StoreError: the file cannot be written.
        """
        item = _Truncate(upto, self._loop.create_future())
        self.flush()
        self._queue.put(item)
        await item.done

    def close(self) -> None:
        """Write all queued entries, end the thread and close the file.

        Blocks, so call outside the event loop. Call `flush` first.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        self._connection.close()

    # ---- in the writer thread ----------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            taken = [self._queue.get()]
            while True:
                try:
                    taken.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            batches: list[list[JournalEntry]] = []
            for item in taken:
                if isinstance(item, list):
                    batches.append(item)
                    continue
                self._commit(batches)
                batches = []
                if item is None:
                    return
                if isinstance(item, _ClearFailure):
                    self._failure = None
                else:
                    self._truncate(item)
            self._commit(batches)

    def _commit(self, batches: list[list[JournalEntry]]) -> None:
        if not batches:
            return
        entries = [entry for batch in batches for entry in batch]
        start = time.perf_counter()
        is_first_failure = self._failure is None
        if self._failure is None:
            data = encode_entries(entries)
            try:
                self._reopen()
                # REPLACE, because a failed commit can have reached the disk after all. A single statement
                # outside a transaction releases the interpreter lock only once.
                self._connection.execute(
                    "INSERT OR REPLACE INTO journal VALUES (?, ?)", (self._last + 1, data)
                )
            except Exception as error:  # any error has to reach the waiting requests
                self._failure = self._translate(error)
        if self._failure is None:
            self._last += 1
            self._call(self._succeed, len(batches), self._last, entries, time.perf_counter() - start)
        else:
            self._call(self._fail, len(batches), entries, self._failure, is_first_failure)

    def _truncate(self, item: _Truncate) -> None:
        problem: StoreError | None = None
        try:
            self._reopen()
            self._connection.execute("DELETE FROM journal WHERE number <= ?", (item.upto,))
        except Exception as error:
            problem = self._translate(error)
        self._call(_resolve, item.done, problem)

    def _reopen(self) -> None:
        if self._is_closed:
            self._connection = _connect(self.path)
            self._is_closed = False

    def _translate(self, error: Exception) -> StoreError:
        problem = error if isinstance(error, StoreError) else as_store_error(error, self.path)
        if not isinstance(problem, StoreFullError):
            # The connection's view of the file may be wrong now: close it; the next commit reopens it.
            self._connection.close()
            self._is_closed = True
        return problem

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed, so no request is waiting
            return

    # ---- results, back in the event loop -----------------------------------------------------------

    def _succeed(self, batches: int, number: int, entries: list[JournalEntry], seconds: float) -> None:
        self._return_batches(batches)
        self._on_commit(number, entries, seconds)
        for entry in entries:
            entry.finish(None)

    def _fail(self, batches: int, entries: list[JournalEntry], error: StoreError, is_first: bool) -> None:
        self._return_batches(batches)
        self._on_failure(entries, error)
        if is_first:  # one marker a failure
            self.flush()
            self._queue.put(_ClearFailure())
        for entry in entries:
            entry.finish(error)


def _resolve(future: asyncio.Future[None], problem: Exception | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(None)
    else:
        future.set_exception(problem)
        future.exception()  # mark as retrieved: the request may have been cancelled


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")  # locking_mode keeps this lock until the connection closes
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreVersionError(
                    f"{path}: version {version}, but this package reads up to {VERSION}; upgrade the package"
                )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS journal (number INTEGER PRIMARY KEY, data BLOB NOT NULL)"
            )
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        problem = as_store_error(error, path)
        if isinstance(problem, StoreBusyError):
            problem = StoreBusyError(
                f"{path}: in use by another server or program; stop it, or choose another --data folder"
            )
        raise problem from error
    return connection
