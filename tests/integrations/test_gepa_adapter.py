"""GEPA on a task of this package: hard limits, orderly ends, and its candidates in a search."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import KEY, answer, serving

import zopo_fast as zf

gepa = pytest.importorskip("gepa")

from zopo_fast.integrations.gepa import MAX_IDLE, TaskAdapter, add_candidates  # noqa: E402

TASK = zf.Task(
    "toy", tuple(zf.Example(f"question {i}", ("yes",)) for i in range(24)), (), metric="exact_match"
)
TRAIN = list(TASK.train)
SEED = {"instruction": "Do it in way number 1."}


def share(text: str) -> float:
    """Return the score of an instruction, the share of questions that `answer` answers right."""
    return min(24, int(text.removesuffix(".").rsplit(" ", 1)[1])) / 24


def writer(first: int = 2) -> Callable[[Any], str]:
    """Return a reflection LM that writes better and better instructions."""
    numbers = itertools.count(first, 3)
    return lambda _: f"```\nDo it in way number {next(numbers)}.\n```"


def run_gepa(adapter: TaskAdapter, reflection: Any, **settings: Any) -> Any:
    given = {"max_metric_calls": 400, "seed": 1, **adapter.stopping, **settings}
    if "stop_callbacks" in settings:
        given["stop_callbacks"] = [*adapter.stopping["stop_callbacks"], *settings["stop_callbacks"]]
    return gepa.optimize(SEED, TRAIN, adapter=adapter, reflection_lm=reflection, **given)


def test_gepa_finds_better_instructions_on_a_task_and_a_model() -> None:
    adapter = TaskAdapter(TASK, answer)
    result = run_gepa(adapter, writer())
    assert adapter.error is None
    assert len(result.candidates) > 4
    texts = [candidate["instruction"] for candidate in result.candidates]
    assert result.val_aggregate_scores == pytest.approx([share(text) for text in texts])
    assert share(result.best_candidate["instruction"]) > 0.5
    assert adapter.usage.calls >= 24 * len(texts)


def test_limits_hold_with_all_calls_in_flight_and_gepa_ends_with_its_results() -> None:
    with serving(answer) as server:
        client = zf.OpenAIClient(zf.ClientConfig("m", base_url=server.url, api_key=KEY, concurrency=8))
        account = zf.Account(zf.Limits(calls=100))
        adapter = TaskAdapter(TASK, client, account)
        result = run_gepa(adapter, adapter.language_model(writer()))
        assert isinstance(adapter.error, zf.LimitReachedError)
        assert adapter.error.limit == "calls"
        assert account.outstanding == 0
        assert account.spent.calls <= 100
        assert 90 <= server.answered_total < account.spent.calls  # the reflection model is paid too
    texts = [candidate["instruction"] for candidate in result.candidates]
    assert result.val_aggregate_scores == pytest.approx([share(text) for text in texts])


def test_a_limit_that_the_seed_exceeds_is_raised() -> None:
    with pytest.raises(zf.LimitReachedError):
        run_gepa(TaskAdapter(TASK, answer, zf.Account(zf.Limits(calls=10))), writer())


def test_a_limit_of_tokens_needs_a_bound_of_the_answers() -> None:
    with serving(answer) as server:
        client = zf.OpenAIClient(zf.ClientConfig("m", base_url=server.url, api_key=KEY))
        with pytest.raises(zf.ConfigError, match="max_tokens"):
            TaskAdapter(TASK, client, zf.Account(zf.Limits(tokens=1000)))


def test_a_reflection_model_that_fails_ends_gepa() -> None:
    calls = itertools.count()

    def broken(prompt: Any) -> str:
        next(calls)
        raise RuntimeError("no reflection")

    result = run_gepa(TaskAdapter(TASK, answer), broken)
    assert result.candidates == [SEED]
    assert 0 < next(calls) < 400

    adapter = TaskAdapter(TASK, answer)
    result = run_gepa(adapter, adapter.language_model(broken))
    assert result.candidates == [SEED]
    assert isinstance(adapter.error, zf.LLMError)


def test_iterations_without_an_evaluation_end_gepa() -> None:
    class Failing:
        def next_minibatch_ids(self, *_: Any) -> Any:
            raise RuntimeError("no batch")

    adapter = TaskAdapter(TASK, answer)
    result = run_gepa(adapter, writer(), batch_sampler=Failing())
    assert result.candidates == [SEED]
    assert adapter._idle == MAX_IDLE + 1


def test_the_reflection_model_sees_inputs_answers_and_feedback() -> None:
    seen: list[str] = []

    def reflection(prompt: Any) -> str:
        seen.append(prompt)
        return "```\nDo it in way number 9.\n```"

    def feedback(example: zf.Example, given: str, score: float) -> str:
        return f"{given!r} to {example.input!r} gets {score}"

    run_gepa(TaskAdapter(TASK, answer, feedback=feedback), reflection, max_metric_calls=60)
    assert "'no' to 'question" in seen[0]
    assert "Do it in way number 1." in seen[0]
    batch = TaskAdapter(TASK, answer).evaluate(TRAIN[:2], SEED, capture_traces=True)
    records = TaskAdapter(TASK, answer).make_reflective_dataset(SEED, batch, ["instruction"])["instruction"]
    assert records[0] == {
        "Inputs": "question 0",
        "Generated Outputs": "no",
        "Feedback": "Score: 0. Accepted outputs: yes",
    }
    assert TaskAdapter(TASK, answer).evaluate(TRAIN[:2], SEED).trajectories is None


def test_an_example_without_an_answer_scores_the_lowest_score() -> None:
    def refusing(messages: Any) -> str:
        if "question 3" in messages[-1]["content"]:
            raise zf.LLMError("refused", concerns="call", code="content_filter")
        return "yes"

    batch = TaskAdapter(TASK, refusing, lowest=-1.0).evaluate(TRAIN[:5], SEED)
    assert batch.scores == [1.0, 1.0, 1.0, -1.0, 1.0]
    assert batch.outputs == ["yes", "yes", "yes", "", "yes"]


def test_gepa_runs_where_an_event_loop_runs() -> None:
    async def notebook() -> Any:
        return run_gepa(TaskAdapter(TASK, answer), writer(), max_metric_calls=80)

    assert len(asyncio.run(notebook()).candidates) > 1


def test_another_component_is_named() -> None:
    adapter = TaskAdapter(TASK, answer, component="prompt")
    assert adapter.evaluate(TRAIN[:3], {"prompt": "Do it in way number 24."}).scores == [1.0] * 3
    with pytest.raises(zf.ConfigError, match=r"the candidate has \['instruction'\], not 'prompt'"):
        adapter.evaluate(TRAIN[:3], SEED)


# ---- candidates in a search ------------------------------------------------------------------------------


def embed(texts: list[str]) -> Any:
    return np.array([[share(text), len(text) / 100] for text in texts], dtype=np.float64)


POOL = [f"Do it in way number {i}." for i in (1, 3, 4, 6, 7, 9)]


@pytest.mark.parametrize("kind", ["result", "state", "saved"])
def test_candidates_join_a_search_with_their_scores(kind: str, tmp_path: Path) -> None:
    states: list[Any] = []
    found = run_gepa(
        TaskAdapter(TASK, answer), writer(), max_metric_calls=250,
        stop_callbacks=[lambda state: states.append(state) or False], run_dir=str(tmp_path),
    )  # fmt: skip
    texts = [candidate["instruction"] for candidate in found.candidates]
    result = found
    if kind == "state":
        result = states[-1]
    if kind == "saved":
        result = type(found).from_dict(found.to_dict())
    search = zf.Zopo(embed(POOL), zf.ZopoConfig(budget=5))
    first = search.ask()
    search.tell(first, 0.123)
    prompts = add_candidates(search, POOL, result, embed)
    new = [text for text in texts if text not in POOL]
    assert prompts == POOL + new
    assert len(new) >= 2
    assert POOL[0] in texts  # the seed is in the pool already
    told = {entry[1]: entry[2] for entry in search.state_dict()["log"] if entry[0] == "tell"}
    expected = {prompts.index(text): share(text) for text in texts} | {first: 0.123}
    assert told == pytest.approx(expected)
    assert prompts[search.best[0]] == found.best_candidate["instruction"]
    asked = [search.ask() for _ in range(4)]  # the budget counts the search's own prompts alone
    assert not set(asked) & set(told)


def test_a_search_keeps_its_own_scores() -> None:
    search = zf.Zopo(embed(POOL), zf.ZopoConfig(budget=5))
    search.tell(0, 0.9)
    result = run_gepa(TaskAdapter(TASK, answer), writer(), max_metric_calls=24)
    assert result.candidates == [SEED]
    assert add_candidates(search, POOL, result, embed) == POOL
    assert search.best == (0, 0.9)


def test_the_component_of_candidates_is_named_where_there_are_several() -> None:
    class Found:
        candidates = (
            {"a": "Do it in way number 20.", "b": "x"},
            {"a": " Do it in way number 20. ", "b": "y"},
            {"a": "Do it in way number 21.", "b": "y"},
        )
        val_aggregate_scores = (0.2, 0.4, float("-inf"))

    search = zf.Zopo(embed(POOL), zf.ZopoConfig(budget=5))
    for component in (None, "c"):
        with pytest.raises(zf.ConfigError, match=r"name one of \['a', 'b'\]"):
            add_candidates(search, POOL, Found, embed, component)
    assert add_candidates(search, POOL, Found, embed, "a") == [*POOL, "Do it in way number 20."]
    assert search.best == (6, pytest.approx(0.3))
