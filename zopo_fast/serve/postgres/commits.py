"""Group commit of the studies in PostgreSQL: the requests of a round share one INSERT.

A round also checks that the requests without changes saw the newest state. The next round starts when the
database has answered, with all requests that came meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

from zopo_fast.errors import StoreError
from zopo_fast.serve.postgres import log
from zopo_fast.serve.postgres.database import Database
from zopo_fast.serve.postgres.log import Batch, Head
from zopo_fast.serve.postgres.record import FleetRecord
from zopo_fast.serve.studies.journal import JournalEntry, JournalEvent, encode_entries
from zopo_fast.serve.studies.store import OnCommit, OnFailure, StudyChangedError

MAX_STUDIES = 500  # of a round: each takes a lock in the database
_Batches = dict[FleetRecord, list[JournalEntry]]


class GroupCommit:
    """Queue of the requests that wait for their commit.

    Args:
        database: the database.
        slots: bounds the connections that wait for locks.
        on_commit: called as `on_commit(entries, seconds)` before the entries are resolved.
        on_failure: called as `on_failure(entries, error)` before the entries fail.
    """

    def __init__(
        self, database: Database, slots: asyncio.Semaphore, on_commit: OnCommit, on_failure: OnFailure
    ) -> None:
        self._database, self._slots = database, slots
        self._on_commit, self._on_failure = on_commit, on_failure
        self._gathered: list[JournalEntry] = []
        self._locked: set[FleetRecord] = set()  # whose rows wait for another server
        self._rounds: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def append(self, record: FleetRecord, events: list[JournalEvent]) -> JournalEntry:
        """Queue the events of one request; without events, its check of the state it saw.

        Returns:
            The entry; its future `done` is resolved by the commit, or fails with a StoreError.
        """
        entry = JournalEntry(record, events, asyncio.get_running_loop().create_future())
        self._gathered.append(entry)
        self._start()
        return entry

    async def close(self) -> None:
        """Wait for the commits in flight."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _start(self) -> None:
        if self._rounds is None:
            # A task starts after the requests that are ready have run, and so takes them along.
            self._rounds = self._spawn(self._run_rounds())

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run_rounds(self) -> None:
        try:
            while batches := self._take():
                await self._commit(batches)
        finally:
            self._rounds = None

    def _take(self) -> _Batches:
        batches: _Batches = {}
        left = []
        for entry in self._gathered:
            record = entry.owner
            if record in self._locked or (record not in batches and len(batches) >= MAX_STUDIES):
                left.append(entry)
            else:
                batches.setdefault(record, []).append(entry)
        self._gathered = left
        return batches

    async def _commit(self, batches: _Batches) -> None:
        start = time.perf_counter()
        round = uuid4()
        rows = {record: batch for record, entries in batches.items() if (batch := _batch(record, entries))}
        heads = {record.id: record.head for record in batches if record not in rows}

        async def write(connection: Any) -> set[str]:
            done = await log.insert(connection, round, list(rows.values())) if rows else set()
            return done | (await log.current(connection, heads) if heads else set())

        try:
            done = await self._database.retry(write)
        except Exception as problem:  # any error has to reach the waiting requests
            error = self._database.as_store_error(problem)
            # Those gathered meanwhile fail as well: some build on changes that are undone now.
            waiting = [entry for entry in self._gathered if entry.owner not in self._locked]
            self._gathered = [entry for entry in self._gathered if entry.owner in self._locked]
            self._fail([entry for entries in batches.values() for entry in entries] + waiting, error)
            return
        finished: list[JournalEntry] = []
        for record, entries in batches.items():
            if record.id in done:
                if record in rows:
                    record.advance(Head(rows[record].version, round))
                finished += entries
            elif record in rows:
                self._locked.add(record)
                # The same round: an attempt of this one may still reach the database.
                self._spawn(self._commit_locked(record, entries, rows[record], round))
            else:
                self._fail_changed(record, entries)
        self._succeed(finished, time.perf_counter() - start)

    async def _commit_locked(
        self, record: FleetRecord, entries: list[JournalEntry], batch: Batch, round: UUID
    ) -> None:
        """Append a row after waiting for the server that works on the study."""
        start = time.perf_counter()

        async def write(connection: Any) -> bool:
            async with connection.transaction():
                await log.lock(connection, batch.study, exclusive=False)
                return bool(await log.insert(connection, round, [batch], is_locked=True))

        try:
            async with self._slots:
                is_done = await self._database.retry(write)
        except Exception as problem:
            error = self._database.as_store_error(problem)
            self._locked.discard(record)
            self._fail(entries + self._withdraw(record), error)
        else:
            self._locked.discard(record)
            if is_done:
                record.advance(Head(batch.version, round))
                self._succeed(entries, time.perf_counter() - start)
            else:
                self._fail_changed(record, entries)
        if self._gathered:
            self._start()

    def _withdraw(self, record: FleetRecord) -> list[JournalEntry]:
        """Remove the gathered entries of a study."""
        found = [entry for entry in self._gathered if entry.owner is record]
        self._gathered = [entry for entry in self._gathered if entry.owner is not record]
        return found

    def _fail_changed(self, record: FleetRecord, entries: list[JournalEntry]) -> None:
        record.note_other_server()
        error = StudyChangedError(f"study {record.id}: changed by another server; retry")
        self._fail(entries + self._withdraw(record), error)

    def _succeed(self, entries: list[JournalEntry], seconds: float) -> None:
        if entries:
            self._on_commit(entries, seconds)
        for entry in entries:
            entry.finish(None)

    def _fail(self, entries: list[JournalEntry], error: StoreError) -> None:
        self._on_failure(entries, error)
        for entry in entries:
            entry.finish(error)


def _batch(record: FleetRecord, entries: list[JournalEntry]) -> Batch | None:
    first = next((event for entry in entries for event in entry.events), None)
    if first is None:
        return None
    return Batch(record.id, record.head, first.seq, encode_entries(entries))
