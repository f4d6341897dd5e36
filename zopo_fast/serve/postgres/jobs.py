"""Jobs of a fleet of servers, in PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.jobs.backend import RunJob
from zopo_fast.serve.jobs.job import JobRecord, not_resumable, not_running, still_running, too_many
from zopo_fast.serve.jobs.schemas import CreateJob, SavedJob, State
from zopo_fast.serve.postgres.database import Database
from zopo_fast.serve.postgres.job_events import PostgresEvents, insert_events
from zopo_fast.serve.postgres.job_queue import queue_of
from zopo_fast.serve.postgres.job_runs import WATCH_SECONDS, JobRuns

_COLUMNS = "SELECT saved, state, phase, is_cancelled FROM job"
_CREATION_LOCK = 0x7A6F706A
_log = logging.getLogger(__name__)


class PostgresJobs(JobRuns):
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
        queues = [
            queue_of(model, judge, embeds=embeds)
            for model in models
            for judge in (None, *models)
            for embeds in (False, *([True] if has_embedder else []))
        ]
        super().__init__(database, limits, queues)
        self._changes = changes
        self._seen: dict[str, tuple[Any, ...]] = {}  # what the last look found of each job
        self._watcher: asyncio.Task[None] | None = None

    async def open(self, run: RunJob) -> None:
        await self._start_runs(run)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        await self._end_runs()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    def end_streams(self) -> None:
        self._pulse.close()

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    async def count(self) -> Mapping[State, int]:
        return dict(await self._database.fetch("SELECT state, count(*) FROM job GROUP BY state"))

    async def list_all(self) -> list[JobRecord]:
        return [self._record(row) for row in await self._database.fetch(_COLUMNS)]

    async def find(self, name: str) -> JobRecord | None:
        rows = await self._database.fetch(f"{_COLUMNS} WHERE id = %s", name)
        return self._record(rows[0]) if rows else None

    async def find_created(self, key: str) -> tuple[str, JobRecord] | None:
        rows = await self._database.fetch(f"{_COLUMNS} WHERE key = %s", key)
        if not rows:
            return None
        job = self._record(rows[0])
        assert job.saved.key is not None
        return job.saved.key[1], job

    def _record(self, row: tuple[Any, ...]) -> JobRecord:
        # Not the record of a run in this process, which is ahead of what other servers see.
        saved, state, phase, is_cancelled = row
        job = msgspec.json.decode(saved, type=SavedJob)
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
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
            inserted = await connection.execute(
                "INSERT INTO job (id, key, state, queue, saved, request) SELECT %s, %s, %s, %s, %s, %s "
                "WHERE (SELECT count(*) FROM job) < %s ON CONFLICT DO NOTHING",
                (saved.id, None if key is None else key.value, saved.state, queue,
                 msgspec.json.encode(saved), document, limit),
            )  # fmt: skip
            if inserted.rowcount:
                await insert_events(connection, job)
                await self._queue.add(connection, saved.id, queue)
            return bool(inserted.rowcount)

        if not await self._database.transaction(work):
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
                await insert_events(connection, job)
                await self._queue.add(connection, job.saved.id, row[0])
            return row is not None

        if not await self._database.transaction(work):
            raise not_resumable(await self._current(job))

    async def cancel(self, job: JobRecord) -> None:
        name = job.saved.id
        rows = await self._database.fetch(
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
                await insert_events(connection, job)

        await self._database.transaction(work)

    async def delete(self, job: JobRecord) -> bool:
        name = job.saved.id
        is_done = await self._database.delete(
            "DELETE FROM job WHERE id = %s AND state NOT IN ('queued', 'running')", name
        )
        if (found := await self.find(name)) is not None:
            raise still_running(found)
        return is_done

    async def _current(self, job: JobRecord) -> JobRecord:
        return await self.find(job.saved.id) or job

    # ---- jobs of other servers -----------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at all jobs again and again, for the page, the followers and requests to cancel."""
        while True:
            try:
                await self._look()
            except Exception as error:  # of any kind: requests to cancel depend on this task
                _log.warning("jobs not found", extra={"error": type(error).__name__})
            self._pulse.beat()
            await asyncio.sleep(WATCH_SECONDS)

    async def _look(self) -> None:
        rows = await self._database.fetch(
            "SELECT id, run, is_cancelled, xmin::text FROM job"  # xmin changes with each update
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
