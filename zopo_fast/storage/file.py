"""Create a study file atomically, open it exclusively, and read one value of it."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from zopo_fast._utils.files import fsync_directory
from zopo_fast.errors import StoreDamagedError, StoreError, StoreVersionError
from zopo_fast.storage import schema
from zopo_fast.storage.schema import APPLICATION_ID, KEY_COLUMNS, is_intact, migrate
from zopo_fast.storage.writer import Statement, as_store_error

PARTIAL_SUFFIX = ".tmp"  # of a file that is still being created


def create_file(path: Path, statements: Iterable[Statement]) -> None:
    """Create a study file with the rows that these statements insert, atomically.

    Raises:
        StoreError: the file exists already, or cannot be created.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not is_absent(target):  # of two processes that both pass this check, link() refuses one
            raise StoreError(f"{path}: exists already")
        with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("PRAGMA page_size = 4096")  # salvage() relies on this size
            migrate(connection, path, statements)
        _rename_into_place(partial, target, path)
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be created: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _rename_into_place(partial: Path, target: Path, path: Path) -> None:
    """Give a file its name unless that is taken; the file is on disk when this returns."""
    if target.exists():  # an empty file, such as tempfile.mkstemp() creates
        partial.replace(target)
    else:
        try:
            os.link(partial, target)
        except FileExistsError:
            raise StoreError(f"{path}: exists already") from None
        except OSError:  # a file system without hard links
            partial.replace(target)
    fsync_directory(target.parent)


def is_absent(path: Path) -> bool:
    """Return whether there is no study: no file, or an empty one without a write-ahead log beside it."""
    log = path.with_name(path.name + "-wal")
    return not path.exists() or (path.is_file() and not path.stat().st_size and not log.exists())


def open_exclusive(path: Path) -> sqlite3.Connection:
    """Open a study file for this process alone, in autocommit mode, with its schema migrated.

    The lock is SQLite's own, on the file: it is released when the process ends, even by a kill.

    Raises:
        StoreBusyError: another process, or another connection, has the file open.
        StoreVersionError: the schema is of a newer version.
        StoreDamagedError: the file is damaged; names the file with what was salvaged.
        StoreError: the file is missing, belongs to another program, or permission is denied.
    """
    connection = None
    try:
        # Check the size, don't open the file: closing any handle on it would release SQLite's locks.
        if not path.is_file():
            raise StoreError(f"{path}: no study file there")
        if not path.stat().st_size:
            raise StoreError(f"{path}: is an empty file, not a study; delete it to start a new one")
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # acquires the lock; exclusive mode keeps it after the commit
        connection.execute("COMMIT")
        _check(connection, path)
        migrate(connection, path)
    except StoreDamagedError as error:
        _close(connection)
        raise _with_salvage_report(error, path) from None
    except sqlite3.Error as error:
        _close(connection)
        problem = _explain(error, path)
        if isinstance(problem, StoreDamagedError):
            raise _with_salvage_report(problem, path) from error
        raise problem from error
    except OSError as error:
        _close(connection)
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except BaseException:
        _close(connection)
        raise
    return connection


def read_value(path: Path, name: str) -> Any:
    """Return one stored value, None if absent, without reading the rest of the file.

    Raises:
        StoreVersionError: the schema is of a newer version.
        StoreDamagedError: the value, or what leads to it, is damaged.
        StoreError: the file is missing, belongs to another program, or is locked.
    """
    try:
        # mode=rw opens existing files only: a missing study must not be created as an empty file.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.0, isolation_level=None)) as connection:
            _check_version(connection, path)
            connection.text_factory = bytes
            row = connection.execute("SELECT * FROM study WHERE name = ?", (name,)).fetchone()
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    if row is None:
        return None
    if not is_intact(row):
        raise StoreDamagedError(f"{path}: the file is damaged (checksum of its {name})")
    return json.loads(row[1])


def _explain(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the typed error; names missing permission, which SQLite reports as "disk I/O error"."""
    problem = as_store_error(error, path)
    target = Path(os.path.realpath(path))
    needed = [target.parent, *([target] if target.exists() else [])]
    if type(problem) is StoreError and not all(os.access(each, os.W_OK) for each in needed):
        return StoreError(f"{path}: no permission to write the file or its folder ({error})")
    return problem


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _with_salvage_report(error: StoreDamagedError, path: Path) -> StoreDamagedError:
    from zopo_fast.storage.salvage import salvage

    return StoreDamagedError(f"{error}. {salvage(path)}")


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        raise StoreError(f"{path}: is an empty database, not a study; delete it to start a new one")
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: is a database of another program")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(schema.MIGRATIONS):
        raise StoreVersionError(
            f"{path}: was written by a newer version of zopo_fast (schema {version}; this version reads "
            f"schemas up to {len(schema.MIGRATIONS)}); upgrade the package"
        )


def _check(connection: sqlite3.Connection, path: Path) -> None:
    _check_version(connection, path)
    problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        found = " ".join("; ".join(problems).split())
        raise StoreDamagedError(f"{path}: the file is damaged ({found[:200]})")
    connection.text_factory = bytes
    for table in KEY_COLUMNS:
        damaged = sum(not is_intact(row) for row in connection.execute(f"SELECT * FROM {table}"))
        if damaged:
            raise StoreDamagedError(
                f"{path}: the file is damaged (checksum of {damaged} rows of its {table})"
            )
    connection.text_factory = str
