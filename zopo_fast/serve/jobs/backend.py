"""Interface of the places that jobs are kept in: folders of one server, or a database of a fleet."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from zopo_fast.serve.http.idempotency import IdempotencyKey
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.schemas import CreateJob, SavedJob, State
from zopo_fast.storage.store import Store

RunJob = Callable[[JobRecord], Coroutine[Any, Any, None]]


class JobBackend(Protocol):
    """Keeps the jobs and their queue. Call every method in the event loop of the server.

    Attributes:
        state_interrupted: state of a job whose server stopped: "interrupted", or "queued" where another
            server resumes it.
    """

    state_interrupted: State

    async def open(self, run: RunJob) -> None:
        """Find the kept jobs and serve the queue.

        Args:
            run: runs a job whose turn it is, or resumes it; never raises.

        Raises:
            OutputError: the folder cannot be created.
            StoreError: the database cannot be used.
        """

    async def close(self) -> None:
        """Interrupt the running jobs."""

    def end_streams(self) -> None:
        """End all event streams, because the server is stopping."""

    async def count(self) -> Mapping[State, int]:
        """Count the kept jobs by state."""

    async def list_all(self) -> list[JobRecord]:
        """List the jobs in no particular order."""

    async def find(self, name: str) -> JobRecord | None:
        """Look up a job; None if there is none."""

    async def find_created(self, key: str) -> tuple[str, JobRecord] | None:
        """Look up the job that a request with an idempotency key created, and the digest of that request."""

    async def create(self, request: CreateJob, saved: SavedJob, key: IdempotencyKey | None) -> JobRecord:
        """Keep a new job durably and queue it.

        Returns:
            The job, or the one that a request with the same key created meanwhile.

        Raises:
            Problem: 422, the key belongs to a different request; 429, a limit of the server is reached.
            OutputError: the folder of the job cannot be written.
            StoreError: the database cannot be used.
        """

    async def requeue(self, job: JobRecord) -> None:
        """Queue a job again.

        Raises:
            Problem: 409, the job is queued or running.
        """

    async def cancel(self, job: JobRecord) -> None:
        """Stop a job that is queued or running, wherever it runs.

        Raises:
            Problem: 409, the job has ended.
        """

    async def delete(self, job: JobRecord) -> bool:
        """Delete a job that is not running; False if it does not exist.

        Raises:
            Problem: 409, the job is queued or running.
        """

    async def save(self, job: JobRecord) -> None:
        """Write the state of a job that runs here.

        Raises:
            OutputError: the state cannot be written.
            StoreError: the database cannot be used.
        """

    async def read_request(self, job: JobRecord) -> CreateJob:
        """Read the request that created a job."""

    async def save_result(self, job: JobRecord, document: bytes) -> None:
        """Write the result of a job that runs here."""

    async def read_result(self, job: JobRecord) -> bytes | None:
        """Read the result of a job; None if it has none."""

    def open_study(self, job: JobRecord) -> AbstractAsyncContextManager[Path | Store]:
        """Provide the study of a job to its run.

        Raises:
            StoreError: the study cannot be used.
        """

    def read_study(self, job: JobRecord) -> AbstractAsyncContextManager[Path | None]:
        """Provide the study file of a job to readers; None before its run.

        Raises:
            StoreError: the study cannot be read.
        """
