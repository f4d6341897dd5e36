"""Unanswered examples: failures of single calls, as scores and as reasons."""

from __future__ import annotations

from typing import Literal, NamedTuple

from zopo_fast.errors import LLMError

Policy = Literal["zero", "skip", "fail"]
"""Treatment of an unanswered example: a score of zero, left out of the mean, or a failed prompt."""
MIN_TRIED = 4
"""Examples without any answer that show that the prompt, not its examples, cannot be answered."""
_MAX_MESSAGE = 300  # characters; one call's message is kept for every unanswered example


class Unanswered(NamedTuple):
    """Reason why an example has no answer.

    Attributes:
        code: short reason, such as "content_filter".
        message: message of the error.
        kind: class of the error.
    """

    code: str
    message: str
    kind: type[LLMError] = LLMError

    def as_error(self, message: str) -> LLMError:
        """Return an error of the same class and code with another message."""
        try:
            return self.kind(message, concerns="call", code=self.code)
        except TypeError:  # a caller's class with a constructor of its own
            return LLMError(message, concerns="call", code=self.code)


def concerns_call(error: BaseException) -> bool:
    """Return whether an error concerns one call alone, so that other calls may be answered."""
    return isinstance(error, LLMError) and error.concerns == "call"


def reason_of(error: LLMError) -> Unanswered:
    """Return code and message of an error; without a code, the name of its class is the code."""
    message = str(error)
    short = message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 3] + "..."
    return Unanswered(error.code or type(error).__name__, short, type(error))


def cannot_be_answered(tried: int, unanswered: int, examples: int) -> bool:
    """Return whether a prompt counts as failed: no example is answered, and enough of them were tried.

    Args:
        tried: examples tried with the prompt so far.
        unanswered: tried examples without an answer.
        examples: all examples of the task.
    """
    return tried == unanswered and tried >= min(MIN_TRIED, examples)


def failure_text(reasons: list[Unanswered]) -> str:
    """Return the error of a prompt that no example tried has an answer for."""
    count = len(reasons)
    tried = "the example tried is" if count == 1 else f"all {count} examples tried are"
    return f"{tried} unanswered; the last: {reasons[-1].message}"
