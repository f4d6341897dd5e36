"""Text of an answer without the reasoning of the model: one rule for scoring, judging and generation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zopo_fast.errors import MalformedAnswerError
from zopo_fast.llm.finish_reasons import is_cut

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer

CUT = "cut_in_reasoning"
"""Code of the error for an answer that ends inside its reasoning."""

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think|analysis)"
_OPEN = re.compile(rf"\s*(?:<({_NAMES})>|\[(THINK)\]|(<\|begin_of_thought\|>)|(◁think▷))", re.IGNORECASE)
_ANY_OPEN = re.compile(rf"<{_NAMES}>|\[THINK\]|<\|begin_of_thought\|>|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAMES}>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷", re.IGNORECASE)
# gpt-oss writes channels; the answer is in the last "final" one.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|call)\|>")
_WRAPPED = re.compile(r"\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>\s*)?\Z", re.DOTALL)

_TEXT_PARTS = ("text", "output_text")


def answer_text(answer: Answer, *, option: str = "--max-tokens") -> str:
    """Return the text of an answer without a leading block of reasoning.

    Understood are `<think>...</think>` and its relatives, also with the opening tag missing, which chat
    templates often put into the prompt. Tags after the first word of the answer belong to the answer.

    Args:
        answer: the answer.
        option: command-line option that limits its length, for the error.

    Raises:
        MalformedAnswerError: the answer ends inside its reasoning; the code is `CUT`.
    """
    text = without_reasoning(answer.text)
    # Most endpoints keep the reasoning to themselves: of an answer that is cut inside it, nothing is left.
    is_empty = text is not None and is_cut(answer.finish_reason) and not text.strip()
    if text is None or is_empty:
        raise MalformedAnswerError(
            f"the answer ends inside its reasoning after {answer.usage.completion_tokens} tokens "
            f"(finish_reason {answer.finish_reason!r}): raise max_tokens, {option} on the command "
            "line",
            concerns="call",
            code=CUT,
        )
    return text


def without_reasoning(text: str) -> str | None:
    """Return the text after the reasoning at its start, unchanged without one; None if it is not closed."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        return _CHANNEL_END.split(text[last.end() :], maxsplit=1)[0].strip() if last[1] == "final" else None
    rest, found = text, False
    while (opening := _OPEN.match(rest)) is not None:
        closing = _CLOSE.search(rest, opening.end())
        if closing is None:
            return None
        rest, found = rest[closing.end() :], True
    if not found and (closing := _CLOSE.search(text)) is not None and not _ANY_OPEN.search(text):
        rest, found = text[closing.end() :], True  # the opening tag is missing
    if not found:
        return text
    wrapped = _WRAPPED.match(rest)
    return (rest if wrapped is None else wrapped[1]).strip()


def content_text(content: object) -> str | None:
    """Return the text of a message's `content`: a string, a part, or a list of parts without the reasoning.

    Returns:
        The text; None if the content holds none, such as null, a refusal, or reasoning alone.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _part_text(content)
    if not isinstance(content, list):
        return None
    parts = [_part_text(part) for part in content]
    texts = [part for part in parts if part is not None]
    return "".join(texts) if texts else None


def _part_text(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type", "text") not in _TEXT_PARTS:
        return None
    text = part.get("text")
    if isinstance(text, Mapping):  # {"text": {"value": ...}} as in the Assistants API
        text = text.get("value")
    return text if isinstance(text, str) else None
