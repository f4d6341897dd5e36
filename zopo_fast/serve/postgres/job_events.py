"""Progress events of a job in PostgreSQL, which followers on every server of the fleet read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from zopo_fast.errors import StoreError
from zopo_fast.serve.http.streams import KEEP_ALIVE
from zopo_fast.serve.jobs.events import JobEvent, encode_events
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.postgres.database import Database

_READ = """
    SELECT job.state IN ('queued', 'running'), job_event.number, job_event.kind, job_event.data
    FROM job LEFT JOIN job_event ON job_event.job = job.id AND job_event.number > %s
    WHERE job.id = %s ORDER BY job_event.number
"""


class Pulse:
    """Wakes the followers of all jobs of a server at each round of its watch.

    Attributes:
        is_closed: the server is stopping, so followers end.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._beat = asyncio.Event()

    def beat(self) -> None:
        """Wake the followers."""
        beat, self._beat = self._beat, asyncio.Event()
        beat.set()

    def close(self) -> None:
        """End the followers."""
        self.is_closed = True
        self.beat()

    async def wait(self, seconds: float) -> None:
        """Wait until the next beat, for a number of seconds at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._beat.wait(), seconds)


class PostgresEvents:
    """Events of a job; see `zopo_fast.serve.jobs.events.Events`.

    Added events wait in `pending` until the run writes them, together with the state that they belong to.

    Args:
        database: of the fleet.
        job: id of the job.
        pulse: of the server.
        last: number of the newest event.
    """

    def __init__(self, database: Database, job: str, pulse: Pulse, last: int) -> None:
        self._database, self._job, self._pulse = database, job, pulse
        self.last = last
        self.pending: list[JobEvent] = []
        self.added = asyncio.Event()

    def add(self, kind: str, data: Any) -> None:
        """Add an event."""
        self.last += 1
        self.pending.append(JobEvent(self.last, kind, msgspec.json.encode(data)))
        self.added.set()

    def close(self) -> None:
        """Do nothing: followers see that the job has ended."""

    def reopen(self) -> None:
        """Do nothing: followers see that the job is queued."""

    async def follow(self, after: int, pause: float) -> AsyncIterator[bytes]:
        """Iterate over the events as server-sent events, until the job has ended; see `Events`."""
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while not self._pulse.is_closed:
            try:
                rows = await self._database.fetch(_READ, after, self._job)
            except StoreError:  # the stream continues once the database is back
                await self._pulse.wait(pause)
                continue
            events = [JobEvent(number, kind, data) for _, number, kind, data in rows if number is not None]
            for text in encode_events(events, after):
                yield text
            if events:
                after, silent_since = events[-1].number, loop.time()
            if not rows or not rows[0][0]:  # deleted, or ended
                return
            if loop.time() >= silent_since + pause:
                silent_since = loop.time()
                yield KEEP_ALIVE
            await self._pulse.wait(silent_since + pause - loop.time())


async def insert_events(connection: Any, job: JobRecord) -> int:
    """Insert the pending events of a job, whose numbers an earlier attempt may have inserted.

    Returns:
        The number of events.
    """
    assert isinstance(job.events, PostgresEvents)
    rows = [(job.saved.id, *event) for event in job.events.pending]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO job_event (job, number, kind, data) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            rows,
        )
    return len(rows)
