"""One job: its state in memory and in its folder, and how that is shown."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from zopo_fast._utils.files import fsync_directory, write_atomic
from zopo_fast.errors import OutputError
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import Trial
from zopo_fast.serve.jobs.events import JobEvents
from zopo_fast.serve.jobs.schemas import CreateJob, Job, JobTrial, JobUsage, Saved

REQUEST, STATE = "request.json", "job.json"


@dataclass(eq=False)
class Running:
    """A job, running or not."""

    saved: Saved
    folder: Path
    events: JobEvents
    phase: str | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    task: asyncio.Task[None] | None = None
    trials: list[JobTrial] = field(default_factory=list)
    used: Usage = field(default_factory=Usage)

    def shown(self) -> Job:
        """Its state as an answer."""
        saved = self.saved
        return Job(
            id=saved.id,
            name=saved.name,
            model=saved.model,
            state=saved.state,
            phase=self.phase,
            created=saved.created,
            ended=saved.ended,
            budget=saved.budget,
            trials=saved.trials,
            best_index=saved.best_index,
            best_score=saved.best_score,
            usage=saved.usage,
            error=saved.error,
        )


def keep_request(folder: Path, request: CreateJob, saved: Saved) -> None:
    """Make a job's folder; with its state in it, which comes last, it is a job."""
    try:
        folder.mkdir()
        write_atomic(folder / REQUEST, msgspec.json.encode(request))
        write_atomic(folder / STATE, msgspec.json.encode(saved))
        fsync_directory(folder)
        fsync_directory(folder.parent)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def shown_trial(trial: Trial) -> JobTrial:
    return JobTrial(
        trial.number,
        trial.index,
        trial.prompt,
        trial.score,
        trial.partial,
        trial.best_score,
        trial.error,
        shown_usage(trial.total),
    )


def shown_usage(usage: Usage) -> JobUsage:
    return JobUsage(usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.retries)
