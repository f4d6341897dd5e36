"""What can be saved of a damaged study file."""

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

PAGE = 4096  # as every study file has it

_WORDS = {"trials": "trials", "answers": "answers", "events": "entries of the log", "pool": "prompts"}


def salvage(path: Path) -> str:
    """Copy the whole rows of a damaged study into a file beside it; say what was saved, and where to.

    The log is kept up to its first gap only, since what follows one cannot be replayed; answers are kept from
    both sides of it, and are not asked for again. The damaged file is left as it is.
    """
    target = path.with_name(f"{path.stem}.salvaged{path.suffix}")
    if target.exists():
        return f"{target} holds what was saved of it before"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".salvage-") as name:
            folder = Path(name)
            attempts = [_attempt(path, folder, mended) for mended in (False, True)]
            counts, saved = max(attempts, key=lambda attempt: sum(attempt[0].values()))
            if not any(counts.values()):
                return "Nothing could be saved"
            saved.replace(target)
    except (sqlite3.Error, StoreError, OSError) as error:
        return f"Nothing could be saved ({error})"
    found = ", ".join(f"{counts[name]} {what}" for name, what in _WORDS.items())
    how = (
        "put it in this one's place to go on from there"
        if counts["config"]
        else "its settings are lost, so that it cannot be gone on from"
    )
    return f"Saved to {target}: {found}; {how}"


def _attempt(path: Path, folder: Path, mended: bool) -> tuple[dict[str, int], Path]:
    """Rows by table that a copy of the damaged file gives, and the file that they were put into."""
    copy, target = folder / f"copy-{mended:d}", folder / f"saved-{mended:d}"
    shutil.copyfile(path, copy)
    log = Path(os.path.realpath(path) + "-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    with closing(sqlite3.connect(target, isolation_level=None)) as saved:
        saved.execute(f"PRAGMA page_size = {PAGE}")
        if mended:
            migrate(saved, target)
            _mend(copy, target)
        with closing(sqlite3.connect(copy, isolation_level=None)) as damaged:
            damaged.text_factory = bytes  # what is no UTF-8 any more spoils its row, not all
            if not mended:
                migrate(saved, target, upto=_version(damaged))
            saved.execute("BEGIN")
            counts = {table: _copy(damaged, saved, table, key) for table, key in KEY_COLUMNS.items()}
            saved.execute("COMMIT")
        counts["config"] = saved.execute("SELECT count(*) FROM study WHERE name = 'config'").fetchone()[0]
    return counts, target


def _mend(copy: Path, fresh: Path) -> None:
    """Give a file the first page of a fresh one: it says where the tables are, which is the same in all."""
    if copy.stat().st_size <= PAGE:
        return
    page = bytearray(fresh.read_bytes()[:PAGE])
    page[18:20] = b"\2\2"  # with a log of writes
    page[28:32] = bytes(4)  # as many pages as the file has
    with copy.open("r+b") as file:
        file.write(page)


def _version(damaged: sqlite3.Connection) -> int:
    try:
        (version,) = damaged.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError:
        return len(schema.MIGRATIONS)
    return version if 0 < version <= len(schema.MIGRATIONS) else len(schema.MIGRATIONS)


def _copy(damaged: sqlite3.Connection, saved: sqlite3.Connection, table: str, key: str) -> int:
    """Copy the rows that are whole, ascending to where none can be read and from the end down to it."""
    texts = [kind == "TEXT" for _, _, kind, *_ in saved.execute(f"PRAGMA table_info({table})")]
    marks = ", ".join("?" * len(texts))
    count = 0
    for direction in ("ASC",) if table == "events" else ("ASC", "DESC"):
        try:
            for row in damaged.execute(f"SELECT * FROM {table} ORDER BY {key} {direction}"):
                if not is_intact(row) or (table == "events" and row[0] != count + 1):
                    if table == "events":
                        return count
                    continue
                values = [
                    value.decode() if text and isinstance(value, bytes) else value
                    for value, text in zip(row, texts, strict=True)
                ]
                count += saved.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values).rowcount
            break  # read to the end
        except (sqlite3.DatabaseError, ValueError):  # ValueError: another schema
            continue
    return count
