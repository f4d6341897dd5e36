"""All jobs of a server: creation, queue, cancellation and resumption.

A job has a folder with its request, its state (job.json), the study file of its run, its events and its
result. A job that is running when the server ends becomes "interrupted", and `resume` resumes its run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec

from zopo_fast._utils import tracing
from zopo_fast._utils.files import write_atomic
from zopo_fast.errors import ConfigError, OutputError, StoreError, ZopoError
from zopo_fast.llm.types import EmbeddingModel, Usage
from zopo_fast.runs.result import Result, Trial
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.jobs.events import JobEvents
from zopo_fast.serve.jobs.job import (
    EVENTS_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    STATE_FILE,
    JobRecord,
    create_folder,
    trial_response,
    usage_response,
)
from zopo_fast.serve.jobs.runner import check, run
from zopo_fast.serve.jobs.schemas import CreateJob, JobResult, SavedJob
from zopo_fast.serve.metrics import Metrics
from zopo_fast.serve.models import NamedModel

ENDED_STATES = ("done", "failed", "cancelled", "interrupted")
STOP_SECONDS = 5.0  # time for a cancelled run to end with the results so far, before its task is cancelled
_log = logging.getLogger(__name__)


class JobService:
    """Jobs of a data folder. Call `open` and `close` in the same event loop.

    Args:
        folder: data folder of the server.
        limits: limits of the server.
        models: models that jobs may name.
        embedder: embeds pools of texts; None: requests bring embeddings.
        metrics: metrics of the server.
        changes: revisions of the jobs.
    """

    def __init__(
        self,
        folder: Path,
        limits: ServerLimits,
        models: dict[str, NamedModel],
        embedder: EmbeddingModel | None,
        metrics: Metrics,
        changes: Changes,
    ) -> None:
        self._folder = folder / "jobs"
        self._changes = changes
        self._limits, self._embedder, self._metrics = limits, embedder, metrics
        self.models = models
        self._jobs: dict[str, JobRecord] = {}
        self._keys: dict[str, tuple[str, str]] = {}  # keys of creations: digest, job
        self._slots = asyncio.Semaphore(limits.max_jobs)
        self._is_stopping = False

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Find the jobs of the folder.

        Raises:
            OutputError: the folder cannot be created.
        """
        await asyncio.to_thread(self._open_folder)
        self._update_gauge()

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
            if saved.state not in ENDED_STATES:  # the previous server crashed
                saved.state = "interrupted"
            events = JobEvents(path.parent / EVENTS_FILE, self._limits.max_job_events, saved.event)
            events.close()
            self._jobs[saved.id] = JobRecord(saved, path.parent, events)
            if saved.key is not None:
                self._keys[saved.key[0]] = saved.key[1], saved.id

    async def close(self) -> None:
        """Interrupt the running jobs."""
        self._is_stopping = True
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end_streams(self) -> None:
        """End all event streams, because the server is stopping."""
        self._is_stopping = True
        for job in self._jobs.values():
            job.events.close()

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    @property
    def has_embedder(self) -> bool:
        """Jobs may leave the embeddings of their pool out."""
        return self._embedder is not None

    def list_all(self) -> list[JobRecord]:
        """List the jobs in no particular order."""
        return list(self._jobs.values())

    def get(self, name: str) -> JobRecord:
        """Look up a job.

        Raises:
            Problem: 404, the job does not exist.
        """
        job = self._jobs.get(name)
        if job is None:
            raise not_found("the job")
        return job

    def list_page(self, after: str, limit: int) -> tuple[list[JobRecord], str | None]:
        """List jobs in order of their ids.

        Returns:
            At most `limit` jobs after the id `after`, and the `after` of the next page or None.
        """
        names = sorted(name for name in self._jobs if name > after)
        page = [self._jobs[name] for name in names[:limit]]
        return page, page[-1].saved.id if len(names) > limit else None

    def find_created(self, key: IdempotencyKey) -> JobRecord | None:
        """Look up the job that an earlier request with this key created.

        Raises:
            Problem: 422, the key belongs to a different request.
        """
        if key.value not in self._keys:
            return None
        digest, name = self._keys[key.value]
        if digest != key.digest:
            raise key_reused()
        return self.get(name)

    async def create(self, request: CreateJob, key: IdempotencyKey | None) -> JobRecord:
        """Create a job durably and queue it.

        Raises:
            ConfigError: the request cannot run on this server.
            PoolError: the pool is invalid.
            OutputError: the folder of the job cannot be written.
            StoreError: the server is stopping.
            Problem: a limit of the server is reached.
        """
        if len(self._jobs) >= self._limits.max_kept_jobs:
            raise Problem(
                429,
                "TooManyJobs",
                f"the server has reached its limit of {self._limits.max_kept_jobs} jobs; delete some",
            )
        self._check_not_stopping()
        for model in (request.model, request.judge):
            if model is not None and model not in self.models:
                names = ", ".join(sorted(self.models))
                raise ConfigError(
                    f"model {model!r} is not in the server's models file; choose one of: {names}"
                )
        if request.embeddings is None and self._embedder is None:
            raise ConfigError(
                "embeddings are missing and this server has no embedder; send embeddings, or start it with "
                "--embedder"
            )
        await asyncio.to_thread(check, request, self._limits, self.models[request.model].prices)
        name = secrets.token_hex(8)
        folder = self._folder / name
        created = round(time.time(), 3)
        saved = SavedJob(name, request.name, request.model, request.config.budget, "queued", created, key)
        job = JobRecord(saved, folder, JobEvents(folder / EVENTS_FILE, self._limits.max_job_events))
        await asyncio.to_thread(create_folder, folder, request, saved)
        self._jobs[name] = job
        if key is not None:
            self._keys[key.value] = key.digest, name
        self._start(job)
        _log.info("job created", extra={"job": name, "model": request.model})
        return job

    def _check_not_stopping(self) -> None:
        if self._is_stopping:
            raise StoreError("the server is stopping; retry once it is back")

    def resume(self, job: JobRecord) -> None:
        """Queue a job that was interrupted, was cancelled or failed.

        Raises:
            StoreError: the server is stopping.
            Problem: 409, the job is in another state.
        """
        if job.saved.state not in ("interrupted", "failed", "cancelled"):
            raise Problem(
                409,
                "NotResumable",
                f"the job is {job.saved.state}; only an interrupted, failed or cancelled job can be resumed",
            )
        self._check_not_stopping()
        job.stop, job.is_cancelled, job.trials, job.used = asyncio.Event(), False, [], Usage()
        job.saved.error = job.saved.ended = None
        job.events.reopen()
        self._start(job)

    def cancel(self, job: JobRecord) -> None:
        """Stop a job and keep its results so far.

        Raises:
            Problem: 409, the job is not running.
        """
        if job.task is None:
            raise Problem(
                409, "NotRunning", f"the job is {job.saved.state}; only a running job can be cancelled"
            )
        job.is_cancelled = True
        job.stop.set()
        # A run that has not started has no results to wait for.
        grace = 0.0 if job.phase in (None, "embedding") else STOP_SECONDS
        asyncio.get_running_loop().call_later(grace, job.task.cancel)

    async def delete(self, job: JobRecord) -> None:
        """Delete a job that is not running.

        Raises:
            Problem: 404, the job does not exist; 409, the job is running.
        """
        if job.task is not None:
            raise Problem(409, "StillRunning", f"the job is {job.saved.state}; cancel it first")
        if self._jobs.pop(job.saved.id, None) is None:
            raise not_found("the job")
        if job.saved.key is not None:
            self._keys.pop(job.saved.key[0], None)
        await asyncio.to_thread(shutil.rmtree, job.folder, True)
        self._changes.forget(job.saved.id)
        self._update_gauge()

    async def read_result(self, job: JobRecord) -> bytes:
        """Read the result of a job, as JSON.

        Raises:
            Problem: 409, the job has no result.
        """
        try:
            return await asyncio.to_thread((job.folder / RESULT_FILE).read_bytes)
        except OSError:
            raise Problem(
                409, "NoResult", f"the job is {job.saved.state} and has no result; wait until it is done"
            ) from None

    # ---- running -----------------------------------------------------------------------------------

    def _start(self, job: JobRecord) -> None:
        self._set_state(job, "queued")
        job.task = asyncio.create_task(self._run(job))

    async def _run(self, job: JobRecord) -> None:
        state, error = "interrupted", None
        try:
            async with self._slots:
                self._set_state(job, "running")
                await asyncio.to_thread(job.save)
                with tracing.detached_span("zopo_fast.job", {"zopo_fast.job": job.saved.id}):
                    result = await self._optimize(job)
            document = msgspec.json.encode(JobResult(result.to_dict(), job.trials))
            await asyncio.to_thread(write_atomic, job.folder / RESULT_FILE, document)
            state = "cancelled" if job.is_cancelled else "done" if result.error is None else "failed"
            error = None if result.error is None else str(result.error)
        except asyncio.CancelledError:
            state = "cancelled" if job.is_cancelled else "interrupted"
        except ZopoError as problem:
            state, error = ("cancelled", None) if job.is_cancelled else ("failed", str(problem))
            _log.warning("job failed", extra={"job": job.saved.id, "error": type(problem).__name__})
        except Exception:
            state, error = "failed", "internal error; see the log of the server"
            _log.exception("job failed", extra={"job": job.saved.id})
        finally:
            self._finish(job, state, error)

    def _finish(self, job: JobRecord, state: str, error: str | None) -> None:
        job.task, job.phase, job.trials = None, None, []
        job.saved.error, job.saved.ended = error, round(time.time(), 3)
        with contextlib.suppress(KeyError):
            self._metrics.budget_left.remove(job.saved.id)
        self._set_state(job, state)
        job.events.close()
        with contextlib.suppress(OutputError):  # the next start then finds the job interrupted
            job.save()
        _log.info("job ended", extra={"job": job.saved.id, "state": state})

    async def _optimize(self, job: JobRecord) -> Result:
        read = (job.folder / REQUEST_FILE).read_bytes
        request = msgspec.json.decode(await asyncio.to_thread(read), type=CreateJob)
        budget_left = self._metrics.budget_left.labels(job.saved.id)
        budget_left.set(request.config.budget)

        def on_trial(trial: Trial) -> None:
            self._record_trial(job, trial)
            budget_left.set(max(0, job.saved.budget - job.saved.trials))

        def on_phase(name: str) -> None:
            job.phase = name
            job.events.add("phase", {"phase": name})
            self._changes.touch(job.saved.id)

        def on_resume(trials: list[Trial]) -> None:
            # Counted in the metrics, and sent as events, before the interruption.
            job.trials = [trial_response(trial) for trial in trials]
            job.used = trials[-1].total if trials else Usage()

        model = self.models[request.model]
        async with contextlib.AsyncExitStack() as stack:
            llm = await stack.enter_async_context(model.open())
            judge = None
            if request.judge is not None:
                judge = await stack.enter_async_context(self.models[request.judge].open())
            result = await run(
                request,
                job.folder,
                self._limits,
                llm,
                judge,
                self._embedder,
                model.prices,
                on_trial,
                on_phase,
                on_resume,
                job.stop,
            )
        # The calls of the held-out comparison come after those of the trials.
        self._metrics.count_usage(request.model, job.used, result.usage)
        job.saved.usage = usage_response(result.usage)
        job.saved.best_index, job.saved.best_score = result.best_index, result.best_score
        job.saved.best_prompt = result.best_prompt
        return result

    def _record_trial(self, job: JobRecord, trial: Trial) -> None:
        self._metrics.count_usage(job.saved.model, job.used, trial.total)
        job.used = trial.total
        saved = job.saved
        saved.usage = usage_response(trial.total)
        saved.trials = trial.number
        is_best = not trial.partial and trial.score == trial.best_score
        if trial.score is not None and is_best and trial.score != saved.best_score:  # of equal ones the first
            saved.best_index, saved.best_score, saved.best_prompt = trial.index, trial.score, trial.prompt
        response = trial_response(trial)
        job.trials.append(response)
        job.events.add("trial", response)
        self._changes.touch(saved.id)

    def _set_state(self, job: JobRecord, state: Any) -> None:
        job.saved.state = state
        job.events.add("state", {"state": state, "error": job.saved.error})
        job.saved.event = job.events.last
        self._changes.touch(job.saved.id)
        self._update_gauge()

    def _update_gauge(self) -> None:
        counts = dict.fromkeys(("queued", "running", *ENDED_STATES), 0)
        for job in self._jobs.values():
            counts[job.saved.state] += 1
        for state, count in counts.items():
            self._metrics.jobs.labels(state).set(count)
