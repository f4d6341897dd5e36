"""Cache of answers on disk, shared by runs and processes.

    cache = AnswerCache()                # in `files.default_cache_dir()`
    model = CachedModel(client, cache)
    answer = await model.chat(messages)  # a hit has answer.usage.cached == 1

The key of an answer covers all it depends on: model, endpoint, parameters of the call and messages.
At a temperature above 0 a hit repeats the first answer, so do not cache a model that writes prompts.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from zopo_fast._utils.aio import cancel_and_wait
from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.files import default_cache_dir
from zopo_fast._utils.public import public
from zopo_fast._utils.sqlite_cache import SQLiteCache
from zopo_fast.errors import ConfigError, ZopoError
from zopo_fast.llm.middleware import ModelWrapper
from zopo_fast.llm.types import Answer, CallKey, ChatModel, Message, Payer, Usage

FILE = "answers-1.sqlite3"
MAX_BYTES = 256 * 2**20
_ROW_BYTES = 160  # overhead of an entry, with its place in the index
_KEPT_SHARE = 0.9  # of max_bytes, after an eviction

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB, digest BLOB, size INTEGER, "
    "used INTEGER)",
    "CREATE INDEX IF NOT EXISTS answers_used ON answers (used)",
    "CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), bytes INTEGER)",
    "INSERT OR IGNORE INTO total VALUES (0, 0)",
    "CREATE TRIGGER IF NOT EXISTS came AFTER INSERT ON answers BEGIN "
    "UPDATE total SET bytes = bytes + new.size; END",
    "CREATE TRIGGER IF NOT EXISTS went AFTER DELETE ON answers BEGIN "
    "UPDATE total SET bytes = bytes - old.size; END",
)
# A counter of uses: orders them across processes without a clock.
_NEXT = "(SELECT COALESCE(MAX(used), 0) + 1 FROM answers)"


@public
class AnswerCache:
    """Cache of answers in one SQLite file; evicts the least recently used answers.

    A file that cannot be read or written is logged and never raises: the cache is then empty.

    Args:
        path: folder of the file `answers-1.sqlite3`; None: `files.default_cache_dir()`.
        max_bytes: limit of the entries' bytes; the file is a little larger.

    Raises:
        ConfigError: `max_bytes` is below 1.
    """

    def __init__(self, path: str | Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = as_integer("max_bytes", max_bytes)
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, got {max_bytes}")
        folder = default_cache_dir() if path is None else Path(path).expanduser()
        self._file = SQLiteCache(folder / FILE, "answer cache", _SCHEMA)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self._file.path

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self._file.close()

    def get(self, key: bytes) -> Answer | None:
        """Return the answer under `key`, with usage `cached=1`, and mark it as used; None for a miss."""

        def read(connection: sqlite3.Connection) -> Any:
            row = connection.execute("SELECT answer, digest FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                connection.execute(f"UPDATE answers SET used = {_NEXT} WHERE key = ?", (key,))
            return row

        row = self._file.transaction(read)
        return None if row is None else _unpacked(*row)

    def put(self, key: bytes, answer: Answer) -> None:
        """Store an answer, and evict the least recently used ones above `max_bytes`."""
        data = json.dumps([answer.text, answer.finish_reason]).encode()
        size = len(data) + _ROW_BYTES
        if size > self.max_bytes:
            return

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))
            row = (key, data, hashlib.sha256(data).digest(), size)
            connection.execute(f"INSERT INTO answers VALUES (?, ?, ?, ?, {_NEXT})", row)
            self._make_room(connection)

        self._file.transaction(write)

    def held(self) -> tuple[int, int]:
        """Return number and bytes of the stored answers."""

        def read(connection: sqlite3.Connection) -> tuple[int, int]:
            count = connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
            return count, _total(connection)

        return self._file.transaction(read) or (0, 0)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        if _total(connection) <= self.max_bytes:
            return
        oldest = "DELETE FROM answers WHERE rowid = (SELECT rowid FROM answers ORDER BY used LIMIT 1)"
        while _total(connection) > _KEPT_SHARE * self.max_bytes:
            if connection.execute(oldest).rowcount < 1:
                break
        # executescript commits first and frees all pages; execute would free a single one.
        connection.executescript("PRAGMA incremental_vacuum")


@dataclass
class _Flight:
    """Call in flight with its number of waiting callers; the first caller to return takes its usage."""

    task: asyncio.Task[Answer]
    waiting: int = 0
    claimed: bool = False


class CachedModel(ModelWrapper):
    """Chat model with a cache of answers in front; a model without identity is not cached.

    Identical calls in flight are made once, and the call runs until its last caller is cancelled. A hit takes
    no slot and, with the metered model inside (`CachedModel(MeteredModel(client, ...), ...)`), no budget.
    """

    def __init__(self, model: ChatModel, cache: AnswerCache) -> None:
        super().__init__(model)
        self._cache = cache
        self._flights: dict[tuple[asyncio.AbstractEventLoop, bytes], _Flight] = {}
        self._writing: dict[asyncio.Task[None], tuple[bytes, Answer]] = {}
        self._lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` from the cache, else by the wrapped model, whose errors it raises."""
        identity = self.identity
        if identity is None:
            return await super().chat(messages, key=key, account=account)
        place = (asyncio.get_running_loop(), key_of(identity, messages))
        flight = self._flights.get(place)
        if flight is None:
            call = functools.partial(super().chat, messages, key=key, account=account)
            task = asyncio.ensure_future(self._answer(place[1], call))
            flight = self._flights[place] = _Flight(task)
            task.add_done_callback(lambda _: self._landed(place, task))
        flight.waiting += 1
        try:
            answer = await asyncio.shield(flight.task)
        except ZopoError as error:
            # A copy for each caller: the evaluator adds a caller's example to the message.
            raise copy.copy(error).with_traceback(error.__traceback__) from error.__cause__
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._landed(place, flight.task)  # no new caller may join a call that is being cancelled
                await cancel_and_wait([flight.task])
        if flight.claimed:
            return Answer(answer.text, Usage(cached=1), answer.finish_reason)
        flight.claimed = True
        return answer

    def _landed(self, place: tuple[asyncio.AbstractEventLoop, bytes], task: asyncio.Task[Answer]) -> None:
        flight = self._flights.get(place)
        if flight is not None and flight.task is task:
            del self._flights[place]

    async def _answer(self, key: bytes, call: Callable[[], Awaitable[Answer]]) -> Answer:
        for known, answer in self._writing.values():
            if known == key:
                return answer
        # One lookup at a time, so that calls reach the model in the order in which they were made.
        async with self._lookups.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            found = await asyncio.to_thread(self._cache.get, key)
        if found is not None:
            return found
        answer = await call()
        if (
            isinstance(answer, Answer)
            and isinstance(answer.text, str)
            and answer.finish_reason not in _INCOMPLETE
        ):
            # Written in the background: cancelling the call during the write must not lose the answer.
            writing = asyncio.ensure_future(asyncio.to_thread(self._cache.put, key, answer))
            self._writing[writing] = key, Answer(answer.text, Usage(cached=1), answer.finish_reason)
            writing.add_done_callback(lambda done: self._writing.pop(done, None))
        return answer

    async def written(self) -> None:
        """Wait until the cache holds all answers so far; call it before the event loop ends."""
        if self._writing:
            await asyncio.wait(list(self._writing))


_INCOMPLETE = ("content_filter", "tool_calls", "function_call")  # finish reasons of incomplete answers


def key_of(identity: Any, messages: Sequence[Message]) -> bytes:
    """Return the key of a call: the SHA-256 of canonical JSON of identity and messages.

    Caches on disk hold these bytes: a change here makes every call a miss.
    """
    asked = [identity, [dict(message) for message in messages]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).digest()


def _total(connection: sqlite3.Connection) -> int:
    total: int = connection.execute("SELECT bytes FROM total").fetchone()[0]
    return total


def _unpacked(data: object, digest: object) -> Answer | None:
    if not isinstance(data, bytes) or hashlib.sha256(data).digest() != digest:
        return None
    text, finish_reason = json.loads(data)
    return Answer(text, Usage(cached=1), finish_reason)
