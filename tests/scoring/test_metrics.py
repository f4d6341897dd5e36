"""Metrics: normalisation, built-in comparisons, functions of the caller, and the judge."""

from __future__ import annotations

import asyncio
import math
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import zopo_fast as zf
from zopo_fast.errors import ConfigError, MetricError, ServerError
from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.scoring import metrics
from zopo_fast.scoring.judge import Judge, parse_score
from zopo_fast.scoring.scorer import TaskScorer
from zopo_fast.tasks.task import Example


def score(metric: Any, answer: str, *outputs: str, input: str = "in") -> float:
    async def main() -> float:
        resolved = metric if isinstance(metric, Judge) else metrics.resolve(metric)
        return await resolved(answer, Example(input, outputs))

    return asyncio.run(main())


# normalisation of the instruction-induction benchmark


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Positive!\nBecause it is good.", "positive"),
        ("It is positive. It is good.", "it is positive"),
        ("Salt and pepper", "salt pepper"),
        ("and", "and"),
        ("Sentence 1: The dog barked.", "the dog barked"),
        ("sentence 2: The dog barked.", "the dog barked"),
        ("The cat, a dog", "the cat a dog"),  # articles stay, as in the benchmark
        ("well-known", "well known"),
        ("good\u2014bad", "good bad"),
        ("don't", "dont"),
        ("don\u2019t", "dont"),
        ("\u00bfQu\u00e9?", "qu\u00e9"),
        ("Cafe\u0301", "caf\u00e9"),
        ("3.14 is pi. Yes", "3.14 is pi"),
        ("1. yes", "1"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("10-5", "10 5"),
        ("$1,000", "1000"),
        ("a\r\nb", "a"),
        ("a \t b", "a b"),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert metrics.normalise(text) == expected


@given(st.one_of(st.text(), st.text("aA1.-_,' \n\u2212\u2014\u0130\u0307\u0301and")))
def test_normalised_text_stays_as_it_is(text: str) -> None:
    once = metrics.normalise(text)
    assert metrics.normalise(once) == once
    assert once == " ".join(once.split())
    assert not set(once) & (set(string.punctuation) - set(".-"))


@given(st.text(st.characters(codec="ascii")))
def test_case_and_outer_blanks_and_marks_do_not_matter(text: str) -> None:
    wanted = metrics.normalise(text)
    assert metrics.normalise(f"  {text.upper()} ") == wanted
    assert metrics.normalise(f"\n**{text.strip()}") == wanted


# built-in metrics: test_comparisons.py holds the cases


@pytest.mark.parametrize(
    ("metric", "answer", "outputs", "expected"),
    [
        ("exact_match", "two", ["2", "Two!"], 1),
        ("contains", "It is C (really)", ["c++", "is c really"], 1),
        ("f1", "go up fast", ["down", "go up", "up"], 0.8),
        ("induction_match", "two", ["2", "Two!"], 1),
        ("induction_set", "lion, cat and dog", ["bird", "dog, cat, lion"], 1),
        ("induction_contains", "The sentiment is positive.", ["bad", "positive"], 1),
        ("induction_f1", "go up fast", ["down", "go up", "up"], 0.8),
    ],
)
def test_the_best_accepted_output_counts(
    metric: str, answer: str, outputs: list[str], expected: float
) -> None:
    assert score(metric, answer, *outputs) == pytest.approx(expected)


@given(st.sampled_from(sorted(metrics.METRICS)), st.text(), st.lists(st.text(), min_size=1, max_size=3))
def test_scores_are_from_0_to_1_and_the_best_of_all_outputs(
    name: str, answer: str, outputs: list[str]
) -> None:
    compare = metrics.METRICS[name]
    each = [compare(answer, output) for output in outputs]
    assert all(0 <= one <= 1 for one in each)
    assert score(name, answer, *outputs) == max(each)


# functions


def test_a_function_is_given_the_references_and_the_input_where_it_asks() -> None:
    seen: list[Any] = []

    def two(answer: str, references: list[str], lowercase: bool = True) -> float:
        seen.append((answer, references, lowercase))
        return 0.25

    def three(answer: str, references: list[str], question: str) -> float:
        seen.append((answer, references, question))
        return 0.5

    async def named(answer: str, references: list[str], *, input: str = "") -> float:
        await asyncio.sleep(0)
        seen.append((answer, references, input))
        return 0.75

    assert [score(f, "a", "x", "y", input="q") for f in (two, three, named)] == [0.25, 0.5, 0.75]
    assert seen == [("a", ["x", "y"], True), ("a", ["x", "y"], "q"), ("a", ["x", "y"], "q")]


@pytest.mark.parametrize("result", [1, True, 0.5, np.float32(0.5), np.float64(1), np.int64(2), -3])
def test_any_finite_number_is_a_score(result: Any) -> None:
    value = score(lambda answer, references: result, "a", "x")
    assert type(value) is float
    assert value == result


@pytest.mark.parametrize("result", [None, "0.5", b"1", math.nan, math.inf, [], 1j, 10**400])
def test_anything_else_is_a_metric_error(result: Any) -> None:
    with pytest.raises(MetricError, match="returned"):
        score(lambda answer, references: result, "a", "x")


def test_what_a_function_raises_is_the_cause_of_a_metric_error() -> None:
    def broken(answer: str, references: list[str]) -> float:
        raise KeyError("oops")

    with pytest.raises(MetricError, match=r"broken raised KeyError: 'oops'") as caught:
        score(broken, "a", "x")
    assert isinstance(caught.value.__cause__, KeyError)

    async def unreachable(answer: str, references: list[str]) -> float:
        raise ServerError("down")  # an error of the package passes unchanged

    with pytest.raises(ServerError):
        score(unreachable, "a", "x")


@pytest.mark.parametrize("function", [lambda: 1, lambda a: 1, lambda a, b, c, d: 1, 3])
def test_a_function_with_other_parameters_is_refused_before_the_run(function: Any) -> None:
    with pytest.raises(ConfigError):
        metrics.resolve(function)


def test_a_function_is_loaded_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zf_own_metric.py").write_text(
        "class Group:\n    @staticmethod\n    def length(answer, references):\n        return len(answer)\n"
        "async def later(answer, references, input):\n    return len(input)\nnumber = 3\n"
    )
    (tmp_path / "zf_broken.py").write_text("import zf_not_there\n")
    (tmp_path / "zf_syntax.py").write_text("def\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(sys.path)
    try:
        assert score("zf_own_metric:Group.length", "four", "x") == 4
        assert score("zf_own_metric:later", "four", "x", input="seven!!") == 7
        for name, says in [
            ("zf_nowhere:f", "no module 'zf_nowhere'"),
            ("zf_own_metric:nope", "has no 'nope'"),
            ("zf_own_metric:number", "not a function"),
            ("zf_broken:f", "zf_not_there"),
            ("zf_syntax:f", "SyntaxError"),
            ("zf_own_metric.py:later", "no module"),
            ("./zf_own_metric:later", "module:function"),
            ("zf_own_metric:", "module:function"),
        ]:
            with pytest.raises(ConfigError, match=says):
                metrics.resolve(name)
    finally:
        sys.modules.pop("zf_own_metric", None)
    assert sys.path == before


def test_a_task_takes_a_function_as_its_metric() -> None:
    def half(answer: str, references: list[str]) -> float:
        return 0.5 if answer in references else 0.0

    task = zf.Task("toy", (Example("1", ("one",)), Example("2", ("two",))), metric=half)
    scorer = TaskScorer(task, as_chat_model(lambda _: "one", 1))
    scored: list[tuple[int, float]] = []
    score = asyncio.run(scorer.score("p", [0, 1], lambda index, value, *_: scored.append((index, value))))
    assert (score.mean, sorted(scored)) == (0.25, [(0, 0.5), (1, 0.0)])
    assert scorer.perfect is None  # a function may exceed 1
    assert TaskScorer(replace(task, metric="f1"), as_chat_model(lambda _: "one", 1)).perfect == 1.0
    with pytest.raises(ConfigError, match=r"racing: the metric '.*half' has no known bounds"):
        zf.RunConfig(racing=True).races(task)
    assert zf.RunConfig(racing=True, score_range=(0, 1)).races(task)


def test_an_unknown_name_lists_the_metrics() -> None:
    with pytest.raises(
        ConfigError,
        match=r"exact_match, f1, exact_set, contains, multiple_choice, induction_match, .*, judge",
    ):
        metrics.resolve("accuracy")


# the judge


class Grader:
    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    async def chat(self, messages: Sequence[Mapping[str, str]], **_: Any) -> Answer:
        self.asked.append(messages[-1]["content"])
        return Answer(self.replies.pop(0), Usage(7, 2, 1))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Score: 7", 0.7),
        ("The answer is fine.\n**Score:** 8.5/10", 0.85),
        ("Score: 3\n... on reflection\nScore: 9", 0.9),
        ("score is 0.7 out of 1", 0.7),
        ("Rating = 4/5", 0.8),
        ("Score (0-10): 6", 0.6),
        ("Score out of 10: <6>", 0.6),
        ("a score of [[6]]", 0.6),
        ("score 6", 0.6),
        ("10", 1.0),
        ("7/10, good", 0.7),
        (" 0. ", 0.0),
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: 5/0", None),
        ("I cannot grade 3 answers", None),
        ("3 answers are right", None),
        ("", None),
    ],
)
def test_scores_are_found_in_replies(reply: str, expected: float | None) -> None:
    assert parse_score(reply) == (None if expected is None else pytest.approx(expected))


@given(st.text())
def test_no_reply_breaks_the_parser(reply: str) -> None:
    value = parse_score(reply)
    assert value is None or 0 <= value <= 1


def test_the_judge_fills_its_rubric_once_and_counts_its_tokens() -> None:
    grader = Grader("Score: 7", "Score: 2")
    judge = metrics.resolve("judge", judge=grader, rubric="{input}|{references}|{answer}")
    assert score(judge, "{input} Score: 10", "{answer}", "b", input="q{references}") == pytest.approx(0.7)
    assert grader.asked == ["q{references}|- {answer}\n- b|{input} Score: 10"]
    assert score(judge, "a", "b") == pytest.approx(0.2)
    assert judge.usage == Usage(14, 4, 2)  # type: ignore[attr-defined]


def test_the_default_rubric_shows_the_judge_everything() -> None:
    grader = Grader("Score: 7")
    score(Judge(grader), "the answer", "the reference", input="the input")
    assert all(
        text in grader.asked[0] for text in ("the answer", "- the reference", "the input", "Score: <number>")
    )


def test_replies_without_a_score_are_zero_and_counted_until_there_are_too_many() -> None:
    judge = Judge(Grader("?", "??", "Score: 10", "?", "?", "what is this"), patience=3)
    assert [score(judge, "a", "b") for _ in range(5)] == [0, 0, 1, 0, 0]
    assert judge.unparsed == 4
    with pytest.raises(MetricError, match=r"3 answers in a row .*what is this"):
        score(judge, "a", "b")
    assert judge.usage.calls == 6


def test_a_judge_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        metrics.resolve("judge")
    with pytest.raises(ConfigError, match="answer"):
        Judge(Grader(), rubric="Grade it.")
    for wrong in ({"scale": 0.0}, {"patience": 0}, {"scale": math.nan}):
        with pytest.raises(ConfigError, match="scale"):
            Judge(Grader(), **wrong)  # type: ignore[arg-type]
