"""Jobs of one server, each in a folder of its data folder.

The folder of a job has its request, its state (job.json), the study file of its run, its events and its
result. A job that is running when the server ends becomes "interrupted".
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from zopo_fast._utils.files import fsync_directory, write_atomic
from zopo_fast.errors import OutputError
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey
from zopo_fast.serve.jobs.backend import RunJob
from zopo_fast.serve.jobs.events import JobEvents
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.schemas import CreateJob, SavedJob, State
from zopo_fast.storage.store import STUDY

REQUEST_FILE, STATE_FILE, RESULT_FILE, EVENTS_FILE = "request.json", "job.json", "result.json", "events.jsonl"
_log = logging.getLogger(__name__)


class FolderJobs:
    """Jobs of a folder; see `JobBackend` for the methods.

    Args:
        folder: folder of the jobs.
        limits: limits of the server.
    """

    state_interrupted: State = "interrupted"

    def __init__(self, folder: Path, limits: ServerLimits) -> None:
        self._folder, self._limits = folder, limits
        self._jobs: dict[str, JobRecord] = {}
        self._keys: dict[str, tuple[str, str]] = {}  # keys of creations: digest, job

    async def open(self, run: RunJob) -> None:
        self._run = run
        await asyncio.to_thread(self._open_folder)

    def _open_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be created: {error.strerror or error}") from error
        for path in sorted(self._folder.glob(f"*/{STATE_FILE}")):
            try:
                saved = msgspec.json.decode(path.read_bytes(), type=SavedJob)
            except (OSError, msgspec.DecodeError) as error:
                _log.error("job left out", extra={"job": path.parent.name, "error": type(error).__name__})
                continue
            if saved.is_active:  # the previous server crashed
                saved.state = "interrupted"
            events = JobEvents(path.parent / EVENTS_FILE, self._limits.max_job_events, saved.event)
            events.close()
            self._jobs[saved.id] = JobRecord(saved, events)
            if saved.key is not None:
                self._keys[saved.key[0]] = saved.key[1], saved.id

    async def close(self) -> None:
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end_streams(self) -> None:
        for job in self._jobs.values():
            job.events.close()

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    async def count(self) -> Mapping[State, int]:
        return Counter(job.saved.state for job in self._jobs.values())

    async def list_all(self) -> list[JobRecord]:
        return list(self._jobs.values())

    async def find(self, name: str) -> JobRecord | None:
        return self._jobs.get(name)

    async def find_created(self, key: str) -> tuple[str, JobRecord] | None:
        digest, name = self._keys.get(key, ("", ""))
        return (digest, self._jobs[name]) if name else None

    async def create(self, request: CreateJob, saved: SavedJob, key: IdempotencyKey | None) -> JobRecord:
        folder = self._folder / saved.id
        job = JobRecord(saved, JobEvents(folder / EVENTS_FILE, self._limits.max_job_events))
        await asyncio.to_thread(_create_folder, folder, request, saved)
        self._jobs[saved.id] = job
        if key is not None:
            self._keys[key.value] = key.digest, saved.id
        await self.requeue(job)
        return job

    async def requeue(self, job: JobRecord) -> None:
        job.events.reopen()
        job.set_state("queued")
        job.task = asyncio.create_task(self._run(job))

    async def cancel(self, job: JobRecord) -> None:
        job.cancel()

    async def delete(self, job: JobRecord) -> bool:
        if self._jobs.pop(job.saved.id, None) is None:
            return False
        if job.saved.key is not None:
            self._keys.pop(job.saved.key[0], None)
        await asyncio.to_thread(shutil.rmtree, self._folder / job.saved.id, True)
        return True

    # ---- files -------------------------------------------------------------------------------------

    async def save(self, job: JobRecord) -> None:
        # Without a thread: a job that is cancelled while it ends still writes its state.
        write_atomic(self._path(job, STATE_FILE), msgspec.json.encode(job.saved))

    async def read_request(self, job: JobRecord) -> CreateJob:
        document = await asyncio.to_thread(self._path(job, REQUEST_FILE).read_bytes)
        return msgspec.json.decode(document, type=CreateJob)

    async def save_result(self, job: JobRecord, document: bytes) -> None:
        await asyncio.to_thread(write_atomic, self._path(job, RESULT_FILE), document)

    async def read_result(self, job: JobRecord) -> bytes | None:
        try:
            return await asyncio.to_thread(self._path(job, RESULT_FILE).read_bytes)
        except OSError:
            return None

    @asynccontextmanager
    async def open_study(self, job: JobRecord) -> AsyncIterator[Path]:
        yield self._path(job, STUDY)

    @asynccontextmanager
    async def read_study(self, job: JobRecord) -> AsyncIterator[Path | None]:
        path = self._path(job, STUDY)
        yield path if path.exists() else None

    def _path(self, job: JobRecord, name: str) -> Path:
        return self._folder / job.saved.id / name


def _create_folder(folder: Path, request: CreateJob, saved: SavedJob) -> None:
    """Create the folder of a job durably.

    The state file comes last: a folder without one is not a job.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir()
        write_atomic(folder / REQUEST_FILE, msgspec.json.encode(request))
        write_atomic(folder / STATE_FILE, msgspec.json.encode(saved))
        fsync_directory(folder)
        fsync_directory(folder.parent)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
