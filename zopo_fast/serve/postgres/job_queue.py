"""Queue of a fleet's jobs: procrastinate, with a worker in each server.

An entry of the queue is locked by its job, so that one server at a time runs the job. Another server replaces
the entries of a server that sends no heartbeats.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
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
_FETCH_SECONDS = 1.0  # between two looks for a job; a notification comes earlier, if it comes
_LOCK = 0x7A6F7071  # key of the advisory lock of the schema, and of one search for stalled jobs at a time
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
        self._database, self._limits, self._queues = database, limits, sorted(queues)
        # Not a pool of the database: procrastinate sets autocommit itself where it opens a connection.
        self._pool: Any = AsyncConnectionPool(
            database.conninfo, open=False, configure=_configure, min_size=1, max_size=4,
            check=AsyncConnectionPool.check_connection, timeout=limits.stalled_after,
        )  # fmt: skip
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())
        self._manager = self._app.job_manager
        self._app.task(name=_TASK)(execute)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Create procrastinate's tables where they are missing, and serve the queue.

        Raises:
            StoreError: the database cannot be used.
        """
        try:
            await self._pool.open(wait=True, timeout=self._limits.stalled_after)
            await self._app.open_async(self._pool)
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                if not await self._manager.check_connection_async():
                    await self._app.schema_manager.apply_schema_async()
        except (psycopg.Error, ConnectorException, OSError) as error:
            raise self._database.as_store_error(error) from error
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
        try:
            async with connection.transaction():  # a violated constraint ends this transaction alone
                await configured.defer_async(name=job)
        except AlreadyEnqueued:
            pass
        except ConnectorException as error:
            raise error.__cause__ or error from None

    async def _work(self) -> None:
        """Run the worker, again after each failure of the database."""
        while True:
            limits = self._limits
            worker = Worker(
                self._app,
                self._queues,
                concurrency=limits.max_jobs,
                fetch_job_polling_interval=min(limits.heartbeat, _FETCH_SECONDS),
                shutdown_graceful_timeout=0.0,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=limits.heartbeat,
                stalled_worker_timeout=limits.stalled_after,
            )
            try:
                await worker.run()
            except Exception as error:  # of any kind: without a worker, this server would run no job
                _log.warning("queue interrupted", extra={"error": type(error).__name__})
            await asyncio.sleep(limits.heartbeat)

    async def _rescue(self) -> None:
        """Look for jobs that no server runs at each heartbeat."""
        while True:
            await asyncio.sleep(self._limits.heartbeat)
            try:
                async with self._pool.connection() as connection, connection.transaction():
                    found = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
                    if (await found.fetchone())[0]:  # else another server looks at this moment
                        await self._replace_stalled()
                        await self._add_missing()
            except Exception as error:
                _log.warning("stalled jobs not found", extra={"error": type(error).__name__})

    async def _replace_stalled(self) -> None:
        """Replace the entries whose server sends no heartbeats.

        A new entry, not a retry of the old one: a server that was only slow ends its entry later, and must
        not end the one of its successor.
        """
        after = self._limits.stalled_after
        for entry in await self._manager.get_stalled_jobs(task_name=_TASK, seconds_since_heartbeat=after):
            _log.warning("job of a stalled server queued again", extra={"job": entry.lock})
            # In this order: after a crash in between, the lock still holds the new entry back.
            async with self._pool.connection() as connection:
                await self.add(connection, str(entry.lock), entry.queue)
            await self._manager.finish_job_by_id_async(int(entry.id or 0), Status.ABORTED, delete_job=True)

    async def _add_missing(self) -> None:
        """Queue the jobs whose entry ended before they did: their server stopped, or lost the database."""
        async with self._pool.connection() as connection:
            found = await connection.execute("SELECT id, queue FROM job WHERE state IN ('queued', 'running')")
            active = await found.fetchall()
            locks = {entry.lock for entry in await self._manager.list_jobs_async(task=_TASK)}
            for job, queue in active:
                if job not in locks:
                    _log.warning("job without an entry queued again", extra={"job": job})
                    await self.add(connection, job, queue)


async def _configure(connection: Any) -> None:
    await connection.set_autocommit(True)
    await configure(connection)
