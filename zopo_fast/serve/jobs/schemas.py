"""JSON bodies of the requests and responses on optimize jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zopo_fast.llm.limits import Limits
from zopo_fast.runs.config import RunConfig
from zopo_fast.serve.http.schemas import (
    Finite,
    Index,
    Label,
    RequestBody,
    ResponseBody,
    Text,
    settings_struct,
)
from zopo_fast.serve.studies.schemas import PackedArray, Rows, SearchConfig

Output = str | Annotated[list[str], Meta(min_length=1)]  # an empty answer may be the accepted one
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


class JobExample(RequestBody):
    """Input and its accepted output, or outputs."""

    input: Text
    output: Output


MetricName = Literal[
    "exact_match",
    "f1",
    "exact_set",
    "contains",
    "multiple_choice",
    "induction_match",
    "induction_f1",
    "induction_set",
    "induction_contains",
    "judge",
]


class JobTask(RequestBody):
    """Task that prompts are scored on; a request cannot bring a custom metric, which is code."""

    examples: Annotated[list[JobExample], Meta(min_length=1)]
    heldout: list[JobExample] = msgspec.field(default_factory=list)
    demonstrations: list[JobExample] = msgspec.field(default_factory=list)
    name: Label = "task"
    metric: MetricName = "exact_match"
    template: Literal["instruction", "system", "user"] = "instruction"


class JobPrompt(RequestBody):
    """Candidate prompt and its score, if known."""

    prompt: Text
    score: Finite | None = None


class JobLimits(settings_struct(Limits)):  # type: ignore[misc]
    """Limits of a job in total; the cost is in the unit of the model's prices."""


class JobConfig(
    settings_struct(  # type: ignore[misc]
        RunConfig,
        # The named model has its own concurrency and prices; custom metrics are not for requests.
        omit=("concurrency", "prices", "score_range"),
        limits=JobLimits | None,
        search=SearchConfig,
    )
):
    """Settings of a run: those of RunConfig."""


class CreateJob(RequestBody):
    """Task, pool, and the name of a model in the configuration of the server."""

    task: JobTask
    pool: Annotated[list[Text | JobPrompt], Meta(min_length=2)]
    model: Label = "local"
    judge: Label | None = None
    embeddings: Rows | PackedArray | None = None
    config: JobConfig = msgspec.field(default_factory=JobConfig)
    name: Label | None = None


class JobUsage(ResponseBody):
    """Calls and tokens so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0


class Job(ResponseBody):
    """State of a job."""

    id: str
    name: str | None
    model: str
    state: State
    phase: str | None
    created: float
    ended: float | None
    budget: int
    trials: int
    best_index: Index | None
    best_score: float | None
    usage: JobUsage
    error: str | None


class JobList(ResponseBody):
    """Page of the jobs in the order of their ids; `next` is the `after` of the next page."""

    jobs: list[Job]
    next: str | None


class JobTrial(ResponseBody):
    """Trial of one prompt: its score, or the error that prevented it."""

    number: int
    index: int
    prompt: str
    score: float | None
    partial: bool
    best_score: float | None
    error: str | None
    usage: JobUsage
    unanswered: int = 0  # examples without an answer


class JobResult(ResponseBody):
    """Result of a job, as `optimize` writes it to result.json, and its trials."""

    result: dict[str, Any]
    trials: list[JobTrial]


class SavedJob(msgspec.Struct):
    """State of a job as it is kept."""

    id: str
    name: str | None
    model: str
    budget: int
    state: State
    created: float
    key: tuple[str, str] | None = None
    ended: float | None = None
    error: str | None = None
    event: int = 0  # number of the newest event
    trials: int = 0
    best_index: int | None = None
    best_score: float | None = None
    best_prompt: str | None = None
    usage: JobUsage = msgspec.field(default_factory=JobUsage)

    @property
    def is_active(self) -> bool:
        """The job is queued or running."""
        return self.state in ("queued", "running")
