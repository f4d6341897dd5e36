"""Evaluator: order, usage, failures, and no task left running."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from zopo_fast.errors import InputError, LLMError, MetricError, ServerError
from zopo_fast.llm.types import Answer, CallKey, Usage
from zopo_fast.scoring import metrics
from zopo_fast.scoring.evaluator import Evaluator, ScoredExample
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Example

EXAMPLES = [Example(str(i), (f"out {i}",)) for i in range(6)]
ONE = Usage(prompt_tokens=10, completion_tokens=1, calls=1)


class Model:
    """Model that answers by the async function `reply(input)`; counts calls in flight."""

    def __init__(self, reply: Callable[[str], Coroutine[Any, Any, str]]) -> None:
        self.reply = reply
        self.asked: list[str] = []
        self.keys: list[CallKey | None] = []
        self.running = self.most = self.cancelled = 0

    async def chat(
        self, messages: Sequence[Mapping[str, str]], *, key: CallKey | None = None, account: Any = None
    ) -> Answer:
        self.asked.append(messages[-1]["content"])
        self.keys.append(key)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return Answer(await self.reply(self.asked[-1]), ONE)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def evaluator(model: Model, metric: Any = "exact_match", **more: Any) -> Evaluator:
    return Evaluator(model, metrics.resolve(metric), template.resolve("system"), **more)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`; assert that no task is left and that asyncio logged no error."""
    complaints: list[Any] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.wait_for(main(), 60)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()  # asyncio logs an exception that was never retrieved when its task is collected

    asyncio.run(watched())
    assert complaints == []


async def forever(_: str) -> str:
    await asyncio.Event().wait()
    raise AssertionError


def test_scores_come_in_the_order_of_the_examples_though_answers_do_not() -> None:
    async def main() -> None:
        gates = {example.input: asyncio.Event() for example in EXAMPLES}

        async def reply(asked: str) -> str:
            if asked == "5":  # the last call answers first and releases the one before it
                assert model.running == len(EXAMPLES)
            else:
                await gates[str(int(asked) + 1)].wait()
            gates[asked].set()
            return f"out {asked}" if int(asked) % 2 else "wrong"

        model, seen = Model(reply), list[ScoredExample]()
        evaluation = await evaluator(model, on_answer=seen.append).evaluate("Echo.", EXAMPLES)
        assert evaluation.scores == (0, 1, 0, 1, 0, 1)
        assert evaluation.mean == 0.5
        assert evaluation.answers == ("wrong", "out 1", "wrong", "out 3", "wrong", "out 5")
        assert (evaluation.prompt, evaluation.indices) == ("Echo.", (0, 1, 2, 3, 4, 5))
        assert evaluation.usage == Usage(60, 6, 6)
        assert sorted(model.asked) == [example.input for example in EXAMPLES]
        assert model.most == len(EXAMPLES)
        assert [one.index for one in seen] == [5, 4, 3, 2, 1, 0]
        assert (seen[0].example, seen[0].answer, seen[0].score) == (EXAMPLES[5], "out 5", 1)

    run(main)


def test_a_subset_is_scored_by_index() -> None:
    async def main() -> None:
        async def reply(asked: str) -> str:
            return f"out {asked}"

        model, seen = Model(reply), list[ScoredExample]()
        evaluation = await evaluator(model, on_answer=seen.append).evaluate("Echo.", EXAMPLES, indices=[4, 1])
        assert (evaluation.indices, evaluation.answers) == ((4, 1), ("out 4", "out 1"))
        assert {(one.index, one.example.input) for one in seen} == {(4, "4"), (1, "1")}
        for indices in ([], [1, 1], [6], [-1]):
            with pytest.raises(InputError):
                await evaluator(model).evaluate("Echo.", EXAMPLES, indices=indices)
        with pytest.raises(InputError, match="no examples"):
            await evaluator(model).evaluate("Echo.", [])
        assert len(model.asked) == 2

    run(main)


def test_the_template_gets_prompt_input_and_demonstrations() -> None:
    async def main() -> None:
        sent: list[Sequence[Mapping[str, str]]] = []

        class Recorder:
            async def chat(self, messages: Sequence[Mapping[str, str]], **_: Any) -> Answer:
                sent.append(messages)
                return Answer("out 0", ONE)

        shots = [Example("7", ("out 7",))]
        chosen = template.resolve("instruction")
        await Evaluator(Recorder(), metrics.resolve("f1"), chosen, shots).evaluate("Echo.", EXAMPLES[:1])
        assert sent == [chosen.render("Echo.", "0", shots)]

    run(main)


@pytest.mark.parametrize("error", [ServerError("the server broke"), RuntimeError("the server broke")])
def test_a_failed_call_cancels_the_others_and_names_its_example(error: Exception) -> None:
    async def main() -> None:
        async def reply(asked: str) -> str:
            if asked != "3":
                return await forever(asked)
            while model.running < len(EXAMPLES):
                await asyncio.sleep(0)
            raise error

        model = Model(reply)
        with pytest.raises(type(error)) as caught:
            await evaluator(model).evaluate("Echo.", EXAMPLES)
        assert caught.value is error
        assert error.example_index == 3  # type: ignore[attr-defined]
        assert "the server broke" in str(error)
        told = " ".join([str(error), *getattr(error, "__notes__", [])])
        assert "example 3: '3'" in told
        assert (model.running, model.cancelled) == (0, 5)

    run(main)


def test_errors_that_come_up_while_cancelling_do_not_hide_the_first() -> None:
    async def main() -> None:
        async def reply(asked: str) -> str:
            if asked == "3":
                raise ServerError("first")
            try:
                return await forever(asked)
            finally:
                raise LLMError("only because it was cancelled")

        with pytest.raises(ServerError, match=r"first \(example 3"):
            await evaluator(Model(reply)).evaluate("Echo.", EXAMPLES)

    run(main)


def test_cancelling_the_evaluation_cancels_every_call() -> None:
    async def main() -> None:
        model = Model(forever)
        task = asyncio.create_task(evaluator(model).evaluate("Echo.", EXAMPLES))
        while model.running < len(EXAMPLES):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (model.running, model.cancelled) == (0, len(EXAMPLES))

    run(main)


def test_cancelling_twice_still_waits_for_calls_that_clean_up() -> None:
    async def main() -> None:
        cleaned, may_end = list[str](), asyncio.Event()

        async def reply(asked: str) -> str:
            try:
                return await forever(asked)
            finally:
                await may_end.wait()
                cleaned.append(asked)

        model = Model(reply)
        task = asyncio.create_task(evaluator(model).evaluate("Echo.", EXAMPLES))
        while model.running < len(EXAMPLES):
            await asyncio.sleep(0)
        for _ in range(2):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(cleaned) == len(EXAMPLES)

    run(main)


def test_a_cancellation_during_the_clean_up_after_a_failure_is_not_lost() -> None:
    async def main() -> None:
        may_end = asyncio.Event()

        async def reply(asked: str) -> str:
            if asked == "3":
                raise ServerError("first")
            try:
                return await forever(asked)
            finally:
                await may_end.wait()

        model = Model(reply)
        task = asyncio.create_task(evaluator(model).evaluate("Echo.", EXAMPLES))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.running == 0

    run(main)


def test_a_call_that_its_client_cancelled_is_an_error_not_a_missing_score() -> None:
    async def main() -> None:
        async def reply(asked: str) -> str:
            if asked == "2":
                raise asyncio.CancelledError
            return "x"

        with pytest.raises(LLMError, match=r"cancelled.*example 2"):
            await evaluator(Model(reply)).evaluate("Echo.", EXAMPLES)

    run(main)


def test_a_failing_metric_or_callback_ends_the_evaluation() -> None:
    async def main() -> None:
        async def reply(asked: str) -> str:
            return "x" if asked == "0" else await forever(asked)

        def broken(answer: str, references: list[str]) -> float:
            raise KeyError("oops")

        with pytest.raises(MetricError, match=r"oops.*example 0"):
            await evaluator(Model(reply), broken).evaluate("Echo.", EXAMPLES)

        def full(_: ScoredExample) -> None:
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            await evaluator(Model(reply), on_answer=full).evaluate("Echo.", EXAMPLES)

    run(main)


def test_the_judge_gets_the_key_of_the_answer_and_counts_in_the_usage() -> None:
    async def main() -> None:
        async def reply(asked: str) -> str:
            return "an answer"

        async def grade(asked: str) -> str:
            return "Score: 5"

        model, judge = Model(reply), Model(grade)
        metric = metrics.resolve("judge", judge=judge)
        evaluator = Evaluator(model, metric, template.resolve("user"))
        evaluation = await evaluator.evaluate("Echo.", EXAMPLES, indices=[0, 2, 5], part="train")
        # A study records answer and grade under this key.
        keys = [CallKey("train", "Echo.", index) for index in (0, 2, 5)]
        assert sorted(model.keys) == sorted(judge.keys) == keys
        assert evaluation.scores == (0.5, 0.5, 0.5)
        assert evaluation.usage == Usage(60, 6, 6)
        assert metric.usage == Usage(30, 3, 3)  # type: ignore[attr-defined]

    run(main)
