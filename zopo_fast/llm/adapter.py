"""Adapters: functions and objects of the caller as the chat and embedding models of the package."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zopo_fast._utils.aio import call_in_thread
from zopo_fast.errors import (
    AuthenticationError,
    ConfigError,
    EndpointDownError,
    InputError,
    LimitReachedError,
    LLMError,
    MetricError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
    ZopoError,
)
from zopo_fast.llm.tokens import chat_bound, completion_bound
from zopo_fast.llm.types import Answer, CallKey, ChatModel, EmbeddingModel, Message, Payer, Usage

if TYPE_CHECKING:
    import numpy as np

# Errors of calls that were certainly not billed; a call that ends in any other error may have been.
UNBILLED = (
    AuthenticationError,
    EndpointDownError,
    InputError,
    LimitReachedError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
)

Ask = Callable[[Sequence[Message]], Awaitable[Answer]]


class Chats(Protocol):
    """Object with `async chat(messages)`."""

    async def chat(self, messages: Any) -> Answer: ...


class Embeds(Protocol):
    """Object with `async embed(texts)`, one row a text."""

    async def embed(self, texts: Any) -> Any: ...


ModelLike = Chats | Callable[[Any], Any]
"""Chat model as a caller may pass it: an object, or a function `messages -> text`, sync or async."""


def as_chat_model(model: Any, slots: int, name: str = "llm") -> ChatModel:
    """Return `model` as a `ChatModel`.

    Args:
        model: a `ChatModel`, an object with `async chat(messages) -> Answer`, or a function
            `messages -> text` (or `Answer`), sync or async. An object may also have `slots`, `body`, `name`
            and a `config` of type `ClientConfig`.
        slots: calls at once, where the model does not say.
        name: name of the argument, for the error.

    Raises:
        ConfigError: `model` is none of these.
    """
    if isinstance(model, ChatModel):
        return model
    if hasattr(model, "chat"):
        return AdaptedModel(model, model.chat, slots)
    if callable(model):
        return AdaptedModel(model, _Function(model, slots), slots)
    raise ConfigError(
        f"{name}: {type(model).__name__} is no model: pass a client with chat(), or a function "
        "messages -> text"
    )


class AdaptedModel:
    """Object or function of the caller as a `ChatModel`; an account reserves one call at a time for it."""

    def __init__(self, model: Any, ask: Ask, slots: int) -> None:
        self._ask = ask
        self.identity: Mapping[str, Any] | None = None
        body = getattr(model, "body", None)
        self.description: Mapping[str, Any] = {
            "model": str(getattr(model, "name", type(model).__name__)),
            "body": body,
        }
        self.slots: int = getattr(model, "slots", None) or slots
        config = getattr(model, "config", None)
        if config is not None:
            from zopo_fast.llm.openai.config import ClientConfig
            from zopo_fast.llm.openai.endpoint import description_of, identity_of

            if isinstance(config, ClientConfig):
                self.identity, self.description = identity_of(config), description_of(config)
                # The object calls an endpoint, which tells by its responses what it serves.
                self.model_card = getattr(model, "model_card", _no_card)
                self.slots, body = config.concurrency, config.chat_body
        self._body: Mapping[str, Any] = body if isinstance(body, Mapping) else {}

    @property
    def max_answer_tokens(self) -> int | None:
        return completion_bound(self._body)

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages`; an error other than a refusal is charged in full.

        Raises:
            LLMError: the function failed.
            LimitReachedError: `account` has no room for the call.
        """
        if account is None:
            return await self._ask(messages)
        bound = chat_bound(messages, self._body, required=account.bounded)
        reservation = await account.reserve(bound)
        try:
            answer = await self._ask(messages)
        except UNBILLED:
            account.release(reservation)
            raise
        except BaseException:
            account.forfeit(reservation)
            raise
        account.settle(reservation, answer.usage)
        return answer


async def _no_card() -> None:
    """Return the card of an endpoint without one."""


class _Function:
    """Function of the caller as `async chat(messages)`, with at most `slots` calls at once.

    Token counts of text answers are unknown and stay 0.
    """

    def __init__(self, function: Callable[[Sequence[Message]], Any], slots: int) -> None:
        self._function = function
        self._slots = asyncio.Semaphore(slots)

    async def __call__(self, messages: Sequence[Message]) -> Answer:
        async with self._slots:
            try:
                answer = await call_function(self._function, messages)
            except (ZopoError, asyncio.CancelledError):
                raise
            except Exception as error:
                raise LLMError(f"the model function failed: {error!r}") from error
        if isinstance(answer, Answer):
            return answer
        if not isinstance(answer, str):
            raise MetricError(f"the model function returned {type(answer).__name__}, expected str or Answer")
        return Answer(answer, Usage(calls=1))


async def call_function(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call a function of the caller: an async one in this event loop, a sync one in a thread."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(argument)
    value = await call_in_thread(function, argument)
    return await value if inspect.isawaitable(value) else value


def as_embedding_model(embedder: Any) -> EmbeddingModel:
    """Return `embedder` as an `EmbeddingModel`.

    Args:
        embedder: an `EmbeddingModel`, or an object with `async embed(texts)` and, optionally, `usage` and
            `async aclose()`.
    """
    return embedder if isinstance(embedder, EmbeddingModel) else AdaptedEmbedder(embedder)


class AdaptedEmbedder:
    """Object of the caller as an `EmbeddingModel`; its usage is zero where it states none."""

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder

    @property
    def usage(self) -> Usage:
        usage = getattr(self._embedder, "usage", None)
        return usage if isinstance(usage, Usage) else Usage()

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one row a text: (n, d) float32."""
        vectors: np.ndarray[Any, np.dtype[np.float32]] = await self._embedder.embed(texts)
        return vectors

    async def aclose(self) -> None:
        """Close the object where it can be closed."""
        if close := getattr(self._embedder, "aclose", None):
            await close()
