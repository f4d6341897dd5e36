"""Record of one job: its state, and its representation in responses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import Trial
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.jobs.events import Events
from zopo_fast.serve.jobs.schemas import Job, JobTrial, JobUsage, SavedJob, State

STOP_SECONDS = 5.0  # time for a cancelled run to end with the results so far, before its task is cancelled


@dataclass(eq=False)
class JobRecord:
    """One job of a server, running or not.

    Attributes:
        saved: the part that is kept.
        events: progress events.
        phase: phase of the run, or None.
        stop: set to end the run with the results so far.
        is_cancelled: a client cancelled the job.
        task: task of the run in this process; None: the job does not run here.
        trials: trials of the run so far.
        used: usage of the run so far.
        announced: trials whose events are kept, of a resumed run; None: all of them.
    """

    saved: SavedJob
    events: Events
    phase: str | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None
    trials: list[JobTrial] = field(default_factory=list)
    used: Usage = field(default_factory=Usage)
    announced: int | None = None

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

    def set_state(self, state: State) -> None:
        """Change the state and add its event."""
        self.saved.state = state
        self.events.add("state", {"state": state, "error": self.saved.error})
        self.saved.event = self.events.last

    def cancel(self) -> None:
        """End the run in this process, with its results so far if it ends soon."""
        self.is_cancelled = True
        self.stop.set()
        # A run that has not started has no results to wait for.
        grace = 0.0 if self.phase in (None, "embedding") else STOP_SECONDS
        if self.task is not None:
            asyncio.get_running_loop().call_later(grace, self.task.cancel)


def not_running(job: JobRecord) -> Problem:
    """Build the 409 for the cancellation of a job that has ended."""
    return Problem(409, "NotRunning", f"the job is {job.saved.state}; only a running job can be cancelled")


def not_resumable(job: JobRecord) -> Problem:
    """Build the 409 for the resumption of a job that is running or done."""
    state = job.saved.state
    return Problem(
        409,
        "NotResumable",
        f"the job is {state}; only an interrupted, failed or cancelled job can be resumed",
    )


def still_running(job: JobRecord) -> Problem:
    """Build the 409 for the deletion of a job that is running."""
    return Problem(409, "StillRunning", f"the job is {job.saved.state}; cancel it first")


def too_many(limit: int) -> Problem:
    """Build the 429 for a job beyond the number of kept jobs."""
    detail = f"the server has reached its limit of {limit} jobs; delete some"
    return Problem(429, "TooManyJobs", detail)


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
