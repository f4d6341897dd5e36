"""Summaries of studies and jobs, as the rows of the list show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zopo_fast.llm.limits import Prices
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.models import NamedModel
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.storage.store import Event

JOB_STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
STUDY_STATES = ("new", "open", "done")
STATES = ("new", "open", *JOB_STATES)
ACTIVE = ("queued", "running")


class Spending(NamedTuple):
    """Calls, tokens and money of a job; `cost` is None where the model has no prices."""

    calls: int
    tokens: int
    cost: float | None


@dataclass(frozen=True)
class Summary:
    """Summary of a study or job.

    Attributes:
        kind: "study" or "job".
        id: 16 hexadecimal digits.
        name: name given at creation, or "".
        state: one of STATES.
        phase: phase of a running job, or "".
        best_score: best score so far; None before the first.
        best_prompt: its prompt; None where the pool has no texts.
        scored: number of scored prompts.
        budget: number of prompts to score.
        created: Unix time.
        model: model of a job, or "".
        spending: of a job; None for a study, whose client calls the model.
        error: why a job failed, or "".
    """

    kind: str
    id: str
    name: str
    state: str
    best_score: float | None
    best_prompt: str | None
    scored: int
    budget: int
    created: float
    phase: str = ""
    model: str = ""
    spending: Spending | None = None
    error: str = ""

    @property
    def title(self) -> str:
        """Name, or kind and id of a run without one."""
        return self.name or f"{self.kind.capitalize()} {self.id[:6]}"

    @property
    def path(self) -> str:
        """Path of the run's page, below the server's root."""
        return f"ui/{'jobs' if self.kind == 'job' else 'studies'}/{self.id}"

    @property
    def is_active(self) -> bool:
        """The job is queued or running."""
        return self.state in ACTIVE

    @property
    def is_resumable(self) -> bool:
        """The job can be resumed."""
        return self.kind == "job" and self.state in ("interrupted", "failed", "cancelled")


def job_summary(job: JobRecord, models: Mapping[str, NamedModel]) -> Summary:
    """Summarize a job."""
    saved = job.saved
    usage, model = saved.usage, models.get(saved.model)
    prices = None if model is None or model.prices is None else Prices(*model.prices)
    cost = None if prices is None else prices.of(usage.prompt_tokens, usage.completion_tokens)
    return Summary(
        kind="job",
        id=saved.id,
        name=saved.name or "",
        state=saved.state,
        best_score=saved.best_score,
        best_prompt=saved.best_prompt,
        scored=saved.trials,
        budget=saved.budget,
        created=saved.created,
        phase=job.phase or "",
        model=saved.model,
        spending=Spending(usage.calls, usage.prompt_tokens + usage.completion_tokens, cost),
        error=saved.error or "",
    )


class Scores(NamedTuple):
    """Scores of a study.

    Attributes:
        asked: prompts asked and not discarded, in order.
        told: the last score of each prompt, in order of the first.
        is_partial: prompts whose score is not final.
        pending: prompts that wait for their final score.
    """

    asked: list[int]
    told: dict[int, float]
    is_partial: set[int]
    pending: set[int]

    def best(self) -> tuple[int, float] | None:
        """Return index and score of the best prompt; any final score beats a partial one."""
        final = {i: score for i, score in self.told.items() if i not in self.is_partial} or self.told
        if not final:
            return None
        index = max(final, key=final.__getitem__)
        return index, final[index]


def scores_of(events: Sequence[Event]) -> Scores:
    """Collect the scores of a study's log."""
    scores = Scores([], {}, set(), set())
    for event in events:
        data: Any = event.data
        if event.kind == "ask":
            scores.asked.extend(data[1])
            scores.pending.update(data[1])
        elif event.kind == "tell":
            index, score, _, is_final = data
            scores.told[index] = float(score)
            if is_final:
                scores.pending.discard(index)
                scores.is_partial.discard(index)
            else:
                scores.is_partial.add(index)
        elif event.kind == "discard":
            scores.pending.discard(data[0])
            scores.asked.remove(data[0])
    return scores


async def study_summary(record: StudyRecord) -> Summary:
    """Summarize a study without loading it.

    Raises:
        StoreError: the file of the study cannot be read.
    """
    meta = record.meta
    budget = min(int(meta["config"].get("budget", meta["prompts"])), int(meta["prompts"]))
    study = record.study
    if (
        study is not None and record.is_current and not record.lock.locked()
    ):  # else a thread may be using the search
        best, texts = study.best(), study.prompts
        index, score = (None, None) if best is None else (best.index, best.score)
        scored, has_begun, is_done = len(study.scored), study.has_begun, study.optimizer.done
    else:
        texts, events = await record.read_log()
        scores = scores_of(events)
        found = scores.best()
        index, score = (None, None) if found is None else found
        scored, has_begun = len(scores.told), bool(scores.asked or scores.told)
        is_done = not scores.pending and len({*scores.asked, *scores.told}) >= budget
    return Summary(
        kind="study",
        id=record.id,
        name=meta["name"] or "",
        state="done" if is_done else "open" if has_begun else "new",
        best_score=score,
        best_prompt=None if index is None or texts is None else texts[index],
        scored=scored,
        budget=budget,
        created=float(meta["created"]),
    )
