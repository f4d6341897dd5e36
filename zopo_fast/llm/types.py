"""What a model answers and what it cost: the types every caller of a model shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zopo_fast._utils.public import public

if TYPE_CHECKING:
    import numpy as np

Message = Mapping[str, str]
"""One message of a chat: `{"role": "system" | "user" | "assistant", "content": str}`."""

ABSURD_TOKENS = 10_000_000
"""No context is that long: a server that claims more does not know what it counts."""


@public
@dataclass(frozen=True)
class Usage:
    """What calls cost, in tokens and in calls; adds with `+`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    """Calls that were answered."""
    retries: int = 0
    """Attempts that failed and were repeated."""
    estimated_calls: int = 0
    """Calls whose tokens are an estimate, at least in part: the server gave no (believable) usage."""
    cached: int = 0
    """Calls answered from a cache, or along with an identical one: they took nothing; not among `calls`."""
    lost_calls: int = 0
    """Attempts whose answer was lost on the way (timeout, dropped connection, cut or useless answer,
    cancelled): they may be billed, and what for is not known. Not among `calls`."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.calls + other.calls,
            self.retries + other.retries,
            self.estimated_calls + other.estimated_calls,
            self.cached + other.cached,
            self.lost_calls + other.lost_calls,
        )


@dataclass(frozen=True)
class Answer:
    """A model's answer to one chat call, and what that call cost."""

    text: str
    usage: Usage
    finish_reason: str | None = None


class ChatModel(Protocol):
    """Anything that answers messages."""

    async def chat(self, messages: Sequence[Message]) -> Answer:
        """Answer `messages`; raises an `LLMError` when no answer can be had."""
        ...


class EmbeddingModel(Protocol):
    """Anything that turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one row a text: (n, d) float32."""
        ...


def stated_tokens(document: Mapping[str, Any], field: str, *, least: int) -> int | None:
    """Return the tokens an answer's `usage` states under `field`, or None where that cannot be believed."""
    usage = document.get("usage")
    value = usage.get(field) if isinstance(usage, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= ABSURD_TOKENS:
        return None
    return value
