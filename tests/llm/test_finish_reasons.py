"""Ends of answers by their finish reason: complete, cut, withheld, failed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_server import Behaviour, FakeServer
from llm_tools import HELLO, ask, fail, make, no_environment, run  # noqa: F401
from provider_errors import says
from server_behaviours import edited

from zopo_fast import errors
from zopo_fast.llm.answer_text import CUT, answer_text
from zopo_fast.llm.cached_model import is_kept
from zopo_fast.llm.finish_reasons import ending_of
from zopo_fast.llm.types import Answer, Usage

REGULAR = [
    "stop", "STOP", "end_turn", "eos", "eos_token", "stop_sequence", "complete", "COMPLETE", None, "",
    "unknown", "FinishReason.STOP", "FINISH_REASON_UNSPECIFIED",
]  # fmt: skip
CUTS = [
    "length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "incomplete", "max_new_tokens",
    "token_limit", "max-tokens", "FinishReason.MAX_TOKENS",
]  # fmt: skip
FAILED = ["error", "ERROR", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error"]
WITHHELD = [
    "content_filter",
    "content_filter: SAFETY",
    "SAFETY",
    "ERROR_TOXIC",
    "refusal",
    "blocked",
    "guardrails",
]
BROKEN = ["malformed_function_call", "MALFORMED_FUNCTION_CALL", "too_many_tool_calls"]


def choice(message: Any, reason: Any = "stop", **others: Any) -> Behaviour:
    one = {"index": 0, "finish_reason": reason, **others}
    if message is not None:
        one["message"] = {"role": "assistant", **message}
    return edited(lambda answer: {**answer, "choices": [one]}, name=f"finish {reason}")


@pytest.mark.parametrize(
    ("reasons", "ending"),
    [(REGULAR, "regular"), (CUTS, "cut"), (FAILED, "failed"), (WITHHELD, "withheld"), (BROKEN, "broken")],
)
def test_endings(reasons: list[str | None], ending: str) -> None:
    for reason in [*reasons, *[reason.upper() for reason in reasons if reason]]:
        assert ending_of(reason) == ending, reason
    assert ending_of("tool_calls") == "tools"
    assert ending_of("stop_by_plugin") == "unknown"


@pytest.mark.parametrize("reason", [*REGULAR, *CUTS, "tool_calls", "stop_by_plugin"])
def test_text_at_a_regular_end_or_a_cut_is_an_answer(reason: str | None) -> None:
    answer, _, server = ask(choice({"content": "positive"}, reason))
    assert answer.text == "positive"
    assert len(server.requests) == 1
    assert is_kept(answer) is (reason not in ("tool_calls", "stop_by_plugin"))


@pytest.mark.parametrize("content", ["", "posi"])
@pytest.mark.parametrize("reason", FAILED)
def test_a_failed_end_is_retried_a_few_times(reason: str, content: str) -> None:
    behaviour = choice({"content": content}, reason)
    message, requests, _ = fail(behaviour, errors.MalformedAnswerError)
    assert requests == 4
    assert f"finish_reason '{reason}'" in message
    answer, _, _ = ask([behaviour])
    assert answer.text == "say hello"


@pytest.mark.parametrize("reason", [*WITHHELD, *BROKEN])
def test_a_withheld_or_broken_answer_is_final(reason: str) -> None:
    _, requests, _ = fail(choice({"content": "posi"}, reason), errors.MalformedAnswerError)
    assert requests == 1


@pytest.mark.parametrize("reason", CUTS)
def test_an_empty_answer_that_is_cut_is_cut_by_any_name(reason: str) -> None:
    with pytest.raises(errors.MalformedAnswerError, match="raise max_tokens") as caught:
        answer_text(Answer("", Usage(9, 64, 1), reason))
    assert caught.value.code == CUT


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "reasoning_content": "hm"},
        {"content": None, "reasoning": "hm"},
        {"content": "\n", "reasoning": "hm"},
        {"content": "", "thinking": "hm"},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
    ],
)
def test_reasoning_alone_is_no_answer(message: Any) -> None:
    text, requests, _ = fail(choice(message), errors.MalformedAnswerError)
    assert "--max-tokens" in text
    assert requests == 1


def test_an_empty_answer_at_a_regular_end_is_an_answer() -> None:
    assert ask(choice({"content": ""}))[0].text == ""


@pytest.mark.parametrize(
    "behaviour",
    [
        choice(None, text="positive"),
        choice({"content": {"type": "text", "text": "positive"}}),
        choice({"content": "positive", "reasoning_content": "hm"}),
    ],
)
def test_other_forms_of_text_are_read(behaviour: Behaviour) -> None:
    assert ask(behaviour)[0].text == "positive"


def test_an_error_behind_whitespace_that_keeps_the_connection_alive() -> None:
    body = b" \n" * 6000 + b'{"error": {"code": 429, "message": "Provider returned error"}}'

    async def scenario() -> None:
        plan = says(200, body)
        async with FakeServer(plan=plan) as server, make(server, max_elapsed=5.0) as client:
            with pytest.raises(errors.RateLimitError) as caught:
                await client.chat(HELLO)
            assert re.search(r"error of status 429", str(caught.value))

    run(scenario())
