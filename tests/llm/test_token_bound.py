"""Upper bounds of the tokens of a call, for any vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from zopo_fast.errors import ConfigError
from zopo_fast.llm.tokens import chat_bound, count_messages, text_bound


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_no_tokenizer_makes_more_tokens_than_the_bound(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    bound = chat_bound(messages, {"max_tokens": 5}, required=True)
    assert count_messages(messages, "gpt-4").tokens <= bound.prompt_tokens
    assert sum(len(text.encode("utf-8", "replace")) for text in texts) <= bound.prompt_tokens


def test_normalised_text_is_bounded_too() -> None:
    assert text_bound("\ufdfa") == 33  # one character, eighteen after NFKD
    assert text_bound("plain") == 5


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "n": 1, "best_of": 5}, 35),
    ],
)
def test_answers_are_bounded_by_the_body(body: dict[str, Any], most: int) -> None:
    assert chat_bound([], body, required=True).completion_tokens == most


@pytest.mark.parametrize("body", [{}, {"max_tokens": None}, {"n": 2}])
def test_a_required_bound_that_is_missing_is_refused(body: dict[str, Any]) -> None:
    assert chat_bound([], body, required=False).completion_tokens == 0
    with pytest.raises(ConfigError, match="max_tokens"):
        chat_bound([], body, required=True)


def test_tools_count_as_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 1000}}]
    with_tools = chat_bound([], {"tools": tools}, required=False)
    assert with_tools.prompt_tokens > 1000 + chat_bound([], {}, required=False).prompt_tokens
