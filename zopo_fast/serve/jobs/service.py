"""Whole optimisations on the server: queued, run a few at a time, followed, stopped and taken up again.

A job has a folder: its request, job.json with its state, the run's study file, its events and its result.
What runs when the server ends, in order or not, is "interrupted" from then on; `resume` has it go on.
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

from zopo_fast._utils.files import write_atomic
from zopo_fast.errors import ConfigError, OutputError, StoreError, ZopoError
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import Result, Trial
from zopo_fast.serve.config import Limits
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.jobs.events import JobEvents
from zopo_fast.serve.jobs.job import REQUEST, STATE, Running, keep_request, shown_trial, shown_usage
from zopo_fast.serve.jobs.runner import check, run
from zopo_fast.serve.jobs.schemas import CreateJob, JobResult, Saved
from zopo_fast.serve.metrics import Metrics
from zopo_fast.serve.models import NamedModel

ENDED = ("done", "failed", "cancelled", "interrupted")
STOP_SECONDS = 5.0  # that a run has to end with the results so far, before it is cut off
_log = logging.getLogger(__name__)


class Jobs:
    """The jobs of a data folder; opened with `open`, in the event loop, and closed with `close`."""

    def __init__(
        self, folder: Path, limits: Limits, models: dict[str, NamedModel], embedder: Any, metrics: Metrics
    ) -> None:
        self._folder = folder / "jobs"
        self._limits, self._models, self._embedder, self._metrics = limits, models, embedder, metrics
        self._jobs: dict[str, Running] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._places = asyncio.Semaphore(limits.max_jobs)
        self.stopping = False

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Find what is in the folder; raises OutputError where it cannot be used."""
        await asyncio.to_thread(self._find)
        self._observe()

    def _find(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self._folder}: {error.strerror or error}") from error
        for path in sorted(self._folder.glob(f"*/{STATE}")):
            try:
                saved = msgspec.json.decode(path.read_bytes(), type=Saved)
            except (OSError, msgspec.DecodeError) as error:
                _log.error("job left out", extra={"job": path.parent.name, "error": type(error).__name__})
                continue
            if saved.state not in ENDED:  # the server ended without a word
                saved.state = "interrupted"
            events = JobEvents(path.parent / "events.jsonl", self._limits.max_job_events, saved.event)
            events.closed = True
            self._jobs[saved.id] = Running(saved, path.parent, events)
            if saved.key is not None:
                self._keys[saved.key[0]] = saved.key[1], saved.id

    async def close(self) -> None:
        """Interrupt what runs."""
        self.stopping = True
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end_streams(self) -> None:
        """Let whoever follows a job go: the server stops."""
        self.stopping = True
        for job in self._jobs.values():
            job.events.close()

    # ---- find, create, delete ----------------------------------------------------------------------

    def get(self, name: str) -> Running:
        """A job; 404 where there is none."""
        job = self._jobs.get(name)
        if job is None:
            raise not_found("such job")
        return job

    def listed(self, after: str, limit: int) -> tuple[list[Running], str | None]:
        """At most `limit` jobs with ids beyond `after`, and where to go on; None: nowhere."""
        names = sorted(name for name in self._jobs if name > after)
        page = [self._jobs[name] for name in names[:limit]]
        return page, page[-1].saved.id if len(names) > limit else None

    def created(self, key: str, digest: str) -> Running | None:
        """The job that a request with this key made; a Problem where that was another request."""
        if key not in self._keys:
            return None
        known, name = self._keys[key]
        if known != digest:
            raise Problem(422, "IdempotencyKeyReused", "this Idempotency-Key was used for another request")
        return self.get(name)

    async def create(self, request: CreateJob, key: tuple[str, str] | None) -> Running:
        """Make a job and queue it; on return it is on disk."""
        if len(self._jobs) >= self._limits.max_kept_jobs:
            raise Problem(
                429, "TooManyJobs", f"at most {self._limits.max_kept_jobs} jobs are kept: delete some"
            )
        if self.stopping:
            raise StoreError("the server is stopping")
        for model in (request.model, request.judge):
            if model is not None and model not in self._models:
                raise ConfigError(f"no model is named {model!r}; there are {', '.join(sorted(self._models))}")
        if request.embeddings is None and self._embedder is None:
            raise ConfigError("a pool needs embeddings: this server was started without --embedder")
        await asyncio.to_thread(check, request, self._limits, self._models[request.model].prices)
        name = secrets.token_hex(8)
        folder = self._folder / name
        saved = Saved(
            name, request.name, request.model, request.config.budget, "queued", round(time.time(), 3), key
        )
        job = Running(saved, folder, JobEvents(folder / "events.jsonl", self._limits.max_job_events))
        await asyncio.to_thread(keep_request, folder, request, saved)
        self._jobs[name] = job
        if key is not None:
            self._keys[key[0]] = key[1], name
        self._start(job)
        _log.info("job created", extra={"job": name, "model": request.model})
        return job

    async def resume(self, job: Running) -> None:
        """Take up a job that ended without a result of its own."""
        if job.saved.state not in ("interrupted", "failed", "cancelled"):
            raise Problem(409, "NotResumable", f"the job is {job.saved.state}")
        if self.stopping:
            raise StoreError("the server is stopping")
        job.stop, job.cancelled, job.trials, job.used = asyncio.Event(), False, [], Usage()
        job.saved.error = job.saved.ended = None
        job.events.reopen()
        self._start(job)

    def cancel(self, job: Running) -> None:
        """Have a job end with the results so far; at once where there are none yet."""
        if job.task is None:
            raise Problem(409, "NotRunning", f"the job is {job.saved.state}")
        job.cancelled = True
        job.stop.set()
        grace = 0.0 if job.phase in (None, "embedding") else STOP_SECONDS
        asyncio.get_running_loop().call_later(grace, job.task.cancel)

    async def delete(self, job: Running) -> None:
        """Remove a job that does not run."""
        if job.task is not None:
            raise Problem(409, "StillRunning", "cancel the job first")
        if self._jobs.pop(job.saved.id, None) is None:
            raise not_found("such job")
        if job.saved.key is not None:
            self._keys.pop(job.saved.key[0], None)
        await asyncio.to_thread(shutil.rmtree, job.folder, True)
        self._observe()

    async def result(self, job: Running) -> bytes:
        """The outcome of a job that has one; 409 otherwise."""
        try:
            return await asyncio.to_thread((job.folder / "result.json").read_bytes)
        except OSError:
            raise Problem(409, "NoResult", f"the job is {job.saved.state} and has no result") from None

    # ---- running -----------------------------------------------------------------------------------

    def _start(self, job: Running) -> None:
        self._state(job, "queued")
        job.task = asyncio.create_task(self._run(job))

    async def _run(self, job: Running) -> None:
        state, error = "interrupted", None
        try:
            async with self._places:
                self._state(job, "running")
                await self._save(job)
                result = await self._optimized(job)
            await self._keep(job, result)
            state = "cancelled" if job.cancelled else "done" if result.error is None else "failed"
            error = None if result.error is None else str(result.error)
        except asyncio.CancelledError:
            state = "cancelled" if job.cancelled else "interrupted"
        except ZopoError as problem:
            state, error = ("cancelled", None) if job.cancelled else ("failed", str(problem))
            _log.warning("job failed", extra={"job": job.saved.id, "error": type(problem).__name__})
        except Exception:
            state, error = "failed", "a fault of the server's; its log says where"
            _log.exception("job failed", extra={"job": job.saved.id})
        finally:
            job.task, job.phase, job.trials = None, None, []
            job.saved.error, job.saved.ended = error, round(time.time(), 3)
            with contextlib.suppress(KeyError):
                self._metrics.budget_left.remove(job.saved.id)
            self._state(job, state)
            job.events.close()
            with contextlib.suppress(
                OutputError
            ):  # it is as good as interrupted, and will be at the next start
                write_atomic(job.folder / STATE, msgspec.json.encode(job.saved))
            _log.info("job ended", extra={"job": job.saved.id, "state": state})

    async def _optimized(self, job: Running) -> Result:
        read = (job.folder / REQUEST).read_bytes
        request = msgspec.json.decode(await asyncio.to_thread(read), type=CreateJob)
        left = self._metrics.budget_left.labels(job.saved.id)
        left.set(request.config.budget)

        def on_trial(trial: Trial) -> None:
            self._count(job, trial)
            left.set(max(0, job.saved.budget - job.saved.trials))

        def on_phase(name: str) -> None:
            job.phase = name
            job.events.add("phase", {"phase": name})

        def on_resume(trials: list[Trial]) -> None:
            job.trials = [
                shown_trial(trial) for trial in trials
            ]  # counted and told before the job was cut off
            job.used = trials[-1].total if trials else Usage()

        async with contextlib.AsyncExitStack() as stack:
            llm = await stack.enter_async_context(self._models[request.model].opened())
            judge = None
            if request.judge is not None:
                judge = await stack.enter_async_context(self._models[request.judge].opened())
            prices = self._models[request.model].prices
            result = await run(
                request,
                job.folder,
                self._limits,
                llm,
                judge,
                self._embedder,
                prices,
                on_trial,
                on_phase,
                on_resume,
                job.stop,
            )
        self._metrics.used(
            request.model, job.used, result.usage
        )  # the comparison's calls come after the trials'
        job.saved.usage = shown_usage(result.usage)
        job.saved.best_index, job.saved.best_score = result.best_index, result.best_score
        return result

    def _count(self, job: Running, trial: Trial) -> None:
        self._metrics.used(job.saved.model, job.used, trial.total)
        job.used = trial.total
        saved = job.saved
        saved.usage = shown_usage(trial.total)
        saved.trials = trial.number
        if trial.score is not None and not trial.partial and trial.score == trial.best_score:
            saved.best_index, saved.best_score = trial.index, trial.score
        shown = shown_trial(trial)
        job.trials.append(shown)
        job.events.add("trial", shown)

    def _state(self, job: Running, state: Any) -> None:
        job.saved.state = state
        job.events.add("state", {"state": state, "error": job.saved.error})
        job.saved.event = job.events.last
        self._observe()

    async def _keep(self, job: Running, result: Result) -> None:
        document = msgspec.json.encode(JobResult(result.to_dict(), job.trials))
        await asyncio.to_thread(write_atomic, job.folder / "result.json", document)

    async def _save(self, job: Running) -> None:
        await asyncio.to_thread(write_atomic, job.folder / STATE, msgspec.json.encode(job.saved))

    def _observe(self) -> None:
        counts = dict.fromkeys(("queued", "running", *ENDED), 0)
        for job in self._jobs.values():
            counts[job.saved.state] += 1
        for state, count in counts.items():
            self._metrics.jobs.labels(state).set(count)
