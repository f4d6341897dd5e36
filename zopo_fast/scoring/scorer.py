"""One prompt, one score: a task's examples or a user's function behind the same call."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zopo_fast._utils.aio import call_in_thread
from zopo_fast._utils.checks import real
from zopo_fast.errors import (
    ConfigError,
    LLMError,
    MalformedAnswerError,
    MetricError,
    RequestRejectedError,
    ZopoError,
)
from zopo_fast.llm.types import Answer, ChatModel, Message, Usage
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


Wrap = Callable[[ChatModel, str], ChatModel]
"""Called with a model and its role, "model" or "judge"; returns what is asked in its place."""


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
            value = await _called(self._function, prompt)
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


class FunctionModel:
    """A user's `messages -> text` (or Answer) as a chat model with at most `slots` calls at once.

    Sync functions run in threads.
    """

    def __init__(self, function: Callable[[Sequence[Message]], Any], slots: int) -> None:
        self._function = function
        self._slots = asyncio.Semaphore(slots)
        self.slots = slots

    async def chat(self, messages: Sequence[Message]) -> Answer:
        """Answer the messages; tokens are not known and stay 0 unless the function returns an Answer."""
        async with self._slots:
            try:
                answer = await _called(self._function, messages)
            except (ZopoError, asyncio.CancelledError):
                raise
            except Exception as error:
                raise LLMError(f"the model function failed: {error!r}") from error
        if isinstance(answer, Answer):
            return answer
        if not isinstance(answer, str):
            raise MetricError(f"the model function returned {type(answer).__name__}, expected str or Answer")
        return Answer(answer, Usage(calls=1))


async def _called(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call a user's function: async ones here, sync ones in a thread, where they may block."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(argument)
    value = await call_in_thread(function, argument)
    return await value if inspect.isawaitable(value) else value


def calls_at_once(llm: Any) -> int | None:
    """How many calls the model runs at once, where it says so."""
    own: int | None = getattr(getattr(llm, "config", None), "concurrency", None)
    return own or getattr(llm, "slots", None)


def prompts_at_once(calls: int, parts: int) -> int:
    """Prompts of `parts` calls each that keep so many calls busy while one of them ends."""
    return max(2, math.ceil(calls / parts) + 1)


def scorer_for(
    task: Task | Callable[[str], Any],
    llm: Any,
    slots: int,
    judge: ChatModel | None = None,
    rubric: str | None = None,
    wrap: Wrap = lambda model, _: model,
) -> tuple[Scorer, int]:
    """Return the scorer of a task (or function) and how many calls its model runs at once.

    `wrap` puts what it likes around the model, and around the judge, which it is told by their role.

    A task function counts as one call at a time: how much it runs at once is its own affair.
    """
    if not isinstance(task, Task):
        if not callable(task):
            kind = type(task).__name__
            raise ConfigError(f"task: expected a Task or a function prompt -> score, got {kind}")
        return FunctionScorer(task), 1
    if not hasattr(llm, "chat"):
        if not callable(llm):
            raise ConfigError("llm: expected a client with chat(), or a function messages -> text")
        llm = FunctionModel(llm, slots)
    scorer = TaskScorer(task, wrap(llm, "model"), wrap(judge or llm, "judge"), rubric)
    return scorer, calls_at_once(llm) or slots
