"""Any text in prompts, inputs and answers: printed, compared and written without harm."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_tools import NASTY, json_values, texts, typed
from hypothesis import given, strategies as st
from time_tools import time_limit

import zopo_fast as zf
from zopo_fast._utils import text
from zopo_fast.cli.terminal.summary import summary
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts import cleaning, generate, pool
from zopo_fast.report.output import write_output
from zopo_fast.runs.folder import RunFolder
from zopo_fast.runs.result import HeldOut, Interval, Result
from zopo_fast.scoring import judge, metrics
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Example

# Characters; ten million with ZOPO_LONG=1.
SIZE = 10_000_000 if os.environ.get("ZOPO_LONG") else 300_000
PLACEHOLDERS = ("{input}", "[INPUT]", "{prompt}", "[PROMPT]", "{demonstrations}", "{references}", "{answer}")


def harmless(shown: str) -> bool:
    """Return whether a text has no control characters, line ends or changes of writing direction."""
    return all(
        c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown
    ) and not re.search(rf"[\u0300-\u036f]{{{text.MAX_COMBINING_MARKS + 1}}}", shown)


# ---- on a terminal -----------------------------------------------------------------------------------


@given(texts)
def test_printable_text_does_not_control_the_terminal(given: str) -> None:
    shown = text.printable(given)
    assert harmless(shown)
    shown.encode()  # lone surrogates are replaced
    assert text.printable(shown) == shown
    if given.isprintable() and not re.search("[\u0300-\u036f]", given):
        assert shown == given


def test_plain_text_is_printed_unchanged() -> None:
    for plain in ("", "a\nb", "naïve café", "日本語", "🙂", "e\u0301", "ที่นี่"):
        assert text.printable(plain) == plain
    assert text.printable("\x1b[31m\u202e\u2028\t") == "\\x1b[31m\\u202e\\u2028\\t"
    assert text.printable("e" + "\u0301" * 6) == "e" + "\u0301" * 4 + "\\u0301" * 2


@given(st.one_of(json_values, texts, st.binary(), st.just(10**5000)), st.integers(10, 100))
def test_a_value_in_an_error_is_short_and_on_one_line(value: Any, most: int) -> None:
    shown = text.short_repr(value, most)
    assert len(shown) <= most
    assert "\n" not in shown


def result_of(nasty: str, scores: tuple[float, ...] = (0.5, 1.0)) -> Result:
    trials = [
        zf.Trial(n, n, nasty, score, (score,), Usage(), 0.0, score, Usage(), error=nasty)
        for n, score in enumerate(scores)
    ]
    heldout = [
        HeldOut("winner", nasty, 0.5, 0.5, (0.5,)),
        HeldOut("seed prompt", nasty, None, 0.5, (0.5,), Interval(0.0, 0.0, 0.0)),
    ]
    error = RuntimeError(nasty)
    return Result(nasty, 1.0, 0, trials, Usage(), "error", 1.0, heldout, error)


@given(texts)
def test_a_summary_does_not_control_the_terminal(nasty: str) -> None:
    assert harmless(summary(result_of(nasty)))


# ---- in files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_the_files_of_a_run_can_hold_any_text(tmp_path: Path, nasty: str) -> None:
    folder, result = RunFolder(tmp_path / "run"), result_of(nasty)
    for trial in result.trials:
        folder.add(trial)
    folder.finish(result, {"model": nasty, "body": nasty})
    lines = (tmp_path / "run" / "trials.jsonl").read_text(encoding="utf-8")
    assert (
        lines.count("\n") == len(lines.splitlines()) == len(result.trials)
    )  # whatever counts as the end of a line
    assert harmless(
        lines.replace("\u200b", "").replace("\u202e", "").replace("\ufeff", "").replace("\u200d", "")
    ) or ("\u0301" in nasty)
    for line in lines.splitlines():
        assert json.loads(line)["prompt"] == nasty
    document = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert document["best_prompt"].encode("utf-8", "replace") == nasty.encode("utf-8", "replace")


@given(json_values)
def test_a_line_of_json_is_one_line(value: Any) -> None:
    line = text.json_line(value)
    assert line.splitlines() == [line[:-1]]
    assert line.encode()
    assert json.dumps(json.loads(line)) == json.dumps(value)


def test_extreme_scores_leave_a_curve_or_a_note(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    result = result_of("x", (1e308, -1e308, 5e-324, 0.0))
    folder.finish(result, {})
    for note in write_output(result, folder.path):
        assert note.startswith("curve.png: ")
    assert (tmp_path / "run" / "result.json").exists()


@given(st.lists(texts, max_size=4))
def test_a_pool_of_any_texts_is_restored_from_its_file(tmp_path_factory: Any, given: list[str]) -> None:
    found = typed(zf.Pool.from_texts, given)
    if not found:
        return
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    found.save(path)
    assert zf.Pool.load(path) == found
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(found)


@given(
    st.tuples(texts),
    st.tuples(st.one_of(st.integers(), st.none(), texts)),
    st.dictionaries(texts, json_values),
)
def test_a_pool_of_any_arguments_is_built_or_refused(prompts: Any, counts: Any, scores: Any) -> None:
    typed(zf.Pool, prompts, counts, scores)
    typed(zf.Pool.from_texts, list(prompts), scores)


# ---- in templates ------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([*NASTY, *PLACEHOLDERS]), min_size=3, max_size=3))
def test_placeholders_in_texts_are_not_expanded(given: list[str]) -> None:
    prompt, input, shot = given
    shots = [Example(shot, (f"{shot}!",))] if shot else []
    for name in template.TEMPLATES:
        rendered = template.resolve(name).render(prompt, input, shots)
        whole = "".join(message["content"] for message in rendered)
        assert prompt in whole
        assert input in whole
        lengths = len(prompt) + len(input) + (2 * len(shot) + 1 if shots else 0)
        plain = template.resolve(name).render("", "", [Example("", ("!",))] if shots else [])
        # The length shows that no placeholder of a text was expanded.
        repeated = (len(shots) * len(prompt)) if name in ("user", "chat") else 0
        fixed = len("".join(message["content"] for message in plain)) - len(shots)
        assert len(whole) == fixed + lengths + repeated


def test_the_message_to_a_judge_expands_no_placeholder_of_a_text() -> None:
    sent: list[str] = []

    class Model:
        async def chat(self, messages: Any, **_: Any) -> Answer:
            sent.append(messages[0]["content"])
            return Answer("Score: 5", Usage())

    one = judge.Judge(Model(), rubric="{input}|{references}|{answer}")
    asyncio.run(one("{input}{references}", Example("{answer}", ("{input}", "[INPUT]"))))
    assert sent == ["{answer}|- {input}\n- [INPUT]|{input}{references}"]


def test_the_request_for_an_instruction_holds_the_texts_unchanged() -> None:
    sent: list[str] = []

    class Model:
        async def chat(self, messages: Any) -> Answer:
            sent.append(messages[0]["content"])
            return Answer(f"Do it, {len(sent)}.", Usage())

    asyncio.run(generate.induce(Model(), [Example("{pairs}", ("{pairs}",))], 1))
    asyncio.run(generate.paraphrase(Model(), ["{way} {prompt}"], 1))
    assert "Input: {pairs}\nOutput: {pairs}" in sent[0]
    assert "Instruction: {way} {prompt}\n" in sent[1]


# ---- of any size -------------------------------------------------------------------------------------

# Inputs on which a careless implementation of the functions below takes minutes.
LONG: dict[str, str] = {
    "letters": "a" * SIZE,
    "words": "and " * (SIZE // 4),
    "blanks": " " * SIZE,
    "newlines": "\n \n" * (SIZE // 3),
    "dashes": "- " * (SIZE // 2),
    "quotes": '"' * SIZE,
    "stars": "**" * (SIZE // 2),
    "backquotes": "```\n" * (SIZE // 4),
    "scores": "score (" * (SIZE // 7),
    "scores and digits": "score 1 " * (SIZE // 8),
    "score of digits": "score: " + "9" * SIZE,
    "answers": "answer: " * (SIZE // 8),
    "sentences": "sentence 1:" * (SIZE // 11),
    "points": "1.a." * (SIZE // 4),
    "brackets": "(a) (" * (SIZE // 5),
    "sure": "sure " * (SIZE // 5),
    "marks": "e" + "\u0316\u0301" * 200_000,
    "surrogates": "\ud800" * SIZE,
    "emoji": "👩‍👩‍👧‍👦" * (SIZE // 10),
    "right to left": "\u202e\u05d0" * (SIZE // 20),
    "boxes": "\\boxed{" * (SIZE // 7),
    "braces": "{" * SIZE,
    "objects": '{"a":' * (SIZE // 5),
    "tags": "<answer>" * (SIZE // 8),
    "closing tags": "</answer><output>" * (SIZE // 17),
    "groups": "1,234," * (SIZE // 6),
    "digits": "1" * SIZE,
    "relations": ">" * SIZE,
    "exclamations": "!" * SIZE + "x",
    "money": "$ 1" * (SIZE // 3),
    "choices": "option a or " * (SIZE // 12),
    "brackets at the end": "(" * (SIZE // 2) + "x" + ")" * (SIZE // 2),
    "compatible marks": "か" + "\uff9e\u0301" * (SIZE // 2),
    "spaced marks": "a" + " \u0301\ufc5e" * (SIZE // 3),
    "quoted lines": "> \n" * (SIZE // 3),
    "labels": "Instruction:\n" * (SIZE // 13),
    "initials": "A. " * (SIZE // 3),
    "placeholders": "{input}[PROMPT]" * (SIZE // 20),
}
TAKERS: dict[str, Callable[[str], Any]] = {
    **{name: lambda given, name=name: metrics.METRICS[name](given, "a b") for name in metrics.METRICS},
    **{
        f"{name} reference": lambda given, name=name: metrics.METRICS[name]("a b", given)
        for name in ("exact_match", "f1", "multiple_choice")
    },
    "score": judge.parse_score,
    "instruction": cleaning.clean,
    "prompt": pool.normalise,
    "terminal": text.printable,
    "shown": text.short_repr,
    "line": text.json_line,
    "template": lambda given: template.resolve("instruction").render(
        given, given, [Example(given, (given,))]
    ),
}


@pytest.mark.parametrize("kind", LONG)
def test_megabytes_of_text_are_processed_in_linear_time(kind: str) -> None:
    """An endpoint may send answers of any length; quadratic time would hit the limit by far."""
    given = LONG[kind]
    for taker in TAKERS.values():
        with time_limit():
            taker(given)
    with time_limit():  # these read a bounded part only
        cleaning.clean(given * 20)
        judge.parse_score(given * 20)


@given(texts)
def test_the_linear_time_normal_form_is_nfc(given: str) -> None:
    assert text.nfc(given) == unicodedata.normalize("NFC", given) or "\u0301" * 31 in given
    assert text.nfc(text.nfc(given)) == text.nfc(given)


def test_the_normal_form_of_many_combining_marks() -> None:
    rng = random.Random(0)
    for _ in range(200):
        parts = [
            rng.choice(["e", "\u0301", "\u0316", "q\u0307", "\u0301" * 40, "한", "ᄒ", "ᅡ"]) for _ in range(6)
        ]
        given = "".join(parts)
        once = text.nfc(given)
        assert text.nfc(once) == once
        if not re.search("[\u0301\u0316\u0307]{31}", given):
            assert once == unicodedata.normalize("NFC", given)


# ---- metrics and answers -----------------------------------------------------------------------------


@given(texts, texts)
def test_any_answer_gets_a_score_from_0_to_1(answer: str, reference: str) -> None:
    for metric in metrics.METRICS.values():
        assert 0.0 <= metric(answer, reference) <= 1.0
        assert metric(reference, reference) == 1.0 or not reference.strip()
    score = judge.parse_score(answer)
    assert score is None or 0.0 <= score <= 1.0
    assert len(cleaning.clean(answer)) <= 2000


@given(st.lists(json_values, max_size=2), st.one_of(json_values, texts))
def test_an_example_of_anything_but_texts_is_refused(outputs: Any, input: Any) -> None:
    typed(Example, input, outputs, also=(TypeError,))
    typed(Example, input, input, also=(TypeError,))


@pytest.mark.parametrize(
    "result",
    [10**400, "1", b"1", None, [1], 1j, float("nan"), object(), {"score": 1}],
    ids=lambda r: ascii(r)[:20],
)
def test_a_metric_that_returns_no_finite_number_is_refused(result: Any) -> None:
    metric = metrics.from_function(lambda answer, references: result)
    with pytest.raises(zf.MetricError, match=r"finite number|not a number"):
        asyncio.run(metric("a", Example("b", ("c",))))  # type: ignore[arg-type]
