"""Types shared by all callers of models: messages, answers, usage and the model protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from zopo_fast._utils.public import public

if TYPE_CHECKING:
    import numpy as np

    from zopo_fast.llm.limits import Reservation

Message = Mapping[str, str]
"""One message of a chat: `{"role": "system" | "user" | "assistant", "content": str}`."""

MAX_CREDIBLE_TOKENS = 10_000_000
"""No context is longer: a larger token count from a server is ignored."""


@public
@dataclass(frozen=True)
class Usage:
    """Cost of calls, in tokens and calls; adds with `+`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    """Answered calls."""
    retries: int = 0
    """Failed attempts that were retried."""
    estimated_calls: int = 0
    """Calls whose token counts are estimated, at least in part: the server stated no credible usage."""
    cached: int = 0
    """Calls answered from a cache or by an identical call in flight: free, and not counted in `calls`."""
    lost_calls: int = 0
    """Attempts whose answer was lost: timeout, dropped connection, malformed response, cancellation.
    Such attempts may be billed by an unknown amount. Not counted in `calls`."""
    reused: int = 0
    """Calls of `cached` that an earlier run has answered."""
    reused_age: float = field(default=0.0, compare=False)
    """Age in seconds of the oldest of these answers; the sum of two usages has the greater age."""
    answer_prompt_tokens: int = field(default=0, compare=False, repr=False)
    """Prompt tokens of the answers to examples, those from a cache and estimated ones included, those of a
    judge excluded: what a prompt costs in use, not what the run has spent. 0 where unknown."""
    answer_completion_tokens: int = field(default=0, compare=False, repr=False)
    """Completion tokens of the same answers."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def answer_tokens(self) -> tuple[int, int] | None:
        """Prompt and completion tokens of a single answer, also of one from a cache; None where unknown."""
        counts = self.answer_prompt_tokens, self.answer_completion_tokens
        if not any(counts) and self.calls == 1 and not self.cached:  # written before there were such counts
            counts = self.prompt_tokens, self.completion_tokens
        return counts if any(counts) else None

    def with_answer_tokens(self, counts: tuple[int, int] | None) -> Usage:
        """Return the usage with other prompt and completion tokens of its answers; None: unknown."""
        prompt, completion = counts or (0, 0)
        return replace(self, answer_prompt_tokens=prompt, answer_completion_tokens=completion)

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
            self.reused + other.reused,
            max(self.reused_age, other.reused_age),
            self.answer_prompt_tokens + other.answer_prompt_tokens,
            self.answer_completion_tokens + other.answer_completion_tokens,
        )


@dataclass(frozen=True)
class Answer:
    """Answer of a model to one chat call, with the cost of that call."""

    text: str
    usage: Usage
    finish_reason: str | None = None
    origin: str | None = field(default=None, compare=False)
    """`model` and `system_fingerprint` of the response as JSON; None where it states neither."""


class CallKey(NamedTuple):
    """Key of a scoring call within a study; distinguishes calls with equal messages."""

    part: str
    """Part of the task: "train" or "heldout"."""
    prompt: str
    example: int
    """Index of the example in its part."""


class Payer(Protocol):
    """Budget that pays for calls: reserve before an attempt, then settle, release or forfeit once.

    `budget.Account` implements it.
    """

    @property
    def bounded(self) -> bool:
        """True if the tokens of a call must be bounded before it is sent."""
        ...

    async def reserve(self, bound: Usage) -> Reservation:
        """Reserve the most that one attempt can take; raises `LimitReachedError`."""
        ...

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Charge what an answered attempt took."""
        ...

    def release(self, reservation: Reservation) -> None:
        """Free the reservation: the attempt was not billed."""
        ...

    def forfeit(self, reservation: Reservation) -> None:
        """Charge the whole reservation: the attempt may be billed and its answer is lost."""
        ...


@runtime_checkable
class ChatModel(Protocol):
    """Chat model that states what scheduling, caching and budgets need to know about it.

    `adapter.as_chat_model` makes one of a function or of an object with `async chat(messages)`.
    """

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """JSON values an answer depends on besides the messages; None: answers must not be cached."""
        ...

    @property
    def description(self) -> Mapping[str, Any]:
        """Model name and body as a study records them, without endpoint and secrets."""
        ...

    @property
    def slots(self) -> int:
        """Number of calls the model runs at once."""
        ...

    @property
    def max_answer_tokens(self) -> int | None:
        """Upper bound of the tokens of all answers to one call; None: unbounded."""
        ...

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages`.

        Args:
            messages: the chat so far.
            key: key of the call within a study; an answer does not depend on it.
            account: budget that pays for every attempt; None: no limit.

        Raises:
            LLMError: no answer can be had.
            LimitReachedError: `account` has no room for the call.
        """
        ...


@runtime_checkable
class EmbeddingModel(Protocol):
    """Embedding model with its cost.

    `adapter.as_embedding_model` makes one of an object with `async embed(texts)`.
    """

    @property
    def usage(self) -> Usage:
        """Usage of all calls so far."""
        ...

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one row a text: (n, d) float32."""
        ...

    async def aclose(self) -> None:
        """Free the resources of the model."""
        ...


def stated_tokens(document: Mapping[str, Any], field: str, *, least: int) -> int | None:
    """Return the token count under `field` of a response's `usage`; None where it is missing or not credible.

    Args:
        document: the JSON object of the response.
        field: name of the count, such as "prompt_tokens".
        least: smallest credible count.
    """
    usage = document.get("usage")
    value = usage.get(field) if isinstance(usage, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_CREDIBLE_TOKENS:
        return None
    return value


def stated_completion_tokens(document: Mapping[str, Any], *, least: int) -> int | None:
    """Return the tokens out that a response states, reasoning included; None without a credible count.

    xAI and Gemini bill reasoning beside `completion_tokens`: the total, or the details, hold it.

    Args:
        document: the JSON object of the response.
        least: smallest credible count.
    """
    completion = stated_tokens(document, "completion_tokens", least=least)
    prompt = stated_tokens(document, "prompt_tokens", least=1)
    total = stated_tokens(document, "total_tokens", least=1)
    counts = [] if completion is None else [completion]
    if prompt is not None and total is not None and total - prompt >= least:
        counts.append(total - prompt)
    if completion is not None and total is None:
        # Without a total: reasoning that is part of `completion_tokens` cannot exceed that count.
        reasoning = _reasoning_tokens(document)
        if reasoning > completion:
            counts.append(completion + reasoning)
    return max(counts, default=None)


def _reasoning_tokens(document: Mapping[str, Any]) -> int:
    details = document["usage"].get("completion_tokens_details")
    stated = stated_tokens({"usage": details}, "reasoning_tokens", least=0)
    return 0 if stated is None else stated
