"""Recovery of the intact rows of a damaged study file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from zopo_fast.errors import StoreError
from zopo_fast.storage import schema
from zopo_fast.storage.schema import KEY_COLUMNS, is_intact, migrate

PAGE_SIZE = 4096  # of every study file

_NAMES = {"trials": "trials", "answers": "answers", "events": "entries of the log", "pool": "prompts"}


def salvage(path: Path) -> str:
    """Copy the intact rows of a damaged study into a new file beside it; return a sentence that reports this.

    The log is copied up to its first gap, since entries after a gap cannot be replayed. Answers are copied
    from both sides of a gap, so that none of them is requested again. The damaged file is not changed.
    """
    target = path.with_name(f"{path.stem}.salvaged{path.suffix}")
    if target.exists():
        return f"{target} holds what was saved from it before"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".salvage-") as name:
            folder = Path(name)
            attempts = [_attempt(path, folder, restore) for restore in (False, True)]
            counts, saved = max(attempts, key=lambda attempt: sum(attempt[0].values()))
            if not any(counts.values()):
                return "Nothing could be saved"
            saved.replace(target)
    except (sqlite3.Error, StoreError, OSError) as error:
        return f"Nothing could be saved ({error})"
    found = ", ".join(f"{counts[name]} {what}" for name, what in _NAMES.items())
    how = (
        "replace the damaged file by it to resume"
        if counts["config"]
        else "the settings are lost, so the study cannot be resumed"
    )
    return f"Saved to {target}: {found}; {how}"


def _attempt(path: Path, folder: Path, restore: bool) -> tuple[dict[str, int], Path]:
    """Copy the intact rows that SQLite can still read.

    Args:
        path: the damaged file.
        folder: for temporary files.
        restore: replace the first page before reading.

    Returns:
        Number of rows by table, and the file that holds them.
    """
    copy, target = folder / f"copy-{restore:d}", folder / f"saved-{restore:d}"
    shutil.copyfile(path, copy)
    log = Path(os.path.realpath(path) + "-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    with closing(sqlite3.connect(target, isolation_level=None)) as saved:
        saved.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        if restore:
            migrate(saved, target)
            _restore_first_page(copy, target)
        with closing(sqlite3.connect(copy, isolation_level=None)) as damaged:
            damaged.text_factory = bytes  # a text that is not valid UTF-8 must spoil its own row only
            if not restore:
                migrate(saved, target, upto=_version(damaged))
            saved.execute("BEGIN")
            counts = {table: _copy(damaged, saved, table, key) for table, key in KEY_COLUMNS.items()}
            saved.execute("COMMIT")
        counts["config"] = saved.execute("SELECT count(*) FROM study WHERE name = 'config'").fetchone()[0]
    return counts, target


def _restore_first_page(copy: Path, fresh: Path) -> None:
    """Overwrite the first page of a file by that of a fresh study: it locates the tables, alike in all."""
    if copy.stat().st_size <= PAGE_SIZE:
        return
    page = bytearray(fresh.read_bytes()[:PAGE_SIZE])
    page[18:20] = b"\2\2"  # file format: with a write-ahead log
    page[28:32] = bytes(4)  # number of pages: derived from the size of the file
    with copy.open("r+b") as file:
        file.write(page)


def _version(damaged: sqlite3.Connection) -> int:
    try:
        (version,) = damaged.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError:
        return len(schema.MIGRATIONS)
    return version if 0 < version <= len(schema.MIGRATIONS) else len(schema.MIGRATIONS)


def _copy(damaged: sqlite3.Connection, saved: sqlite3.Connection, table: str, key: str) -> int:
    """Copy the intact rows of a table: forward to the first unreadable page, then backward to the last."""
    is_log = table == "events"
    is_text = [kind == "TEXT" for _, _, kind, *_ in saved.execute(f"PRAGMA table_info({table})")]
    marks = ", ".join("?" * len(is_text))
    count = 0
    for direction in ("ASC",) if is_log else ("ASC", "DESC"):
        try:
            for row in damaged.execute(f"SELECT * FROM {table} ORDER BY {key} {direction}"):
                if is_log and (not is_intact(row) or row[0] != count + 1):
                    return count
                if not is_intact(row):
                    continue
                values = [
                    value.decode() if text and isinstance(value, bytes) else value
                    for value, text in zip(row, is_text, strict=True)
                ]
                count += saved.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values).rowcount
            break  # every row was readable
        except (sqlite3.DatabaseError, ValueError):  # ValueError: another number of columns
            continue
    return count
