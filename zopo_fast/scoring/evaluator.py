"""Evaluation of one prompt: all examples concurrently, each exactly once, no task left running.

    evaluator = Evaluator(client, metrics.resolve("contains"), template.resolve("instruction"))
    evaluation = await evaluator.evaluate("Is the review positive or negative?", task.train)
    print(evaluation.mean, evaluation.usage)

The model limits the number of calls in flight.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zopo_fast.errors import InputError, LLMError, ZopoError
from zopo_fast.llm.answer_text import answer_text
from zopo_fast.llm.tokens import estimate_call
from zopo_fast.llm.types import CallKey, Usage
from zopo_fast.scoring.unanswered import concerns_call, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zopo_fast.llm.types import ChatModel
    from zopo_fast.scoring.metrics import Metric
    from zopo_fast.scoring.unanswered import Policy, Unanswered
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
    unanswered: Unanswered | None = None
    """Reason why a call failed; `score` is then that of an unanswered example."""


@dataclass(frozen=True)
class Evaluation:
    """Scores and answers of one prompt, in the order of the examples or of `indices`.

    Attributes:
        prompt: the prompt.
        scores: one an example; examples that are left out have none.
        answers: one a score; "" for an unanswered example.
        usage: of all calls.
        indices: indices of the examples behind `scores`.
        unanswered: reason for each unanswered example, by index.
    """

    prompt: str
    scores: tuple[float, ...]
    answers: tuple[str, ...]
    usage: Usage
    indices: tuple[int, ...] = ()
    unanswered: Mapping[int, Unanswered] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Score of the prompt: the mean over the examples with a score; NaN where there is none."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.nan


class Evaluator:
    """Evaluates prompts with a model, a metric and a template.

    Args:
        model: answers the examples.
        metric: scores the answers.
        template: makes the messages of prompt and input.
        demonstrations: examples shown in every call.
        on_answer: called with each `ScoredExample` as it arrives, in any order, so that the caller keeps the
            paid answers even if a later call fails. An exception of it ends the evaluation.
        unanswered: treatment of an example whose call, or the metric's call, fails while other calls may be
            answered: "zero" scores it `lowest`, "skip" leaves it out, "fail" raises the error.
        lowest: score of an unanswered example.
    """

    def __init__(
        self,
        model: ChatModel,
        metric: Metric,
        template: Template,
        demonstrations: Sequence[Example] = (),
        on_answer: Callable[[ScoredExample], object] | None = None,
        unanswered: Policy = "fail",
        lowest: float = 0.0,
    ) -> None:
        self._model = model
        self._metric = metric
        self._template = template
        self._demonstrations = tuple(demonstrations)
        self._on_answer = on_answer
        self._policy, self._lowest = unanswered, lowest

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

        When a call fails for good, the others are cancelled and awaited, unless its example counts as
        unanswered. The error that is raised names the
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
        counted = [one for one in scored if one.unanswered is None or self._policy == "zero"]
        return Evaluation(
            prompt=prompt,
            scores=tuple(one.score for one in counted),
            answers=tuple(one.answer for one in counted),
            usage=sum((one.usage for one in scored), Usage()),
            indices=tuple(one.index for one in counted),
            unanswered={one.index: one.unanswered for one in scored if one.unanswered is not None},
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
        usage, text = Usage(), ""
        try:
            answer = await self._model.chat(messages, key=key)
            usage = answer.usage
            text = answer_text(answer)
            counts = answer.usage.answer_tokens or estimate_call(messages, text)
            usage = usage.with_answer_tokens(counts)
            score, spent = await self._metric.measure(text, example, key)
            usage += spent.with_answer_tokens(None)  # a judge's calls are no calls of the prompt in use
            scored = ScoredExample(key.example, example, text, score, usage)
        except LLMError as error:
            if self._policy == "fail" or not concerns_call(error):
                raise
            # Of a judge whose paid answer cannot be used.
            usage += getattr(error, "usage", Usage()).with_answer_tokens(None)
            scored = ScoredExample(key.example, example, text, self._lowest, usage, reason_of(error))
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
