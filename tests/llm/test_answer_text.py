"""Text of an answer: reasoning is left out, whatever form it has."""

from __future__ import annotations

from typing import Any

import pytest

from zopo_fast.errors import MalformedAnswerError
from zopo_fast.llm.answer_text import CUT, answer_text, content_text, without_reasoning
from zopo_fast.llm.types import Answer, Usage


def read(text: str) -> str:
    return answer_text(Answer(text, Usage(1, 1, 1), "stop"))


@pytest.mark.parametrize(
    "text",
    [
        "<think>Is it good? Yes.</think>\n\npositive",
        "Is it good? Yes.\n</think>\n\npositive",
        "\n<think>\n</think>positive\n",
        "<THINK>x</THINK> positive",
        "<thinking>a</thinking>\n<think>b</think>positive",
        "<reasoning>a <b>bold</b> claim</reasoning>positive",
        "[THINK]hm[/THINK]positive",
        "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>positive<|end_of_solution|>",
        "◁think▷hm◁/think▷positive",
        "<seed:think>hm</seed:think>positive",
        "<|channel|>analysis<|message|>negative?<|end|><|start|>assistant<|channel|>final<|message|>positive",
        "<|channel|>final<|message|>positive<|return|>",
        # Cohere and Gemma
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>positive<|END_RESPONSE|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_TEXT|>positive<|END_TEXT|><|END_OF_TURN_TOKEN|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>positive",
        "<|START_RESPONSE|>positive<|END_RESPONSE|>",
        "<|channel>thought\nnegative?<channel|>positive",
        "<|channel>thought\n<channel|>positive",
        # the whole answer in a tag, after reasoning
        "<think>hm</think>\n<answer>positive</answer>\n",
        "<think>hm</think><answer>\npositive\n</answer>",
        "<think>hm</think><response>positive</response>",
        "<think>hm</think><final>positive</final>",
        "<reasoning>hm</reasoning><ANSWER>positive</ANSWER>",
        "<think>hm</think><answer>positive",
        "hm\n</think>\n<answer>positive</answer>",
        # marks before the reasoning
        "\ufeff<think>hm</think>positive",
        "<s><think>hm</think>positive",
        "<s> \n<think>hm</think>positive",
        "<|begin_of_text|><think>hm</think>positive",
        "<bos><|im_start|>assistant\n<think>hm</think>positive",
        "<｜begin▁of▁sentence｜><think>hm</think>positive",
        '<details type="reasoning" done="true" duration="5">\n<summary>Thought for 5 s</summary>\n> hm\n'
        "</details>\npositive",
        "<details type='reasoning'><details>a</details>b</details>positive",
        # nested, unbalanced and mixed tags
        "<think>a<think>b</think>c</think>positive",
        "<think>a<THINK>b</think>c</THINK>\n<think>d</think>positive",
        "<thinking>a<think>b</think>c</thinking>positive",
        "<think>They ask for <think> tags.</think>positive",
        "<think>a</think>b</think>positive",
        "<think>a</thinking>positive",
        # the opening tag is missing
        "negative? positive?\n</think>\n\npositive",
        "hm</think>positive",
        "hm </think>positive",
        "hm</think> positive",
        "Is it good? Yes. </think> positive",
        "so it is positive </think>\npositive",
        "hm\n</think> positive",
        "</think>positive",
        "I must close with `</think>` first.\n</think>\npositive",
        "a<think>b</think>c</think>positive",
        "hm\n[/THINK]positive",
        "hm<|END_THINKING|><|START_RESPONSE|>positive<|END_RESPONSE|>",
    ],
)
def test_reasoning_is_left_out(text: str) -> None:
    assert read(text) == "positive"


@pytest.mark.parametrize(
    "text",
    [
        "positive",
        " positive\n",
        "Use <think> for thoughts.",
        "Write <think>x</think> in the page.",
        "a < think and b > think",
        "",
        "Use </think> to close.",
        "Use </think>",
        "Close the passage by writing </think>",
        "Close the passage by writing </think>\n",
        "End with the tag </think>.",
        "End with </think>\nand then answer.",
        "The model writes </think>, then the answer.",
        "The model writes `</think>` and\nthen the answer.",
        "Write `hm</think>positive` as the answer.",
        "The mark (</think>) and '</think>' and \"</think>\" and **</think>** close it.",
        "An example:\n```\nhm\n</think>\npositive\n```\n",
        "A reasoning model writes </think> after its thoughts",
        "<answer>positive</answer>",
        "<response>positive</response>",
        "<s>old</s> new",
        "\ufeffpositive",
        "<details>more</details> positive",
        "<b>positive</b></details>",
    ],
)
def test_an_answer_without_leading_reasoning_is_unchanged(text: str) -> None:
    assert read(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "<think>I am not done",
        "<think>one</think><think>two",
        "[THINK]hm",
        "<|channel|>analysis<|message|>The review is",
        "<|START_THINKING|>hm",
        "<|channel>thought\nhm",
        "<s><think>hm",
        '<details type="reasoning">hm',
    ],
)
def test_an_answer_that_ends_inside_its_reasoning_is_cut(text: str) -> None:
    with pytest.raises(MalformedAnswerError, match="max_tokens") as caught:
        read(text)
    assert (caught.value.code, caught.value.concerns) == (CUT, "call")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>hm</think>Use </think> to close.", "Use </think> to close."),
        ("hm\n</think>\nUse </think> to close.", "Use </think> to close."),
        ("<think>hm</think>Write <think>x</think> there.", "Write <think>x</think> there."),
        (
            "<think>hm</think><answer>a</answer> or <answer>b</answer>",
            "<answer>a</answer> or <answer>b</answer>",
        ),
        ("<think>hm</think>It is <answer>a</answer>", "It is <answer>a</answer>"),
        ("hm</think>", ""),
        ("hm\n</think>\n", ""),
    ],
)
def test_tags_within_the_answer_stay(text: str, answer: str) -> None:
    assert read(text) == answer


@pytest.mark.parametrize(
    "unit", ["<think><think></think>", " </think> ", "<think>", "`</think>` ", "a</think>"]
)
def test_many_tags_take_no_quadratic_time(unit: str) -> None:
    """A test of this size would take minutes."""
    without_reasoning(unit * 20_000)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("positive", "positive"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "positive"}], "positive"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "p"},
            ],
            "p",
        ),
        ([{"type": "output_text", "text": "posi"}, {"type": "text", "text": "tive"}], "positive"),
        ([{"text": "positive"}], "positive"),
        (["posi", "tive"], "positive"),
        ([{"type": "text", "text": {"value": "positive", "annotations": []}}], "positive"),
        ([{"type": "text", "text": ""}], ""),
        ([{"type": "reasoning", "text": "hm"}], None),
        ([{"text": "hm", "thought": True}, {"text": "positive"}], "positive"),
        ([{"type": "text", "text": "hm", "thought": True}], None),
        ([{"text": "positive", "thought": False}], "positive"),
        ([{"type": "refusal", "refusal": "no"}], None),
        ([], None),
        (None, None),
        (5, None),
        ({"type": "text", "text": "positive"}, "positive"),
        ({"type": "thinking", "thinking": "hm"}, None),
    ],
)
def test_text_of_content(content: Any, text: str | None) -> None:
    assert content_text(content) == text


@pytest.mark.parametrize("text", ["", " \n", "<think>I am done</think>\n"])
def test_an_empty_answer_that_is_cut_ends_inside_its_reasoning(text: str) -> None:
    """Endpoints of reasoning models keep the reasoning to themselves, and the limit counts it."""
    with pytest.raises(
        MalformedAnswerError, match=r"after 64 tokens.*raise max_tokens, --max-tokens"
    ) as caught:
        answer_text(Answer(text, Usage(9, 64, 1), "length"))
    assert (caught.value.concerns, caught.value.code) == ("call", CUT)
    assert answer_text(Answer(text, Usage(9, 64, 1), "stop")).strip() == ""
    assert answer_text(Answer("pos", Usage(9, 64, 1), "length")) == "pos"
