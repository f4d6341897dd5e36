"""A chat model whose calls are paid from an account."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from zopo_fast.errors import (
    AuthenticationError,
    EndpointDownError,
    InputError,
    LimitReachedError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
)
from zopo_fast.llm.tokens import chat_bound

if TYPE_CHECKING:
    from zopo_fast.llm.budget import Account
    from zopo_fast.llm.types import Answer, ChatModel, Message

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


# What the present call is for, such as (part of the task, prompt, example): calls with equal messages are
# told apart by it.
OCCASION: ContextVar[tuple[Any, ...]] = ContextVar("zopo_fast_occasion", default=())


class AnswerLog(Protocol):
    """Answers that outlast a run, such as those in a study's file."""

    def answers(self) -> dict[bytes, list[int]]:
        """Return the numbers of all answers, oldest first, by the key of their call."""

    def answer(self, number: int) -> Answer:
        """Return the answer of that number."""

    def add_answer(self, key: bytes, role: str, answer: Answer) -> None:
        """Append an answer under the key of its call."""


class Kept:
    """Answers that a study holds and no call has asked for yet: one object a run, for all its models."""

    def __init__(self, store: AnswerLog) -> None:
        self.store = store
        self._left = store.answers()  # their numbers: they may be large, and most are never asked for

    def take(self, key: bytes) -> Answer | None:
        """The first answer under a key; each is given out once."""
        left = self._left.get(key)
        return self.store.answer(left.pop(0)) if left else None


class Recorded:
    """A chat model that answers from a study what was answered there, and keeps there what is new.

    Args:
        model: answers the rest.
        kept: the study's answers.
        role: what the model is used for: "model", "judge" or "writer".
    """

    def __init__(self, model: ChatModel, kept: Kept, role: str) -> None:
        self._model, self._kept, self._role = model, kept, role

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._model, name)  # its settings, such as how many calls it runs at once

    async def chat(self, messages: Sequence[Message]) -> Answer:
        """Answer `messages`; raises what the model does."""
        what = [self._role, list(OCCASION.get()), [dict(message) for message in messages]]
        text = json.dumps(what, sort_keys=True, default=str)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        answer = self._kept.take(key)
        if answer is None:
            answer = await self._model.chat(messages)
            self._kept.store.add_answer(key, self._role, answer)
        return answer
