"""The journal: group commit, failures of whole batches, exclusive lock."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zopo_fast.errors import StoreBusyError, StoreError, StoreFullError, StoreVersionError
from zopo_fast.serve.studies.journal import Journal, JournalEntry, JournalEvent


def event(seq: int, study: str = "s", size: int = 1) -> JournalEvent:
    return JournalEvent(study, seq, "tell", msgspec.Raw(msgspec.json.encode("x" * size)))


class Watched:
    """Journal with a record of its callbacks."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.commits: list[list[int]] = []
        self.failures: list[list[int]] = []
        self.on_failure: Callable[[], object] = lambda: None

    def start(self) -> None:
        self.journal.start(self._committed, self._failed)

    def _committed(self, number: int, batch: list[JournalEntry], seconds: float) -> None:
        self.commits.append([e.seq for entry in batch for e in entry.events])

    def _failed(self, batch: list[JournalEntry], error: StoreError) -> None:
        self.failures.append([e.seq for entry in batch for e in entry.events])
        self.on_failure()

    def put(self, seq: int, size: int = 1) -> JournalEntry:
        return self.journal.append(None, [event(seq, size=size)])


def scenario(path: Path, work: Callable[[Watched], Coroutine[Any, Any, None]]) -> Watched:
    async def run() -> Watched:
        watched = Watched(path)
        watched.start()
        try:
            await asyncio.wait_for(work(watched), 60)
        finally:
            watched.journal.flush()
            await asyncio.to_thread(watched.journal.close)
        return watched

    return asyncio.run(run())


def kept(path: Path) -> list[int]:
    journal = Journal(path)
    try:
        return [e.seq for _, events in journal.read() for e in events]
    finally:
        journal.close()


class Slow:
    """Connection whose statements block until `go` is set."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        import threading

        self._connection, self.go = connection, threading.Event()

    def execute(self, *arguments: Any) -> Any:
        assert self.go.wait(60)
        return self._connection.execute(*arguments)

    def close(self) -> None:
        self._connection.close()


def test_waiting_entries_are_committed_together_and_in_order(tmp_path: Path) -> None:
    async def work(watched: Watched) -> None:
        slow = Slow(watched.journal._connection)
        watched.journal._connection = slow  # type: ignore[assignment]
        first = watched.put(1)
        watched.journal.flush()
        while not watched.journal._queue.empty():  # the thread has taken the entry
            await asyncio.sleep(0.001)
        rest = [watched.put(seq) for seq in range(2, 40)]
        assert not first.done.done()  # no entry is resolved before its commit
        slow.go.set()
        await asyncio.gather(first.done, *(entry.done for entry in rest))

    watched = scenario(tmp_path / "j", work)
    assert watched.commits == [[1], list(range(2, 40))]
    assert kept(tmp_path / "j") == list(range(1, 40))


def test_a_full_disk_fails_the_waiting_entries_until_there_is_room(tmp_path: Path) -> None:
    async def work(watched: Watched) -> None:
        await watched.put(1).done
        connection = watched.journal._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        full = watched.put(2, size=100_000)
        with pytest.raises(StoreFullError, match="no space left"):
            await full.done
        with pytest.raises(StoreFullError):
            await full.wait()
        connection.execute("PRAGMA max_page_count = 100000")
        await watched.put(3).done

    watched = scenario(tmp_path / "j", work)
    assert watched.failures == [[2]]
    assert kept(tmp_path / "j") == [1, 3]


def test_entries_queued_behind_a_failure_fail_and_later_ones_do_not(tmp_path: Path) -> None:
    async def work(watched: Watched) -> None:
        connection = watched.journal._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        later: list[JournalEntry] = []

        def room() -> None:  # in the first callback
            if not later:
                connection.execute("PRAGMA max_page_count = 100000")
                later.append(watched.put(100))

        watched.on_failure = room
        entries = [watched.put(1, size=100_000)]
        watched.journal.flush()
        while not watched.journal._queue.empty():
            pass  # block the loop, so that the next entries are queued before it sees the failure
        entries += [watched.put(seq) for seq in (2, 3)]
        results = await asyncio.gather(*(entry.done for entry in entries), return_exceptions=True)
        assert [type(result) for result in results] == [StoreFullError] * 3
        # Queued in the first call of `on_failure`: may build on the failed changes.
        with pytest.raises(StoreFullError):
            await later[0].done
        await watched.put(200).done

    watched = scenario(tmp_path / "j", work)
    assert [seq for batch in watched.failures for seq in batch] == [1, 2, 3, 100]
    assert kept(tmp_path / "j") == [200]


def test_a_broken_connection_is_reopened(tmp_path: Path) -> None:
    class Broken(Slow):
        def execute(self, *arguments: Any) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

    async def work(watched: Watched) -> None:
        await watched.put(1).done
        watched.journal._connection = Broken(watched.journal._connection)  # type: ignore[assignment]
        with pytest.raises(StoreError, match="disk I/O error"):
            await watched.put(2).done
        await watched.put(3).done

    scenario(tmp_path / "j", work)
    assert kept(tmp_path / "j") == [1, 3]


def test_a_failed_commit_that_reached_the_disk_is_overwritten(tmp_path: Path) -> None:
    class Late(Slow):
        def execute(self, *arguments: Any) -> Any:
            self._connection.execute(*arguments)  # written, but reported as failed
            raise sqlite3.OperationalError("disk I/O error")

    async def work(watched: Watched) -> None:
        watched.journal._connection = Late(watched.journal._connection)  # type: ignore[assignment]
        with pytest.raises(StoreError):
            await watched.put(1).done
        await watched.put(2).done

    scenario(tmp_path / "j", work)
    assert kept(tmp_path / "j") == [2]


def test_cancelling_a_request_does_not_cancel_its_commit(tmp_path: Path) -> None:
    async def work(watched: Watched) -> None:
        entry = watched.put(1)
        entry.done.cancel()
        await entry.wait()
        await watched.put(2).done

    scenario(tmp_path / "j", work)
    assert kept(tmp_path / "j") == [1, 2]


def test_truncation_deletes_old_commits(tmp_path: Path) -> None:
    async def work(watched: Watched) -> None:
        for seq in (1, 2, 3):
            await watched.put(seq).done
        await watched.journal.truncate(2)

    scenario(tmp_path / "j", work)
    assert kept(tmp_path / "j") == [3]


def test_closing_writes_queued_entries(tmp_path: Path) -> None:
    async def work(watched: Watched) -> None:
        for seq in range(50):
            watched.put(seq)

    scenario(tmp_path / "j", work)
    assert kept(tmp_path / "j") == list(range(50))


def test_a_second_journal_on_the_file_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    with pytest.raises(StoreBusyError, match="another server"):
        Journal(tmp_path / "j")
    first.close()
    Journal(tmp_path / "j").close()


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j").close()
    connection = sqlite3.connect(tmp_path / "j")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreVersionError, match="version 99"):
        Journal(tmp_path / "j")
    (tmp_path / "k").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError):
        Journal(tmp_path / "k")


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    settings = [
        journal._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    ]
    journal.close()
    assert settings == ["wal", 2]  # 2: FULL
