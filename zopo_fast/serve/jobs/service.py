"""All jobs of a server: creation, queue, cancellation and resumption."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import get_args

import msgspec

from zopo_fast._utils import tracing
from zopo_fast.errors import ConfigError, OutputError, StoreError, ZopoError
from zopo_fast.llm.types import EmbeddingModel, Usage
from zopo_fast.runs.result import Result, Trial
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.jobs.backend import JobBackend
from zopo_fast.serve.jobs.job import (
    JobRecord,
    not_resumable,
    not_running,
    still_running,
    too_many,
    trial_response,
    usage_response,
)
from zopo_fast.serve.jobs.runner import check, run
from zopo_fast.serve.jobs.schemas import CreateJob, JobResult, SavedJob, State
from zopo_fast.serve.metrics import Metrics
from zopo_fast.serve.models import NamedModel
from zopo_fast.storage.mirror import MirrorAwayError

_log = logging.getLogger(__name__)


class JobService:
    """Jobs of a server. Call `open` and `close` in the same event loop.

    Args:
        backend: keeps the jobs and their queue.
        limits: limits of the server.
        models: models that jobs may name.
        embedder: embeds pools of texts; None: requests bring embeddings.
        metrics: metrics of the server.
        changes: revisions of the jobs.
    """

    def __init__(
        self,
        backend: JobBackend,
        limits: ServerLimits,
        models: dict[str, NamedModel],
        embedder: EmbeddingModel | None,
        metrics: Metrics,
        changes: Changes,
    ) -> None:
        self._backend, self._changes = backend, changes
        self._limits, self._embedder, self._metrics = limits, embedder, metrics
        self.models = models
        self._slots = asyncio.Semaphore(limits.max_jobs)
        self._is_stopping = False

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Find the kept jobs, and run those that are queued.

        Raises:
            OutputError: the folder cannot be created.
            StoreError: the database cannot be used.
        """
        await self._backend.open(self._run)
        await self.count()

    async def close(self) -> None:
        """Interrupt the running jobs."""
        self._is_stopping = True
        await self._backend.close()

    def end_streams(self) -> None:
        """End all event streams, because the server is stopping."""
        self._is_stopping = True
        self._backend.end_streams()

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    @property
    def has_embedder(self) -> bool:
        """Jobs may leave the embeddings of their pool out."""
        return self._embedder is not None

    async def list_all(self) -> list[JobRecord]:
        """List the jobs in no particular order."""
        return await self._backend.list_all()

    async def get(self, name: str) -> JobRecord:
        """Look up a job.

        Raises:
            Problem: 404, the job does not exist.
        """
        job = await self._backend.find(name)
        if job is None:
            raise not_found("the job")
        return job

    async def list_page(self, after: str, limit: int) -> tuple[list[JobRecord], str | None]:
        """List jobs in order of their ids.

        Returns:
            At most `limit` jobs after the id `after`, and the `after` of the next page or None.
        """
        jobs = [job for job in await self._backend.list_all() if job.saved.id > after]
        page = sorted(jobs, key=lambda job: job.saved.id)[:limit]
        return page, page[-1].saved.id if len(jobs) > limit else None

    async def find_created(self, key: IdempotencyKey) -> JobRecord | None:
        """Look up the job that an earlier request with this key created.

        Raises:
            Problem: 422, the key belongs to a different request.
        """
        found = await self._backend.find_created(key.value)
        if found is None:
            return None
        digest, job = found
        if digest != key.digest:
            raise key_reused()
        return job

    async def create(self, request: CreateJob, key: IdempotencyKey | None) -> JobRecord:
        """Create a job durably and queue it.

        Raises:
            ConfigError: the request cannot run on this server.
            PoolError: the pool is invalid.
            OutputError: the folder of the job cannot be written.
            StoreError: the server is stopping, or the database cannot be used.
            Problem: a limit of the server is reached.
        """
        if sum((await self._backend.count()).values()) >= self._limits.max_kept_jobs:
            raise too_many(self._limits.max_kept_jobs)
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
        created = round(time.time(), 3)
        saved = SavedJob(name, request.name, request.model, request.config.budget, "queued", created, key)
        job = await self._backend.create(request, saved, key)
        await self._announce(job)
        _log.info("job created", extra={"job": name, "model": request.model})
        return job

    def _check_not_stopping(self) -> None:
        if self._is_stopping:
            raise StoreError("the server is stopping; retry once it is back")

    async def resume(self, job: JobRecord) -> None:
        """Queue a job that was interrupted, was cancelled or failed.

        Raises:
            StoreError: the server is stopping.
            Problem: 409, the job is in another state.
        """
        if job.saved.state not in ("interrupted", "failed", "cancelled"):
            raise not_resumable(job)
        self._check_not_stopping()
        job.stop, job.is_cancelled, job.trials, job.used = asyncio.Event(), False, [], Usage()
        job.saved.error = job.saved.ended = None
        await self._backend.requeue(job)
        await self._announce(job)

    async def cancel(self, job: JobRecord) -> None:
        """Stop a job and keep its results so far.

        Raises:
            Problem: 409, the job is not running.
        """
        if not job.saved.is_active:
            raise not_running(job)
        await self._backend.cancel(job)

    async def delete(self, job: JobRecord) -> None:
        """Delete a job that is not running.

        Raises:
            Problem: 404, the job does not exist; 409, the job is running.
        """
        if job.saved.is_active:
            raise still_running(job)
        if not await self._backend.delete(job):
            raise not_found("the job")
        self._changes.forget(job.saved.id)
        await self.count()

    async def read_result(self, job: JobRecord) -> bytes:
        """Read the result of a job, as JSON.

        Raises:
            Problem: 409, the job has no result.
        """
        document = await self._backend.read_result(job)
        if document is None:
            raise Problem(
                409, "NoResult", f"the job is {job.saved.state} and has no result; wait until it is done"
            )
        return document

    def read_study(self, job: JobRecord) -> AbstractAsyncContextManager[Path | None]:
        """Provide the study file of a job to readers; None before its run.

        Raises:
            StoreError: the study cannot be read.
        """
        return self._backend.read_study(job)

    # ---- running -----------------------------------------------------------------------------------

    async def _run(self, job: JobRecord) -> None:
        state, error = self._backend.state_interrupted, None
        try:
            async with self._slots:
                job.set_state("running")
                await self._announce(job)
                await self._backend.save(job)
                with tracing.detached_span("zopo_fast.job", {"zopo_fast.job": job.saved.id}):
                    result = await self._optimize(job)
            document = msgspec.json.encode(JobResult(result.to_dict(), job.trials))
            await self._backend.save_result(job, document)
            state = "cancelled" if job.is_cancelled else "done" if result.error is None else "failed"
            error = None if result.error is None else str(result.error)
        except asyncio.CancelledError:
            state = "cancelled" if job.is_cancelled else self._backend.state_interrupted
        except MirrorAwayError as problem:
            _log.warning("job interrupted", extra={"job": job.saved.id, "error": str(problem)})
        except ZopoError as problem:
            state, error = ("cancelled", None) if job.is_cancelled else ("failed", str(problem))
            _log.warning("job failed", extra={"job": job.saved.id, "error": type(problem).__name__})
        except Exception:
            state, error = "failed", "internal error; see the log of the server"
            _log.exception("job failed", extra={"job": job.saved.id})
        finally:
            await self._finish(job, state, error)

    async def _finish(self, job: JobRecord, state: State, error: str | None) -> None:
        job.task, job.phase, job.trials = None, None, []
        job.saved.error, job.saved.ended = error, None if state == "queued" else round(time.time(), 3)
        with contextlib.suppress(KeyError):
            self._metrics.budget_left.remove(job.saved.id)
        job.set_state(state)
        job.events.close()
        # A state that cannot be written is found interrupted: by the next start, or another server.
        with contextlib.suppress(OutputError, StoreError):
            await self._backend.save(job)
        await self._announce(job)
        _log.info("job ended", extra={"job": job.saved.id, "state": state})

    async def _optimize(self, job: JobRecord) -> Result:
        request = await self._backend.read_request(job)
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
            known = trials[: job.announced]
            job.trials = [trial_response(trial) for trial in known]
            job.used = known[-1].total if known else Usage()
            for trial in trials[len(known) :]:
                on_trial(trial)

        model = self.models[request.model]
        async with contextlib.AsyncExitStack() as stack:
            llm = await stack.enter_async_context(model.open())
            judge = None
            if request.judge is not None:
                judge = await stack.enter_async_context(self.models[request.judge].open())
            store = await stack.enter_async_context(self._backend.open_study(job))
            result = await run(
                request,
                store,
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

    async def _announce(self, job: JobRecord) -> None:
        """Tell the page and the metrics of a changed state."""
        self._changes.touch(job.saved.id)
        await self.count()

    async def count(self) -> None:
        """Count the jobs by state for the metrics, if the database can be reached."""
        try:
            counts = await self._backend.count()
        except StoreError:
            return
        for state in get_args(State):
            self._metrics.jobs.labels(state).set(counts.get(state, 0))
