"""The file of a study: its schema and migrations, opening it alone, and what to save of a damaged one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from .errors import StoreDamagedError, StoreError, StoreVersionError
from .store_writer import Statement, typed

APPLICATION = 0x5A4F504F  # "ZOPO", by which SQLite files of this package are known
_MAGIC = b"SQLite format 3\0"

MIGRATIONS: list[str] = [
    """
    CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE pool (
      idx INTEGER PRIMARY KEY, prompt TEXT NOT NULL, count INTEGER NOT NULL, score REAL);
    CREATE TABLE arrays (
      name TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL,
      digest BLOB NOT NULL);
    CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL);
    CREATE TABLE answers (
      id INTEGER PRIMARY KEY, key BLOB NOT NULL, role TEXT NOT NULL, data TEXT NOT NULL);
    CREATE TABLE trials (number INTEGER PRIMARY KEY, data TEXT NOT NULL);
    CREATE TABLE charges (
      id TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL,
      settled INTEGER NOT NULL);
    """,
]
"""What leads from each version of the schema to the next; the first from an empty file to version 1."""

TABLES = ("study", "pool", "arrays", "events", "answers", "trials", "charges")


def connect(path: Path, *, create: Sequence[Statement] | None = None) -> sqlite3.Connection:
    """Open a study file for this process alone, in autocommit mode, migrated to the present schema.

    With `create` a new one, which is there as a whole, with what these statements insert, or not at all.

    The lock is SQLite's own, on the file: it ends with the process, however that ends.

    Raises:
        StoreBusyError: another process, or another connection, has it open.
        StoreVersionError: a newer schema.
        StoreDamagedError: not readable as a whole; names the file with what could be saved.
        StoreError: missing, no permission, or (with `create`) already there.
    """
    if create is None:
        _recognise(path)
    elif path.exists() and path.stat().st_size:
        raise StoreError(f"{path}: is there already")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: cannot be opened: {error}") from error
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # takes the lock, which the mode then keeps
        connection.execute("COMMIT")
        _check(connection, path, empty=create is not None)
        migrate(connection, path, create or ())
    except sqlite3.Error as error:
        connection.close()
        problem = typed(error, path)
        if isinstance(problem, StoreDamagedError):
            raise StoreDamagedError(f"{problem}. {salvage(path)}") from error
        raise problem from error
    except StoreDamagedError as error:
        connection.close()
        raise StoreDamagedError(f"{error}. {salvage(path)}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _recognise(path: Path) -> None:
    try:
        if not path.is_file():
            raise StoreError(f"{path}: no study there")
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    if magic and magic != _MAGIC:
        raise StoreDamagedError(
            f"{path}: damaged at its beginning, or no study file; nothing in it can be read. What "
            "trials.jsonl beside it holds is not lost"
        )


def _check(connection: sqlite3.Connection, path: Path, *, empty: bool) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION and tables:
        raise StoreError(f"{path}: a database of another program")
    if not tables and not empty:
        raise StoreError(f"{path}: holds no study; delete it to begin anew")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreVersionError(
            f"{path}: written by a newer version of zopo_fast (schema {version}, this one reads up to "
            f"{len(MIGRATIONS)}); upgrade the package"
        )
    problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise StoreDamagedError(f"{path}: the file is damaged ({'; '.join(problems)[:200]})")


def migrate(connection: sqlite3.Connection, path: Path, more: Sequence[Statement] = ()) -> None:
    """Lead the schema to the present version, each step whole or not at all, `more` with the last one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in script.split(";"):
                connection.execute(statement)
            for sql, values in more if number == len(MIGRATIONS) else ():
                connection.execute(sql, values)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise typed(error, path) from error


def salvage(path: Path) -> str:
    """Copy the readable rows of a damaged study beside it; say what was saved, and where to.

    The log is kept up to its first gap only, since what follows one cannot be replayed; answers are kept from
    both sides of it, and are not asked for again.
    """
    target = path.with_name(f"{path.stem}.salvaged{path.suffix}")
    if target.exists():
        return f"{target} holds what was saved of it before"
    try:
        with (
            closing(sqlite3.connect(path, timeout=0.0, isolation_level=None)) as damaged,
            closing(sqlite3.connect(target, isolation_level=None)) as saved,
        ):
            migrate(saved, target)
            saved.execute("BEGIN")
            counts = {table: _copy(damaged, saved, table) for table in TABLES}
            saved.execute("COMMIT")
            usable = saved.execute("SELECT 1 FROM study WHERE name = 'config'").fetchone() is not None
    except (sqlite3.Error, StoreError, OSError) as error:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        return f"Nothing could be saved ({error})"
    if not any(counts.values()):
        target.unlink(missing_ok=True)
        return "Nothing could be saved"
    found = ", ".join(f"{counts[name]} {what}" for name, what in _WORDS.items())
    how = (
        "put it in this one's place to go on from there"
        if usable
        else "its settings are lost, so that it cannot be gone on from"
    )
    return f"Saved to {target}: {found}; {how}"


_WORDS = {"trials": "trials", "answers": "answers", "events": "entries of the log", "pool": "prompts"}


def _copy(damaged: sqlite3.Connection, saved: sqlite3.Connection, table: str) -> int:
    """Copy the rows that can be read, ascending to the first that cannot and from the end down to it."""
    key = {"study": "name", "arrays": "rowid", "pool": "idx", "events": "seq", "trials": "number"}.get(
        table, "id"
    )
    count, last = 0, None
    directions = ("ASC",) if table == "events" else ("ASC", "DESC")
    for direction in directions:
        try:
            for row in damaged.execute(f"SELECT {key}, * FROM {table} ORDER BY {key} {direction}"):
                if table == "events" and last is not None and row[0] != last + 1:
                    return count
                last = row[0]
                marks = ", ".join("?" * (len(row) - 1))
                count += saved.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row[1:]).rowcount
            break  # read to the end
        except sqlite3.DatabaseError:
            continue
    return count
