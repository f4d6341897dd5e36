"""Driver: scheduling, failures, stopping, and the comparison at the end."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer, random_faults, status
from time_tools import HANG

import zopo_fast as zf

PROMPTS = [f"Do it in way number {i}." for i in range(24)]
EMBEDDINGS = np.random.default_rng(7).normal(size=(len(PROMPTS), 6))


def make_task(examples: int = 5, heldout: int = 8) -> zf.Task:
    made = [zf.Example(f"question {i}", ("yes",)) for i in range(examples + heldout)]
    return zf.Task("toy", tuple(made[:examples]), tuple(made[examples:]), metric="exact_match")


def number_in(messages: Any) -> int:
    return int(messages[-1]["content"].split("way number ")[1].split(".")[0])


def answer(messages: Any) -> str:
    """Answer n of 24 questions correctly under prompt number n."""
    question = int(messages[-1]["content"].split("question ")[1].split("\n")[0])
    return "yes" if (question * 7 + 3) % 24 < number_in(messages) else "no"


def _boom(_: str) -> float:
    raise RuntimeError("boom")


def expected_scores(number: int) -> list[float]:
    """Return the scores of prompt `number` on the five train examples."""
    content = f"way number {number}. question {{}}\n"
    return [float(answer([{"content": content.format(q)}]) == "yes") for q in range(5)]


def run(task: Any = None, llm: Any = answer, config: Any = None, **kwargs: Any) -> zf.Result:
    task = make_task() if task is None else task
    config = config or zf.RunConfig(budget=12, initial=4, stop_at_perfect=False)
    return zf.optimize_sync(task, PROMPTS, llm, config, embeddings=EMBEDDINGS, **kwargs)


def test_the_result_of_a_whole_run() -> None:
    seen: list[zf.Trial] = []
    result = run(on_trial=seen.append)
    assert result.stopped_by == "budget"
    assert [t.number for t in result.trials] == list(range(1, 13))
    assert seen == result.trials
    assert len({t.index for t in result.trials}) == 12
    best = max(result.trials, key=lambda t: t.score)
    assert (result.best_score, result.best_prompt) == (best.score, PROMPTS[result.best_index])
    for trial in result.trials:
        assert list(trial.scores) == expected_scores(trial.index)
        assert trial.score == pytest.approx(np.mean(expected_scores(trial.index)))
    roles = {h.role: h for h in result.heldout}
    assert set(roles) == {"winner", "seed prompt", "pool median"}
    assert roles["winner"].prompt == result.best_prompt
    assert len(roles["winner"].scores) == 8
    calls = 12 * 5 + 8 * len({h.prompt for h in result.heldout})
    assert result.usage.calls == calls


def test_more_than_one_prompt_is_in_flight_and_the_slots_stay_full() -> None:
    running: Counter[int] = Counter()
    most_prompts = most_calls = 0
    full = asyncio.Event()

    async def slow(messages: Any) -> str:
        nonlocal most_prompts, most_calls
        running[number_in(messages)] += 1
        most_prompts = max(most_prompts, sum(v > 0 for v in running.values()))
        most_calls = max(most_calls, sum(running.values()))
        if most_calls == 8:
            full.set()
        await asyncio.wait_for(full.wait(), HANG)  # no call ends before all slots are full
        running[number_in(messages)] -= 1
        return answer(messages)

    config = zf.RunConfig(budget=12, initial=4, concurrency=8, stop_at_perfect=False)
    assert run(make_task(5, 0), slow, config).error is None
    assert most_prompts >= 2
    assert most_calls == 8


def test_every_example_is_scored_exactly_once_against_a_faulty_server() -> None:
    async def work() -> tuple[zf.Result, FakeServer]:
        plan = random_faults(seed=3, share=0.3, at_most=3)
        async with FakeServer(answer, plan=plan) as server:
            config = zf.ClientConfig(
                "m",
                base_url=server.url,
                timeout=30.0,
                max_attempts=8,
                backoff_initial=0.001,
                backoff_max=0.01,
                max_elapsed=60,
            )
            async with zf.OpenAIClient(config) as client:
                run_config = zf.RunConfig(budget=8, initial=3, stop_at_perfect=False)
                result = await zf.optimize(make_task(), PROMPTS, client, run_config, embeddings=EMBEDDINGS)
            return result, server

    result, server = asyncio.run(work())
    assert result.error is None
    assert result.usage.retries > 5
    assert result.usage.calls == 8 * 5 + 8 * len({h.prompt for h in result.heldout})
    assert set(server.answered.values()) == {1}
    for trial in result.trials:
        assert list(trial.scores) == expected_scores(trial.index)


def test_incumbent_is_scored_first_and_compared_with() -> None:
    config = zf.RunConfig(budget=8, initial=3, incumbent="Do it in way  number 9.", stop_at_perfect=False)
    result = run(config=config, llm=answer)
    first = min(result.trials, key=lambda t: t.number)
    assert any(t.index == 9 for t in result.trials[:3])
    assert first.number == 1
    seed = next(h for h in result.heldout if h.role == "seed prompt")
    assert seed.prompt == PROMPTS[9]
    winner = next(h for h in result.heldout if h.role == "winner")
    difference = np.mean(np.array(winner.scores) - np.array(seed.scores))
    assert seed.winner_ahead is not None
    assert seed.winner_ahead.mean == pytest.approx(difference)
    assert seed.winner_ahead.low <= difference <= seed.winner_ahead.high


def test_incumbent_outside_the_pool_is_added() -> None:
    class Embedder:
        async def embed(self, texts: Any) -> Any:
            return np.random.default_rng(len(texts)).normal(size=(len(texts), 4))

    config = zf.RunConfig(budget=4, initial=2, incumbent="Do it in way number 23.", stop_at_perfect=False)
    result = zf.optimize_sync(make_task(), PROMPTS[:10], answer, config, embedder=Embedder())
    assert any(t.prompt == "Do it in way number 23." for t in result.trials)
    assert result.best_prompt == "Do it in way number 23."


def test_a_perfect_score_ends_the_run_by_default() -> None:
    def always(_: Any) -> str:
        return "yes"

    ended = run(llm=always, config=zf.RunConfig(budget=12, initial=4, prompts_in_flight=1))
    assert (ended.stopped_by, len(ended.trials)) == ("perfect", 1)
    on = run(llm=always, config=zf.RunConfig(budget=12, initial=4, stop_at_perfect=False))
    assert (on.stopped_by, len(on.trials)) == ("budget", 12)


def test_task_function_sync_async_and_target() -> None:
    async def score(prompt: str) -> float:
        return float(prompt.rsplit(maxsplit=1)[-1].strip("."))

    result = run(score, None, zf.RunConfig(budget=24, initial=4, target=20.0))
    assert result.stopped_by == "target"
    assert result.best_score >= 20.0
    assert not result.heldout
    everything = run(lambda p: float(len(p)), None, zf.RunConfig(budget=24, initial=4))
    assert everything.stopped_by == "pool"


def test_task_function_failures_are_metric_errors() -> None:
    with pytest.raises(zf.MetricError, match="boom"):
        run(_boom, None)
    with pytest.raises(zf.MetricError, match="not a finite number"):
        run(lambda _: math.nan, None)
    with pytest.raises(zf.MetricError, match="not a real number"):
        run(lambda _: "1", None)


def test_a_failed_prompt_is_left_out_and_refunded() -> None:
    def picky(messages: Any) -> str:
        if number_in(messages) % 4 == 0:
            raise zf.RequestRejectedError("content filter")
        return answer(messages)

    result = run(llm=picky, config=zf.RunConfig(budget=12, initial=8, stop_at_perfect=False))
    scored = [t for t in result.trials if t.score is not None]
    failed = [t for t in result.trials if t.score is None]
    assert len(scored) == 12
    assert failed
    assert all("content filter" in (t.error or "") for t in failed)
    assert len({t.index for t in result.trials}) == len(result.trials)


def test_pool_whose_prompts_all_fail_ends_with_the_error() -> None:
    def broken(_: Any) -> str:
        raise zf.RequestRejectedError("too long")

    with pytest.raises(zf.RequestRejectedError, match="too long"):
        run(llm=broken)


def test_a_model_that_becomes_unavailable_keeps_the_results() -> None:
    calls = 0

    def lost(messages: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise zf.UnreachableError("connection refused")
        return answer(messages)

    result = run(llm=lost)
    assert result.stopped_by == "error"
    assert isinstance(result.error, zf.UnreachableError)
    assert sum(t.score is not None for t in result.trials) >= 3
    assert not result.heldout


def test_wrong_key_raises_at_once() -> None:
    async def work() -> None:
        async with FakeServer(answer, plan=status(401)) as server:
            config = zf.ClientConfig("m", base_url=server.url, api_key="sk-secret-value-123456")
            async with zf.OpenAIClient(config) as client:
                await zf.optimize(
                    make_task(), PROMPTS, client, zf.RunConfig(budget=12), embeddings=EMBEDDINGS
                )

    with pytest.raises(zf.AuthenticationError) as caught:
        asyncio.run(work())
    assert "sk-secret" not in str(caught.value)


def test_stop_event_ends_the_run_with_the_results_so_far() -> None:
    async def work() -> zf.Result:
        stop = asyncio.Event()

        def enough(trial: zf.Trial) -> None:
            if trial.number == 5:
                stop.set()

        return await zf.optimize(
            make_task(),
            PROMPTS,
            answer,
            zf.RunConfig(budget=20, stop_at_perfect=False),
            embeddings=EMBEDDINGS,
            on_trial=enough,
            stop=stop,
        )

    result = asyncio.run(work())
    assert result.stopped_by == "interrupted"
    assert 5 <= len(result.trials) < 12


def test_cancelling_leaves_no_task_behind() -> None:
    async def work() -> int:
        async def forever(_: Any) -> str:
            await asyncio.sleep(3600)
            return "never"

        config = zf.RunConfig(budget=12)
        running = asyncio.ensure_future(
            zf.optimize(make_task(), PROMPTS, forever, config, embeddings=EMBEDDINGS)
        )
        while len(asyncio.all_tasks()) < 10:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(work()) == 0


def test_prior_scores_are_data_and_not_scored_again() -> None:
    pool = zf.Pool.from_texts(PROMPTS, {0: 0.2, 5: 0.9})
    config = zf.RunConfig(budget=10, initial=3, stop_at_perfect=False, heldout=False)
    result = zf.optimize_sync(make_task(), pool, answer, config, embeddings=EMBEDDINGS)
    assert not {0, 5} & {t.index for t in result.trials}
    assert len(result.trials) == 10
    assert (result.best_index, result.best_score) == max(
        [(5, 0.9), *((t.index, t.score) for t in result.trials)], key=lambda pair: pair[1]
    )


def test_random_sample_is_as_large_and_nothing_is_scored_twice() -> None:
    asked: Counter[str] = Counter()

    def counting(messages: Any) -> str:
        asked[messages[-1]["content"]] += 1
        return answer(messages)

    config = zf.RunConfig(budget=12, initial=4, stop_at_perfect=False, compare_random=True)
    result = run(llm=counting, config=config)
    assert {h.role for h in result.heldout} == {"winner", "seed prompt", "pool median", "random sample"}
    assert max(asked.values()) == 1
    sample = np.random.default_rng([0, 1]).permutation(len(PROMPTS))[:12]
    best = max(np.mean(expected_scores(i)) for i in sample)
    assert next(h for h in result.heldout if h.role == "random sample").train_score == pytest.approx(best)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pool": ["only one"]}, zf.PoolError),
        ({"embeddings": EMBEDDINGS[:5]}, zf.ConfigError),
        ({"task": 7}, zf.ConfigError),
        ({"llm": None}, zf.ConfigError),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception]) -> None:
    given = {"task": make_task(), "pool": PROMPTS, "llm": answer, "embeddings": EMBEDDINGS, **change}
    with pytest.raises(error):
        zf.optimize_sync(
            given["task"], given["pool"], given["llm"], zf.RunConfig(budget=2), embeddings=given["embeddings"]
        )


def test_interval_covers_the_mean_and_shrinks_with_agreement() -> None:
    from zopo_fast.runs.result import paired_interval

    rng = np.random.default_rng(0)
    b = rng.integers(0, 2, 60).astype(float)
    a = np.minimum(b + (rng.random(60) < 0.2), 1.0)
    paired = paired_interval(a, b)
    assert paired.low <= paired.mean <= paired.high
    assert paired.mean == pytest.approx((a - b).mean())
    shuffled = paired_interval(a, rng.permutation(b))
    assert shuffled.high - shuffled.low > paired.high - paired.low
    same = paired_interval(a, a)
    assert same == (0.0, 0.0, 0.0)


def test_sync_functions_do_not_block_each_other() -> None:
    numbers, together = itertools.count(1), threading.Event()

    def slow(messages: Any) -> str:
        if next(numbers) == 4:
            together.set()
        assert together.wait(HANG)  # no call ends before four run at the same time
        return answer(messages)

    config = zf.RunConfig(budget=4, initial=2, concurrency=4, stop_at_perfect=False)
    assert run(make_task(5, 0), slow, config).error is None


def test_a_failed_model_function_keeps_the_results() -> None:
    calls = 0

    def lost(messages: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise ConnectionError("gone")
        return answer(messages)

    result = run(llm=lost)
    assert result.stopped_by == "error"
    assert isinstance(result.error, zf.LLMError)
    assert "gone" in str(result.error)
    assert len(result.trials) >= 3


def test_a_prompt_refused_on_held_out_examples_loses_its_score_only() -> None:
    def picky(messages: Any) -> str:
        question = int(messages[-1]["content"].split("question ")[1].split("\n")[0])
        if question >= 5 and number_in(messages) == 9:
            raise zf.RequestRejectedError("content filter")
        return answer(messages)

    config = zf.RunConfig(budget=12, initial=6, incumbent=PROMPTS[9], stop_at_perfect=False)
    result = run(llm=picky, config=config)
    assert result.error is None
    rows = {h.role: h for h in result.heldout}
    assert set(rows) == {"winner", "seed prompt", "pool median"}
    assert rows["seed prompt"].score is None
    assert "content filter" in (rows["seed prompt"].error or "")
    assert rows["pool median"].winner_ahead is not None


def test_pool_whose_prompts_all_have_scores_is_done_at_once() -> None:
    pool = zf.Pool.from_texts(PROMPTS[:4], {i: i / 10 for i in range(4)})
    config = zf.RunConfig(budget=4, initial=2, heldout=False)
    result = zf.optimize_sync(make_task(), pool, answer, config, embeddings=EMBEDDINGS[:4])
    assert (result.best_index, result.best_score, result.trials) == (3, 0.3, [])


def test_given_initial_indices_stay_those_of_the_pool_with_an_incumbent_from_outside() -> None:
    config = zf.RunConfig(
        budget=3, initial=2, incumbent="Do it in way number 99.", prompts_in_flight=1, stop_at_perfect=False,
        search=zf.ZopoConfig(initial=[5, 6]), heldout=False,
    )  # fmt: skip
    embeddings = np.vstack([EMBEDDINGS, np.ones((1, 6))])
    result = zf.optimize_sync(make_task(), PROMPTS, answer, config, embeddings=embeddings)
    assert [t.index for t in result.trials] == [24, 5, 6]


def test_judge_and_rubric_are_used() -> None:
    graded: list[str] = []

    def judge_answer(messages: Any) -> str:
        graded.append(messages[-1]["content"])
        return "Score: 7"

    class Judge:
        async def chat(self, messages: Any) -> Any:
            from zopo_fast.llm.types import Answer, Usage

            return Answer(judge_answer(messages), Usage(1, 1, calls=1))

    made = make_task(2, 0)
    task = zf.Task("toy", made.train, metric="judge")
    config = zf.RunConfig(budget=2, initial=2, rubric="RATE {answer} AGAINST {references}")
    result = zf.optimize_sync(task, PROMPTS, answer, config, embeddings=EMBEDDINGS, judge=Judge())
    assert result.best_score == pytest.approx(0.7)
    assert len(graded) == 4
    assert all(text.startswith("RATE ") for text in graded)


def test_function_that_raises_stop_iteration_does_not_hang() -> None:
    with pytest.raises(zf.MetricError, match="StopIteration"):
        run(lambda _: next(iter([])), None)


def test_the_first_reason_to_end_counts() -> None:
    """The model fails at the moment of a perfect score, which came first."""

    async def both(messages: Any) -> str:
        await asyncio.sleep(0)
        if number_in(messages) == 1:
            raise zf.UnreachableError("gone")
        return "yes"

    config = zf.RunConfig(
        budget=4, initial=2, prompts_in_flight=2, heldout=False, search=zf.ZopoConfig(initial=[0, 1])
    )
    result = zf.optimize_sync(make_task(1, 0), PROMPTS, both, config, embeddings=EMBEDDINGS)
    assert result.stopped_by == "perfect"


def test_incumbent_and_given_indices_fit_the_budget() -> None:
    config = zf.RunConfig(
        budget=3, incumbent=PROMPTS[9], stop_at_perfect=False, heldout=False,
        search=zf.ZopoConfig(initial=[0, 1, 2]), prompts_in_flight=1,
    )  # fmt: skip
    assert [t.index for t in run(config=config).trials] == [9, 0, 1]
