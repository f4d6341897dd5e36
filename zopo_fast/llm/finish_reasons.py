"""Finish reasons of answers: regular ends, cuts at the length limit, failures."""

from __future__ import annotations

import re
from typing import Literal

Ending = Literal["regular", "tools", "cut", "withheld", "broken", "failed", "unknown"]
"""Kind of an answer's end.

regular: complete. tools: with calls of tools. cut: at the length limit. withheld: wholly or partly, by a
filter or a refusal. broken: by the model, such as a malformed tool call. failed: at the provider; a retry may
help.
"""

_REGULAR = frozenset(
    {
        "", "stop", "stop_sequence", "stop_token", "eos", "eos_token", "end_turn", "complete", "completed",
        "finished", "done", "none", "null", "unknown", "unspecified",
    }
)  # fmt: skip
_TOOLS = frozenset({"tool_calls", "tool_call", "tool_use", "function_call"})
_CUT = frozenset(
    {
        "length", "max_tokens", "model_length", "max_length", "max_output_tokens", "max_completion_tokens",
        "max_new_tokens", "token_limit", "incomplete", "max_tokens_reached", "length_limit",
        "context_length", "model_context_window_exceeded", "error_limit",
    }
)  # fmt: skip
_WITHHELD = re.compile(
    r"\w*(?:filter|safety|toxic|prohibited|recitation|blocklist|guardrail|moderat|violat|refus|sensitive)\w*|"
    r"(?:content_|prompt_)?blocked|spii|language|\w*polic(?:y|ies)\w*|harm\w*"
)
_BROKEN = re.compile(r"(?:malformed|invalid|unexpected|too_many)_\w+")
_FAILED = re.compile(
    r"\w*(?:error|fail|abort|cancel|insufficient|time_?out|timed_out|exception|interrupt|disconnect|overload|"
    r"unavailable|preempt|crash)\w*"
)
_PREFIX = re.compile(r"finish_?reason[._]")


def ending_of(reason: str | None) -> Ending:
    """Return the kind of end that a `finish_reason` states; None, which many servers send, is regular."""
    # Gemini may add its own reason: "content_filter: SAFETY".
    name = re.sub(r"[\s-]+", "_", (reason or "").lower().partition(":")[0].strip())
    name = _PREFIX.sub("", name)
    if name in _REGULAR:
        return "regular"
    if name in _TOOLS:
        return "tools"
    if name in _CUT:
        return "cut"
    patterns: tuple[tuple[re.Pattern[str], Ending], ...] = (
        (_WITHHELD, "withheld"),
        (_BROKEN, "broken"),
        (_FAILED, "failed"),
    )
    return next((ending for pattern, ending in patterns if pattern.fullmatch(name)), "unknown")


def is_cut(reason: str | None) -> bool:
    """Return whether an answer with this `finish_reason` is cut at its length limit."""
    return ending_of(reason) == "cut"
