"""Calls of a model that writes prompts, and the instructions in its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from zopo_fast.errors import LLMError, MalformedAnswerError
from zopo_fast.llm.answer_text import answer_text
from zopo_fast.llm.finish_reasons import is_cut
from zopo_fast.prompts.cleaning import clean, is_refused, reaches_end

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer, CallKey, ChatModel, Message

Problem = Literal["", "refused", "cut", "none"]
"""Why an answer gives no instruction: a refusal, a cut inside reasoning or instruction, or there is none."""


class Instruction(NamedTuple):
    """Instruction in an answer, or why there is none."""

    prompt: str  # "" if there is none
    problem: Problem
    text: str  # the answer without its reasoning


async def ask(model: ChatModel, content: str, key: CallKey | None = None) -> Answer | LLMError:
    """Return the answer to one message, or the error of the call."""
    message: Message = {"role": "user", "content": content}
    try:
        return await (model.chat([message]) if key is None else model.chat([message], key=key))
    except LLMError as error:
        return error


def instruction_in(answer: Answer) -> Instruction:
    """Extract the instruction from an answer."""
    try:
        text = answer_text(answer)
    except MalformedAnswerError:  # cut inside its reasoning
        return Instruction("", "cut", "")
    prompt = clean(text)
    if prompt and is_cut(answer.finish_reason) and reaches_end(text):
        return Instruction("", "cut", text)  # its end is missing
    if prompt:
        return Instruction(prompt, "", text)
    return Instruction("", "refused" if is_refused(text) else "none", text)
