"""Runs of a fleet's jobs in one server.

Each start of a job's run has a number, and the row of the job holds the newest. A server whose run has an
earlier number writes nothing any more: the state, the events and the log of the study belong to the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from zopo_fast.errors import StoreBusyError, StoreError
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.jobs.backend import RunJob
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.schemas import CreateJob, SavedJob
from zopo_fast.serve.postgres.database import Database
from zopo_fast.serve.postgres.job_events import PostgresEvents, Pulse, insert_events
from zopo_fast.serve.postgres.job_log import PostgresMirror
from zopo_fast.serve.postgres.job_queue import JobQueue
from zopo_fast.storage.mirror import MirrorAwayError, open_mirrored, rebuild
from zopo_fast.storage.store import STUDY, Store

WATCH_SECONDS = 0.5  # between two looks at the jobs of all servers, and before a failed write is tried again
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """Run of a job in this process.

    Attributes:
        job: the job.
        number: of the run; a later one ends the right to write.
        request: body of the creation, as JSON.
        path: study file.
        writing: held by one write of the state at a time.
    """

    job: JobRecord
    number: int
    request: bytes
    path: Path
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def events(self) -> PostgresEvents:
        """Events of the job, which wait here until they are written."""
        assert isinstance(self.job.events, PostgresEvents)
        return self.job.events


class JobRuns:
    """Runs of this server; see `JobBackend` for the methods.

    Args:
        database: of the fleet.
        limits: limits of the server.
        queues: queues of the jobs that this server can run.
    """

    def __init__(self, database: Database, limits: ServerLimits, queues: list[str]) -> None:
        self._database, self._limits = database, limits
        self._queue = JobQueue(database, limits, queues, self._execute)
        self._pulse = Pulse()
        self._running: dict[str, Run] = {}
        self._run: RunJob
        self._files = Path()  # folder of the study files

    async def _start_runs(self, run: RunJob) -> None:
        """Serve the queue.

        Raises:
            StoreError: the database cannot be used.
        """
        self._run = run
        self._files = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="zopo-fast-jobs-"))
        await self._queue.open()

    async def _end_runs(self) -> None:
        """Stop serving the queue; the runs end, and wait in the queue for another server."""
        try:
            async with asyncio.timeout(self._limits.stop_timeout):
                await self._queue.close()
        except TimeoutError:  # without the database; another server finds the jobs stalled
            _log.warning("jobs not put back into the queue")
        if self._files.name:
            await asyncio.to_thread(shutil.rmtree, self._files, ignore_errors=True)

    async def _execute(self, name: str) -> None:
        """Run a job whose turn it is; do nothing if it has ended."""
        run = await self._begin(name)
        if run is None:
            return
        if (earlier := self._running.get(name)) is not None:  # this server was slow, and took its job over
            self._give_up(earlier)
        self._running[name] = run
        writing = asyncio.create_task(self._write_while_running(run))
        try:
            run.job.task = asyncio.create_task(self._run(run.job))
            if run.job.is_cancelled:  # while its former server was gone
                run.job.cancel()
            await run.job.task
        finally:
            writing.cancel()
            self._forget(run)

    async def _begin(self, name: str) -> Run | None:
        rows = await self._database.fetch(
            "UPDATE job SET run = run + 1, state = 'running' "
            "WHERE id = %s AND state IN ('queued', 'running') RETURNING run, request, is_cancelled, saved, "
            "(SELECT coalesce(max(number), 0) FROM job_event WHERE job = job.id)",
            name,
        )
        if not rows:
            return None
        number, request, is_cancelled, saved, last = rows[0]
        events = PostgresEvents(self._database, name, self._pulse, last)
        kept = msgspec.json.decode(saved, type=SavedJob)
        job = JobRecord(kept, events, is_cancelled=is_cancelled, announced=kept.trials)
        return Run(job, number, request, self._files / f"{name}-{number}.sqlite3")

    async def _write_while_running(self, run: Run) -> None:
        """Write the state with each new event, and end a run that another server has taken over."""
        while True:
            await run.events.added.wait()
            try:
                await self._write(run)
            except StoreError as error:  # the run continues
                _log.warning("progress not written", extra={"job": run.job.saved.id, "error": str(error)})
                run.events.added.set()  # the pending events are written by the next attempt
                await asyncio.sleep(WATCH_SECONDS)

    async def save(self, job: JobRecord) -> None:
        run = self._running.get(job.saved.id)
        if run is not None and run.job is job:
            # In a task of its own: a job that is cancelled while it ends still writes its state.
            with _as_interruption():
                await asyncio.shield(asyncio.ensure_future(self._write(run)))

    async def _write(self, run: Run) -> None:
        async with run.writing:
            job, events = run.job, run.events
            events.added.clear()
            values = (job.saved.state, job.phase, msgspec.json.encode(job.saved), job.saved.id, run.number)

            async def work(connection: Any) -> int | None:
                updated = await connection.execute(
                    "UPDATE job SET state = %s, phase = %s, saved = %s WHERE id = %s AND run = %s", values
                )
                if not updated.rowcount:
                    return None
                written = await insert_events(connection, job)
                oldest = events.last - self._limits.max_job_events
                await connection.execute(
                    "DELETE FROM job_event WHERE job = %s AND number <= %s", (job.saved.id, oldest)
                )
                return written

            written = await self._database.transaction(work)
            if written is None:
                self._give_up(run)
            else:
                del events.pending[:written]
                self._pulse.beat()

    def _give_up(self, run: Run) -> None:
        """End a run that another server has taken over; from now on its row counts."""
        if self._running.get(run.job.saved.id) is not run:
            return
        _log.warning("job taken over by another server", extra={"job": run.job.saved.id})
        self._forget(run)
        if run.job.task is not None:
            run.job.task.cancel()

    def _forget(self, run: Run) -> None:
        if self._running.get(run.job.saved.id) is run:
            del self._running[run.job.saved.id]

    def _run_of(self, job: JobRecord) -> Run:
        run = self._running.get(job.saved.id)
        if run is None or run.job is not job:
            raise StoreBusyError(f"job {job.saved.id}: another server has taken the job over")
        return run

    async def read_request(self, job: JobRecord) -> CreateJob:
        return msgspec.json.decode(self._run_of(job).request, type=CreateJob)

    async def save_result(self, job: JobRecord, document: bytes) -> None:
        run = self._run_of(job)
        query = "UPDATE job SET result = %s WHERE id = %s AND run = %s RETURNING id"
        with _as_interruption():
            rows = await self._database.fetch(query, document, job.saved.id, run.number)
        if not rows:
            self._give_up(run)

    async def read_result(self, job: JobRecord) -> bytes | None:
        rows = await self._database.fetch("SELECT result FROM job WHERE id = %s", job.saved.id)
        return rows[0][0] if rows else None

    # ---- study files -------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_study(self, job: JobRecord) -> AsyncIterator[Store]:
        run = self._run_of(job)
        path, mirror = run.path, PostgresMirror(self._database, job.saved.id, run.number)
        try:
            opening = asyncio.ensure_future(asyncio.to_thread(open_mirrored, path, mirror))
            try:
                store = await asyncio.shield(opening)
            except asyncio.CancelledError:
                with contextlib.suppress(StoreError):  # the thread uses file and mirror until its end
                    (await opening).close()
                raise
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
        path = Path(tempfile.mkdtemp(dir=self._files)) / STUDY
        mirror = PostgresMirror(self._database, job.saved.id)
        try:
            number = await asyncio.to_thread(mirror.last)
            if number:
                await asyncio.to_thread(lambda: rebuild(path, mirror.read(number)))
            yield path if number else None
        finally:
            mirror.close()
            shutil.rmtree(path.parent, ignore_errors=True)  # where cancelled, a thread may still write in it


@contextmanager
def _as_interruption() -> Iterator[None]:
    """Turn a failed write into an interruption of the run, which is resumed once the database is back."""
    try:
        yield
    except StoreError as error:
        raise MirrorAwayError(str(error)) from error


def _remove(path: Path) -> None:
    """Delete a study file and its write-ahead log."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink(missing_ok=True)
