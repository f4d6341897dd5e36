"""Text of an answer: reasoning is left out, whatever form it has."""

from __future__ import annotations

from typing import Any

import pytest

from zopo_fast.errors import MalformedAnswerError
from zopo_fast.llm.answer_text import CUT, answer_text, content_text
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
    ],
)
def test_an_answer_that_ends_inside_its_reasoning_is_cut(text: str) -> None:
    with pytest.raises(MalformedAnswerError, match="max_tokens") as caught:
        read(text)
    assert (caught.value.code, caught.value.concerns) == (CUT, "call")


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
