"""A study on disk: what was asked and answered, in order, so that nothing is lost or asked for twice.

    store = Store.create("runs/rhymes/study.sqlite3", config)
    store.append("score", {"prompt": 3, "example": 0, "score": 1.0})   # in order; written in the background
    await store.flush(durable=True)                                     # on the disk when this returns

One SQLite file a study, in WAL mode, open in one process at a time. Its ordered log (`events`) is the state:
whoever replays it is where its writer was. After `kill -9` the file holds a beginning of what was appended,
and all that a `flush` had returned for.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast._utils.public import public
from zopo_fast.errors import StoreBusyError, StoreDamagedError, StoreError, ZopoError
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.storage.file import create_file, open_exclusive
from zopo_fast.storage.schema import insert, to_json
from zopo_fast.storage.writer import Statement, Writer, as_store_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


STUDY = "study.sqlite3"
"""Name of the study file in a run's folder."""
_PART = 2**26  # bytes of an array in one row: SQLite's rows end at 10^9


class Event(NamedTuple):
    """An entry of the log: `seq` counts from 1 without gaps."""

    seq: int
    kind: str
    data: dict[str, Any]


@public
class Store:
    """One study file, open for this process alone; close it, or use it in a `with` block.

    What is appended is written by a thread of its own, in order and in groups. A failed write ends that: all
    later calls raise its error (StoreFullError where the disk is full); what was flushed is intact.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._writer = Writer(connection, str(path), insert("study", "flushed", "1", verb=_AGAIN))
        # What is not closed is, at the latest, by the end of the interpreter.
        self._last = weakref.finalize(self, _close, self._writer)
        self._used = False
        self._seq = self._highest("seq", "events")
        self._answers = self._highest("id", "answers")

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], pool: Pool | None = None) -> Store:
        """Make a study file with these settings (JSON values), and with the prompts where they are known.

        It is there as a whole, or not at all.

        Raises:
            StoreError: it is there already, or cannot be made.
        """
        cls.create_closed(path, config, pool)
        return cls.open(path)

    @classmethod
    def create_closed(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        pool: Pool | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Make a study file as `create` does, with these arrays too, and leave it closed."""
        rows = [insert("study", "config", to_json(dict(config)))]
        rows += [] if pool is None else _pool_rows(pool)
        for name, array in (arrays or {}).items():
            rows += _array_rows(name, array)
        create_file(Path(path), rows)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a study file.

        Raises:
            StoreBusyError: it is open elsewhere. StoreVersionError: made by a newer version.
            StoreDamagedError: damaged; says what could be saved. StoreError: missing, or not a study.
        """
        return cls(Path(path), open_exclusive(Path(path)))

    # ---- settings, pool, arrays --------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """The settings it was created with."""
        value = self.get("config")
        if not isinstance(value, dict):
            raise StoreDamagedError(f"{self.path}: its settings are missing")
        return value

    def get(self, name: str) -> Any:
        """A value kept by `put`; None where there is none."""
        row = self._one("SELECT value FROM study WHERE name = ?", name)
        return None if row is None else self._parsed(row[0])

    def put(self, name: str, value: Any) -> None:
        """Keep JSON values under a name."""
        self._writer.submit(insert("study", name, to_json(value), verb=_AGAIN))

    def put_pool(self, pool: Pool) -> None:
        """Keep the prompts, with their counts and prior scores."""
        self._writer.submit(("DELETE FROM pool", ()), *_pool_rows(pool))

    def pool(self) -> Pool | None:
        """The prompts; None where none were kept."""
        rows = self._all("SELECT prompt, count, score FROM pool ORDER BY idx")
        if not rows:
            return None
        try:
            scores = {i: score for i, (_, _, score) in enumerate(rows) if score is not None}
            return Pool(tuple(self._parsed(row[0]) for row in rows), tuple(row[1] for row in rows), scores)
        except StoreError:
            raise
        except (ZopoError, TypeError) as error:
            raise StoreDamagedError(f"{self.path}: its pool cannot be read: {error}") from error

    def put_array(self, name: str, array: NDArray[Any]) -> None:
        """Keep an array under a name."""
        self._writer.submit(("DELETE FROM arrays WHERE name = ?", (name,)), *_array_rows(name, array))

    def array(self, name: str) -> NDArray[Any] | None:
        """An array kept; None where there is none."""
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
        """Add an entry to the log; return its number. Raises the StoreError of an earlier write."""
        self._writer.submit(insert("events", self._seq + 1, kind, to_json(data)))
        self._seq += 1
        return self._seq

    def merge_events(self, events: Iterable[Event]) -> None:
        """Add entries that have their numbers; those that are there already are passed over."""
        rows = [(event.seq, event.kind, to_json(event.data)) for event in events]
        self._writer.submit(*(insert("events", *row, verb="INSERT OR IGNORE") for row in rows))
        self._seq = max([self._seq, *(row[0] for row in rows)])

    def rewind(self, seq: int) -> None:
        """Delete the entries of the log after number `seq`; answers, trials and charges stay."""
        self._writer.submit(("DELETE FROM events WHERE seq > ?", (seq,)))
        self._seq = min(self._seq, seq)

    def events(self) -> Iterator[Event]:
        """The log, in order."""
        for seq, kind, data in self._all("SELECT seq, kind, data FROM events ORDER BY seq"):
            yield Event(seq, kind, self._parsed(data))

    @property
    def last_seq(self) -> int:
        """Number of the last entry; 0 before there is one."""
        return self._seq

    # ---- answers, trials, charges ------------------------------------------------------------------

    def add_answer(self, key: bytes, role: str, answer: Answer) -> None:
        """Keep a model's answer."""
        # Not by asdict(), which takes longer than all the rest.
        data = to_json(
            {"text": answer.text, "usage": vars(answer.usage), "finish_reason": answer.finish_reason}
        )
        self._writer.submit(insert("answers", self._answers + 1, key, role, data))
        self._answers += 1

    def answers(self) -> dict[bytes, list[int]]:
        """Numbers of all answers, by key, in the order in which they came."""
        found: dict[bytes, list[int]] = {}
        for number, key in self._all("SELECT id, key FROM answers ORDER BY id"):
            found.setdefault(key, []).append(number)
        return found

    def answer(self, number: int) -> Answer:
        """An answer by its number."""
        row = self._one("SELECT data FROM answers WHERE id = ?", number)
        try:
            values = self._parsed(row[0])
            return Answer(values["text"], Usage(**values["usage"]), values["finish_reason"])
        except (LookupError, TypeError) as error:
            raise StoreDamagedError(f"{self.path}: an answer is damaged ({error!r})") from error

    def add_trial(self, number: int, trial: Mapping[str, Any]) -> None:
        """Append or replace a trial; for readers of the file only: a resumed run derives trials from the log.

        Args:
            number: of the trial, from 1.
            trial: its fields, as JSON values.
        """
        self._writer.submit(insert("trials", number, to_json(trial), verb=_AGAIN))

    def trials(self) -> list[dict[str, Any]]:
        """The trials as JSON values, by number."""
        return [self._parsed(data) for (data,) in self._all("SELECT data FROM trials ORDER BY number")]

    async def reserved(self, hold_id: str, calls: int, tokens: int, cost: float) -> None:
        """Write down what the next call may cost, before it is made: it counts if the process is killed."""
        row = insert("charges", hold_id, calls, tokens, float(cost), 0, verb=_AGAIN)
        await asyncio.wrap_future(self._writer.flush(row))

    def settled(self, hold_id: str, calls: int, tokens: int, cost: float) -> None:
        """Write down what that call has cost."""
        self._writer.submit(insert("charges", hold_id, calls, tokens, float(cost), 1, verb=_AGAIN))

    def charged(self) -> tuple[int, int, float]:
        """Calls, tokens and money of all calls, those under way when the process ended at their bounds."""
        row = self._one("SELECT sum(calls), sum(tokens), sum(cost) FROM charges")
        calls, tokens, cost = row or (0, 0, 0.0)
        return calls or 0, tokens or 0, cost or 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered or scored."""
        scored = "SELECT count(*) FROM events WHERE kind = 'score'"
        return not self._one(f"SELECT (SELECT count(*) FROM answers) + ({scored})")[0]

    # ---- durability --------------------------------------------------------------------------------

    async def flush(self, *, durable: bool = False) -> None:
        """Wait until all that was appended outlasts the process; `durable`: and a loss of power."""
        await asyncio.wrap_future(self._writer.flush(durable=durable))

    def sync(self, *, durable: bool = True) -> None:
        """`flush` for callers without an event loop."""
        self._writer.flush(durable=durable).result()

    def close(self) -> None:
        """Write what is left and close the file; nothing in a process that was forked from its owner's."""
        self._last.detach()
        self._writer.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except StoreError:
            if kind is None:  # else what ends the block says it, or counts for more
                raise

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be the one run that uses this object; StoreBusyError where there is one."""
        if self._used:
            raise StoreBusyError(f"{self.path}: another run of this process uses this study")
        self._used = True
        try:
            yield
        finally:
            self._used = False

    # ---- within ------------------------------------------------------------------------------------

    def _all(self, sql: str, *values: object) -> list[Any]:
        self._writer.flush().result()  # reads see what was appended before them
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


_AGAIN = "INSERT OR REPLACE"


def _close(writer: Writer) -> None:
    with suppress(StoreError):  # nobody is left to hear of it
        writer.close()


def _array_rows(name: str, array: NDArray[Any]) -> list[Statement]:
    array = np.ascontiguousarray(array)
    data, shape = array.reshape(-1).view(np.uint8), to_json(array.shape)
    return [
        insert("arrays", name, i, array.dtype.str, shape, data[start : start + _PART].tobytes())
        for i, start in enumerate(range(0, max(1, len(data)), _PART))
    ]


def _pool_rows(pool: Pool) -> list[Statement]:
    return [
        insert(
            "pool", i, to_json(prompt), int(count), None if i not in pool.scores else float(pool.scores[i])
        )
        for i, (prompt, count) in enumerate(zip(pool.prompts, pool.counts, strict=True))
    ]
