"""Mirror of a job's study file in PostgreSQL."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg

from zopo_fast.errors import StoreBusyError
from zopo_fast.serve.postgres.database import RETRY_SECONDS, Database, is_transient
from zopo_fast.storage.mirror import MirrorAwayError

T = TypeVar("T")
_READ_ROWS = 100  # at a time


class PostgresMirror:
    """Rows of one job; see `zopo_fast.storage.mirror.Mirror`.

    Methods block, and are called from one thread at a time. The writer of the study file has a thread of its
    own, which must not depend on the event loop: reads of the study block the loop until it has written.

    Args:
        database: of the fleet.
        job: id of the job.
        run: number of the run that writes; 0 for a reader.
    """

    def __init__(self, database: Database, job: str, run: int = 0) -> None:
        self._database, self._job, self._run, self._writer = database, job, run, uuid.uuid4()
        self._connection: Any = None

    def last(self) -> int:
        """Return the highest number written; 0 without a row."""

        def work(connection: Any) -> int:
            query = "SELECT coalesce(max(number), 0) FROM job_log WHERE job = %s"
            return int(connection.execute(query, (self._job,)).fetchone()[0])

        return self._retry(work)

    def write(self, number: int, data: bytes) -> None:
        """Write a row durably.

        Raises:
            StoreBusyError: another writer wrote this number, or a later run has begun.
            MirrorAwayError: the database cannot be reached.
            StoreError: the row cannot be written.
        """

        def work(connection: Any) -> bool:
            inserted = connection.execute(
                "INSERT INTO job_log (job, number, data, writer) SELECT id, %s, %s, %s FROM job "
                "WHERE id = %s AND run = %s ON CONFLICT DO NOTHING",
                (number, data, self._writer, self._job, self._run),
            )
            if inserted.rowcount:
                return True
            # The row may be this writer's own, from an attempt whose answer was lost.
            query = "SELECT writer = %s FROM job_log WHERE job = %s AND number = %s"
            found = connection.execute(query, (self._writer, self._job, number)).fetchone()
            return bool(found and found[0])

        if not self._retry(work):
            raise StoreBusyError(f"job {self._job}: another server has taken the job over")

    def read(self, upto: int) -> Iterator[bytes]:
        """Yield the rows up to a number, in order."""
        query = (
            "SELECT number, data FROM job_log WHERE job = %s AND number > %s AND number <= %s "
            "ORDER BY number LIMIT %s"
        )
        after = 0
        while True:

            def work(connection: Any, after: int = after) -> list[tuple[int, bytes]]:
                found: list[tuple[int, bytes]] = connection.execute(
                    query, (self._job, after, upto, _READ_ROWS), binary=True
                ).fetchall()
                return found

            rows = self._retry(work)
            if not rows:
                return
            after = rows[-1][0]
            yield from (bytes(data) for _, data in rows)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _retry(self, work: Callable[[Any], T]) -> T:
        """Run work on the connection; run it again, on a new one, while the database cannot be reached."""
        end, pause = time.monotonic() + RETRY_SECONDS, 0.05
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._database.connect()
                return work(self._connection)
            except (psycopg.Error, OSError) as error:
                problem = self._database.as_store_error(error)
                if not is_transient(error):
                    raise problem from error
                if time.monotonic() + pause >= end:
                    raise MirrorAwayError(str(problem)) from error
            self.close()
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
