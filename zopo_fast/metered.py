"""A chat model whose calls are paid from an account."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import (
    AuthenticationError,
    EndpointDownError,
    InputError,
    LimitReachedError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
)
from zopo_fast.token_bound import chat_bound

if TYPE_CHECKING:
    from zopo_fast.budget import Account
    from zopo_fast.usage import Answer, Message

# What a model that does its own retries raises when it was surely not billed; all else may have been.
UNBILLED = (
    AuthenticationError,
    EndpointDownError,
    InputError,
    LimitReachedError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
)


class Metered:
    """A chat model whose calls are paid from an account; all else is the model's own.

    A model whose `chat` takes an `account`, as `OpenAIClient`'s does, reserves for every attempt; any other
    one call at a time, where an error other than a refusal counts as spent in full.
    Raises `ConfigError` where tokens or cost are limited and the model's body does not limit its answers.
    """

    def __init__(self, model: Any, account: Account) -> None:
        self.model = model
        self._account = account
        self._body: Mapping[str, Any] = _body_of(model)
        chat_bound((), self._body, required=account.bounded)  # so that it is said before any call
        self._itself = "account" in inspect.signature(model.chat).parameters

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    async def chat(self, messages: Sequence[Message]) -> Answer:
        """Answer `messages`; raises `LimitReachedError` where the account has no room for the call."""
        answer: Answer
        if self._itself:
            answer = await self.model.chat(messages, account=self._account)
            return answer
        bound = chat_bound(messages, self._body, required=self._account.bounded)
        hold = await self._account.reserve(bound)
        try:
            answer = await self.model.chat(messages)
        except UNBILLED:
            self._account.release(hold)
            raise
        except BaseException:
            self._account.forfeit(hold)
            raise
        self._account.settle(hold, answer.usage)
        return answer


def _body_of(model: Any) -> Mapping[str, Any]:
    body = getattr(getattr(model, "config", None), "body", None) or getattr(model, "body", None)
    return body if isinstance(body, Mapping) else {}
