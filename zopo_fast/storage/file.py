"""The file of a study: its schema and migrations, making it whole or not at all, and opening it alone."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from zopo_fast._utils.files import fsync_directory
from zopo_fast.errors import StoreDamagedError, StoreError, StoreVersionError
from zopo_fast.storage import schema
from zopo_fast.storage.schema import APPLICATION_ID, KEY_COLUMNS, is_intact, migrate
from zopo_fast.storage.writer import Statement, as_store_error

PARTIAL_SUFFIX = ".tmp"  # what a file is called until it is whole ends so

"""What leads from each version of the schema to the next; the first from an empty file to version 1."""

"""The tables, and what their rows are in the order of."""


def create_file(path: Path, statements: Sequence[Statement]) -> None:
    """Make a study file that holds what these statements insert: as a whole, or not at all.

    Raises:
        StoreError: it is there already, or cannot be made.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not is_absent(target):  # where two come here at once, link() tells one
            raise StoreError(f"{path}: is there already")
        with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("PRAGMA page_size = 4096")  # salvage() relies on it
            migrate(connection, path, statements)
        _put_in_place(partial, target, path)
    except sqlite3.Error as error:
        raise _explained(error, path) from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _put_in_place(partial: Path, target: Path, path: Path) -> None:
    """Give a file its name, unless another one has it by now; on the disk when this returns."""
    if target.exists():  # empty, as a temporary file that was made for us
        partial.replace(target)
    else:
        try:
            os.link(partial, target)
        except FileExistsError:
            raise StoreError(f"{path}: is there already") from None
        except OSError:  # a file system without links
            partial.replace(target)
    fsync_directory(target.parent)


def is_absent(path: Path) -> bool:
    """Whether no study was ever there: no file, or an empty one without a log of writes beside it."""
    log = path.with_name(path.name + "-wal")
    return not path.exists() or (path.is_file() and not path.stat().st_size and not log.exists())


def open_exclusive(path: Path) -> sqlite3.Connection:
    """Open a study file for this process alone, in autocommit mode, migrated to the present schema.

    The lock is SQLite's own, on the file: it ends with the process, however that ends.

    Raises:
        StoreBusyError: another process, or another connection, has it open.
        StoreVersionError: a newer schema.
        StoreDamagedError: not readable as a whole; names the file with what could be saved.
        StoreError: missing, no permission, another program's.
    """
    connection = None
    try:
        # SQLite's locks go with *any* closing of the file in this process: look at its size, do not open it.
        if not path.is_file():
            raise StoreError(f"{path}: no study there")
        if not path.stat().st_size:
            raise StoreError(f"{path}: an empty file, no study; delete it to begin anew")
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # takes the lock, which the mode then keeps
        connection.execute("COMMIT")
        _check(connection, path)
        migrate(connection, path)
    except StoreDamagedError as error:
        _close(connection)
        raise _with_what_could_be_saved(error, path) from None
    except sqlite3.Error as error:
        _close(connection)
        problem = _explained(error, path)
        if isinstance(problem, StoreDamagedError):
            raise _with_what_could_be_saved(problem, path) from error
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
    """A value kept in a study file, None where there is none, without looking at the rest of the file.

    Raises:
        StoreVersionError, StoreDamagedError, StoreError: as `open_exclusive`, as far as it was looked at.
    """
    try:
        # Only what is there is opened: a study that is gone must not come back as an empty file.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.0, isolation_level=None)) as connection:
            _recognise(connection, path)
            connection.text_factory = bytes
            row = connection.execute("SELECT * FROM study WHERE name = ?", (name,)).fetchone()
    except sqlite3.Error as error:
        raise _explained(error, path) from error
    if row is None:
        return None
    if not is_intact(row):
        raise StoreDamagedError(f"{path}: the file is damaged (its {name} is not as it was written)")
    return json.loads(row[1])


def _explained(error: sqlite3.Error, path: Path) -> StoreError:
    """The typed error; where SQLite says "disk I/O error" of what may not be written, that."""
    problem = as_store_error(error, path)
    target = Path(os.path.realpath(path))
    wanted = [target.parent, *([target] if target.exists() else [])]
    if type(problem) is StoreError and not all(os.access(one, os.W_OK) for one in wanted):
        return StoreError(f"{path}: the file or its folder may not be written to ({error})")
    return problem


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _with_what_could_be_saved(error: StoreDamagedError, path: Path) -> StoreDamagedError:
    from zopo_fast.storage.salvage import salvage

    return StoreDamagedError(f"{error}. {salvage(path)}")


def _recognise(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        raise StoreError(f"{path}: holds no study; delete it to begin anew")
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: a database of another program")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(schema.MIGRATIONS):
        raise StoreVersionError(
            f"{path}: written by a newer version of zopo_fast (schema {version}, this one reads up to "
            f"{len(schema.MIGRATIONS)}); upgrade the package"
        )


def _check(connection: sqlite3.Connection, path: Path) -> None:
    _recognise(connection, path)
    problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        found = " ".join("; ".join(problems).split())
        raise StoreDamagedError(f"{path}: the file is damaged ({found[:200]})")
    connection.text_factory = bytes
    for table in KEY_COLUMNS:
        broken = sum(not is_intact(row) for row in connection.execute(f"SELECT * FROM {table}"))
        if broken:
            raise StoreDamagedError(
                f"{path}: the file is damaged ({broken} rows of its {table} are not as they were written)"
            )
    connection.text_factory = str
