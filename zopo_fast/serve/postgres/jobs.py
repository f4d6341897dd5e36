"""Jobs of a fleet of servers, in PostgreSQL.

Each start of a job's run has a number, and the row of the job holds the newest. A server whose run has an
earlier number writes nothing any more: the state, the events and the log of the study belong to the newest run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from procrastinate.exceptions import ConnectorException

from zopo_fast.errors import StoreError
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.jobs.backend import RunJob
from zopo_fast.serve.jobs.job import JobRecord, not_resumable, not_running, still_running, too_many
from zopo_fast.serve.jobs.schemas import CreateJob, SavedJob, State
from zopo_fast.serve.postgres.database import Database
from zopo_fast.serve.postgres.job_events import PostgresEvents, Pulse
from zopo_fast.serve.postgres.job_log import PostgresMirror
from zopo_fast.serve.postgres.job_queue import JobQueue, queue_of
from zopo_fast.storage.mirror import open_mirrored, rebuild
from zopo_fast.storage.store import Store

WATCH_SECONDS = 0.5  # between two looks at the jobs of all servers
_COLUMNS = "SELECT saved, state, phase, is_cancelled FROM job"
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Run:
    """Run of a job in this process.

    Attributes:
        job: the job.
        number: of the run; a later one ends the right to write.
        request: body of the creation, as JSON.
        path: study file.
    """

    job: JobRecord
    number: int
    request: bytes
    path: Path

    @property
    def events(self) -> PostgresEvents:
        assert isinstance(self.job.events, PostgresEvents)
        return self.job.events


class PostgresJobs:
    """Jobs of a database; see `JobBackend` for the methods.

    Args:
        database: of the fleet.
        limits: limits of the server.
        models: names of the models that this server knows.
        has_embedder: whether this server embeds pools.
        changes: revisions of the jobs.
    """

    state_interrupted: State = "queued"

    def __init__(
        self,
        database: Database,
        limits: ServerLimits,
        models: list[str],
        has_embedder: bool,
        changes: Changes,
    ) -> None:
        self._database, self._limits, self._changes = database, limits, changes
        queues = (
            queue_of(model, judge, embeds=embeds)
            for model in models
            for judge in (None, *models)
            for embeds in (False, *([True] if has_embedder else []))
        )
        self._queue = JobQueue(database, limits, queues, self._execute)
        self._running: dict[str, _Run] = {}
        self._seen: dict[str, tuple[Any, ...]] = {}  # what the last look found of each job
        self._watcher: asyncio.Task[None] | None = None
        self._files = tempfile.TemporaryDirectory(prefix="zopo-fast-jobs-")

    async def open(self, run: RunJob) -> None:
        self._run = run
        self._pulse = Pulse()
        with _typed(self._database):
            await self._queue.open()
        self._queue.start()
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        tasks = [run.job.task for run in self._running.values() if run.job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._queue.close()
        self._files.cleanup()

    def end_streams(self) -> None:
        self._pulse.close()

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    async def count(self) -> Mapping[State, int]:
        return dict(await self._fetch("SELECT state, count(*) FROM job GROUP BY state"))

    async def list_all(self) -> list[JobRecord]:
        return [self._record(row) for row in await self._fetch(_COLUMNS)]

    async def find(self, name: str) -> JobRecord | None:
        rows = await self._fetch(f"{_COLUMNS} WHERE id = %s", name)
        return self._record(rows[0]) if rows else None

    async def find_created(self, key: str) -> tuple[str, JobRecord] | None:
        rows = await self._fetch(f"{_COLUMNS} WHERE key = %s", key)
        if not rows:
            return None
        job = self._record(rows[0])
        assert job.saved.key is not None
        return job.saved.key[1], job

    def _record(self, row: tuple[Any, ...]) -> JobRecord:
        saved, state, phase, is_cancelled = row
        job = msgspec.json.decode(saved, type=SavedJob)
        run = self._running.get(job.id)
        if run is not None:  # newer than its row
            return run.job
        job.state = state
        events = PostgresEvents(self._database, job.id, self._pulse, job.event)
        return JobRecord(job, events, phase, is_cancelled=is_cancelled)

    async def create(self, request: CreateJob, saved: SavedJob, key: IdempotencyKey | None) -> JobRecord:
        job = JobRecord(saved, PostgresEvents(self._database, saved.id, self._pulse, 0))
        job.set_state("queued")
        queue = queue_of(request.model, request.judge, embeds=request.embeddings is None)
        document = msgspec.json.encode(request)
        limit = self._limits.max_kept_jobs

        async def work(connection: Any) -> bool:
            # One creation at a time in the fleet, or several would pass the limit together.
            await connection.execute("LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE")
            inserted = await connection.execute(
                "INSERT INTO job (id, key, state, queue, saved, request) SELECT %s, %s, %s, %s, %s, %s "
                "WHERE (SELECT count(*) FROM job) < %s ON CONFLICT DO NOTHING",
                (saved.id, None if key is None else key.value, saved.state, queue,
                 msgspec.json.encode(saved), document, limit),
            )  # fmt: skip
            if inserted.rowcount:
                await _insert_events(connection, job)
                await self._queue.add(connection, saved.id, queue)
            return bool(inserted.rowcount)

        if not await self._queue.transaction(work):
            # The key is taken, or the row is this request's own, from an attempt whose answer was lost.
            found = await self.find(saved.id)
            if found is not None:
                return found
            created = None if key is None else await self.find_created(key.value)
            if created is None:
                raise too_many(limit)
            if key is not None and created[0] != key.digest:
                raise key_reused()
            return created[1]
        return job

    async def requeue(self, job: JobRecord) -> None:
        before = job.saved.state
        job.set_state("queued")

        async def work(connection: Any) -> bool:
            updated = await connection.execute(
                "UPDATE job SET state = 'queued', is_cancelled = false, phase = NULL, saved = %s "
                "WHERE id = %s AND state = %s RETURNING queue",
                (msgspec.json.encode(job.saved), job.saved.id, before),
            )
            row = await updated.fetchone()
            if row is not None:
                await _insert_events(connection, job)
                await self._queue.add(connection, job.saved.id, row[0])
            return row is not None

        if not await self._queue.transaction(work):
            raise not_resumable(await self._current(job))

    async def cancel(self, job: JobRecord) -> None:
        name = job.saved.id
        rows = await self._fetch(
            "UPDATE job SET is_cancelled = true WHERE id = %s AND state IN ('queued', 'running') "
            "RETURNING state",
            name,
        )
        if not rows:
            raise not_running(await self._current(job))
        if name in self._running:
            self._running[name].job.cancel()
        elif rows[0][0] == "queued":
            await self._end_queued(name)

    async def _end_queued(self, name: str) -> None:
        """End a cancelled job that no server has begun to run; its entry of the queue then does nothing."""

        async def work(connection: Any) -> None:
            found = await connection.execute(
                f"{_COLUMNS} WHERE id = %s AND state = 'queued' FOR UPDATE", (name,)
            )
            row = await found.fetchone()
            if row is not None:
                job = self._record(row)
                job.set_state("cancelled")
                await connection.execute(
                    "UPDATE job SET state = 'cancelled', saved = %s WHERE id = %s",
                    (msgspec.json.encode(job.saved), name),
                )
                await _insert_events(connection, job)

        await self._queue.transaction(work)

    async def delete(self, job: JobRecord) -> bool:
        name = job.saved.id
        deleted = await self._fetch(
            "DELETE FROM job WHERE id = %s AND state NOT IN ('queued', 'running') RETURNING id", name
        )
        if not deleted and (found := await self.find(name)) is not None:
            raise still_running(found)
        return bool(deleted)

    async def _current(self, job: JobRecord) -> JobRecord:
        return await self.find(job.saved.id) or job

    # ---- running -----------------------------------------------------------------------------------

    async def _execute(self, name: str) -> None:
        """Run a job whose turn it is; do nothing if it has ended."""
        run = await self._begin(name)
        if run is None:
            return
        self._running[name] = run
        writing = asyncio.create_task(self._write_while_running(run))
        try:
            run.job.task = asyncio.create_task(self._run(run.job))
            if run.job.is_cancelled:  # while its former server was gone
                run.job.task.cancel()
            await run.job.task
        finally:
            writing.cancel()
            self._running.pop(name, None)
        if run.job.saved.state == "queued":
            rows = await self._fetch("SELECT queue FROM job WHERE id = %s AND run = %s", name, run.number)
            if rows:
                await self._queue.add_alone(name, rows[0][0])

    async def _begin(self, name: str) -> _Run | None:
        rows = await self._fetch(
            "UPDATE job SET run = run + 1 WHERE id = %s AND state IN ('queued', 'running') "
            "RETURNING run, request, is_cancelled, saved, "
            "(SELECT coalesce(max(number), 0) FROM job_event WHERE job = job.id)",
            name,
        )
        if not rows:
            return None
        number, request, is_cancelled, saved, last = rows[0]
        events = PostgresEvents(self._database, name, self._pulse, last)
        job = JobRecord(msgspec.json.decode(saved, type=SavedJob), events, is_cancelled=is_cancelled)
        return _Run(job, number, request, Path(self._files.name) / f"{name}-{number}.sqlite3")

    async def _write_while_running(self, run: _Run) -> None:
        """Write the state with each new event, and end a run that another server has taken over."""
        while True:
            await run.events.added.wait()
            try:
                await self._write(run)
            except StoreError as error:  # the run goes on; the next event brings these along
                _log.warning("progress not written", extra={"job": run.job.saved.id, "error": str(error)})
                await asyncio.sleep(WATCH_SECONDS)

    async def save(self, job: JobRecord) -> None:
        run = self._running.get(job.saved.id)
        if run is not None and run.job is job:
            # In a task of its own: a job that is cancelled while it ends still writes its state.
            await asyncio.shield(asyncio.ensure_future(self._write(run)))

    async def _write(self, run: _Run) -> None:
        job, events = run.job, list(run.events.pending)
        run.events.added.clear()
        values = (job.saved.state, job.phase, msgspec.json.encode(job.saved), job.saved.id, run.number)

        async def work(connection: Any) -> bool:
            updated = await connection.execute(
                "UPDATE job SET state = %s, phase = %s, saved = %s WHERE id = %s AND run = %s", values
            )
            if updated.rowcount:
                await _insert_events(connection, job, self._limits.max_job_events)
            return bool(updated.rowcount)

        if not await self._queue.transaction(work):
            self._give_up(run)
            return
        del run.events.pending[: len(events)]

    def _give_up(self, run: _Run) -> None:
        _log.warning("job taken over by another server", extra={"job": run.job.saved.id})
        if run.job.task is not None:
            run.job.task.cancel()

    async def read_request(self, job: JobRecord) -> CreateJob:
        return msgspec.json.decode(self._running[job.saved.id].request, type=CreateJob)

    async def save_result(self, job: JobRecord, document: bytes) -> None:
        run = self._running[job.saved.id]
        rows = await self._fetch(
            "UPDATE job SET result = %s WHERE id = %s AND run = %s RETURNING id",
            document,
            job.saved.id,
            run.number,
        )
        if not rows:
            raise StoreError(f"job {job.saved.id}: another server has taken the job over")

    async def read_result(self, job: JobRecord) -> bytes | None:
        rows = await self._fetch("SELECT result FROM job WHERE id = %s", job.saved.id)
        return rows[0][0] if rows else None

    # ---- study files -------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_study(self, job: JobRecord) -> AsyncIterator[Store]:
        path, mirror = self._running[job.saved.id].path, PostgresMirror(self._database, job.saved.id)
        try:
            store = await asyncio.to_thread(open_mirrored, path, mirror)
            try:
                yield store
            except BaseException:
                with contextlib.suppress(StoreError):  # the error that ends the run takes precedence
                    await asyncio.to_thread(store.close)
                raise
            await asyncio.to_thread(store.close)
        finally:
            mirror.close()
            _remove(path)

    @asynccontextmanager
    async def read_study(self, job: JobRecord) -> AsyncIterator[Path | None]:
        run = self._running.get(job.saved.id)
        if run is not None and run.path.exists():
            yield run.path
            return
        path = Path(tempfile.mkdtemp(dir=self._files.name)) / "study.sqlite3"
        mirror = PostgresMirror(self._database, job.saved.id)
        try:
            number = await asyncio.to_thread(mirror.last)
            if number:
                await asyncio.to_thread(lambda: rebuild(path, mirror.read(number)))
            yield path if number else None
        finally:
            mirror.close()
            _remove(path)
            path.parent.rmdir()

    # ---- jobs of other servers -----------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at all jobs again and again, for the page, the followers and requests to cancel."""
        while True:
            try:
                await self._look()
            except StoreError as error:
                _log.warning("jobs not found", extra={"error": str(error)})
            self._pulse.beat()
            await asyncio.sleep(WATCH_SECONDS)

    async def _look(self) -> None:
        rows = await self._fetch(
            "SELECT id, run, is_cancelled, state, phase, md5(saved) FROM job"
        )
        found = {name: tuple(rest) for name, *rest in rows}
        for name, (number, is_cancelled, *_) in found.items():
            run = self._running.get(name)
            if run is not None and run.number != number:
                self._give_up(run)
            elif run is not None and is_cancelled and not run.job.is_cancelled:
                run.job.cancel()
            if self._seen.get(name) != found[name]:
                self._changes.touch(name)
        for name in self._seen.keys() - found.keys():
            self._changes.forget(name)
        self._seen = found

    async def _fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        async def work(connection: Any) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query, values)).fetchall()

        return await self._database.retry(work)


async def _insert_events(connection: Any, job: JobRecord, keep: int | None = None) -> None:
    events = job.events
    assert isinstance(events, PostgresEvents)
    rows = [(job.saved.id, *event) for event in events.pending]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO job_event (job, number, kind, data) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            rows,
        )
    if keep is not None:
        await connection.execute(
            "DELETE FROM job_event WHERE job = %s AND number <= %s", (job.saved.id, events.last - keep)
        )


@contextmanager
def _typed(database: Database) -> Iterator[None]:
    """Translate errors of the database to typed ones."""
    try:
        yield
    except (psycopg.Error, ConnectorException, OSError) as error:
        raise database.as_store_error(error) from error


def _remove(path: Path) -> None:
    """Delete a study file and its write-ahead log."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink(missing_ok=True)
