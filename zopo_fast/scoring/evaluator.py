"""Scoring one prompt on examples: every call at once, each example exactly once, nothing left running.

    evaluator = Evaluator(client, metrics.resolve("contains"), template.resolve("instruction"))
    evaluation = await evaluator.evaluate("Is the review positive or negative?", task.train)
    print(evaluation.mean, evaluation.usage)

How many calls are really under way at once is the client's to limit.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import InputError, LLMError, ZopoError
from zopo_fast.llm.types import CallKey, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from zopo_fast.llm.types import ChatModel
    from zopo_fast.scoring.metrics import Metric
    from zopo_fast.tasks.task import Example
    from zopo_fast.tasks.template import Template


@dataclass(frozen=True)
class Scored:
    """One answered and scored example; `index` is its place in the examples given to `evaluate`."""

    index: int
    example: Example
    answer: str
    score: float
    usage: Usage  # of the answer, and of the judge where the metric is one


@dataclass(frozen=True)
class Evaluation:
    """Scores and answers of one prompt, in the order of the examples (or of the `indices`)."""

    prompt: str
    scores: tuple[float, ...]
    answers: tuple[str, ...]
    usage: Usage
    indices: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """The prompt's score: the mean over the examples."""
        return math.fsum(self.scores) / len(self.scores)


class Evaluator:
    """Scores prompts with a model, a metric and a template; `demonstrations` are shown in every call.

    `on_answer` is called with each `Scored` as it comes in, in any order: what was paid for can be kept even
    if a later call fails. What it raises ends the evaluation.
    """

    def __init__(
        self,
        model: ChatModel,
        metric: Metric,
        template: Template,
        demonstrations: Sequence[Example] = (),
        on_answer: Callable[[Scored], object] | None = None,
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
        on_answer: Callable[[Scored], object] | None = None,
        part: str = "",
    ) -> Evaluation:
        """Score `prompt` on all `examples`, or on those at `indices` (no two alike).

        `on_answer` is called for this prompt besides the evaluator's own. `part` says which examples they are
        where a study keeps the answers.

        When one call fails for good, the others are cancelled and awaited, and its error is raised with the
        example it was about (also as `error.example_index`). Raises InputError for nothing to score on.
        """
        chosen = tuple(range(len(examples)) if indices is None else indices)
        if not chosen:
            raise InputError("no examples to score the prompt on")
        if len(set(chosen)) != len(chosen) or not all(0 <= i < len(examples) for i in chosen):
            raise InputError(f"indices have to be different numbers from 0 to {len(examples) - 1}")
        heard = [one for one in (self._on_answer, on_answer) if one is not None]
        keys = {i: CallKey(part, prompt, i) for i in chosen}
        scored = await _all({i: self._score(key, examples[i], heard) for i, key in keys.items()}, examples)
        return Evaluation(
            prompt=prompt,
            scores=tuple(one.score for one in scored),
            answers=tuple(one.answer for one in scored),
            usage=sum((one.usage for one in scored), Usage()),
            indices=chosen,
        )

    async def _score(
        self, key: CallKey, example: Example, heard: Sequence[Callable[[Scored], object]]
    ) -> Scored:
        messages = self._template.render(key.prompt, example.input, self._demonstrations)
        answer = await self._model.chat(messages, key=key)
        score, spent = await self._metric.measure(answer.text, example, key)
        scored = Scored(key.example, example, answer.text, score, answer.usage + spent)
        for tell in heard:
            tell(scored)
        return scored


async def _all(calls: dict[int, Coroutine[Any, Any, Scored]], examples: Sequence[Example]) -> list[Scored]:
    """Return the results of all calls, in order.

    On the first failure, or when cancelled, cancel the other calls and wait until all have ended. As in
    asyncio.TaskGroup, but the first failure is raised as it is and not in an ExceptionGroup.
    """
    tasks = {index: asyncio.ensure_future(call) for index, call in calls.items()}
    failures: list[tuple[int, BaseException]] = []
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        for index, task in tasks.items():
            if task.done() and (error := _failure(task)) is not None:
                failures.append((index, error))
    finally:
        # Failures that come up only while the others are being cancelled are not the cause: not reported.
        await _end(list(tasks.values()))
    if failures:
        index, error = failures[0]
        raise _about(error, index, examples[index])
    return [task.result() for task in tasks.values()]


def _failure(task: asyncio.Task[Scored]) -> BaseException | None:
    if task.cancelled():  # not by us, who have cancelled nothing yet
        return LLMError("the call was cancelled by the model's client")
    return task.exception()


def _about(error: BaseException, index: int, example: Example) -> BaseException:
    """The error, saying which example it is about; its type stays, so that callers can tell them apart."""
    note = f"example {index}: {example.input!r:.80}"
    if getattr(error, "example_index", None) is None:
        error.example_index = index  # type: ignore[attr-defined]
        if isinstance(error, ZopoError):
            error.args = (f"{error} ({note})", *error.args[1:])
        else:  # an error of another library keeps its own text
            error.add_note(note)
    return error


async def _end(tasks: Sequence[asyncio.Task[Scored]]) -> None:
    """Cancel what still runs and wait for it, however often this is cancelled meanwhile."""
    interrupted: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            interrupted = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as seen: asyncio would complain about it later
    if interrupted is not None:
        raise interrupted
