"""Scorers of prompts: by the examples of a task, or by a function of the caller."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zopo_fast._utils.aio import cancel_and_wait
from zopo_fast._utils.checks import real
from zopo_fast.errors import ConfigError, MetricError, ZopoError
from zopo_fast.llm.adapter import call_function
from zopo_fast.llm.types import ChatModel, Usage
from zopo_fast.prompts.writing.demonstrations import layout_of
from zopo_fast.scoring import metrics
from zopo_fast.scoring.evaluator import Evaluation, Evaluator, ScoredExample
from zopo_fast.scoring.unanswered import Policy, Unanswered
from zopo_fast.tasks.task import Task

MAX_BUILT_IN_SCORE = 1.0
MAX_REMEMBERED, MAX_GIVEN = 4096, 500  # wrong answers, and the characters of each


@dataclass(frozen=True)
class Score:
    """Score of a prompt.

    Attributes:
        mean: over `scores`.
        scores: by example, in the order of the examples; those left out have none.
        usage: of all calls.
        unanswered: reason for each unanswered example, by index.
    """

    mean: float
    scores: tuple[float, ...]
    usage: Usage
    unanswered: Mapping[int, Unanswered] = field(default_factory=dict)


OnScore = Callable[[int, float | None, Usage, Unanswered | None], object]
"""Called with the index of an example, its score (None: left out), its usage, and why it is unanswered."""


class Scorer(Protocol):
    """Scores prompts."""

    spent: Usage
    """Usage so far, with the answers of cancelled prompts."""
    perfect: float | None
    """Highest possible score; None: unknown."""
    parts: int
    """Number of calls a prompt takes."""

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Score a prompt on the train examples at these indices; call `on_score` for each as it arrives."""
        ...

    heldout_parts: int
    """Number of held-out examples."""

    async def heldout(self, prompt: str, on_score: OnScore | None = None) -> Score | None:
        """Score a prompt on the held-out examples, as `score` does; None where there are none."""
        ...

    def input(self, example: int) -> str:
        """Return the input of a train example."""
        ...

    def given(self, prompt: str, example: int) -> str:
        """Return the wrong answer of a prompt to a train example; "" where it is not remembered."""
        ...


class TaskScorer:
    """Scores prompts by the mean of a task's metric over its examples.

    Args:
        task: the task.
        model: answers the examples.
        judge: model of the metric "judge"; None: `model`.
        rubric: message to the judge; None: the default one.
        unanswered: treatment of unanswered examples.
        lowest: score of an unanswered example.

    Raises:
        ConfigError: the task has no train examples, or its metric cannot be used.
    """

    def __init__(
        self,
        task: Task,
        model: ChatModel,
        judge: ChatModel | None = None,
        rubric: str | None = None,
        *,
        unanswered: Policy = "fail",
        lowest: float = 0.0,
    ) -> None:
        if not task.train:
            raise ConfigError("task: no train examples to score a prompt on")
        self._task = task
        self.spent = Usage()
        self.parts, self.heldout_parts = len(task.train), len(task.heldout)
        # A metric of the caller may exceed 1.
        self.perfect = MAX_BUILT_IN_SCORE if task.metric in metrics.NAMES else None
        self._evaluator = Evaluator(
            model,
            metrics.resolve(task.metric, judge=judge or model, rubric=rubric),
            layout_of(task),
            task.demonstrations,
            on_answer=self._count,
            unanswered=unanswered,
            lowest=lowest,
        )
        self._leaves_out = unanswered == "skip"
        self._wrong: dict[tuple[str, int], str] = {}  # newest last

    def _count(self, scored: ScoredExample) -> None:
        self.spent += scored.usage

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Return the mean over the train examples at these indices."""
        return self._mean(
            await self._evaluator.evaluate(
                prompt,
                self._task.train,
                indices=examples,
                on_answer=self._reporting(on_score, prompt),
                part="train",
            )
        )

    async def heldout(self, prompt: str, on_score: OnScore | None = None) -> Score | None:
        """Return the mean over the held-out examples."""
        if not self._task.heldout:
            return None
        on_answer = None if on_score is None else self._reporting(on_score)
        return self._mean(
            await self._evaluator.evaluate(prompt, self._task.heldout, on_answer=on_answer, part="heldout")
        )

    def _reporting(self, on_score: OnScore, prompt: str | None = None) -> Callable[[ScoredExample], object]:
        """Return a callback that calls `on_score`, and remembers wrong answers of a prompt."""

        def on_answer(one: ScoredExample) -> None:
            if prompt is not None and one.unanswered is None and one.score < MAX_BUILT_IN_SCORE:
                self._remember(prompt, one)
            is_left_out = self._leaves_out and one.unanswered is not None
            on_score(one.index, None if is_left_out else one.score, one.usage, one.unanswered)

        return on_answer

    def _remember(self, prompt: str, one: ScoredExample) -> None:
        self._wrong.pop((prompt, one.index), None)
        self._wrong[prompt, one.index] = one.answer[:MAX_GIVEN]
        if len(self._wrong) > MAX_REMEMBERED:
            self._wrong.pop(next(iter(self._wrong)))

    def input(self, example: int) -> str:
        """Return the input of a train example."""
        return self._task.train[example].input

    def given(self, prompt: str, example: int) -> str:
        """Return the wrong answer of a prompt to a train example; "" where it is not remembered."""
        return self._wrong.get((prompt, example), "")

    @staticmethod
    def _mean(evaluation: Evaluation) -> Score:
        return Score(evaluation.mean, evaluation.scores, evaluation.usage, evaluation.unanswered)


@dataclass(frozen=True)
class FunctionTask:
    """Function `prompt, example -> score` of the caller with its examples.

    Attributes:
        function: async, or sync and called in a thread.
        train: the examples, of any type.
    """

    function: Callable[[str, Any], Any]
    train: tuple[Any, ...]

    @property
    def metric_name(self) -> str:
        """Name of the function."""
        return _name_of(self.function)


class FunctionScorer:
    """Scores prompts by a function `prompt -> score`, async, or sync in a thread; counts no calls."""

    perfect: float | None = None
    parts = 1
    heldout_parts = 0

    def __init__(self, function: Callable[[str], Any]) -> None:
        self._function = function
        self.spent = Usage()

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Call the function; `examples` is unused.

        Raises:
            MetricError: the function raised, or returned anything but a finite number.
        """
        score = await _called(self._function, prompt, self._function, prompt)
        on_score(0, score, Usage(), None)
        return Score(score, (score,), Usage())

    async def heldout(self, prompt: str, on_score: OnScore | None = None) -> Score | None:
        """Return None: a function has no held-out examples."""
        return None

    def input(self, example: int) -> str:
        """Return "": a function has no examples."""
        return ""

    def given(self, prompt: str, example: int) -> str:
        """Return "": a function gives no answer."""
        return ""


class ExampleFunctionScorer(FunctionScorer):
    """Scores prompts by the mean of a function `prompt, example -> score` over its examples.

    Args:
        task: the function and its examples.
        slots: number of calls at a time.
    """

    def __init__(self, task: FunctionTask, slots: int) -> None:
        self._task, self._slots = task, asyncio.Semaphore(slots)
        self.spent = Usage()
        self.parts = len(task.train)

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Call the function for the examples at these indices.

        Raises:
            MetricError: the function raised, or returned anything but a finite number.
        """
        function = functools.partial(self._task.function, prompt)

        async def one(index: int) -> float:
            async with self._slots:
                score = await _called(self._task.function, prompt, function, self._task.train[index])
            on_score(index, score, Usage(), None)
            return score

        calls = [asyncio.ensure_future(one(index)) for index in examples]
        try:
            scores = tuple(await asyncio.gather(*calls))
        finally:
            await cancel_and_wait(calls)
        return Score(math.fsum(scores) / len(scores), scores, Usage())


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


async def _called(named: Callable[..., Any], prompt: str, function: Callable[[Any], Any], it: Any) -> float:
    """Return function(it), a finite number; errors name `named` and the prompt."""
    try:
        value = await call_function(function, it)
        score = real(value)
    except (ZopoError, asyncio.CancelledError):
        raise
    except Exception as error:
        raise MetricError(f"{_name_of(named)} failed on {prompt[:80]!r}: {error!r}") from error
    if not math.isfinite(score):
        raise MetricError(f"{_name_of(named)} returned {value!r} for {prompt[:80]!r}: not a finite number")
    return score


def prompts_at_once(calls: int, parts: int) -> int:
    """Return the number of prompts in flight that keeps `calls` slots full while one prompt ends."""
    return max(2, math.ceil(calls / parts) + 1)


def scorer_for(
    task: Task | FunctionTask | Callable[[str], Any],
    model: ChatModel | None,
    judge: ChatModel | None = None,
    rubric: str | None = None,
    *,
    unanswered: Policy = "fail",
    lowest: float = 0.0,
    concurrency: int = 1,
) -> tuple[Scorer, int]:
    """Return the scorer of a task or function, and the number of calls its model runs at once.

    A function `prompt -> score` counts as one call at a time, whatever it runs concurrently.

    Args:
        task: a Task, a FunctionTask, or a function `prompt -> score`.
        model: answers the examples; unused with a function.
        judge: model of the metric "judge"; None: `model`.
        rubric: message to the judge; None: the default one.
        unanswered: treatment of unanswered examples of a Task.
        lowest: score of an unanswered example.
        concurrency: calls of a FunctionTask at a time.

    Raises:
        ConfigError: `task` is none of these, or has no train examples, or no model is given for it.
    """
    if isinstance(task, FunctionTask):
        return ExampleFunctionScorer(task, concurrency), concurrency
    if not isinstance(task, Task):
        if not callable(task):
            kind = type(task).__name__
            raise ConfigError(f"task: expected a Task or a function prompt -> score, got {kind}")
        return FunctionScorer(task), 1
    if model is None:
        raise ConfigError("llm: a Task needs a model that answers its examples")
    scorer = TaskScorer(task, model, judge, rubric, unanswered=unanswered, lowest=lowest)
    return scorer, model.slots
