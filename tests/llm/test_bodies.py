"""Bodies of chat calls: defaults merged with given parameters."""

from __future__ import annotations

from typing import Any

import pytest

from zopo_fast.llm.bodies import ANSWER_BODY, merged_body


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ({}, {"temperature": 0.0, "max_tokens": 64}),
        ({"top_p": 0.5}, {"temperature": 0.0, "max_tokens": 64, "top_p": 0.5}),
        ({"max_tokens": None}, {"temperature": 0.0}),
        ({"max_tokens": "unset", "temperature": "unset"}, {}),
        ({"seed": None, "stop": "unset"}, {"temperature": 0.0, "max_tokens": 64}),
        ({"max_completion_tokens": 900}, {"temperature": 0.0, "max_completion_tokens": 900}),
        ({"max_completion_tokens": None}, {"temperature": 0.0, "max_tokens": 64}),
        ({"max_completion_tokens": "unset"}, {"temperature": 0.0, "max_tokens": 64}),
        # Both were typed: both are sent, and the endpoint says what it makes of them.
        ({"max_completion_tokens": 9, "max_tokens": 8},
         {"temperature": 0.0, "max_completion_tokens": 9, "max_tokens": 8}),
        ({"max_completion_tokens": 9, "max_tokens": None}, {"temperature": 0.0, "max_completion_tokens": 9}),
        ({"options": {"a": None}}, {"temperature": 0.0, "max_tokens": 64, "options": {"a": None}}),
        ({"stop": ["unset"], "n": 0}, {"temperature": 0.0, "max_tokens": 64, "stop": ["unset"], "n": 0}),
    ],
)  # fmt: skip
def test_given_parameters_replace_or_remove_the_defaults(given: dict[str, Any], merged: Any) -> None:
    assert merged_body(ANSWER_BODY, given) == merged
