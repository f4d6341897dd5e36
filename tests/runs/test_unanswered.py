"""Unanswered examples in the search, the comparison and the log: one call's failure is not the prompt's."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resume_tools import EMBEDDINGS, PROMPTS, Model, answer, asked_for, events

import zopo_fast as zf
from zopo_fast.cli.terminal.summary import summary
from zopo_fast.llm.types import Answer
from zopo_fast.runs.folder import RunFolder

TRAIN, HELDOUT = 10, 6
BAD = 4  # example that is refused
TASK = zf.Task(
    "toy",
    tuple(zf.Example(f"question {i}", ("yes",)) for i in range(TRAIN)),
    tuple(zf.Example(f"question {i}", ("yes",)) for i in range(TRAIN, TRAIN + HELDOUT)),
    metric="exact_match",
)


class OwnError(zf.LLMError):
    """Error of a caller's model whose constructor takes other arguments."""

    concerns = "call"

    def __init__(self, what: str) -> None:
        super().__init__(what)


def refusing(*examples: int, error: Exception | None = None, prompts: Any = range(60)) -> Any:
    """Return a model function that refuses these examples under these prompts."""

    async def model(messages: Any) -> Any:
        await asyncio.sleep(0)
        prompt, example = asked_for(messages)
        if example in examples and prompt in prompts:
            raise error or zf.RequestRejectedError("a filter", code="content_filter")
        return answer(messages)

    return model


def run(llm: Any, *, task: Any = TASK, prompts: Any = PROMPTS, **more: Any) -> zf.Result:
    how = {name: more.pop(name) for name in ("judge", "store", "stop", "on_phase") if name in more}
    given = {"budget": 12, "initial": 5, "stop_at_perfect": False, "concurrency": 4, "seed": 3, **more}
    return zf.optimize_sync(
        task, prompts, llm, zf.RunConfig(**given), embeddings=EMBEDDINGS[: len(prompts)], **how
    )


# ---- the search --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"racing": False}, {}, {"race_first": 1}, {"race_first": 1, "race_batch": 1}]
)
def test_one_bad_example_of_ten_scores_zero_for_every_prompt(how: dict[str, Any]) -> None:
    result = run(refusing(BAD), **how)
    assert (result.stopped_by, result.error) == ("budget", None)
    assert not [trial for trial in result.trials if trial.error is not None]
    whole = [trial for trial in result.trials if not trial.partial]
    assert len(whole) >= 2
    for trial in whole:
        assert trial.unanswered == {BAD: "content_filter"}
        assert trial.scores[BAD] == 0.0
        assert trial.score == sum(trial.scores) / TRAIN
    (one,) = result.unanswered
    met = sum(BAD in (trial.examples or range(TRAIN)) for trial in result.trials)
    assert (one.index, one.input, one.by_all) == (BAD, f"question {BAD}", True)
    assert one.calls == one.prompts == met
    assert one.reasons == {"content_filter": met}
    assert f"1 example unanswered in {met} calls: content_filter\n" in summary(result)
    assert f"Example {BAD} has no answer under any of {met} prompts: 'question {BAD}'" in summary(result)


def test_the_winner_is_that_of_a_run_without_the_bad_example() -> None:
    def bad_is_wrong(messages: Any) -> str:
        return "no" if asked_for(messages)[1] == BAD else answer(messages)

    refused, wrong = run(refusing(BAD), racing=False), run(bad_is_wrong, racing=False)
    assert (refused.best_index, refused.best_score) == (wrong.best_index, wrong.best_score)
    assert [trial.scores for trial in refused.trials] == [trial.scores for trial in wrong.trials]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (zf.RequestRejectedError("too long", code="context_length_exceeded"), "context_length_exceeded"),
        (zf.MalformedAnswerError("no choices", code="no_choices"), "no_choices"),
        (zf.ServerError("HTTP 500", concerns="call", code="HTTP 500"), "HTTP 500"),
        (zf.RequestTimeoutError("slow", concerns="call"), "RequestTimeoutError"),
        (zf.RequestRejectedError("a reason"), "RequestRejectedError"),
        (OwnError("mine"), "OwnError"),
    ],
)
def test_every_failure_that_concerns_the_call(error: Exception, code: str) -> None:
    result = run(refusing(BAD, error=error))
    assert result.error is None
    assert result.unanswered[0].reasons.keys() == {code}
    assert str(error.args[0]) in result.unanswered[0].message


@pytest.mark.parametrize(
    "error",
    [
        zf.AuthenticationError("HTTP 401"),
        zf.RateLimitError("HTTP 429"),
        zf.ServerError("HTTP 500"),
        zf.RequestRejectedError("no credit", concerns="account"),
        zf.EndpointDownError("down"),
    ],
)
def test_a_failure_of_account_or_endpoint_ends_the_run(error: zf.LLMError, tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    result = run(refusing(BAD, error=error, prompts=range(0, 60, 7)), store=path, racing=False, budget=30)
    assert result.stopped_by == "error"
    assert isinstance(result.error, type(error))
    assert result.unanswered == []
    assert not any("unanswered" in event.data for event in events(path))
    assert run(refusing(), store=path, racing=False, budget=30).stopped_by == "budget"  # can be resumed


def test_an_answer_cut_inside_its_reasoning_is_unanswered_and_paid_for() -> None:
    async def model(messages: Any) -> Answer:
        text = answer(messages) if asked_for(messages)[1] != BAD else "<think>first, I should"
        return Answer(text, zf.Usage(10, 5, 1), "length")

    result = run(model, racing=False, heldout=False)
    assert result.unanswered[0].reasons == {"cut_in_reasoning": 12}
    assert "raise max_tokens" in result.unanswered[0].message
    assert result.usage == zf.Usage(1200, 600, 120)


class Judging:
    """Judge that refuses to grade the answers to one question, or is cut while it reasons about them."""

    def __init__(self, cut: bool) -> None:
        self._cut = cut

    async def chat(self, messages: Any) -> Answer:
        if f"question {BAD}\n" in messages[-1]["content"]:
            if not self._cut:
                raise zf.RequestRejectedError("not this one", code="refusal")
            return Answer("<think>let me", zf.Usage(3, 2, 1), "length")
        return Answer("Score: 7", zf.Usage(3, 2, 1))


@pytest.mark.parametrize("cut", [True, False])
def test_a_judge_that_fails_leaves_the_example_unanswered(cut: bool) -> None:
    task = replace(TASK, metric="judge", heldout=())
    result = run(refusing(), task=task, judge=Judging(cut), racing=False)
    assert result.error is None
    assert {trial.unanswered[BAD] for trial in result.trials} == {"cut_in_reasoning" if cut else "refusal"}
    assert all(trial.score == pytest.approx(0.63) for trial in result.trials)
    assert result.usage.completion_tokens == 2 * 12 * (10 if cut else 9)


def test_a_prompt_too_long_for_the_context_loses_itself_only() -> None:
    too_long = zf.RequestRejectedError("8193 tokens", code="context_length_exceeded")
    for how in ({"racing": False}, {"race_first": 1}):
        result = run(refusing(*range(TRAIN), error=too_long, prompts=[40]), incumbent=PROMPTS[40], **how)
        assert result.stopped_by in ("budget", "pool")
        (failed,) = [trial for trial in result.trials if trial.index == 40]
        if "racing" in how:
            assert failed.score is None
            assert "unanswered; the last: 8193 tokens" in (failed.error or "")
        else:  # its first look is enough: it scores 0, and others promise more
            assert (failed.score, len(failed.unanswered)) == (0.0, len(failed.examples))
        if "racing" in how:
            assert result.unanswered == []  # its examples are answered under all others
        assert result.best_index != 40


@pytest.mark.parametrize("how", [{"racing": False}, {}, {"race_first": 1, "race_batch": 1}])
def test_a_setting_that_fails_every_call_is_not_a_score_of_zero(how: dict[str, Any]) -> None:
    asked = set()

    async def wrong(messages: Any) -> str:
        asked.add(asked_for(messages)[0])
        raise zf.RequestRejectedError("max_tokens is too large", code="invalid_value")

    with pytest.raises(zf.RequestRejectedError, match="max_tokens is too large") as caught:
        run(wrong, **how)
    assert caught.value.code == "invalid_value"
    # max_failures, twice as many where a look is a single example, and those in flight
    assert len(asked) <= 2 * 5 + 6


def test_a_small_pool_whose_prompts_all_fail_ends_with_the_reason() -> None:
    with pytest.raises(zf.RequestRejectedError, match="a filter"):
        run(refusing(*range(TRAIN)), prompts=PROMPTS[:3], budget=3, initial=2)


def test_a_filter_that_closes_during_a_race_ends_the_run() -> None:
    """Prompts stopped at their first, unanswered example count as failures in a row."""
    calls = 0

    async def closing(messages: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 175:
            raise zf.RequestRejectedError("closed", code="content_filter")
        return "yes" if asked_for(messages)[0] % 2 else "no"

    result = run(closing, race_first=1, race_batch=1, budget=40, race_error=0.5)
    assert result.stopped_by == "failures"
    assert "closed" in str(result.error)
    assert calls < 175 + 100


def test_zero_is_the_low_end_of_the_range() -> None:
    def one_to_five(answer: str, references: list[str]) -> float:
        return 5.0 if answer in references else 2.0

    task = replace(TASK, metric=one_to_five)
    for racing in (True, False):
        result = run(refusing(BAD), task=task, score_range=(1.0, 5.0), racing=racing)
        whole = [trial for trial in result.trials if not trial.partial and trial.error is None]
        assert {trial.scores[BAD] for trial in whole} == {1.0}
    result = run(refusing(BAD), task=task)
    assert {trial.scores[BAD] for trial in result.trials} == {0.0}


# ---- skip and fail -----------------------------------------------------------------------------------


def test_skip_leaves_the_example_out_of_the_mean() -> None:
    result = run(refusing(BAD, prompts=range(0, 60, 2)), unanswered="skip")
    assert result.stopped_by == "budget"
    assert not any(trial.partial for trial in result.trials)
    for trial in result.trials:
        right = [answer([{"content": f"number {trial.index} question {i}"}]) == "yes" for i in range(TRAIN)]
        if trial.index % 2 == 0:
            del right[BAD]
        assert trial.scores == tuple(map(float, right))
        assert trial.score == sum(right) / len(right)
        assert trial.unanswered == ({} if trial.index % 2 else {BAD: "content_filter"})
    (one,) = result.unanswered
    assert not one.by_all
    assert "has no answer under any" not in summary(result)


def test_skip_does_not_race() -> None:
    assert not zf.RunConfig(unanswered="skip").races(TASK)
    with pytest.raises(zf.ConfigError, match="racing: unanswered='skip' would compare prompts on different"):
        run(refusing(), unanswered="skip", racing=True)
    with pytest.raises(zf.ConfigError, match="unanswered must be one of zero, skip, fail, got 'none'"):
        zf.RunConfig(unanswered="none")  # type: ignore[arg-type]


def test_fail_drops_the_prompt() -> None:
    result = run(refusing(BAD, prompts=range(0, 60, 2)), unanswered="fail", racing=False, max_failures=60)
    assert all((trial.error is None) == (trial.index % 2 == 1) for trial in result.trials)
    assert result.unanswered == []
    with pytest.raises(zf.RequestRejectedError, match="a filter"):
        run(refusing(BAD), unanswered="fail", racing=False)


# ---- the comparison ----------------------------------------------------------------------------------


def test_unanswered_held_out_examples_score_zero_or_are_left_out_of_the_pair() -> None:
    bad = TRAIN + 1
    zero = run(refusing(bad), racing=False, incumbent=PROMPTS[9])
    rows = {row.role: row for row in zero.heldout}
    assert all(row.unanswered == {bad: "content_filter"} or row.scores[1] == 0.0 for row in rows.values())
    assert "1 unanswered (content_filter)" in summary(zero)

    one_sided = refusing(bad, prompts=[9])
    skip = run(one_sided, unanswered="skip", incumbent=PROMPTS[9])
    rows = {row.role: row for row in skip.heldout}
    winner, seed = rows["winner"], rows["seed prompt"]
    assert (len(winner.scores), len(seed.scores)) == (HELDOUT, HELDOUT - 1)
    assert seed.unanswered == {1: "content_filter"}
    shared = [score for i, score in enumerate(winner.scores) if i != 1]
    assert seed.winner_ahead is not None
    assert seed.winner_ahead.mean == pytest.approx((sum(shared) - sum(seed.scores)) / len(shared))

    refused = run(refusing(bad, prompts=[skip.best_index]), unanswered="skip", incumbent=PROMPTS[9])
    rows = {row.role: row for row in refused.heldout}
    assert len(rows["winner"].scores) == HELDOUT - 1
    theirs = [score for i, score in enumerate(rows["seed prompt"].scores) if i != 1]
    ahead = rows["seed prompt"].winner_ahead
    assert ahead is not None
    assert ahead.mean == pytest.approx((sum(rows["winner"].scores) - sum(theirs)) / len(theirs))


@pytest.mark.parametrize("policy", ["zero", "skip", "fail"])
def test_a_winner_that_cannot_be_scored_has_a_row_with_the_reason(policy: Any) -> None:
    best = run(refusing(), racing=False).best_index
    held = range(TRAIN, TRAIN + HELDOUT)
    result = run(refusing(*held, prompts=[best]), racing=False, unanswered=policy, incumbent=PROMPTS[9])
    rows = {row.role: row for row in result.heldout}
    assert set(rows) == {"winner", "seed prompt", "pool median"}
    assert (rows["winner"].score, rows["winner"].scores) == (None, ())
    assert "a filter" in (rows["winner"].error or "")
    assert rows["seed prompt"].score is not None
    assert rows["seed prompt"].winner_ahead is None
    assert "not scored: " in summary(result)


def test_a_limit_in_the_comparison_is_said() -> None:
    result = run(refusing(), racing=False, limits=zf.Limits(calls=12 * TRAIN + HELDOUT + 2))
    assert [row.role for row in result.heldout] == ["winner"]
    (note,) = result.comparison_notes
    assert note.startswith("the held-out comparison is incomplete: ")
    assert f"Note: {note}" in " ".join(summary(result).split())
    result = run(refusing(), racing=False, limits=zf.Limits(calls=12 * TRAIN + 2))
    assert result.heldout == []
    assert result.comparison_notes[0].startswith("the held-out comparison is missing: ")


def test_a_stop_in_the_comparison_is_said() -> None:
    async def work() -> zf.Result:
        stop = asyncio.Event()

        async def model(messages: Any) -> str:
            if asked_for(messages)[1] >= TRAIN:
                stop.set()
                await asyncio.sleep(60)
            return answer(messages)

        config = zf.RunConfig(budget=6, initial=3, racing=False, stop_at_perfect=False)
        return await zf.optimize(TASK, PROMPTS, model, config, embeddings=EMBEDDINGS, stop=stop)

    result = asyncio.run(work())
    assert result.comparison_notes == ["the held-out comparison is missing: interrupted"]


def test_an_error_of_the_endpoint_in_the_comparison_is_said() -> None:
    result = run(refusing(TRAIN, error=zf.ServerError("gone")), racing=False)
    assert "gone" in str(result.error)
    assert result.comparison_notes[0].startswith("the held-out comparison is missing: gone")


def test_random_prompts_that_cannot_be_scored_are_counted() -> None:
    scored = {trial.index for trial in run(refusing(), racing=False).trials}
    others = [i for i in range(60) if i not in scored]
    result = run(refusing(*range(TRAIN), prompts=others), racing=False, compare_random=True)
    assert any("random prompts could not be scored" in note for note in result.comparison_notes)


# ---- log and files -----------------------------------------------------------------------------------


def test_the_log_holds_the_reason_and_a_resumed_run_does_not_ask_again(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    first = run(refusing(BAD), store=path, racing=False)
    entries = [event.data for event in events(path) if "unanswered" in event.data]
    assert [entry["example"] for entry in entries] == [BAD] * 12
    assert {entry["unanswered"]["code"] for entry in entries} == {"content_filter"}
    assert all(entry["unanswered"]["message"].startswith("a filter") for entry in entries)
    assert all(set(entry["usage"].values()) == {0} for entry in entries)
    recorder = Model()

    async def ask(messages: Any) -> str:
        return await recorder(messages)

    again = run(ask, store=path, racing=False)
    assert recorder.calls == []
    assert [trial.unanswered for trial in again.trials] == [trial.unanswered for trial in first.trials]
    assert again.unanswered == first.unanswered


def test_files_of_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    result = run(refusing(BAD, error=zf.RequestRejectedError("\x1b[2J\u202e", code="bad\x07")), racing=False)
    for trial in result.trials:
        folder.add(trial)
    folder.finish(result, {})
    rows = [json.loads(line) for line in (tmp_path / "out" / "trials.jsonl").read_text().splitlines()]
    assert [row["unanswered"] for row in rows] == [{str(BAD): "bad\x07"}] * 12
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["unanswered"][0] == {
        "index": BAD,
        "input": f"question {BAD}",
        "reasons": {"bad\x07": 12},
        "calls": 12,
        "prompts": 12,
        "by_all": True,
        "message": result.unanswered[0].message,
    }
    text = summary(result)
    assert text.replace("\n", "").isprintable()
