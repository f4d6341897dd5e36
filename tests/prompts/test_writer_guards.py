"""Guards that drafts must pass: form, duplicates and copies of training examples."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from zopo_fast.errors import ArrayError, ConfigError, InputError
from zopo_fast.prompts import generate
from zopo_fast.prompts.writing.guards import Guard, near_duplicates
from zopo_fast.prompts.writing.parts import COMPOSE_FILE
from zopo_fast.tasks.example import Example
from zopo_fast.tasks.task import Task

ROOT = Path(__file__).parents[2]
TASKS = [
    *sorted((ROOT / "examples").glob("*.jsonl")),
    *sorted((ROOT / "bench/landscapes/tasks").glob("*.jsonl")),
]
SENTIMENT = [
    *[
        Example(f"It was {word} to the very end.", ("positive",))
        for word in ("great", "lovely", "warm", "fun")
    ],
    Example("A charming comedy with a big heart.", ("positive",)),
    Example("Pure magic.", ("positive",)),
    Example("dull", ("negative",)),
    Example("Lifeless and far too long.", ("negative",)),
    Example("awful", ("negative",)),
    Example("A mess from start to finish.", ("negative",)),
]
PAIRS = [
    Example("up", ("down",)), Example("good", ("bad", "evil")), Example("in", ("out",)),
    Example("New Delhi", ("India",)), Example("copy", ("Copy",)),
]  # fmt: skip
LOOK = "Say what the mood of the text is."


def copies(examples: Sequence[Example], *texts: str) -> list[bool]:
    return [reason is not None and "copies" in reason for reason in Guard(examples).reasons(texts)]


# ---- copies ----------------------------------------------------------------------------------------------


def prompts_of(task: Path) -> Iterator[str]:
    """Yield the prompts that `compose` makes for a task, and those measured on it."""
    kinds = tomllib.loads(COMPOSE_FILE.read_text(encoding="utf-8"))
    for kind in {"general", task.stem} & set(kinds):
        yield from generate.compose(10_000, kind=kind).prompts
    if (lists := task.with_suffix(".toml")).exists():
        yield from generate.compose(10_000, lists=lists).prompts
    measured = ROOT / "bench/landscapes" / f"{task.stem}.json"
    if measured.exists():
        yield from json.loads(measured.read_text(encoding="utf-8"))["prompts"]


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_composed_prompts_pass_and_quotes_do_not(path: Path) -> None:
    task = Task.load(path)
    examples = [*task.train, *task.heldout]
    guard = Guard(examples)
    prompts = list(dict.fromkeys(prompts_of(path)))
    assert len(prompts) > 200
    reasons = set(guard.reasons(prompts))
    assert reasons <= {None, "equals another draft"}, reasons
    forms = (
        "Do the task. For example, the output of '{}' is '{}'.",
        "Do the task.\n\nInput: {}\nOutput: {}",
        "{} -> {}. Do the same.",
        "Do the task. Example: {} = {}",
    )
    for example in examples:
        for form in forms:
            for output in example.outputs:
                reason = guard.reason(form.format(example.input.upper(), output))
                assert reason is not None, (form, example)
                assert "copies training example" in reason


def test_a_run_of_five_words_is_a_copy_and_four_are_none() -> None:
    assert copies(
        SENTIMENT,
        "Label texts such as A CHARMING comedy, with a big ... and so on.",
        "Label texts such as charming comedy with a.",
        "Label texts; a comedy with big heart is charming, a very good thing.",
    ) == [True, False, False]
    assert Guard(SENTIMENT).reason("A charming comedy with a big heart") == "copies training example 4"


def test_wording_that_many_examples_share_may_be_used() -> None:
    examples = [Example(f"Does this claim hold up in court? Claim {n}.", ("yes", "no")) for n in range(3)]
    text = "Decide: does this claim hold up in court?"
    assert copies(examples, text) == [False]
    assert copies(examples[:2], text) == [True]
    function_words = [Example("What he did was at the end of it.", ("x y",))]
    assert copies(function_words, "Write a word at the end of it.", "What he did was at the end of it") == [
        False, True,
    ]  # fmt: skip


def test_labels_may_be_named_and_answers_of_one_example_not() -> None:
    label = "the first of the two sentences is the cause"
    answer = "the nurse gave him some bitter medicine"
    examples = [Example("one", (label,)), Example("two", (label,)), Example("three", (answer,))]
    assert copies(examples, f"Write {label!r} or not.", f"Write {answer!r}.") == [False, True]


def test_columns_are_guarded() -> None:
    example = Example("", ("yes",), (("context", "The harbour freezes over every winter."),))
    assert copies([example], "Know that the harbour freezes over every winter.", "Read the context.") == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The opposite of up is down.", True),
        ("Write down what comes up.", False),
        ("Write down the word. It stands for the whole scale of meanings: up.", False),
        ("For instance, if the input is 'good', then say 'evil'.", True),
        ("Do a good job.", False),
        ("Write the word out in full.", False),
        ("In your answer, leave out all marks.", False),
        ("in -> out", True),
        ("in/out", False),
        ("Input: in\nOutput: out", True),
        ('"in" is "out"', True),
        ("If it says New Delhi, answer India.", True),
        ("If it says Delhi, answer India.", False),
        ("Copy the text; make no second copy.", False),
        ("copy -> Copy", True),
    ],
)
def test_short_inputs_beside_their_answers(text: str, expected: bool) -> None:
    assert copies(PAIRS, text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Say negative if the text is dull, positive otherwise.", False),
        ("dull: negative", True),
        ("Pure magic is an example of positive reviews.", True),
        ("Pure magic of the text: say what it is in the end, as positive.", False),
        ("Write positive or negative.", False),
    ],
)
def test_short_inputs_beside_labels(text: str, expected: bool) -> None:
    assert copies(SENTIMENT, text) == [expected]


def test_short_sentences_are_copies_without_their_answers() -> None:
    examples = [Example("Who wrote Hamlet", ("x y",)), Example("Is it so", ("z",))]
    assert copies(examples, "Answer 'who wrote Hamlet?'", "Who wrote it?", "Is it so?") == [
        True,
        False,
        False,
    ]


def test_scripts_without_blanks_and_with_marks() -> None:
    chinese = [Example("这部电影真的非常好看，我很喜欢", ("正面",)), Example("苹果", ("水果",))]
    assert copies(
        chinese,
        "判断这部电影的评价是正面还是负面。",
        "例如：这部电影真的非常好看",
        "苹果 -> 水果",
        "写出水果的名字。",
    ) == [False, True, True, False]
    hindi = [Example("यह फिल्म बहुत अच्छी है", ("हाँ",))]
    assert copies(hindi, "जैसे: यह फिल्म बहुत अच्छी है", "यह फिल्म अच्छी है या नहीं?") == [True, False]


def test_a_copy_is_found_in_disguise() -> None:
    assert (
        copies(
            SENTIMENT,
            "Say ａ ｃｈａｒｍｉｎｇ comedy with a big heart.",
            "Say A char\u200bming comedy \u00adwith a big heart.",
            "Say A charming\ncomedy\u00a0with - a *big* heart.",
        )
        == [True] * 3
    )


def test_many_examples_that_begin_alike() -> None:
    examples = [Example(f"the w{number}", (f"out{number}",)) for number in range(3000)]
    assert copies(examples, "the the w17: out17", "the w17: out18 " + "the " * 50) == [True, False]


def test_no_examples_and_empty_ones() -> None:
    assert copies([], LOOK, "") == [False, False]
    assert copies([Example("", ("",)), Example("...", ("!",))], LOOK, "...") == [False, False]
    assert Guard([]).reasons([]) == []


# ---- form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t\u3000", "empty"),
        ("a\0b", "control"),
        ("a\x1b[31mb", "control"),
        ("a\x9bb", "control"),
        ("say \ud83d", "surrogate"),
        ("Say \u202eevitisop\u202c.", "hide or reorder"),
        ("Say \u2066x\u2069.", "hide or reorder"),
        ("Say it.\U000e0041\U000e0042", "hide or reorder"),
        ("<think>The pairs</think> Say it.", "<think>"),
        ("Say it.\n</THINK>", "<think>"),
        ("<|channel|>analysis<|message|>So", "<think>"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("As an AI language model, I cannot do that.", "refusal"),
        ("x" * 401, "401 characters; the limit is 400"),
        ("word " * 200_000, "1000000 characters"),
        (3, "no text but int"),
    ],
)
def test_malformed_drafts_are_rejected(text: str, reason: str) -> None:
    found = Guard(SENTIMENT).reason(text)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    "text",
    [
        'Answer "positive" or \'negative\', as in "he said \'"no"\'".',
        "Put {input} into {prompt} and [INPUT] of {{x}}.",
        "اكتب الكلمة \u200fبالعربية\u200e. נכון",
        "Use 👩\u200d🚀 for a pilot.",
        "Rules:\n\t- one\r\n- two",
        "Write in <b>bold</b> [sic].",
    ],
)
def test_unusual_drafts_pass(text: str) -> None:
    assert Guard(SENTIMENT).reason(text) is None


def test_reasoning_may_be_named_where_the_pool_names_it() -> None:
    text = "Reason inside <think></think>, then answer."
    assert Guard(SENTIMENT).reason(text) is not None
    guard = Guard(SENTIMENT, known=["Write your reasons in <think> tags."])
    assert guard.reason(text) is None


def test_the_length_limit() -> None:
    assert Guard([], known=["x" * 300]).max_characters == 600
    assert Guard([], known=["x" * 3000]).max_characters == 4000
    assert Guard([], known=["x" * 9000]).max_characters == 9000
    guard = Guard([], 10)
    assert guard.reason("a" * 10) is None
    assert guard.reason("a" * 11) == "is too long: 11 characters; the limit is 10"
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="max_characters"):
            Guard([], wrong)  # type: ignore[arg-type]


# ---- duplicates ------------------------------------------------------------------------------------------


def test_duplicates_by_text() -> None:
    guard = Guard(SENTIMENT, known=["Say the mood.", "C++ or C#?", "...", "Don't explain"])
    assert guard.reason("  Say  the mood. ") == "equals a known prompt"
    for text in ("say the mood", "Say: the mood!", "SAY THE “MOOD”…", "don’t explain", "Ｓay the mood"):
        assert guard.reason(text) == "equals a known prompt but for case or punctuation", text
    for text in ("Say the moods.", "C or C#?", "!!!", "Say the mood?x"):
        assert guard.reason(text) is None, text


def test_duplicates_among_drafts() -> None:
    guard = Guard(SENTIMENT)
    copied = "A charming comedy with a big heart."
    assert guard.reasons([LOOK, LOOK.lower(), copied, copied, "Other."]) == [
        None, "equals another draft", "copies training example 4", "copies training example 4", None,
    ]  # fmt: skip
    assert guard.reason(LOOK) is None  # a check adds nothing
    guard.add([LOOK])
    assert guard.reason(LOOK) == "equals a known prompt"
    with pytest.raises(InputError, match="known: expected texts, got int"):
        guard.add([3])  # type: ignore[list-item]


def test_near_duplicates() -> None:
    known = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    new = np.array([[1, 0.1, 0], [0, 3, 0], [0, 1, 0.1], [0, 0, 0], [0, 0, 0], [0, -1, 0], [1, 1, 0]])
    assert near_duplicates(new, known, 0.95).tolist() == [True, False, True, False, False, False, False]
    assert near_duplicates(new, known, 0.5).tolist() == [True, False, True, False, False, False, True]
    assert near_duplicates(new[:0], known, 0.9).tolist() == []
    assert near_duplicates(new[:1], known[:0], 0.9).tolist() == [False]
    rng = np.random.default_rng(0)
    new, known = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (new, known)]
    expected: list[bool] = []
    for row in range(len(new)):
        kept = [other for other in range(row) if not expected[other]]
        near = max([*(unit[1] @ unit[0][row]), *(unit[0][kept] @ unit[0][row])])
        expected.append(bool(near >= 0.7))
    assert near_duplicates(new, known, 0.7).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_a_near_duplicate_of_a_rejected_draft_is_kept() -> None:
    angles = np.radians([0, 20, 40])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert near_duplicates(rows, np.empty((0, 2)), np.cos(np.radians(25))).tolist() == [False, True, False]


def test_malformed_embeddings_are_refused() -> None:
    good = np.ones((2, 3))
    with pytest.raises(ArrayError, match="shapes"):
        near_duplicates(good, np.ones((2, 4)), 0.9)
    with pytest.raises(ArrayError, match="shapes"):
        near_duplicates(good[0], good, 0.9)
    for bad in (np.nan, np.inf):
        with pytest.raises(ArrayError, match="NaN"):
            near_duplicates(good, good * bad, 0.9)
        with pytest.raises(ArrayError, match="NaN"):
            near_duplicates(good * bad, good, 0.9)
    for threshold in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            near_duplicates(good, good, threshold)
