"""Front of score and tokens per call, and runs that prefer a short prompt."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.llm.tokens import estimate
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.runs.cost.front import front, points, shortest, standing
from zopo_fast.runs.cost.tokens import tokens_per_call
from zopo_fast.runs.log.unanswered import AskedExamples
from zopo_fast.runs.result import Result
from zopo_fast.scoring.unanswered import Unanswered

PROMPTS = [f"Way {i}." for i in range(8)]
CORRECT = [2, 9, 5, 8, 7, 1, 6, 9]  # of 10 train examples
LENGTHS = [40, 200, 50, 80, 60, 90, 300, 250]  # tokens of the prompt
EMBEDDINGS = np.random.default_rng(2).normal(size=(len(PROMPTS), 4))
BEST, SHORT, SHORTER = 1, 3, 4


def point(index: int, score: float, tokens: float) -> zf.FrontPoint:
    return zf.FrontPoint(index, f"prompt {index}", score, None, tokens, None)


def indices(found: list[zf.FrontPoint]) -> list[int]:
    return [each.index for each in found]


# ---- front -------------------------------------------------------------------------------------------


def test_the_front_leaves_out_what_another_prompt_beats() -> None:
    measured = [point(0, 0.5, 10), point(1, 0.9, 90), point(2, 0.5, 30), point(3, 0.7, 40), point(4, 0.6, 50)]
    assert indices(front(measured)) == [0, 3, 1]
    assert indices(front(measured[::-1])) == [0, 3, 1]


def test_the_front_of_equal_tokens_or_equal_scores_or_both() -> None:
    assert indices(front([point(0, 0.5, 10), point(1, 0.6, 10)])) == [1]
    assert indices(front([point(0, 0.5, 10), point(1, 0.5, 9)])) == [1]
    assert indices(front([point(4, 0.5, 10), point(2, 0.5, 10)])) == [2]
    assert indices(front([point(0, 0.5, 10)])) == [0]
    assert front([]) == []


def test_intervals_of_a_point_cover_score_and_tokens() -> None:
    counts = {0: {i: (100 + 10 * i, 5) for i in range(10)}}
    (found,) = points(["a"], {0: (0.7, [1.0] * 7 + [0.0] * 3)}, counts, zf.Prices(1.0, 2.0))
    assert found.tokens == pytest.approx(150)
    assert found.cost == pytest.approx((145 + 2 * 5) / 1e6)
    assert found.score_interval == pytest.approx((0.3968, 0.8922), abs=1e-4)  # Wilson, by hand
    half = 1.96 * np.std([105 + 10 * i for i in range(10)], ddof=1) / np.sqrt(10)
    assert found.tokens_interval == pytest.approx((150 - half, 150 + half))
    assert found.to_dict()["tokens_interval"] == found.tokens_interval._asdict()  # type: ignore[union-attr]


# ---- choice ------------------------------------------------------------------------------------------


def test_the_shortest_prompt_within_eps_is_chosen() -> None:
    measured = [point(0, 0.9, 100), point(1, 0.8, 50), point(2, 0.7, 10)]
    assert shortest(measured, (0, 0.9), 0.0) == (0, 0.9)
    assert shortest(measured, (0, 0.9), 0.05) == (0, 0.9)
    assert shortest(measured, (0, 0.9), 0.1) == (1, 0.8)  # 0.9 - 0.1 is above 0.8 as a binary number
    assert shortest(measured, (0, 0.9), 1) == (2, 0.7)


def test_ties_of_the_choice_go_by_score_then_index() -> None:
    measured = [point(5, 0.8, 10), point(3, 0.85, 10), point(2, 0.85, 10), point(0, 0.9, 20)]
    assert shortest(measured, (0, 0.9), 0.1) == (2, 0.85)
    assert shortest([point(0, 0.9, 20), point(1, 0.9, 10)], (0, 0.9), 0.0) == (1, 0.9)


def test_a_best_prompt_without_tokens_stays() -> None:
    assert shortest([point(1, 0.8, 10)], (7, 0.9), 0.5) == (7, 0.9)
    assert standing([point(1, 0.8, 10)], None, 0.5).best is None


# ---- tokens per call ---------------------------------------------------------------------------------


def test_tokens_are_corrected_for_the_examples_of_a_race() -> None:
    """The input of example 9 is 1,000 times as long as the others; prompt 2 was not asked on it."""
    inputs = [1] * 9 + [1000]
    texts = [20, 30, 25]
    counts = {p: {e: (text + inputs[e], 2) for e in range(10)} for p, text in enumerate(texts)}
    del counts[2][9]
    counts[3] = {9: (10 + 1000, 2)}  # only on the long one, and the shortest prompt
    counts[4] = {0: (28 + 1, 2), 3: (28 + 1, 2)}
    found = tokens_per_call(counts)
    mean = sum(inputs) / 10
    for prompt, text in enumerate([*texts, 10, 28]):
        assert found[prompt].total == pytest.approx(text + mean + 2), prompt
    assert sorted(found, key=lambda i: found[i].total) == [3, 0, 2, 4, 1]
    plain = {i: np.mean([sum(t) for t in known.values()]) for i, known in counts.items()}
    assert sorted(plain, key=lambda i: plain[i]) != [3, 0, 2, 4, 1]  # without the correction


def test_tokens_of_a_complete_table_are_plain_means_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(1, 500, size=(7, 5, 2))
    counts = {p: {e: (int(table[p, e, 0]), int(table[p, e, 1])) for e in range(5)} for p in range(7)}
    found = tokens_per_call(counts)
    for prompt in range(7):
        assert found[prompt].total == pytest.approx(table[prompt].sum(axis=1).mean(), rel=1e-12)
    del counts[3][2]
    shuffled = {p: dict(reversed(counts[p].items())) for p in rng.permutation(7).tolist()}
    assert tokens_per_call(shuffled) == tokens_per_call(counts)


def test_no_counts_give_no_tokens() -> None:
    assert tokens_per_call({}) == {}
    assert tokens_per_call({3: {}}) == {}


def test_the_usage_of_an_unanswered_example_is_no_count() -> None:
    """It may be that of a probe, or of a judge."""
    asked = AskedExamples()
    asked.add(0, 0, Unanswered("content_filter", "refused"), Usage(500, 1, calls=1))
    asked.add(0, 1, None, Usage(20, 1, calls=1))
    asked.add(0, 2, None, Usage(cached=1))
    asked.add(0, 3, None, Usage(500, 2, calls=2))  # of a study before there were counts, with a judge
    assert asked.tokens == {0: {1: (20, 1)}}


# ---- runs --------------------------------------------------------------------------------------------


def make_task(heldout: int = 0, **more: Any) -> zf.Task:
    made = [zf.Example(f"question {i}", ("yes",)) for i in range(10 + heldout)]
    return zf.Task("toy", tuple(made[:10]), tuple(made[10:]), metric="exact_match", **more)


class Model:
    """Answers CORRECT of ten examples, with LENGTHS and example-dependent tokens; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.answers = {True: "yes", False: "no"}

    async def chat(self, messages: Any) -> Answer:
        self.calls += 1
        content = messages[-1]["content"]
        prompt = int(content.split("Way ")[1].split(".")[0])
        example = int(content.split("question ")[1].split("\n")[0])
        usage = Usage(LENGTHS[prompt] + 10 * example, 3, 1)
        return Answer(self.answers[example % 10 < CORRECT[prompt]], usage)


def run(model: Any = None, task: Any = None, **settings: Any) -> zf.Result:
    store = settings.pop("store", None)
    given = {"budget": 8, "initial": 3, "racing": False, **settings}
    task = make_task() if task is None else task
    model = model or (Model() if isinstance(task, zf.Task) else None)
    return zf.optimize_sync(task, PROMPTS, model, zf.RunConfig(**given), embeddings=EMBEDDINGS, store=store)


def test_a_result_has_the_front_of_its_full_scores() -> None:
    result = run(prices=zf.Prices(1.0, 1.0))
    assert indices(result.front) == [0, 2, 4, 3, 1]
    assert [each.tokens for each in result.front] == [LENGTHS[i] + 45 + 3 for i in (0, 2, 4, 3, 1)]
    assert result.front[0].cost == pytest.approx(88e-6)
    assert (result.best_index, result.prefer_short, result.given_up) == (BEST, None, None)
    written = result.to_dict()
    assert [each["index"] for each in written["front"]] == indices(result.front)
    assert set(written["front"][0]["score_interval"]) == {"low", "high"}
    assert not any(each.estimated for each in result.front)


@pytest.mark.parametrize(
    ("eps", "chosen"), [(None, BEST), (0.0, BEST), (0.1, SHORT), (0.2, SHORTER), (1.0, 0)]
)
def test_prefer_short_chooses_the_winner(eps: float | None, chosen: int) -> None:
    result = run(prefer_short=eps)
    assert (result.best_index, result.best_prompt) == (chosen, PROMPTS[chosen])
    assert result.best_score == CORRECT[chosen] / 10
    best = result.given_up
    assert (None if best is None else best.index) == (None if chosen == BEST else BEST)
    assert result.to_dict()["prefer_short"] == eps
    assert ("chosen for its length" in repr(result)) == (chosen != BEST)
    assert "Score against tokens" in result._repr_html_()


@pytest.mark.parametrize("eps", [-0.1, float("nan"), "much", True])
def test_a_loss_of_score_that_is_no_number_from_0_is_refused(eps: Any) -> None:
    with pytest.raises(zf.ConfigError, match="prefer_short"):
        zf.RunConfig(prefer_short=eps)


def test_the_comparison_shows_what_was_given_up() -> None:
    result = run(task=make_task(heldout=10), prefer_short=0.2)
    roles = {row.role: row for row in result.heldout}
    assert roles["winner"].prompt == PROMPTS[SHORTER]
    assert roles["best score"].prompt == PROMPTS[BEST]
    assert roles["best score"].winner_ahead is not None
    assert roles["best score"].winner_ahead.mean == pytest.approx(-0.2)
    assert "best score" not in {row.role for row in run(task=make_task(heldout=10)).heldout}
    same = run(task=make_task(heldout=10), prefer_short=0.0)
    assert "best score" not in {row.role for row in same.heldout}


def test_another_eps_on_resume_chooses_again_and_repeats_no_call(tmp_path: Path) -> None:
    path, task = tmp_path / "study.sqlite3", make_task(heldout=10)
    first = run(task=task, store=path)
    assert first.best_index == BEST
    model = Model()
    second = run(model, task=task, store=path, prefer_short=0.2)
    assert second.best_index == SHORTER
    assert second.front == first.front
    assert model.calls <= 10  # the held-out examples of the new winner
    again = Model()
    third = run(again, task=task, store=path)
    assert (third.best_index, third.heldout, again.calls) == (BEST, first.heldout, 0)
    with zf.Study.open(path) as study:
        assert study.front == first.front
        assert study.given_up is None


def test_a_race_finds_the_same_tokens_as_full_scores() -> None:
    """Examples 8 and 9 are much longer, and a stopped prompt was not asked on all."""
    result = run(racing=True, race_first=2, calls=60, prefer_short=1.0, stop_at_perfect=False)
    assert any(trial.partial for trial in result.trials)
    for each in result.front:
        assert each.tokens == pytest.approx(LENGTHS[each.index] + 45 + 3)
    full = result.prompts_scored(in_full=True)
    assert set(indices(result.front)) <= full
    assert result.best_index == min(full, key=lambda i: LENGTHS[i])


def test_unanswered_examples_do_not_make_a_prompt_look_short() -> None:
    """Without the fit, the prompt that is refused on the longest inputs would have the fewest tokens."""

    class Refusing(Model):
        async def chat(self, messages: Any) -> Answer:
            answer = await super().chat(messages)
            content = messages[-1]["content"]
            if "Way 3." in content and any(f"question {i}" in content for i in (8, 9)):
                raise zf.LLMError("refused", concerns="call", code="content_filter")
            return answer

    found = {each.index: each for each in run(Refusing()).front}
    assert found[SHORT].tokens == pytest.approx(LENGTHS[SHORT] + 45 + 3)


def test_answers_of_a_cache_count_with_their_tokens(tmp_path: Path) -> None:
    class Known(Model):
        identity = {"model": "m"}  # noqa: RUF012
        description = {"model": "m"}  # noqa: RUF012
        slots, max_answer_tokens = 4, None

        async def chat(self, messages: Any, *, key: Any = None, account: Any = None) -> Answer:
            return await super().chat(messages)

    cache = zf.AnswerCache(tmp_path)
    config = zf.RunConfig(budget=8, initial=3, racing=False)
    results = []
    for model in (Known(), Known()):
        results.append(
            zf.optimize_sync(make_task(), PROMPTS, model, config, embeddings=EMBEDDINGS, cache=cache)
        )
    cache.close()
    assert results[1].usage.calls == 0
    assert results[1].usage.total_tokens == 0
    assert results[1].front == results[0].front


def test_a_judge_is_no_part_of_the_tokens_of_a_call() -> None:
    async def judge(messages: Any) -> Answer:
        return Answer("5", Usage(5000, 100, 1))

    config = zf.RunConfig(budget=4, initial=3, racing=False)
    task = replace(make_task(), metric="judge")
    result = zf.optimize_sync(task, PROMPTS, Model(), config, embeddings=EMBEDDINGS, judge=judge)
    assert result.usage.prompt_tokens > 5000
    assert all(each.tokens == LENGTHS[each.index] + 45 + 3 for each in result.front)


def test_a_model_that_states_no_tokens_has_estimates() -> None:
    async def model(messages: Any) -> str:
        return (await Model().chat(messages)).text

    short, long = run(model).front[0], PROMPTS[0]
    assert not short.estimated
    assert short.tokens > estimate(long)
    assert run(model).usage.total_tokens == 0


def test_a_function_has_the_tokens_of_the_text() -> None:
    texts = ["word " * (i + 1) for i in range(8)]
    result = zf.optimize_sync(
        lambda prompt: 0.5 + min(len(prompt.split()), 6) / 20,
        texts,
        config=zf.RunConfig(budget=8, initial=3, prefer_short=0.1, prices=zf.Prices(1, 1)),
        embeddings=EMBEDDINGS,
    )
    assert result.best_prompt == texts[3].strip()
    assert [each.tokens for each in result.front] == [estimate(text) for text in texts[:6]]
    assert all(each.estimated and each.cost is None for each in result.front)
    assert all(each.tokens_interval is None for each in result.front)


def test_a_run_without_a_full_score_has_no_front() -> None:
    result = run(racing=True, race_first=1, limits=zf.Limits(calls=3), prefer_short=0.5)
    assert result.in_part
    assert result.front == []
    assert result.given_up is None


def test_known_scores_of_the_pool_are_not_given_up() -> None:
    pool = zf.Pool.from_texts(PROMPTS, {6: 0.95})
    config = zf.RunConfig(budget=5, initial=3, racing=False, prefer_short=1.0)
    result = zf.optimize_sync(make_task(), pool, Model(), config, embeddings=EMBEDDINGS)
    assert result.best_index == 6
    assert 6 not in indices(result.front)


def test_an_old_pickle_of_a_result_loads() -> None:
    result = run()
    state = {k: v for k, v in vars(result).items() if k not in ("front", "prefer_short")}
    old = Result.__new__(Result)
    old.__setstate__(state)
    assert (old.front, old.prefer_short, old.given_up) == ([], None, None)
    assert pickle.loads(pickle.dumps(result)).front == result.front
