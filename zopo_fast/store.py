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
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import StoreDamagedError, StoreError, ZopoError
from .pool import Pool
from .store_file import connect
from .store_writer import Writer, typed
from .usage import Answer, Usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .result import Trial

STUDY = "study.sqlite3"
"""Name of the study file in a run's folder."""


class Event(NamedTuple):
    """An entry of the log: `seq` counts from 1 without gaps."""

    seq: int
    kind: str
    data: dict[str, Any]


class Store:
    """One study file, open for this process alone; close it, or use it in a `with` block.

    What is appended is written by a thread of its own, in order and in groups. A failed write ends that: all
    later calls raise its error (StoreFullError where the disk is full); what was flushed is intact.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._writer = Writer(connection, str(path))
        self._seq = self._highest("seq", "events")

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> Store:
        """Make a study file with these settings (JSON values).

        Raises:
            StoreError: it is there already, or cannot be made.
        """
        first = ("INSERT INTO study VALUES ('config', ?)", (_json(dict(config)),))
        return cls(Path(path), connect(Path(path), create=[first]))

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a study file.

        Raises:
            StoreBusyError: it is open elsewhere. StoreVersionError: made by a newer version.
            StoreDamagedError: damaged; says what could be saved. StoreError: missing, or not a study.
        """
        return cls(Path(path), connect(Path(path)))

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
        self._writer.submit(("INSERT OR REPLACE INTO study VALUES (?, ?)", (name, _json(value))))

    def keep_pool(self, pool: Pool) -> None:
        """Keep the prompts, with their counts and prior scores."""
        rows = zip(pool.prompts, pool.counts, strict=True)
        self._writer.submit(
            ("DELETE FROM pool", ()),
            *(
                ("INSERT INTO pool VALUES (?, ?, ?, ?)", (i, prompt, count, pool.scores.get(i)))
                for i, (prompt, count) in enumerate(rows)
            ),
        )

    def pool(self) -> Pool | None:
        """The prompts; None where none were kept."""
        rows = self._all("SELECT prompt, count, score FROM pool ORDER BY idx")
        if not rows:
            return None
        try:
            scores = {i: score for i, (_, _, score) in enumerate(rows) if score is not None}
            return Pool(tuple(row[0] for row in rows), tuple(row[1] for row in rows), scores)
        except (ZopoError, TypeError) as error:
            raise StoreDamagedError(f"{self.path}: its pool cannot be read: {error}") from error

    def keep_array(self, name: str, array: NDArray[Any]) -> None:
        """Keep an array under a name, with a checksum."""
        array = np.ascontiguousarray(array)
        data = array.tobytes()
        row = (name, array.dtype.str, _json(array.shape), data, hashlib.sha256(data).digest())
        self._writer.submit(("INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?, ?)", row))

    def array(self, name: str) -> NDArray[Any] | None:
        """An array kept; None where there is none."""
        row = self._one("SELECT dtype, shape, data, digest FROM arrays WHERE name = ?", name)
        if row is None:
            return None
        dtype, shape, data, digest = row
        if hashlib.sha256(data).digest() != digest:
            raise StoreDamagedError(f"{self.path}: the array {name!r} is damaged")
        try:
            array: NDArray[Any] = np.frombuffer(data, dtype=dtype).reshape(self._parsed(shape))
            return array
        except (TypeError, ValueError) as error:
            raise StoreDamagedError(f"{self.path}: the array {name!r} is damaged: {error}") from error

    # ---- the log -----------------------------------------------------------------------------------

    def append(self, kind: str, data: Mapping[str, Any]) -> int:
        """Add an entry to the log; return its number. Raises the StoreError of an earlier write."""
        self._writer.submit(("INSERT INTO events VALUES (?, ?, ?)", (self._seq + 1, kind, _json(data))))
        self._seq += 1
        return self._seq

    def append_all(self, events: Iterable[Event]) -> None:
        """Add entries that have their numbers; those that are there already are passed over."""
        rows = [(event.seq, event.kind, _json(event.data)) for event in events]
        self._writer.submit(*(("INSERT OR IGNORE INTO events VALUES (?, ?, ?)", row) for row in rows))
        self._seq = max(self._seq, *(row[0] for row in rows)) if rows else self._seq

    def events(self) -> Iterator[Event]:
        """The log, in order."""
        for seq, kind, data in self._all("SELECT seq, kind, data FROM events ORDER BY seq"):
            yield Event(seq, kind, self._parsed(data))

    @property
    def last(self) -> int:
        """Number of the last entry; 0 before there is one."""
        return self._seq

    # ---- answers, trials, charges ------------------------------------------------------------------

    def add_answer(self, key: bytes, role: str, answer: Answer) -> None:
        """Keep a model's answer."""
        self._writer.submit(
            ("INSERT INTO answers (key, role, data) VALUES (?, ?, ?)", (key, role, _json(asdict(answer))))
        )

    def answers(self) -> dict[bytes, list[Answer]]:
        """All answers, by key, in the order in which they came."""
        found: dict[bytes, list[Answer]] = {}
        for key, data in self._all("SELECT key, data FROM answers ORDER BY id"):
            values = self._parsed(data)
            try:
                answer = Answer(values["text"], Usage(**values["usage"]), values["finish_reason"])
            except (LookupError, TypeError) as error:
                raise StoreDamagedError(f"{self.path}: an answer is damaged ({error!r})") from error
            found.setdefault(key, []).append(answer)
        return found

    def add_trial(self, trial: Trial) -> None:
        """Keep a trial, for whoever reads the file; a run that goes on makes them out of the log again."""
        row = (trial.number, _json(asdict(trial)))
        self._writer.submit(("INSERT OR REPLACE INTO trials VALUES (?, ?)", row))

    def trials(self) -> list[dict[str, Any]]:
        """The trials as JSON values, by number."""
        return [self._parsed(data) for (data,) in self._all("SELECT data FROM trials ORDER BY number")]

    async def reserved(self, hold_id: str, calls: int, tokens: int, cost: float) -> None:
        """Write down what the next call may cost, before it is made: it counts if the process is killed."""
        row = (hold_id, calls, tokens, cost)
        await asyncio.wrap_future(
            self._writer.flush(("INSERT OR REPLACE INTO charges VALUES (?, ?, ?, ?, 0)", row))
        )

    def settled(self, hold_id: str, calls: int, tokens: int, cost: float) -> None:
        """Write down what that call has cost."""
        row = (hold_id, calls, tokens, cost)
        self._writer.submit(("INSERT OR REPLACE INTO charges VALUES (?, ?, ?, ?, 1)", row))

    def charged(self) -> tuple[int, int, float]:
        """Calls, tokens and money of all calls, those under way when the process ended at their bounds."""
        row = self._one("SELECT sum(calls), sum(tokens), sum(cost) FROM charges")
        calls, tokens, cost = row or (0, 0, 0.0)
        return calls or 0, tokens or 0, cost or 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered or scored."""
        scored = "SELECT count(*) FROM events WHERE kind NOT IN ('ask', 'again')"
        return not self._one(f"SELECT (SELECT count(*) FROM answers) + ({scored})")[0]

    # ---- durability --------------------------------------------------------------------------------

    async def flush(self, *, durable: bool = False) -> None:
        """Wait until all that was appended outlasts the process; `durable`: and a loss of power."""
        await asyncio.wrap_future(self._writer.flush(durable=durable))

    def sync(self, *, durable: bool = True) -> None:
        """`flush` for callers without an event loop."""
        self._writer.flush(durable=durable).result()

    def close(self) -> None:
        """Write what is left and close the file."""
        try:
            self._writer.close()
        finally:
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- within ------------------------------------------------------------------------------------

    def _all(self, sql: str, *values: object) -> list[Any]:
        self._writer.flush().result()  # reads see what was appended before them
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise typed(error, self.path) from error

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


def _json(value: Any) -> str:
    try:
        return json.dumps(value)  # ASCII: half a surrogate pair, as a model may answer, is kept too
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot be kept as JSON: {error}") from error
