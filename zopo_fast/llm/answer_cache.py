"""Cache of answers on disk, shared by runs and processes.

    cache = AnswerCache()                # in `files.default_cache_dir()`
    model = CachedModel(client, cache)   # see `cached_model`
    answer = await model.chat(messages)  # a hit has answer.usage.cached == 1

At a temperature above 0 a hit repeats the first answer, so do not cache a model that writes prompts.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.files import default_cache_dir
from zopo_fast._utils.public import public
from zopo_fast._utils.sqlite_cache import SQLiteCache
from zopo_fast.errors import ConfigError
from zopo_fast.llm.types import MAX_CREDIBLE_TOKENS, Answer, Usage

FILE = "answers-2.sqlite3"
MAX_BYTES = 256 * 2**20
_ROW_BYTES = 200  # overhead of an entry, with its places in the indices
_COUNT_BYTES = 80  # overhead of its token counts
_KEPT_SHARE = 0.9  # of max_bytes, after an eviction

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB, origin TEXT, answer BLOB, digest BLOB, size INTEGER, "
    "used INTEGER, created REAL, PRIMARY KEY (key, origin))",
    "CREATE INDEX IF NOT EXISTS answers_used ON answers (used)",
    "CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), bytes INTEGER)",
    "INSERT OR IGNORE INTO total VALUES (0, 0)",
    "CREATE TRIGGER IF NOT EXISTS came AFTER INSERT ON answers BEGIN "
    "UPDATE total SET bytes = bytes + new.size; END",
    "CREATE TRIGGER IF NOT EXISTS went AFTER DELETE ON answers BEGIN "
    "UPDATE total SET bytes = bytes - old.size; END",
    # A table of its own: versions without it can share the file.
    "CREATE TABLE IF NOT EXISTS tokens (key BLOB, origin TEXT, prompt INTEGER, completion INTEGER, "
    "PRIMARY KEY (key, origin)) WITHOUT ROWID",
    "CREATE TRIGGER IF NOT EXISTS counted AFTER DELETE ON answers BEGIN "
    "DELETE FROM tokens WHERE key = old.key AND origin = old.origin; END",
)
# A counter of uses: orders them across processes without a clock.
_NEXT = "(SELECT COALESCE(MAX(used), 0) + 1 FROM answers)"


@dataclass(frozen=True)
class Found:
    """Result of a lookup.

    Attributes:
        answer: the answer, with usage `cached=1`; None for a miss.
        created: seconds since 1970 at which it was stored.
        is_known: the cache holds an answer of any origin under the key.
    """

    answer: Answer | None = None
    created: float = 0.0
    is_known: bool = False


@public
class AnswerCache:
    """Cache of answers in one SQLite file; evicts the least recently used answers.

    A file that cannot be read or written is logged and never raises: the cache is then empty. Files of
    earlier versions (`answers-1.sqlite3`) are neither read nor removed: their answers state no origin.

    Args:
        path: folder of the file `answers-2.sqlite3`; None: `files.default_cache_dir()`.
        max_bytes: limit of the entries' bytes; the file is a little larger.
        clock: seconds since 1970.

    Raises:
        ConfigError: `max_bytes` is below 1.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        max_bytes: int = MAX_BYTES,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_bytes = as_integer("max_bytes", max_bytes)
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, got {max_bytes}")
        self.clock = clock
        folder = default_cache_dir() if path is None else Path(path).expanduser()
        self._file = SQLiteCache(folder / FILE, "answer cache", _SCHEMA)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self._file.path

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self._file.close()

    def get(self, key: bytes, origin: str = "") -> Answer | None:
        """Return the answer under `key`, with usage `cached=1`, and mark it as used; None for a miss."""
        return self.find(key, (origin,)).answer

    def find(self, key: bytes, origins: Collection[str]) -> Found:
        """Look up the newest answer under `key` that has one of the origins, and mark it as used."""

        def read(connection: sqlite3.Connection) -> Found:
            query = (
                "SELECT origin, answer, digest, created, prompt, completion FROM answers "
                "LEFT JOIN tokens USING (key, origin) WHERE key = ? ORDER BY created DESC"
            )
            rows = connection.execute(query, (key,)).fetchall()
            for origin, data, digest, created, *counts in rows:
                if origin in origins and (answer := _unpacked(data, digest, counts)) is not None:
                    marked = f"UPDATE answers SET used = {_NEXT} WHERE key = ? AND origin = ?"
                    connection.execute(marked, (key, origin))
                    return Found(answer, float(created), True)
            return Found(is_known=bool(rows))

        return self._file.transaction(read) or Found()

    def put(self, key: bytes, answer: Answer, origin: str = "") -> None:
        """Store an answer, and evict the least recently used ones above `max_bytes`.

        Args:
            key: key of the call.
            answer: the answer.
            origin: what the response says of the model; answers of several origins share a key.
        """
        data = json.dumps([answer.text, answer.finish_reason]).encode()
        counts = answer.usage.answer_tokens
        size = len(data) + len(origin) + _ROW_BYTES + (0 if counts is None else _COUNT_BYTES)
        if size > self.max_bytes:
            return

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM answers WHERE key = ? AND origin = ?", (key, origin))
            row = (key, origin, data, hashlib.sha256(data).digest(), size, self.clock())
            connection.execute(f"INSERT INTO answers VALUES (?, ?, ?, ?, ?, {_NEXT}, ?)", row)
            if counts is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?)", (key, origin, *counts)
                )
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


def _total(connection: sqlite3.Connection) -> int:
    total: int = connection.execute("SELECT bytes FROM total").fetchone()[0]
    return total


def _unpacked(data: Any, digest: object, counts: Sequence[object]) -> Answer | None:
    if not isinstance(data, bytes) or hashlib.sha256(data).digest() != digest:
        return None
    text, finish_reason = json.loads(data)
    known = [count for count in counts if isinstance(count, int) and 0 <= count <= MAX_CREDIBLE_TOKENS]
    usage = Usage(cached=1).with_answer_tokens((known[0], known[1]) if len(known) == 2 else None)
    return Answer(text, usage, finish_reason)
