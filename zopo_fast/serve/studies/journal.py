"""One journal for all studies of a server: what is written in the same moment is committed together.

A commit waits for the disk, some milliseconds, however much is in it. One thread therefore takes everything
that is queued, writes it as one row in one transaction (SQLite, WAL, synchronous=FULL: the row is on disk
when the statement returns), and only then are the waiting requests answered. The lock on the file is
exclusive, so that a second server on the same folder is refused.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, StoreFullError, StoreVersionError
from zopo_fast.storage.writer import as_store_error

VERSION = 1


class Event(msgspec.Struct, array_like=True, frozen=True):
    """One entry of a study's ordered log: `data` is JSON."""

    study: str
    seq: int
    kind: str
    data: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Event]).decode


class Entry:
    """What is committed together and answered together: events of one study.

    Attributes:
        owner: whose they are, for the callbacks.
        lines: the events as JSON, joined by commas.
        done: resolved once they are on disk, for the one request that made them: where that is cancelled,
            so is this, and nothing else.
        finished: whether they are on disk or never will be.
    """

    __slots__ = ("_others", "done", "error", "events", "finished", "lines", "owner")

    def __init__(self, owner: Any, events: list[Event], done: asyncio.Future[None]) -> None:
        self.owner, self.events, self.done = owner, events, done
        self.lines = b",".join([_encode(event) for event in events])
        self.finished = False
        self.error: StoreError | None = None
        self._others: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait for what another request made; raises its StoreError."""
        if not self.finished:
            future = self.done.get_loop().create_future()
            self._others.append(future)
            await future
        if self.error is not None:
            raise type(self.error)(str(self.error))

    def finish(self, error: StoreError | None) -> None:
        """Resolve whoever waits."""
        self.finished, self.error = True, error
        _settle(self.done, None if error is None else type(error)(str(error)))
        for future in self._others:
            _settle(future, None)


class _Resume:
    """Put behind the last entry that fails together with a failed commit."""


@dataclass
class _Forget:
    upto: int
    done: asyncio.Future[None]


OnCommit = Callable[[int, list[Entry], float], None]
OnFailure = Callable[[list[Entry], StoreError], None]


class Journal:
    """The journal's file, its writing thread and its queue.

    `committed(number, entries, seconds)` is called in the event loop after each commit, before its entries'
    futures are resolved, `failed(entries, error)` before they are failed. Once a commit has failed, all that
    is queued by the end of the first call of `failed` fails too: it was applied to what is now to be undone.

    Raises:
        StoreBusyError: another server has the folder. StoreVersionError, StoreDamagedError, StoreError: the
            file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: queue.SimpleQueue[list[Entry] | _Resume | _Forget | None] = queue.SimpleQueue()
        self._gathered: list[Entry] = []
        self._handed = 0  # lists of entries that the thread has
        self._thread: threading.Thread | None = None
        self._halted: StoreError | None = None
        self._connection = _connected(path)
        self._closed = False
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM journal").fetchone()
        self._last: int = last  # the newest commit; of the writing thread, once that runs

    def read(self) -> Iterator[tuple[int, list[Event]]]:
        """The commits that were not forgotten, in order; before `start`."""
        for number, data in self._connection.execute("SELECT number, data FROM journal ORDER BY number"):
            try:
                yield number, _decode(data)
            except msgspec.DecodeError as error:
                raise StoreDamagedError(f"{self.path}: commit {number} cannot be read: {error}") from error

    def start(self, committed: OnCommit, failed: OnFailure) -> None:
        """Begin to write; in the event loop that the callbacks are for."""
        self._loop = asyncio.get_running_loop()
        self._committed, self._failed = committed, failed
        self._thread = threading.Thread(target=self._write, name="zopo-fast-journal", daemon=True)
        self._thread.start()

    # ---- the event loop's side ---------------------------------------------------------------------

    def put(self, owner: Any, events: list[Event]) -> Entry:
        """Queue events; `done` is resolved once they are on disk, or fails with a StoreError."""
        entry = Entry(owner, events, self._loop.create_future())
        # Handed over when all requests that are ready now have had their turn, and the last commit is over:
        # waking the thread for each would cost more, and take the interpreter from the next one.
        self._gathered.append(entry)
        if len(self._gathered) == 1 and not self._handed:
            self._loop.call_soon(self.flush)
        return entry

    def flush(self) -> None:
        """Hand over what was gathered; in the event loop."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._handed += 1
            self._queue.put(gathered)

    def _returned(self, batches: int) -> None:
        self._handed -= batches
        if self._gathered and not self._handed:
            self._loop.call_soon(self.flush)

    async def forget(self, upto: int) -> None:
        """Drop commits up to a number: their events are in the studies' files. Raises StoreError."""
        item = _Forget(upto, self._loop.create_future())
        self.flush()
        self._queue.put(item)
        await item.done

    def close(self) -> None:
        """Write what was handed over, end the thread and close the file; waits, so not in the event loop."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        self._connection.close()

    # ---- the thread's side -------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            taken = [self._queue.get()]
            while True:
                try:
                    taken.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            batch: list[list[Entry]] = []
            for item in taken:
                if isinstance(item, list):
                    batch.append(item)
                    continue
                self._commit(batch)
                batch = []
                if item is None:
                    return
                if isinstance(item, _Resume):
                    self._halted = None
                else:
                    self._forget(item)
            self._commit(batch)

    def _commit(self, handed: list[list[Entry]]) -> None:
        if not handed:
            return
        batch = [entry for entries in handed for entry in entries]
        start = time.perf_counter()
        first = self._halted is None
        if first:
            data = b"[" + b",".join([entry.lines for entry in batch]) + b"]"
            try:
                self._open()
                # A failed commit may have reached the disk after all; it is written over by the next one.
                # One statement outside a transaction: the interpreter's lock is given up once for all of it.
                self._connection.execute(
                    "INSERT OR REPLACE INTO journal VALUES (?, ?)", (self._last + 1, data)
                )
            except Exception as error:  # whatever it is, those who wait are told
                self._halted = self._broken(error)
        if self._halted is None:
            self._last += 1
            self._call(self._after, len(handed), self._last, batch, time.perf_counter() - start)
        else:
            self._call(self._refuse, len(handed), batch, self._halted, first)

    def _forget(self, item: _Forget) -> None:
        problem: StoreError | None = None
        try:
            self._open()
            self._connection.execute("DELETE FROM journal WHERE number <= ?", (item.upto,))
        except Exception as error:
            problem = self._broken(error)
        self._call(_settle, item.done, problem)

    def _open(self) -> None:
        if self._closed:
            self._connection = _connected(self.path)
            self._closed = False

    def _broken(self, error: Exception) -> StoreError:
        problem = error if isinstance(error, StoreError) else as_store_error(error, self.path)
        if not isinstance(problem, StoreFullError):  # what the connection believes of the file may be wrong
            self._connection.close()
            self._closed = True  # and opened again for the next commit
        return problem

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _after(self, handed: int, number: int, batch: list[Entry], seconds: float) -> None:
        self._returned(handed)
        self._committed(number, batch, seconds)
        for entry in batch:
            entry.finish(None)

    def _refuse(self, handed: int, batch: list[Entry], error: StoreError, first: bool) -> None:
        self._returned(handed)
        self._failed(batch, error)
        if first:  # once a failure: another one may follow, and has a mark of its own
            self.flush()
            self._queue.put(_Resume())
        for entry in batch:
            entry.finish(error)


def _settle(future: asyncio.Future[None], problem: Exception | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(None)
    else:
        future.set_exception(problem)
        future.exception()  # seen, even where its request is gone


def _connected(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")  # the lock stays until the connection is closed
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreVersionError(f"{path}: version {version}; this package reads up to {VERSION}")
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
            problem = StoreBusyError(f"{path}: another server, or another program, has it open")
        raise problem from error
    return connection
