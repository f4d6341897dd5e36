"""One prompt, one score: a task's examples or a user's function behind the same call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zopo_fast._utils.checks import real
from zopo_fast.errors import (
    ConfigError,
    MalformedAnswerError,
    MetricError,
    RequestRejectedError,
    ZopoError,
)
from zopo_fast.llm.adapter import call_function
from zopo_fast.llm.types import ChatModel, Usage
from zopo_fast.scoring import metrics
from zopo_fast.scoring.evaluator import Evaluation, Evaluator, Scored
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Task

# What is wrong with one prompt (too long, refused by a filter) says nothing about the next.
OF_THE_PROMPT = (RequestRejectedError, MalformedAnswerError)
PERFECT = 1.0  # no metric that is built in goes higher


@dataclass(frozen=True)
class Score:
    """Score of a prompt, its parts by example, and what it took."""

    mean: float
    scores: tuple[float, ...]
    usage: Usage


OnScore = Callable[[int, float, Usage], object]
"""Called with the place of an example, the score there and what it took."""


class Scorer(Protocol):
    """Scores prompts; `spent` is the running total, answers of cancelled prompts included."""

    spent: Usage
    perfect: float | None
    parts: int

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Score a prompt on the train examples at these places; `on_score` hears of each as it comes in."""

    async def heldout(self, prompt: str) -> Score | None:
        """Score on examples that the search never sees; None where there are none."""


class TaskScorer:
    """Mean of the task's metric over its examples; `judge` answers for the metric "judge"."""

    def __init__(
        self, task: Task, model: ChatModel, judge: ChatModel | None = None, rubric: str | None = None
    ) -> None:
        if not task.train:
            raise ConfigError("task: it has no train examples to score a prompt on")
        self._task = task
        self.spent = Usage()
        self.parts = len(task.train)
        # A metric of the user's may go beyond 1: only the built-in ones have a known end.
        self.perfect = PERFECT if task.metric in metrics.NAMES else None
        self._evaluator = Evaluator(
            model,
            metrics.resolve(task.metric, judge=judge or model, rubric=rubric),
            template.resolve(task.template),
            task.demonstrations,
            on_answer=self._count,
        )

    def _count(self, scored: Scored) -> None:
        self.spent += scored.usage

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Mean over the train examples at these places."""
        return self._mean(
            await self._evaluator.evaluate(
                prompt,
                self._task.train,
                indices=examples,
                on_answer=lambda one: on_score(one.index, one.score, one.usage),
                part="train",
            )
        )

    async def heldout(self, prompt: str) -> Score | None:
        """Mean over the held-out examples."""
        if not self._task.heldout:
            return None
        return self._mean(await self._evaluator.evaluate(prompt, self._task.heldout, part="heldout"))

    @staticmethod
    def _mean(evaluation: Evaluation) -> Score:
        return Score(evaluation.mean, evaluation.scores, evaluation.usage)


class FunctionScorer:
    """A user's `prompt -> score`, async, or sync and run in a thread; its own calls are not counted."""

    perfect: float | None = None
    parts = 1

    def __init__(self, function: Callable[[str], Any]) -> None:
        self._function = function
        self.spent = Usage()

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Call the function, which has no examples to choose from.

        Raises:
            MetricError: it raised, or returned anything but a finite number.
        """
        label = getattr(self._function, "__name__", type(self._function).__name__)
        try:
            value = await call_function(self._function, prompt)
            score = real(value)
        except (ZopoError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise MetricError(f"{label} failed on {prompt[:80]!r}: {error!r}") from error
        if not math.isfinite(score):
            raise MetricError(f"{label} returned {value!r} for {prompt[:80]!r}: not a finite number")
        on_score(0, score, Usage())
        return Score(score, (score,), Usage())

    async def heldout(self, prompt: str) -> Score | None:
        """None: a function has no held-out examples."""
        return None


def prompts_at_once(calls: int, parts: int) -> int:
    """Prompts of `parts` calls each that keep so many calls busy while one of them ends."""
    return max(2, math.ceil(calls / parts) + 1)


def scorer_for(
    task: Task | Callable[[str], Any],
    model: ChatModel | None,
    judge: ChatModel | None = None,
    rubric: str | None = None,
) -> tuple[Scorer, int]:
    """Return the scorer of a task or function, and the number of calls its model runs at once.

    A function counts as one call at a time, whatever it runs concurrently.

    Args:
        task: a Task, or a function `prompt -> score`.
        model: answers the examples; unused with a function.
        judge: model of the metric "judge"; None: `model`.
        rubric: message to the judge; None: the default one.

    Raises:
        ConfigError: `task` is neither, or has no train examples, or no model is given for it.
    """
    if not isinstance(task, Task):
        if not callable(task):
            kind = type(task).__name__
            raise ConfigError(f"task: expected a Task or a function prompt -> score, got {kind}")
        return FunctionScorer(task), 1
    if model is None:
        raise ConfigError("llm: a Task needs a model that answers its examples")
    return TaskScorer(task, model, judge, rubric), model.slots
