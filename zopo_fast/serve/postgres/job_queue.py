"""Queue of a fleet's jobs: procrastinate, with a worker in each server.

An entry of the queue is locked by its job, so that one server at a time runs the job. Servers send heartbeats.
Where they stop, another server replaces the entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import psycopg

from zopo_fast.errors import MissingDependencyError
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.postgres.database import Database, configure

try:
    import procrastinate
    from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
    from procrastinate.jobs import Status
    from procrastinate.worker import Worker
    from psycopg_pool import AsyncConnectionPool
except ImportError as error:
    raise MissingDependencyError(
        "Jobs in PostgreSQL need procrastinate 3.10 or later: pip install 'zopo-fast[postgres]'"
    ) from error

_TASK = "zopo_fast.run_job"
_LOCK = 0x7A6F706F + 1  # key of the advisory lock of the schema, and of one search for stalled entries at a time
_log = logging.getLogger(__name__)


def queue_of(model: str, judge: str | None, *, embeds: bool) -> str:
    """Return the queue of the servers that know a model and a judge, and embed pools if needed."""
    needs = "\0".join((model, judge or "", str(embeds)))
    return "zopo_" + hashlib.blake2b(needs.encode(), digest_size=8).hexdigest()


class JobQueue:
    """Queue of the jobs, and the worker of this server.

    Args:
        database: of the fleet.
        limits: limits of the server.
        queues: queues that this server can serve.
        execute: runs the job with an id.
    """

    def __init__(
        self,
        database: Database,
        limits: ServerLimits,
        queues: Iterable[str],
        execute: Callable[[str], Awaitable[None]],
    ) -> None:
        self._limits, self._queues = limits, sorted(queues)
        # procrastinate opens a connection of its own with the settings of the pool, and sets autocommit itself.
        self._pool: Any = AsyncConnectionPool(
            database.conninfo, open=False, configure=_configure, min_size=1, max_size=4,
            check=AsyncConnectionPool.check_connection, timeout=limits.stalled_after,
        )  # fmt: skip
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())
        self._manager = self._app.job_manager
        self._execute = execute
        self._app.task(name=_TASK)(self._run)
        self._worker: Worker | None = None
        self._running: set[str] = set()
        self._lost: set[int] = set()  # entries of this worker that it does not run, as of the last search
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Create procrastinate's tables where they are missing.

        Raises:
            psycopg.Error: the database cannot be used.
            ConnectorException: the database cannot be used.
        """
        await self._pool.open(wait=True, timeout=self._limits.stalled_after)
        await self._app.open_async(self._pool)
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if not await self._manager.check_connection_async():
                await self._app.schema_manager.apply_schema_async()

    def start(self) -> None:
        """Serve the queue."""
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._rescue())]

    async def close(self) -> None:
        """Stop serving; running jobs are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close()

    async def add(self, connection: Any, job: str, queue: str) -> None:
        """Queue a job in the transaction of a connection; once is enough for a job that waits already."""
        configured = self._app.configure_task(
            _TASK, lock=job, queueing_lock=job, queue=queue, connection=connection
        )
        with suppress(AlreadyEnqueued):
            async with connection.transaction():  # a violated constraint ends this transaction alone
                await configured.defer_async(job=job)

    async def add_alone(self, job: str, queue: str) -> None:
        """Queue a job."""
        async with self._pool.connection() as connection:
            await self.add(connection, job, queue)

    async def _run(self, job: str) -> None:
        self._running.add(job)
        try:
            await self._execute(job)
        finally:
            self._running.discard(job)

    async def _work(self) -> None:
        """Run the worker, again after each failure of the database."""
        while True:
            limits = self._limits
            self._worker = Worker(
                self._app,
                self._queues,
                concurrency=limits.max_jobs,
                fetch_job_polling_interval=limits.heartbeat,
                shutdown_graceful_timeout=0.0,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=limits.heartbeat,
                stalled_worker_timeout=limits.stalled_after,
            )
            try:
                await self._worker.run()
            except (ConnectorException, psycopg.Error, OSError) as error:
                _log.warning("queue interrupted", extra={"error": type(error).__name__})
            await asyncio.sleep(limits.heartbeat)

    async def _rescue(self) -> None:
        """Look for stalled entries at each heartbeat."""
        while True:
            await asyncio.sleep(self._limits.heartbeat)
            try:
                await self._replace_stalled()
            except (ConnectorException, psycopg.Error, OSError) as error:
                _log.warning("stalled jobs not found", extra={"error": type(error).__name__})

    async def _replace_stalled(self) -> None:
        """Replace the entries whose server is gone.

        A new entry, not a retry of the old one: a server that was only slow ends its entry later, and must
        not end the one of its successor.
        """
        async with self._pool.connection() as connection, connection.transaction():
            found = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
            if not (await found.fetchone())[0]:
                return
            after = self._limits.stalled_after
            stalled = list(
                await self._manager.get_stalled_jobs(task_name=_TASK, seconds_since_heartbeat=after)
            )
            stalled += await self._lost_entries()
            for entry in stalled:
                if entry.id is None or entry.lock is None:
                    continue
                _log.warning("job of a stalled server queued again", extra={"job": entry.lock})
                # In this order: after a crash in between, the lock still holds the new entry back.
                await self.add_alone(entry.lock, entry.queue)
                await self._manager.finish_job_by_id_async(entry.id, Status.ABORTED, delete_job=True)

    async def _lost_entries(self) -> list[Any]:
        """Find entries of this server that it neither runs nor could end, because the database was away."""
        worker = None if self._worker is None else self._worker.worker_id
        if worker is None:
            return []
        entries = await self._manager.list_jobs_async(worker_id=worker, status=Status.DOING.value)
        idle = {entry.id: entry for entry in entries if entry.id and entry.lock not in self._running}
        # One that is seen the first time may be about to start or to end.
        lost = [entry for number, entry in idle.items() if number in self._lost]
        self._lost = set(idle)
        return lost


async def _configure(connection: Any) -> None:
    await connection.set_autocommit(True)
    await configure(connection)
