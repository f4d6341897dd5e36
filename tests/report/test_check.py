"""check(): the score of one prompt against a threshold, its interval, and its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, slow, status
from time_tools import HANG

import zopo_fast as zf
from zopo_fast.scoring.intervals import score_interval


def task(heldout: int = 10, **more: Any) -> zf.Task:
    """Return a task: held-out questions have the numbers from 0, train questions 90 to 92."""
    held = tuple(zf.Example(f"question {i}", ("yes",)) for i in range(heldout))
    return zf.Task("t", tuple(zf.Example(f"question 9{i}", ("yes",)) for i in range(3)), held, **more)


FILTERED = status(400, text="The prompt triggers the content management policy.")


def right_below(number: int) -> Any:
    """Return a model that answers the questions below `number` correctly."""

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        return "yes" if int(messages[-1]["content"].split("question ")[1].split()[0]) < number else "no"

    return answer


def test_the_score_is_that_of_the_heldout_examples() -> None:
    check = zf.check_sync(task(), " Answer. ", right_below(8), at_least=0.8)
    assert (check.prompt, check.score, check.passed) == ("Answer.", 0.8, True)
    assert check.interval == score_interval([1.0] * 8 + [0.0] * 2)
    assert [each.example.input for each in check.wrong] == ["question 8", "question 9"]
    assert [each.answer for each in check.wrong] == ["no", "no"]
    assert not zf.check_sync(task(), "Answer.", right_below(7), at_least=0.8).passed


def test_all_examples_count_on_request_and_without_heldout_ones() -> None:
    everything = zf.check_sync(task(), "Answer.", right_below(10), at_least=0.8, part="all")
    assert (len(everything.answers), everything.score) == (13, pytest.approx(10 / 13))
    assert len(zf.check_sync(task(0), "Answer.", right_below(10)).answers) == 3


def test_the_text_shows_verdict_interval_and_the_first_wrong_answers() -> None:
    lines = str(zf.check_sync(task(), "Answer.", right_below(5), at_least=0.9)).split("\n")
    assert lines[0] == (
        "Score: 0.500 on 10 examples, 95 % interval 0.237 to 0.763; below the threshold of 0.9"
    )
    assert lines[1:] == [
        f"Wrong: 'question {i}': expected 'yes', got 'no' (score 0)" for i in (5, 6, 7)
    ]  # fmt: skip


def test_a_threshold_inside_the_interval_is_a_matter_of_chance() -> None:
    close = zf.check_sync(task(), "Answer.", right_below(8), at_least=0.7)
    assert (close.passed, close.is_clear) == (True, False)
    assert "the interval contains the threshold" in str(close)
    clear = zf.check_sync(task(), "Answer.", right_below(10), at_least=0.3)
    assert (clear.passed, clear.is_clear) == (True, True)
    assert "Note" not in str(clear)
    single = zf.check_sync(task(1), "Answer.", right_below(1), at_least=0.3)
    assert (single.interval, single.is_clear) == (None, False)


def test_a_rounding_error_does_not_fail_a_check() -> None:
    scores = iter([0.1, 0.2, 0.3])

    def metric(_: str, __: Any) -> float:
        return next(scores)

    check = zf.check_sync(task(3, metric=metric), "Answer.", right_below(0), at_least=0.2)
    assert check.score == pytest.approx(0.2)
    assert check.passed


@pytest.mark.parametrize("at_least", [float("nan"), float("inf"), "0.8", None])
def test_a_threshold_that_is_no_number_is_refused(at_least: Any) -> None:
    with pytest.raises(zf.ConfigError, match="at_least"):
        zf.check_sync(task(), "Answer.", right_below(1), at_least=at_least)


def test_a_threshold_in_percent_is_refused_where_scores_end_at_1() -> None:
    with pytest.raises(zf.ConfigError, match=r"from 0 to 1; for 80 % write 0\.8"):
        zf.check_sync(task(), "Answer.", right_below(8), at_least=80)
    own = task(metric=lambda answer, outputs: 90.0)
    assert zf.check_sync(own, "Answer.", right_below(8), at_least=80).passed


def test_arguments_that_cannot_work_are_refused() -> None:
    with pytest.raises(zf.ConfigError, match="part"):
        zf.check_sync(task(), "Answer.", right_below(1), part="train")  # type: ignore[arg-type]
    with pytest.raises(zf.PoolError):
        zf.check_sync(task(), " ", right_below(1))
    with pytest.raises(zf.ConfigError, match="no examples"):
        zf.check_sync(zf.Task("t", ()), "Answer.", right_below(1))


def with_server(plan: Any, config: zf.RunConfig, **more: Any) -> tuple[zf.Check | BaseException, FakeServer]:
    """Return the check, or its error, and the server that has answered."""

    async def run() -> tuple[zf.Check | BaseException, FakeServer]:
        async with FakeServer(right_below(8), plan=plan) as server:
            settings = zf.ClientConfig(
                "m", base_url=server.url, backoff_initial=0.01, concurrency=2, body={"max_tokens": 8}
            )
            async with zf.OpenAIClient(settings) as client:
                try:
                    return await zf.check(task(), "Answer.", client, config, at_least=0.8, **more), server
                except zf.ZopoError as error:
                    return error, server

    return asyncio.run(asyncio.wait_for(run(), HANG))


def test_a_limit_of_calls_is_never_exceeded() -> None:
    found, server = with_server(None, zf.RunConfig(limits=zf.Limits(calls=4)))
    assert isinstance(found, zf.LimitReachedError)
    assert found.limit == "calls"
    assert len(server.requests) == 4


def test_a_limit_of_time_ends_calls_in_flight() -> None:
    found, _ = with_server(slow(), zf.RunConfig(limits=zf.Limits(seconds=0.2)))
    assert isinstance(found, zf.LimitReachedError)
    assert found.limit == "time"


def test_cached_answers_are_not_asked_for_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with FakeServer(right_below(8)) as server:
            cache = zf.AnswerCache(tmp_path / "answers.sqlite3")
            for _ in range(2):
                async with zf.OpenAIClient(zf.ClientConfig("m", base_url=server.url)) as client:
                    found = await zf.check(task(), "Answer.", client, cache=cache)
            cache.close()
            assert len(server.requests) == found.usage.cached == 10

    asyncio.run(asyncio.wait_for(run(), HANG))


def test_a_refused_example_scores_zero_and_is_listed() -> None:
    found, _ = with_server([FILTERED], zf.RunConfig())
    assert isinstance(found, zf.Check)
    assert list(found.unanswered.values()) == ["content_filter"]
    assert found.score <= 0.8
    left_out, _ = with_server([FILTERED], zf.RunConfig(unanswered="skip"))
    assert isinstance(left_out, zf.Check)
    assert len(left_out.answers) == 9


def test_a_prompt_without_any_answer_is_an_error() -> None:
    found, _ = with_server(FILTERED, zf.RunConfig())
    assert isinstance(found, zf.RequestRejectedError)
    assert "all 10 examples" in str(found)
