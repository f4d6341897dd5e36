"""Studies in a PostgreSQL database that a fleet of servers shares."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar
from uuid import uuid4

import msgspec

from zopo_fast.errors import StoreError
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.postgres import log
from zopo_fast.serve.postgres.commits import GroupCommit
from zopo_fast.serve.postgres.contents import READ_SECONDS, StudyRows, storable
from zopo_fast.serve.postgres.database import MAX_CONNECTIONS, Database
from zopo_fast.serve.postgres.log import Batch, Head
from zopo_fast.serve.postgres.record import FleetRecord
from zopo_fast.serve.studies.journal import JournalEntry, JournalEvent
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.store import OnCommit, OnFailure, too_many_studies
from zopo_fast.serve.studies.study import LoadedStudy

T = TypeVar("T")
POLL_SECONDS = 1.0  # between two queries for the changes of other servers, while a page waits for them
IDLE_POLLS = 30  # queries left out while no page waits
_FREE_CONNECTIONS = 3  # kept for commits and lookups, which wait for no lock
_CREATION_LOCK = 0x7A6F7063
_LIST = """
SELECT s.id, s.meta, coalesce((SELECT max(l.version) FROM study_log l WHERE l.study = s.id), 0)
FROM study s WHERE s.id > %s ORDER BY s.id LIMIT %s
"""


class StudyDatabase:
    """Store of the studies of a fleet.

    Args:
        database: the database, opened and closed by the server.
        changes: revisions of the studies, for the changes of other servers.
    """

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database, self._changes = database, changes
        self._records: dict[str, FleetRecord] = {}  # those that requests have named
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS - _FREE_CONNECTIONS)
        self._commits: GroupCommit | None = None
        self._poller: asyncio.Task[None] | None = None

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self, on_commit: OnCommit, on_failure: OnFailure) -> None:
        """Start to commit, and to look for the changes of other servers."""
        self._commits = GroupCommit(self._database, self._slots, on_commit, on_failure)
        self._poller = asyncio.create_task(self._poll())

    async def close(self, seconds: float) -> None:
        """Wait for the commits in flight, for at most `seconds`."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        if self._commits is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._commits.close(), seconds)

    async def _poll(self) -> None:
        skipped = 0
        while True:
            await asyncio.sleep(POLL_SECONDS)
            skipped += 1
            if self._changes.is_followed or skipped > IDLE_POLLS:
                skipped = 0
                with contextlib.suppress(StoreError):  # reported to the requests
                    await self.list_records()

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    async def count(self) -> int:
        """Count the studies."""
        ((count,),) = await self._database.fetch("SELECT count(*) FROM study")
        return int(count)

    async def find(self, study: str) -> StudyRecord | None:
        """Look up a study by its id."""
        record = self._records.get(study)
        if record is not None:  # a later statement notices if another server deleted it
            return record
        rows = await self._database.fetch("SELECT meta FROM study WHERE id = %s", study)
        return self._record(study, rows[0][0]) if rows else None

    async def find_key(self, key: str) -> tuple[str, str] | None:
        """Look up the creation with an idempotency key: its digest, and the id of the study."""
        rows = await self._database.fetch("SELECT id, meta FROM study WHERE key = %s", key)
        return (json.loads(rows[0][1])["digest"], rows[0][0]) if rows else None

    async def list_records(self, after: str = "", limit: int | None = None) -> list[StudyRecord]:
        """List studies in order of their ids, at most `limit` after an id."""
        known = list(self._records)  # the answer can lack a study that is created meanwhile
        rows = await self._database.fetch(_LIST, after, limit)
        found: list[StudyRecord] = []
        for study, meta, newest in rows:
            record = self._record(study, meta)
            if newest > record.newest:
                record.newest = newest
                self._changes.touch(study)
            found.append(record)
        if not after and limit is None:
            there = {study for study, _, _ in rows}
            for study in known:
                if study not in there:
                    self._forget(study)
        return found

    async def create(
        self, study: LoadedStudy, meta: dict[str, Any], embeddings: Any, limit: int
    ) -> StudyRecord:
        """Create a study durably, unless one with the same idempotency key is there.

        Raises:
            StoreError: the study cannot be written.
            Problem: 429, the database has `limit` studies.
        """
        rows = storable(embeddings)
        stored = json.dumps({**meta, "dtype": rows.dtype.str})
        key = meta.get("key")

        async def work(connection: Any) -> tuple[str, str]:
            async with connection.transaction():
                # One creation at a time: the limit counts those of all servers.
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
                found = await connection.execute(
                    "SELECT id, meta FROM study WHERE id = %s OR key = %s", (study.id, key)
                )
                if (row := await found.fetchone()) is not None:
                    return row[0], row[1]
                found = await connection.execute("SELECT count(*) FROM study")
                if (await found.fetchone())[0] >= limit:
                    raise too_many_studies(limit)
                await connection.execute("INSERT INTO study VALUES (%s, %s, %s)", (study.id, key, stored))
                await StudyRows(self._database, study.id).write(connection, study.prompts, rows)
                return study.id, stored

        name, text = await self._database.retry(work, limit=READ_SECONDS)
        record = self._record(name, text)
        if name == study.id and record.study is None:
            record.study = study
        return record

    async def delete(self, record: StudyRecord) -> bool:
        """Delete a study durably; return False if it was deleted before."""
        is_done = await self._database.delete("DELETE FROM study WHERE id = %s", record.id, READ_SECONDS)
        self._forget(record.id)
        return is_done

    def _record(self, study: str, meta: str) -> FleetRecord:
        record = self._records.get(study)
        if record is None:
            record = FleetRecord(study, json.loads(meta), StudyRows(self._database, study))
            self._records[study] = record
        return record

    def _forget(self, study: str) -> None:
        record = self._records.pop(study, None)
        if record is not None:
            record.is_deleted = True
            record.unload()
            self._changes.forget(study)

    # ---- changes -----------------------------------------------------------------------------------

    def append(self, record: StudyRecord, events: list[JournalEvent]) -> JournalEntry | None:
        """Queue the events of one request, or the check of the state it saw, for the next commit."""
        assert self._commits is not None
        assert isinstance(record, FleetRecord)
        return self._commits.append(record, events)

    async def apply_newest(
        self, record: StudyRecord, work: Callable[[LoadedStudy], Awaitable[T]], *, is_view: bool
    ) -> T:
        """Apply work to the newest state of a study; see `ApplyNewest`."""
        assert isinstance(record, FleetRecord)
        newest = _Newest(self, record, work, is_view)
        try:
            async with self._slots:
                await self._database.retry(newest.attempt, limit=READ_SECONDS)
        except BaseException:
            if newest.has_begun:
                record.unload()
            raise
        if newest.batch is not None:
            record.advance(Head(newest.batch.version, newest.round))
            self._changes.touch(record.id)
        return newest.results[-1]

    async def catch_up(self, connection: Any, record: FleetRecord) -> LoadedStudy:
        """Bring the loaded study to the newest state.

        Raises:
            Problem: 404, the study does not exist.
        """
        if record.study is not None:
            rows = await log.rows_since(connection, record.id, record.head)
            if rows is None:
                self._forget(record.id)
                raise not_found("the study")
            if record.head.version and (not rows or rows[0].head != record.head):
                record.unload()  # the log was replaced, as by a restored backup
            else:
                return await self._replay(record, rows[1:] if record.head.version else rows)
        try:
            contents = await StudyRows(self._database, record.id).read(connection)
        except Problem:
            self._forget(record.id)
            raise
        study = await record.build(contents)
        record.newest = contents.head.version  # less than before where the log was replaced
        return study

    async def _replay(self, record: FleetRecord, rows: list[log.Row]) -> LoadedStudy:
        study = record.study
        assert study is not None
        if rows:
            record.note_other_server()

            def replay() -> None:
                study.replay(log.decode(record.id, rows))

            try:
                await asyncio.to_thread(replay)
            except BaseException:
                record.unload()
                raise
            record.advance(rows[-1].head)
            self._changes.touch(record.id)
        return study


class _Newest(Generic[T]):
    """Attempts of one request at the newest state.

    Attributes:
        round: of the row, if there is one.
        batch: row that the last attempt appended; its commit may have failed.
        has_begun: the work was applied to the loaded study.
        results: of the work; the last one counts.
    """

    def __init__(
        self,
        store: StudyDatabase,
        record: FleetRecord,
        work: Callable[[LoadedStudy], Awaitable[T]],
        is_view: bool,
    ) -> None:
        self._store, self._record, self._work, self._is_view = store, record, work, is_view
        self.round, self.has_begun = uuid4(), False
        self.batch: Batch | None = None
        self.results: list[T] = []

    async def attempt(self, connection: Any) -> None:
        """Apply the work on a connection; after a lost one, unless the earlier attempt was committed."""
        record = self._record
        if not self.has_begun:  # long replays come before the lock that other servers wait for
            study = await self._store.catch_up(connection, record)
            if self._is_view:
                self.results.append(await self._work(study))
                return
        async with connection.transaction():
            await log.lock(connection, record.id, exclusive=True)
            if self.has_begun:
                if self.batch is not None and await self._insert(connection):
                    return
                record.unload()
                self.batch = None
            study = await self._store.catch_up(connection, record)
            self.has_begun = True
            self.results.append(await self._work(study))
            if events := study.take_events():
                self.batch = Batch(record.id, record.head, events[0].seq, msgspec.json.encode(events))
                if not await self._insert(connection):
                    raise StoreError(f"study {record.id}: changed while it was locked; report this as a bug")

    async def _insert(self, connection: Any) -> bool:
        assert self.batch is not None
        return bool(await log.insert(connection, self.round, [self.batch], is_locked=True))
