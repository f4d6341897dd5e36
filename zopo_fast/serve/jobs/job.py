"""Record of one job: its state in memory and on disk, and its representation in responses."""

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
from zopo_fast.serve.jobs.schemas import CreateJob, Job, JobTrial, JobUsage, SavedJob

REQUEST_FILE, STATE_FILE, RESULT_FILE, EVENTS_FILE = "request.json", "job.json", "result.json", "events.jsonl"


@dataclass(eq=False)
class JobRecord:
    """One job of a server, running or not.

    Attributes:
        saved: the part that is written to disk.
        folder: folder of the job.
        events: progress events.
        phase: phase of the run, or None.
        stop: set to end the run with the results so far.
        is_cancelled: a client cancelled the job.
        task: task of the run; None: the job is not running.
        trials: trials of the run so far.
        used: usage of the run so far.
    """

    saved: SavedJob
    folder: Path
    events: JobEvents
    phase: str | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None
    trials: list[JobTrial] = field(default_factory=list)
    used: Usage = field(default_factory=Usage)

    def to_response(self) -> Job:
        """Build the response body that describes the job."""
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

    def save(self) -> None:
        """Write the state to disk atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        write_atomic(self.folder / STATE_FILE, msgspec.json.encode(self.saved))


def create_folder(folder: Path, request: CreateJob, saved: SavedJob) -> None:
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


def trial_response(trial: Trial) -> JobTrial:
    """Convert a trial to its representation in responses."""
    return JobTrial(
        trial.number,
        trial.index,
        trial.prompt,
        trial.score,
        trial.partial,
        trial.best_score,
        trial.error,
        usage_response(trial.total),
        len(trial.unanswered),
    )


def usage_response(usage: Usage) -> JobUsage:
    """Convert usage to its representation in responses."""
    return JobUsage(usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.retries)
