"""Runs that race: calls, trials, the winner, and conditions under which a run cannot race."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.cli.terminal.summary import summary
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.report.output import write_curve
from zopo_fast.scoring import race as racing
from zopo_fast.scoring.candidates import Predictions
from zopo_fast.scoring.race import Race

EXAMPLES = 20
PROMPTS = [f"Do it in way number {i}." for i in range(60)]
EMBEDDINGS = np.random.default_rng(7).normal(size=(len(PROMPTS), 6))
RIGHT = np.random.default_rng(3).random((len(PROMPTS), EXAMPLES)) < np.linspace(0.0, 0.9, 60)[:, None]
FULL = RIGHT.mean(axis=1)


def make_task(examples: int = EXAMPLES, heldout: int = 0, metric: Any = "exact_match") -> zf.Task:
    made = [zf.Example(f"question {i}", ("yes",)) for i in range(examples + heldout)]
    return zf.Task("toy", tuple(made[:examples]), tuple(made[examples:]), metric=metric)


def asked(messages: Any) -> tuple[int, int]:
    """Return prompt and example of a call."""
    content = messages[-1]["content"]
    prompt = int(content.split("way number ")[1].split(".")[0])
    return prompt, int(content.split("question ")[1].split("\n")[0])


class Model:
    """Answers by RIGHT, one call at a time in random order; records the calls.

    A call is answered only after some idle iterations of the loop: the run has begun by then all calls that
    it can. The order of the answers does not depend on the machine.
    """

    def __init__(self, slots: int = 6) -> None:
        self.slots = slots
        self.calls: Counter[tuple[int, int]] = Counter()
        self.busy: list[int] = []  # slots in use as each call ends
        self._waiting: list[asyncio.Future[None]] = []
        self._answering: asyncio.Task[None] | None = None
        self._rng = random.Random(0)

    async def chat(self, messages: Any) -> Answer:
        prompt, example = asked(messages)
        self.calls[prompt, example] += 1
        if self._answering is None or self._answering.done():
            self._answering = asyncio.ensure_future(self._answer_all())
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        finally:
            self._waiting = [other for other in self._waiting if other is not turn]
        text = "yes" if RIGHT[prompt, example % EXAMPLES] else "no"
        return Answer(text, Usage(calls=1))

    async def _answer_all(self) -> None:
        while self._waiting:
            for _ in range(10):
                await asyncio.sleep(0)
            if in_slots := [turn for turn in self._waiting[: self.slots] if not turn.done()]:
                self.busy.append(len(in_slots))
                self._rng.choice(in_slots).set_result(None)


def run(model: Any = None, task: Any = None, trials: Any = None, **settings: Any) -> zf.Result:
    config = zf.RunConfig(**{"budget": 15, "initial": 5, "racing": True, **settings})
    return zf.optimize_sync(
        task or make_task(), PROMPTS, model or Model(), config, embeddings=EMBEDDINGS, on_trial=trials
    )


def check_trials(result: zf.Result) -> None:
    """Check that scores belong to the named examples, and that usage adds up to the total."""
    for trial in result.trials:
        places = trial.examples or tuple(range(EXAMPLES if trial.score is not None else 0))
        assert list(places) == sorted(set(places))
        assert list(trial.scores) == RIGHT[trial.index, list(places)].astype(float).tolist()
        if trial.score is not None:
            assert trial.partial == (len(trial.scores) < EXAMPLES)
            assert trial.score == pytest.approx(np.mean(trial.scores))


def test_a_race_looks_at_more_prompts_for_the_same_calls() -> None:
    model = Model()
    result = run(model, budget=10)
    assert result.stopped_by == "budget"
    assert set(model.calls.values()) == {1}  # no call is made twice
    assert 9 * EXAMPLES < sum(model.calls.values()) <= 10 * EXAMPLES
    assert result.usage.calls == sum(model.calls.values()) == sum(t.usage.calls for t in result.trials)
    assert len(result.prompts_scored()) > 20
    check_trials(result)
    for number, trial in enumerate(result.trials, 1):
        assert trial.number == number
    complete = [t for t in result.trials if not t.partial]
    assert 1 <= len(complete) < 15
    assert result.best_score == max(t.score for t in complete) == FULL[result.best_index]
    for trial in result.trials:
        before = [t.score for t in complete if t.number <= trial.number]
        assert trial.best_score == (max(before) if before else None)
    text = summary(result)
    assert f"Prompts scored: {len(result.prompts_scored())}, {len(complete)} of them on all examples" in text
    assert result.to_dict()["prompts_in_full"] == len(complete)


def test_racing_finds_a_better_prompt_for_the_same_calls() -> None:
    ahead = [run(seed=s).best_score - run(seed=s, racing=False).best_score for s in range(12)]
    assert np.mean(ahead) > 0.0


def test_calls_are_the_budget() -> None:
    model = Model()
    assert run(model, calls=90).stopped_by == "budget"
    assert 70 < sum(model.calls.values()) <= 90
    with pytest.raises(zf.errors.ConfigError, match="19 calls"):
        run(calls=19)


def test_the_slots_stay_full() -> None:
    """A prompt waits for its own mini-batch, never for another's."""
    model = Model(slots=6)
    run(model, budget=25)
    middle = model.busy[20:-100]  # near the end, no prompt starts that could not be completed
    assert np.mean(middle) > 4.7


def test_the_last_calls_go_out_in_smaller_numbers() -> None:
    """At most a fourth of the calls left, and a look."""
    for seed in (0, 2):
        model = Model(slots=16)
        run(model, budget=15, seed=seed)
        assert np.mean(model.busy[50:-120]) > 14.0
        assert np.mean(model.busy[-40:-20]) < 12.0


@pytest.mark.parametrize("after", [3, 16, 40])
def test_a_stop_loses_no_mini_batch_and_calls_nothing_partial_best(after: int) -> None:
    async def work() -> tuple[zf.Result, Model]:
        stop, model = asyncio.Event(), Model(slots=2)
        heard: list[zf.Trial] = []

        def on_trial(trial: zf.Trial) -> None:
            heard.append(trial)
            if len(heard) == after:
                stop.set()

        config = zf.RunConfig(budget=40, initial=5, racing=True)
        result = await zf.optimize(
            make_task(), PROMPTS, model, config, embeddings=EMBEDDINGS, on_trial=on_trial, stop=stop
        )
        assert heard == result.trials
        return result, model

    result, model = asyncio.run(work())
    assert result.stopped_by == "interrupted"
    assert len(result.trials) > after or after == 40
    check_trials(result)
    kept = sum(len(t.scores) for t in result.trials)
    in_flight = 2 * 2 + 2 * 4
    assert sum(model.calls.values()) - in_flight <= kept <= sum(model.calls.values())
    assert set(model.calls.values()) == {1}
    assert result.best_score == FULL[result.best_index]


def test_a_stop_before_any_full_score_is_an_error() -> None:
    async def work() -> zf.Result:
        stop = asyncio.Event()

        class Stopping(Model):
            async def chat(self, messages: Any) -> Answer:
                if sum(self.calls.values()) == 12:
                    stop.set()
                return await super().chat(messages)

        config = zf.RunConfig(budget=15, initial=5, racing=True)
        return await zf.optimize(
            make_task(), PROMPTS, Stopping(2), config, embeddings=EMBEDDINGS, on_trial=heard.append, stop=stop
        )

    heard: list[zf.Trial] = []
    with pytest.raises(zf.ZopoError, match="scored in full"):
        asyncio.run(work())
    assert heard
    assert all(t.partial and t.best_score is None for t in heard)


def test_a_prompt_that_fails_during_a_race_keeps_its_paid_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    races, choose = set(), Race.choose
    monkeypatch.setattr(Race, "choose", lambda race, *more: (races.add(race), choose(race, *more))[1])

    class Refusing(Model):
        async def chat(self, messages: Any) -> Answer:
            prompt, _ = asked(messages)
            if prompt == 58 and sum(n for (p, _), n in self.calls.items() if p == 58) >= 4:
                raise zf.errors.RequestRejectedError("too long")
            return await super().chat(messages)

    result = run(Refusing(), incumbent=PROMPTS[58], budget=15, unanswered="fail")
    failed = [t for t in result.trials if t.error is not None]
    assert [t.index for t in failed] == [58]
    assert failed[0].score is None
    assert len(failed[0].scores) == failed[0].usage.calls == 3  # the fourth answer was in flight
    check_trials(result)
    (race,) = races
    assert race.running == 0
    assert race.spent == sum(len(race.scores(index)) for index in range(60))  # the failed look is refunded
    assert result.best_index != 58
    assert result.stopped_by == "budget"


def test_an_unavailable_model_keeps_the_results() -> None:
    class Ending(Model):
        async def chat(self, messages: Any) -> Answer:
            if sum(self.calls.values()) >= 200:
                raise zf.errors.LLMError("gone")
            return await super().chat(messages)

    result = run(Ending(), budget=15)
    assert result.stopped_by == "error"
    assert result.best_score == FULL[result.best_index]
    check_trials(result)


def test_an_exhausted_pool_is_scored_in_full() -> None:
    """With calls to spare, stopped prompts are resumed, so that the winner is the best of the pool."""
    result = run(budget=60, race_error=0.5)
    assert result.best_score == FULL.max()
    assert result.stopped_by in ("pool", "budget")
    full = [t.index for t in result.trials if not t.partial]
    assert len(full) == len(set(full))


def test_a_race_with_one_call_at_a_time_is_reproducible() -> None:
    one, two = (run(Model(1), prompts_in_flight=1, seed=4) for _ in range(2))
    assert [(t.index, t.scores) for t in one.trials] == [(t.index, t.scores) for t in two.trials]
    other = run(Model(1), prompts_in_flight=1, seed=5)
    assert [t.index for t in one.trials] != [t.index for t in other.trials]


def test_comparisons_use_full_scores() -> None:
    result = run(task=make_task(heldout=10), compare_random=True)
    rows = {row.role: row for row in result.heldout}
    assert {"winner", "random sample"} <= set(rows)
    for row in result.heldout:
        if row.train_score is not None:
            assert row.train_score == FULL[PROMPTS.index(row.prompt)]


# ---- conditions --------------------------------------------------------------------------------------


def test_a_run_that_cannot_race_refuses_racing_only_on_request() -> None:
    own = make_task(metric=lambda answer, references: 3.0)
    official = zf.ZopoConfig.official()
    config = zf.RunConfig()
    assert config.races(make_task())
    assert not config.races(make_task(9))  # too few examples to save calls
    assert not config.races(own)
    assert not config.races(len)
    assert not zf.RunConfig(search=official).races(make_task())
    assert not zf.RunConfig(racing=False).races(make_task())
    insists = zf.RunConfig(racing=True)
    assert insists.races(make_task(9))
    with pytest.raises(zf.errors.ConfigError, match="score_range"):
        insists.races(own)
    with pytest.raises(zf.errors.ConfigError, match="official"):
        zf.RunConfig(racing=True, search=official).races(make_task())
    with pytest.raises(zf.errors.ConfigError, match="no examples to stop after"):
        zf.optimize_sync(len, PROMPTS, config=insists, embeddings=EMBEDDINGS)


def test_a_custom_metric_races_within_its_range() -> None:
    def shade(answer: str, references: list[str]) -> float:
        return 5.0 if answer == "yes" else 0.5

    result = run(task=make_task(metric=shade), score_range=(0.0, 5.0))
    assert any(t.partial for t in result.trials)
    assert result.best_score == pytest.approx(0.5 + 4.5 * FULL[result.best_index])
    with pytest.raises(zf.errors.InputError, match="0 to 1, got 5"):
        run(task=make_task(metric=shade), score_range=(0.0, 1.0))


@pytest.mark.parametrize(
    "settings",
    [{"race_error": 1.0}, {"race_first": 0}, {"race_batch": 0}, {"calls": 0}, {"race_error": -0.1}],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(zf.errors.ConfigError):
        zf.RunConfig(**settings)


def looks(race: Race) -> tuple[int, ...]:
    """Return the numbers of scores of a candidate after each look."""
    seen = [0]
    while not race.is_complete(0):
        seen.append(seen[-1] + len(race.start(0)))
        race.finish(0, [1.0] * (seen[-1] - seen[-2]))
    return tuple(seen[1:])


def test_looks_grow_with_the_scores_and_the_slots() -> None:
    config = zf.RunConfig()
    assert [looks(config.race(make_task(), slots, 5)) for slots in (1, 16, 64)] == [
        (2, 3, 5, 7, 10, 14, 19, 20),
        (2, 3, 5, 7, 10, 14, 19, 20),
        (2, 6, 10, 14, 19, 20),
    ]
    assert looks(zf.RunConfig(race_batch=5).race(make_task(), 64, 5)) == (2, 7, 12, 17, 20)
    assert len(looks(Race(1000, 10_000))) < 20


def test_the_predictions_of_the_search_reach_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    choose, count = Race.choose, 0

    def checked(race: Race, predictions: Predictions | None = None, fresh: bool = True) -> int | None:
        nonlocal count
        if predictions is not None:
            count += 1
            begun = [race.has_begun(int(index)) for index in predictions.index]
            assert predictions.fresh.tolist() == [not one for one in begun]
            assert {i for i in range(len(PROMPTS)) if race.scores(i)} <= {*predictions.index.tolist()}
        return choose(race, predictions, fresh)

    monkeypatch.setattr(Race, "choose", checked)
    run(budget=6)
    assert count > 20


def test_settings_reach_the_race() -> None:
    config = zf.RunConfig(race_error=0.07, race_first=3, race_batch=2, calls=130, seed=9)
    race, other = (replace(config, seed=seed).race(make_task(), 64, 6) for seed in (9, 10))
    assert (race.examples, race.calls, race.error, race.first, race.batch) == (EXAMPLES, 130, 0.07, 3, 2)
    for _ in range(6):  # the initial ones come first
        assert race.choose() == racing.NEW
        race.start(race.running)
    assert race.choose() is None
    other.start(0)
    assert race.order(0) != other.order(0)
    for metric, score_range, outside, inside in (
        ("exact_match", None, 0.5, 1.0),
        ("f1", None, 1.5, 0.5),
        (lambda answer, references: 3.0, (2.0, 5.0), 1.5, 4.5),
    ):
        config = zf.RunConfig(score_range=score_range)
        for score, fails in ((outside, True), (inside, False)):
            race = config.race(make_task(metric=metric), 1, 1)
            scores = [score] * len(race.start(0))
            with pytest.raises(zf.errors.InputError) if fails else nullcontext():
                race.finish(0, scores)


def test_curve_of_a_race(tmp_path: Any) -> None:
    pytest.importorskip("altair")
    write_curve(run(), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "at most 240 calls"),
        (("--calls", "100"), "at most 100 calls"),
        (("--calls", "100", "--no-racing"), "at most 240 calls"),
        (("--score-range", "0-1"), "LOW:HIGH"),
        (("--racing", "--official"), "official preset scores every prompt in full"),
        (("--racing", "--metric", "math:dist"), "score_range"),
        (("--racing", "--metric", "math:dist", "--score-range", "0:5"), "at most 240 calls"),
    ],
)
def test_options(more: tuple[str, ...], said: str, tmp_path: Any) -> None:
    task, pool = tmp_path / "task.jsonl", tmp_path / "pool.txt"
    rows = [{"input": f"q{i}", "output": "yes"} for i in range(12)]
    task.write_text("\n".join(json.dumps(row) for row in rows))
    pool.write_text("\n".join(PROMPTS))
    arguments = ["optimize", str(task), "--pool", str(pool), "--budget", "20", "--examples", "12"]
    arguments += ["--heldout", "0", "--no-comparison", "--dry-run", *more]
    command = [sys.executable, "-c", "from zopo_fast.cli.group import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said in done.stdout + done.stderr


def test_a_budget_of_prompts_is_not_raced() -> None:
    """The budget of a ZopoConfig is a number of prompts, all scored in full."""
    config = zf.ZopoConfig(budget=6, initial=3)
    result = zf.optimize_sync(make_task(), PROMPTS, Model(), config, embeddings=EMBEDDINGS)
    assert [len(trial.scores) for trial in result.trials] == [EXAMPLES] * 6
