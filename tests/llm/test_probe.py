"""Refusals of unknown reason: a probe tells whether the call or the endpoint is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer, Request, ok, status

import zopo_fast as zf
from zopo_fast import errors
from zopo_fast.llm.middleware import MIN_PROMPTS, MIN_REFUSALS, ProbedModel
from zopo_fast.llm.types import Answer, CallKey, Usage


class Model:
    """Chat model that refuses some texts, or all once it is disabled; counts its calls."""

    identity = None
    description: dict[str, Any] = {}  # noqa: RUF012
    slots = 4
    max_answer_tokens = None

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.refused = refused
        self.is_disabled = False
        self.calls: list[str] = []

    async def chat(self, messages: Any, *, key: Any = None, account: Any = None) -> Answer:
        text = messages[-1]["content"]
        self.calls.append(text)
        await asyncio.sleep(0)
        if self.is_disabled or text in self.refused:
            raise errors.RequestRejectedError("HTTP 400, reason unknown", concerns="call", code="HTTP 400")
        return Answer("yes", Usage(2, 1, calls=1))


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def refusals(model: ProbedModel, count: int, prompts: int = MIN_PROMPTS) -> list[Any]:
    """Return the outcomes of calls, one after the other, for some prompts in turn."""
    keys = [CallKey("train", f"prompt {i % prompts}", i) for i in range(count)]
    calls = [model.chat(say(f"bad {i}"), key=key) for i, key in enumerate(keys)]
    return [(await asyncio.gather(call, return_exceptions=True))[0] for call in calls]


BAD = [f"bad {i}" for i in range(20)]


def test_refusals_concern_the_calls_if_the_probe_is_answered() -> None:
    async def main() -> None:
        inner = Model(BAD)
        model = ProbedModel(inner)
        await model.chat(say("good"))
        outcomes = await refusals(model, 2 * MIN_REFUSALS)
        assert {outcome.concerns for outcome in outcomes} == {"call"}
        assert inner.calls.count("good") == 1 + 2  # one probe for every MIN_REFUSALS refusals
        assert outcomes[MIN_REFUSALS - 1].usage == Usage(2, 1, calls=1)

    asyncio.run(main())


def test_refusals_concern_the_endpoint_if_the_probe_is_refused_too() -> None:
    async def main() -> None:
        inner = Model()
        model = ProbedModel(inner)
        await model.chat(say("good"))
        inner.is_disabled = True
        outcomes = await refusals(model, MIN_REFUSALS)
        assert [outcome.concerns for outcome in outcomes] == ["call"] * (MIN_REFUSALS - 1) + ["endpoint"]
        assert "answered before is refused, too" in str(outcomes[-1])
        assert outcomes[-1].code == "HTTP 400"

    asyncio.run(main())


def test_one_bad_prompt_or_a_few_refusals_need_no_probe() -> None:
    async def main() -> None:
        for count, prompts in ((20, MIN_PROMPTS - 1), (MIN_REFUSALS - 1, MIN_REFUSALS - 1)):
            inner = Model(BAD)
            model = ProbedModel(inner)
            await model.chat(say("good"))
            await refusals(model, count, prompts)
            assert inner.calls.count("good") == 1

    asyncio.run(main())


def test_an_answer_ends_the_row() -> None:
    async def main() -> None:
        inner = Model(BAD)
        model = ProbedModel(inner)
        for _ in range(4):
            await model.chat(say("good"))
            await refusals(model, MIN_REFUSALS - 1)
        assert inner.calls.count("good") == 4

    asyncio.run(main())


def test_calls_refused_at_once_share_a_probe() -> None:
    async def main() -> None:
        inner = Model(BAD)
        model = ProbedModel(inner)
        await model.chat(say("good"))
        await refusals(model, MIN_REFUSALS - 1)
        keys = [CallKey("train", f"prompt {i}", i) for i in range(4)]
        calls = [model.chat(say(f"bad {i}"), key=key) for i, key in enumerate(keys)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {outcome.concerns for outcome in outcomes} == {"call"}  # type: ignore[union-attr]
        assert inner.calls.count("good") == 2
        spent = [getattr(outcome, "usage", Usage()) for outcome in outcomes]
        assert sum(spent, Usage()) == Usage(2, 1, calls=1)

    asyncio.run(main())


def test_a_refusal_of_a_known_kind_needs_no_probe() -> None:
    async def main() -> None:
        inner = Model()
        model = ProbedModel(inner)
        await model.chat(say("good"))

        async def refuse(*_: Any, **__: Any) -> Answer:
            raise errors.RequestRejectedError("filtered", concerns="call", code="content_filter")

        inner.chat = refuse  # type: ignore[method-assign]
        with pytest.raises(errors.RequestRejectedError, match=r"^filtered$"):
            await model.chat(say("bad"))
        assert inner.calls == ["good"]

    asyncio.run(main())


def test_without_an_answer_before_there_is_no_probe() -> None:
    async def main() -> None:
        inner = Model(["bad"])
        with pytest.raises(errors.RequestRejectedError) as caught:
            await ProbedModel(inner).chat(say("bad"))
        assert caught.value.concerns == "call"
        assert inner.calls == ["bad"]

    asyncio.run(main())


def test_an_account_that_is_disabled_in_a_run_costs_no_scores(tmp_path: Path) -> None:
    """The run ends, and resumes with every example answered once the account works again."""

    async def main() -> None:
        disabled_from = 30

        def plan(request: Request) -> Any:
            return ok() if request.index < disabled_from else status(400, text="Something is wrong with you.")

        task = zf.Task("t", tuple(zf.Example(f"question {i}", ("yes",)) for i in range(10)))
        prompts = [f"Prompt {i}." for i in range(12)]
        Z = np.random.default_rng(0).normal(size=(12, 3))
        config = zf.RunConfig(budget=6, initial=3, stop_at_perfect=False, racing=False)
        path = tmp_path / "study.sqlite3"

        async def run(server: FakeServer) -> zf.Result:
            async with zf.OpenAIClient(zf.ClientConfig("m", base_url=server.url)) as llm:
                return await zf.optimize(task, prompts, llm, config, embeddings=Z, store=path)

        async with FakeServer(lambda _: "yes", plan=plan) as server:
            first = await run(server)
        assert first.stopped_by == "error"
        assert isinstance(first.error, errors.LLMError)
        assert first.error.concerns == "endpoint"
        assert sum(one.calls for one in first.unanswered) < 20  # in flight, or before the probe
        async with FakeServer(lambda _: "yes") as server:
            second = await run(server)
        assert second.unanswered == []
        assert {trial.score for trial in second.trials} == {1.0}

    asyncio.run(main())
