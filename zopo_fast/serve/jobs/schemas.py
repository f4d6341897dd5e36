"""What goes in and out of optimize jobs, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zopo_fast.serve.http.schemas import Answer, Count, Finite, Index, Label, Positive, Request, Text, Whole
from zopo_fast.serve.studies.schemas import PackedArray, Rows, SearchConfig

Few = Annotated[int, Meta(ge=1, le=1000)]
Output = Text | Annotated[list[Text], Meta(min_length=1)]
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


class JobExample(Request):
    """An input and the output, or outputs, accepted for it."""

    input: Text
    output: Output


class JobTask(Request):
    """What prompts are scored on. Metrics of one's own are not: a request brings no code."""

    examples: Annotated[list[JobExample], Meta(min_length=1)]
    heldout: list[JobExample] = msgspec.field(default_factory=list)
    demonstrations: list[JobExample] = msgspec.field(default_factory=list)
    name: Label = "task"
    metric: Literal["exact_match", "f1", "exact_set", "contains", "multiple_choice", "judge"] = "exact_match"
    template: Literal["instruction", "system", "user"] = "instruction"


class JobPrompt(Request):
    """A candidate, with its score where that is known."""

    prompt: Text
    score: Finite | None = None


class JobLimits(Request):
    """What a job may take in all; cost is in the unit of the model's prices."""

    calls: Count | None = None
    tokens: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    cost: Positive | None = None
    seconds: Positive | None = None


class JobConfig(Request):
    """Settings of a run: those of RunConfig, with its defaults."""

    budget: Count = 50
    initial: Count = 10
    seed: Whole = 0
    prompts_in_flight: Few | None = None
    incumbent: Text | None = None
    stop_at_perfect: bool = True
    target: Finite | None = None
    heldout: bool = True
    compare_random: bool = False
    racing: bool | None = None
    calls: Count | None = None
    race_error: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    race_first: Few = 4
    race_batch: Few | None = None
    rubric: Text | None = None
    max_failures: Few = 5
    limits: JobLimits | None = None
    search: SearchConfig = msgspec.field(default_factory=SearchConfig)


class CreateJob(Request):
    """A task, a pool, and the name of a model in the server's configuration."""

    task: JobTask
    pool: Annotated[list[Text | JobPrompt], Meta(min_length=2)]
    model: Label = "local"
    judge: Label | None = None
    embeddings: Rows | PackedArray | None = None
    config: JobConfig = msgspec.field(default_factory=JobConfig)
    name: Label | None = None


class JobUsage(Answer):
    """What calls cost so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0


class Job(Answer):
    """A job's state."""

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


class JobList(Answer):
    """Jobs in order of their ids; `next` is the `after` of the next page."""

    jobs: list[Job]
    next: str | None


class JobTrial(Answer):
    """One prompt that was scored, or whose scoring failed."""

    number: int
    index: int
    prompt: str
    score: float | None
    partial: bool
    best_score: float | None
    error: str | None
    usage: JobUsage


class JobResult(Answer):
    """A job's outcome, as `optimize` writes it to result.json, and its trials."""

    result: dict[str, Any]
    trials: list[JobTrial]


class Saved(msgspec.Struct):
    """A job as its folder keeps it."""

    id: str
    name: str | None
    model: str
    budget: int
    state: State
    created: float
    key: tuple[str, str] | None = None
    ended: float | None = None
    error: str | None = None
    event: int = 0  # number of the newest one
    trials: int = 0
    best_index: int | None = None
    best_score: float | None = None
    usage: JobUsage = msgspec.field(default_factory=JobUsage)
