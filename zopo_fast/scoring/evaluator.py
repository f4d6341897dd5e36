"""Evaluation of one prompt: all examples concurrently, each exactly once, no task left running.

    evaluator = Evaluator(client, metrics.resolve("contains"), template.resolve("instruction"))
    evaluation = await evaluator.evaluate("Is the review positive or negative?", task.train)
    print(evaluation.mean, evaluation.usage)

The model limits the number of calls in flight.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zopo_fast.errors import InputError, LLMError, ZopoError
from zopo_fast.llm.answer_text import answer_text
from zopo_fast.llm.types import CallKey, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zopo_fast.llm.types import ChatModel
    from zopo_fast.scoring.metrics import Metric
    from zopo_fast.tasks.task import Example
    from zopo_fast.tasks.template import Template


@dataclass(frozen=True)
class ScoredExample:
    """Score of one example; `index` is its index in the examples given to `evaluate`."""

    index: int
    example: Example
    answer: str
    score: float
    usage: Usage
    """Usage of the answer and of the metric's own calls."""


@dataclass(frozen=True)
class Evaluation:
    """Scores and answers of one prompt, in the order of the examples or of `indices`."""

    prompt: str
    scores: tuple[float, ...]
    answers: tuple[str, ...]
    usage: Usage
    indices: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Score of the prompt: the mean over the examples."""
        return math.fsum(self.scores) / len(self.scores)


class Evaluator:
    """Evaluates prompts with a model, a metric and a template.

    Args:
        model: answers the examples.
        metric: scores the answers.
        template: makes the messages of prompt and input.
        demonstrations: examples shown in every call.
        on_answer: called with each `ScoredExample` as it arrives, in any order, so that the caller keeps the
            paid answers even if a later call fails. An exception of it ends the evaluation.
    """

    def __init__(
        self,
        model: ChatModel,
        metric: Metric,
        template: Template,
        demonstrations: Sequence[Example] = (),
        on_answer: Callable[[ScoredExample], object] | None = None,
    ) -> None:
        self._model = model
        self._metric = metric
        self._template = template
        self._demonstrations = tuple(demonstrations)
        self._on_answer = on_answer

    async def evaluate(
        self,
        prompt: str,
        examples: Sequence[Example],
        *,
        indices: Sequence[int] | None = None,
        on_answer: Callable[[ScoredExample], object] | None = None,
        part: str = "",
    ) -> Evaluation:
        """Evaluate a prompt on examples.

        When a call fails for good, the others are cancelled and awaited. The error that is raised names the
        example and has its index as `example_index`.

        Args:
            prompt: the prompt.
            examples: the examples.
            indices: distinct indices of the examples to score; None: all.
            on_answer: called for this prompt in addition to the evaluator's own callback.
            part: part of the task the examples are; part of the key of each call.

        Raises:
            InputError: there is nothing to score on, or `indices` repeats or exceeds the examples.
        """
        chosen = tuple(range(len(examples)) if indices is None else indices)
        if not chosen:
            raise InputError("no examples to score the prompt on")
        if len(set(chosen)) != len(chosen) or not all(0 <= i < len(examples) for i in chosen):
            raise InputError(f"indices: expected distinct numbers from 0 to {len(examples) - 1}")
        callbacks = [one for one in (self._on_answer, on_answer) if one is not None]
        keys = {i: CallKey(part, prompt, i) for i in chosen}
        tasks = [
            asyncio.ensure_future(self._score_one(key, examples[i], callbacks)) for i, key in keys.items()
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            scored = [task.result() for task in tasks if task.done()]
        finally:
            await _end(tasks)
        return Evaluation(
            prompt=prompt,
            scores=tuple(one.score for one in scored),
            answers=tuple(one.answer for one in scored),
            usage=sum((one.usage for one in scored), Usage()),
            indices=chosen,
        )

    async def _score_one(
        self, key: CallKey, example: Example, callbacks: Sequence[Callable[[ScoredExample], object]]
    ) -> ScoredExample:
        """Score one example; an error keeps its type and names the example."""
        try:
            return await self._score(key, example, callbacks)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error: Exception = LLMError("the model's client cancelled the call")
        except Exception as failure:
            error = failure
        note = f"example {key.example}: {example.input!r:.80}"
        if getattr(error, "example_index", None) is None:
            error.example_index = key.example  # type: ignore[attr-defined]
            if isinstance(error, ZopoError):
                error.args = (f"{error} ({note})", *error.args[1:])
            else:
                error.add_note(note)
        raise error

    async def _score(
        self, key: CallKey, example: Example, callbacks: Sequence[Callable[[ScoredExample], object]]
    ) -> ScoredExample:
        messages = self._template.render(key.prompt, example.input, self._demonstrations, example.columns)
        answer = await self._model.chat(messages, key=key)
        text = answer_text(answer)
        score, spent = await self._metric.measure(text, example, key)
        scored = ScoredExample(key.example, example, text, score, answer.usage + spent)
        for callback in callbacks:
            callback(scored)
        return scored


async def _end(tasks: Sequence[asyncio.Task[ScoredExample]]) -> None:
    """Cancel tasks and wait until each is done, even if the caller is cancelled meanwhile."""
    cancellation: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancellation = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved, else asyncio logs it
    if cancellation is not None:
        raise cancellation
