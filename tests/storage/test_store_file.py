"""Study file: full disk, lock, other files in its place, schema versions, single values."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from resume_tools import copy

from zopo_fast import errors
from zopo_fast.prompts.pool import Pool
from zopo_fast.storage import schema
from zopo_fast.storage.file import read_value
from zopo_fast.storage.store import Store

POOL = Pool.from_texts(["first", "second"], {1: 0.1})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite3"


# ---- full disk ---------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Folder on a file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(store: Store) -> int:
    """Write until the disk is full; return the number of acknowledged entries."""

    async def work() -> None:
        nonlocal known
        for _ in range(3000):
            number = store.append("score", {"text": "x" * 700})
            await store.flush()
            known = number

    known = 0
    with pytest.raises(errors.StoreFullError, match="no space left"):
        asyncio.run(work())
    with pytest.raises(errors.StoreFullError):  # and every later call
        store.append("score", {})
    return known


def test_full_disk_keeps_what_was_acknowledged(small: Path) -> None:
    path = small / "study.sqlite3"
    store = Store.create(path, {})
    known = fill(store)
    assert known > 100
    with pytest.raises(errors.StoreFullError):
        store.close()
    with Store.open(path) as store:
        assert known <= store.last_seq <= known + 1
    filler = os.open(small / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):  # fill the last page
        while os.write(filler, b"x" * 4096):
            pass
    os.close(filler)
    with pytest.raises(errors.StoreFullError, match="no space left"):
        Store.create(small / "other.sqlite3", {})
    assert [p.name for p in small.iterdir() if p.suffix == ".tmp" or p.name.startswith("other")] == []
    with Store.open(path) as store:  # readable on a full disk
        assert len(list(store.events())) == store.last_seq


def test_full_file_keeps_what_was_acknowledged(path: Path) -> None:
    store = Store.create(path, {})
    store.sync()
    store._connection.execute("PRAGMA max_page_count = 40")
    known = fill(store)
    with pytest.raises(errors.StoreFullError):
        store.close()
    with Store.open(path) as store:  # the limit is gone
        assert known <= store.last_seq <= known + 1
        store.append("score", {})
        store.sync()


# ---- the lock ----------------------------------------------------------------------------------------

BUSY = """
    import sys
    from zopo_fast import errors
    from zopo_fast.storage.store import Store
    try:
        Store.open(sys.argv[1])
    except errors.StoreBusyError as error:
        print(error)
"""


def opened_by_another_process(path: Path) -> str:
    command = [sys.executable, "-c", textwrap.dedent(BUSY), str(path)]
    return subprocess.run(command, timeout=60, capture_output=True, text=True, check=True).stdout


def test_a_second_process_is_refused(path: Path) -> None:
    with Store.create(path, {}) as store:
        assert "another process has this study open" in opened_by_another_process(path)
        for _ in range(2):
            with pytest.raises(errors.StoreBusyError, match="has this study open"):
                Store.open(path)
            with pytest.raises(errors.StoreError, match="exists already"):
                Store.create(path, {})
        # The lock is lost when this process closes any handle on the file: none of the calls above may.
        assert "another process has this study open" in opened_by_another_process(path)
        store.append("score", {})
    assert opened_by_another_process(path) == ""


# ---- other files in its place ------------------------------------------------------------------------


def test_creation_is_atomic(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.joinpath("a").mkdir()
    deep = path.parent / "a" / "b" / "study.sqlite3"
    with Store.create(deep, {}, POOL) as store:
        assert store.pool() == POOL
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, "CREATE TABLE pool (x);"])
    with pytest.raises(errors.StoreError, match="already exists"):
        Store.create(path, {}, POOL)
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_files_that_are_no_study(path: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.StoreError, match="no study file there"):
        Store.open(path)
    with pytest.raises(errors.StoreError, match="no study file there"):
        Store.open(tmp_path)
    with pytest.raises(errors.StoreError, match="exists already"):
        Store.create(tmp_path, {})
    path.touch()
    with pytest.raises(errors.StoreError, match="an empty file"):
        Store.open(path)
    Store.create(path, {}).close()  # in place of an empty file, as tempfile.mkstemp() creates
    Store.open(path).close()
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    with pytest.raises(errors.StoreError, match="another program"):
        Store.open(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.StoreError, match="cannot be created"):
        Store.create(tmp_path / "file" / "study.sqlite3", {})


def test_a_symbolic_link_leads_to_the_study(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sqlite3"
    link.symlink_to(path)
    with Store.create(link, {}) as store:
        store.append("score", {})
        with pytest.raises(errors.StoreBusyError):
            Store.open(path)
    assert link.is_symlink()
    with Store.open(path) as store:
        assert store.last_seq == 1


FORBIDDEN = """
    import os, sys
    from zopo_fast import errors
    from zopo_fast.runs import resume
    from zopo_fast.storage.store import Store
    folder = sys.argv[1]
    Store.create(folder + "/study.sqlite3", {}).close()
    os.mkdir(folder + "/closed")
    os.chmod(folder, 0o555)
    os.chmod(folder + "/closed", 0o000)
    if not os.getuid():
        os.setuid(65534)
    def open_or_create(path):
        with resume.open_store(path):
            pass
    for name in ("study", "other", "closed/study"):
        path = f"{folder}/{name}.sqlite3"
        for use in (Store.open, lambda path: Store.create(path, {}), open_or_create):
            try:
                use(path)
                print("done", name)
            except errors.StoreError as error:
                assert type(error) is errors.StoreError
                print(str(error).removeprefix(path + ": "))
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users here")
def test_missing_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:  # other users have no access to the folder of pytest
        command = [sys.executable, "-c", textwrap.dedent(FORBIDDEN), folder]
        done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
        os.chmod(folder, 0o755)
        os.chmod(Path(folder) / "closed", 0o755)
    assert done.returncode == 0, done
    forbidden = "no permission to write the file or its folder"
    said = [line.split(" (")[0] for line in done.stdout.splitlines()]
    assert said == [
        forbidden, "exists already", forbidden,
        "no study file there", forbidden, forbidden,
        "cannot be read: Permission denied", "cannot be created: Permission denied",
        "cannot be used: Permission denied",
    ]  # fmt: skip


# ---- schemas -----------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused(path: Path) -> None:
    Store.create(path, {}).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(errors.StoreVersionError, match=r"newer version.*schema 99.*upgrade"):
        Store.open(path)
    assert path.read_bytes() == before


def test_an_old_file_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.create(path, {"a": 1}) as store:
        store.append("score", {})
    more = ["CREATE TABLE extra (x); INSERT INTO extra VALUES (5)", "ALTER TABLE extra ADD COLUMN y"]
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, *more])
    for _ in range(2):
        with Store.open(path) as store:
            assert store._all("SELECT * FROM extra") == [(5, None)]
            assert (store.config, store.last_seq) == ({"a": 1}, 1)
    monkeypatch.undo()
    with pytest.raises(errors.StoreVersionError):
        Store.open(path)


def test_a_migration_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.create(path, {"a": 1}) as store:
        store.append("score", {})
    before = copy(path, path.with_name("before.sqlite3")).read_bytes()
    more = ["CREATE TABLE extra (x)", "DROP TABLE events; CREATE TABLE study (x)"]
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, *more])
    with pytest.raises(errors.StoreError, match="already exists"):
        Store.open(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    with Store.open(path) as store:
        assert (store.config, store.last_seq) == ({"a": 1}, 1)


# ---- single values -----------------------------------------------------------------------------------


def test_one_value_is_read_without_the_rest_of_the_file(path: Path) -> None:
    Store.create_closed(path, {"a": [1]}, arrays={"embeddings": np.arange(6.0).reshape(2, 3)})
    assert read_value(path, "config") == {"a": [1]}
    assert read_value(path, "nothing") is None
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE arrays SET data = zeroblob(length(data))")
    connection.close()
    assert read_value(path, "config") == {"a": [1]}  # the damaged array is not read
    with pytest.raises(errors.StoreDamagedError):
        Store.open(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE study SET value = '{\"a\": [2]}'")
    connection.close()
    with pytest.raises(errors.StoreDamagedError, match="checksum of its config"):
        read_value(path, "config")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(errors.StoreVersionError):
        read_value(path, "config")
    with pytest.raises(errors.StoreError):
        read_value(path.with_name("missing"), "config")
    assert not path.with_name("missing").exists()
