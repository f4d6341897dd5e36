"""Event log, answers, trials and charges of a study, in one SQLite file.

    store = Store.create("runs/rhymes/study.sqlite3", config)
    store.append("score", {"prompt": 3, "example": 0, "score": 1.0})   # in order; written in the background
    await store.flush(durable=True)                                     # on disk when this returns

The file is in WAL mode and open in one process at a time. The ordered log (`events`) is the state of a run:
replaying the log restores that state. After `kill -9` the file holds a prefix of what was appended, with
everything that a `flush` acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast._utils.public import public
from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, ZopoError
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.storage.file import create_file, open_exclusive
from zopo_fast.storage.schema import insert, to_json
from zopo_fast.storage.writer import Statement, TransactionLog, Writer, as_store_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


STUDY = "study.sqlite3"
"""Name of the study file in the folder of a run."""
# Open studies of this process by device and inode: reading such a file by another handle would, when that is
# closed, release SQLite's locks.
_opened: weakref.WeakValueDictionary[tuple[int, int], Store] = weakref.WeakValueDictionary()
_MAX_PART_BYTES = 2**26  # of an array in one row; SQLite limits rows to 10^9 bytes
_REPLACE = "INSERT OR REPLACE"


class Event(NamedTuple):
    """Entry of the log; `seq` counts from 1 without gaps."""

    seq: int
    kind: str
    data: dict[str, Any]


@public
class Store:
    """Study file, open for this process alone; close it, or use it in a `with` block.

    A thread writes what is appended, in order and in groups. After a failed write, every later call raises
    its error, such as StoreFullError; what was flushed before is intact.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, log: TransactionLog | None = None) -> None:
        self.path = path
        self._connection = connection
        touch = insert("study", "flushed", "1", verb=_REPLACE)
        self._writer = Writer(connection, str(path), touch, log)
        # Close when this object is collected, at the latest at the end of the interpreter.
        self._finalizer = weakref.finalize(self, _close, self._writer)
        self._is_in_use = False
        self._pool: Pool | None = None  # the pool in the file, where this object has written it
        self._seq = self._highest("seq", "events")
        self._answers = self._highest("id", "answers")
        if (key := _file_key(path)) is not None:
            _opened[key] = self

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], pool: Pool | None = None) -> Store:
        """Create a study file atomically and open it.

        Args:
            path: of the file; missing folders are created.
            config: settings, as JSON values.
            pool: the prompts, if they are known yet.

        Raises:
            StoreError: the file exists already, or cannot be created.
        """
        cls.create_closed(path, config, pool)
        store = cls.open(path)
        store._pool = pool
        return store

    @classmethod
    def create_closed(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        pool: Pool | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Create a study file as `create` does, with arrays by name, and leave it closed.

        Raises:
            StoreError: the file exists already, or cannot be created.
        """
        rows = chain(
            [insert("study", "config", to_json(dict(config)))],
            () if pool is None else _pool_rows(pool),
            *(_array_rows(name, array) for name, array in (arrays or {}).items()),
        )
        create_file(Path(path), rows)

    @classmethod
    def open(cls, path: str | Path, log: TransactionLog | None = None) -> Store:
        """Open a study file.

        Args:
            path: of the file.
            log: takes each transaction before the file does; None: none.

        Raises:
            StoreBusyError: the file is open elsewhere.
            StoreVersionError: a newer version of this package wrote the file.
            StoreDamagedError: the file is damaged; says what was saved from it.
            StoreError: the file is missing, or is not a study.
        """
        return cls(Path(path), open_exclusive(Path(path)), log)

    # ---- settings, pool, arrays --------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Settings that the study was created with."""
        value = self.get("config")
        if not isinstance(value, dict):
            raise StoreDamagedError(f"{self.path}: the settings are missing")
        return value

    def get(self, name: str) -> Any:
        """Return the value stored under a name; None if absent."""
        row = self._one("SELECT value FROM study WHERE name = ?", name)
        return None if row is None else self._parsed(row[0])

    def put(self, name: str, value: Any) -> None:
        """Store JSON values under a name."""
        self._writer.submit(insert("study", name, to_json(value), verb=_REPLACE))

    def put_pool(self, pool: Pool) -> None:
        """Store the prompts with their counts and prior scores."""
        if pool == self._pool:  # millions of rows take seconds
            return
        self._pool = pool
        self._writer.submit_lazily(chain([("DELETE FROM pool", ())], _pool_rows(pool)))

    def pool(self) -> Pool | None:
        """Return the stored prompts; None if absent."""
        rows = self._all("SELECT prompt, count, score FROM pool ORDER BY idx")
        if not rows:
            return None
        try:
            scores = {i: score for i, (_, _, score) in enumerate(rows) if score is not None}
            return Pool(tuple(self._parsed(row[0]) for row in rows), tuple(row[1] for row in rows), scores)
        except StoreError:
            raise
        except (ZopoError, TypeError) as error:
            raise StoreDamagedError(f"{self.path}: the pool cannot be read: {error}") from error

    def put_array(self, name: str, array: NDArray[Any]) -> None:
        """Store an array of any shape and dtype under a name."""
        self._writer.submit(("DELETE FROM arrays WHERE name = ?", (name,)), *_array_rows(name, array))

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the array stored under a name; None if absent."""
        rows = self._all("SELECT dtype, shape, data FROM arrays WHERE name = ? ORDER BY part", name)
        if not rows:
            return None
        try:
            data = bytearray().join(row[2] for row in rows)
            dtype, shape = np.dtype(rows[0][0]), self._parsed(rows[0][1])
            array: NDArray[Any] = np.frombuffer(data, dtype=dtype).reshape(shape)
            return array
        except (TypeError, ValueError) as error:
            raise StoreDamagedError(f"{self.path}: the array {name!r} is damaged: {error}") from error

    # ---- the log -----------------------------------------------------------------------------------

    def append(self, kind: str, data: Mapping[str, Any]) -> int:
        """Append an entry to the log; return its number.

        Raises:
            StoreError: an earlier write failed.
        """
        self._writer.submit(insert("events", self._seq + 1, kind, to_json(data)))
        self._seq += 1
        return self._seq

    def merge_events(self, events: Iterable[Event]) -> None:
        """Insert entries under their own numbers; numbers that exist already are skipped."""
        rows = [(event.seq, event.kind, to_json(event.data)) for event in events]
        self._writer.submit(*(insert("events", *row, verb="INSERT OR IGNORE") for row in rows))
        self._seq = max([self._seq, *(row[0] for row in rows)])

    def rewind(self, seq: int) -> None:
        """Delete the entries of the log after number `seq`; answers, trials and charges stay."""
        self._writer.submit(("DELETE FROM events WHERE seq > ?", (seq,)))
        self._seq = min(self._seq, seq)

    def events(self) -> Iterator[Event]:
        """Yield the entries of the log in order."""
        for seq, kind, data in self._all("SELECT seq, kind, data FROM events ORDER BY seq"):
            yield Event(seq, kind, self._parsed(data))

    @property
    def last_seq(self) -> int:
        """Number of the last entry; 0 for an empty log."""
        return self._seq

    # ---- answers, trials, charges ------------------------------------------------------------------

    def add_answer(self, key: bytes, role: str, answer: Answer) -> None:
        """Store an answer of a model under the key of its call."""
        # vars() instead of asdict(), which would take most of the time of this method.
        data = to_json(
            {"text": answer.text, "usage": vars(answer.usage), "finish_reason": answer.finish_reason}
        )
        self._writer.submit(insert("answers", self._answers + 1, key, role, data))
        self._answers += 1

    def answers(self) -> dict[bytes, list[int]]:
        """Return the numbers of all answers by key, in order of arrival."""
        found: dict[bytes, list[int]] = {}
        for number, key in self._all("SELECT id, key FROM answers ORDER BY id"):
            found.setdefault(key, []).append(number)
        return found

    def answer(self, number: int) -> Answer:
        """Return an answer by its number."""
        row = self._one("SELECT data FROM answers WHERE id = ?", number)
        try:
            values = self._parsed(row[0])
            return Answer(values["text"], Usage(**values["usage"]), values["finish_reason"])
        except (LookupError, TypeError) as error:
            raise StoreDamagedError(f"{self.path}: an answer is damaged ({error!r})") from error

    def usage(self) -> Usage:
        """Return the usage of all answers but those that wrote the pool."""
        found = Usage()
        for (data,) in self._all("SELECT data FROM answers WHERE role != 'writer' ORDER BY id"):
            found += Usage(**self._parsed(data)["usage"])
        return found

    def add_trial(self, number: int, trial: Mapping[str, Any]) -> None:
        """Append or replace a trial, for readers of the file: a resumed run derives its trials from the log.

        Args:
            number: of the trial, from 1.
            trial: fields of the trial, as JSON values.
        """
        self._writer.submit(insert("trials", number, to_json(trial), verb=_REPLACE))

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials as JSON values, ordered by number."""
        return [self._parsed(data) for (data,) in self._all("SELECT data FROM trials ORDER BY number")]

    async def reserved(self, reservation_id: str, calls: int, tokens: int, cost: float) -> None:
        """Store a reservation before its call is sent, so that the call counts if the process is killed."""
        row = insert("charges", reservation_id, calls, tokens, float(cost), 0, verb=_REPLACE)
        await asyncio.wrap_future(self._writer.flush(row))

    def settled(self, reservation_id: str, calls: int, tokens: int, cost: float) -> None:
        """Replace a reservation by what its call took."""
        self._writer.submit(insert("charges", reservation_id, calls, tokens, float(cost), 1, verb=_REPLACE))

    def charged(self) -> tuple[int, int, float]:
        """Return calls, tokens and cost of all calls; a reservation never settled counts in full."""
        row = self._one("SELECT sum(calls), sum(tokens), sum(cost) FROM charges")
        calls, tokens, cost = row or (0, 0, 0.0)
        return calls or 0, tokens or 0, cost or 0.0

    @property
    def is_empty(self) -> bool:
        """True when the study holds neither an answer nor a score of an answer nor a call that is charged."""
        scored = "SELECT count(*) FROM events WHERE kind = 'score' AND data NOT LIKE '%\"unanswered\"%'"
        charged = "SELECT count(*) FROM charges WHERE calls > 0"
        return not self._one(f"SELECT (SELECT count(*) FROM answers) + ({scored}) + ({charged})")[0]

    # ---- durability --------------------------------------------------------------------------------

    async def flush(self, *, durable: bool = False) -> None:
        """Wait until all that was appended survives the end of the process.

        Args:
            durable: wait until it survives a loss of power.

        Raises:
            StoreError: a write failed.
        """
        await asyncio.wrap_future(self._writer.flush(durable=durable))

    def sync(self, *, durable: bool = True) -> None:
        """Block until `flush` would return, for callers without an event loop."""
        self._writer.flush(durable=durable).result()

    def close(self) -> None:
        """Write what is queued and close the file; in a forked process this does nothing.

        Raises:
            StoreError: a write failed.
        """
        self._finalizer.detach()
        self._writer.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except StoreError:
            if kind is None:  # otherwise the error that ends the block takes precedence
                raise

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Reserve this object for one run, for the length of a block.

        Raises:
            StoreBusyError: another run of this process uses the object.
        """
        if self._is_in_use:
            raise StoreBusyError(f"{self.path}: another run of this process uses this study")
        self._is_in_use = True
        try:
            yield
        finally:
            self._is_in_use = False

    @property
    def is_open(self) -> bool:
        """True until `close`; False in a forked process."""
        return self._writer.is_open

    def copy(self, path: Path) -> None:
        """Copy the study to a new file, with all that was appended before; writing continues meanwhile.

        Raises:
            StoreError: the copy cannot be written.
        """
        self._writer.copy(path).result()

    # ---- internals ------------------------------------------------------------------------------------

    def _all(self, sql: str, *values: object) -> list[Any]:
        self._writer.flush().result()  # a read must see what was appended before it
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise as_store_error(error, self.path) from error

    def _one(self, sql: str, *values: object) -> Any:
        rows = self._all(sql, *values)
        return rows[0] if rows else None

    def _highest(self, column: str, table: str) -> int:
        return int(self._one(f"SELECT coalesce(max({column}), 0) FROM {table}")[0])

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise StoreDamagedError(f"{self.path}: a row is damaged: {error}") from error


def open_here(path: Path) -> Store | None:
    """Return the Store of this process that has a study file open; None if there is none."""
    key = _file_key(path)
    store = None if key is None else _opened.get(key)
    return store if store is not None and store.is_open else None


def _file_key(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # deleted meanwhile
        return None
    return status.st_dev, status.st_ino


def _close(writer: Writer) -> None:
    with suppress(StoreError):  # no caller is left to raise it to
        writer.close()


def _array_rows(name: str, array: NDArray[Any]) -> list[Statement]:
    array = np.ascontiguousarray(array)
    data, shape = array.reshape(-1).view(np.uint8), to_json(array.shape)
    return [
        insert("arrays", name, i, array.dtype.str, shape, data[start : start + _MAX_PART_BYTES].tobytes())
        for i, start in enumerate(range(0, max(1, len(data)), _MAX_PART_BYTES))
    ]


def _pool_rows(pool: Pool) -> Iterator[Statement]:
    for i, (prompt, count) in enumerate(zip(pool.prompts, pool.counts, strict=True)):
        score = None if i not in pool.scores else float(pool.scores[i])
        yield insert("pool", i, to_json(prompt), int(count), score)
