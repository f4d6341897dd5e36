"""A model whose answers are kept in a study, so that a run that goes on asks for none of them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zopo_fast.store import Store
    from zopo_fast.usage import Answer, ChatModel, Message

OCCASION: ContextVar[tuple[Any, ...]] = ContextVar("zopo_fast_occasion", default=())
"""What the present call is for, such as (part of the task, prompt, example): calls with equal messages are
told apart by it."""


class Kept:
    """Answers that a study holds and nobody has asked for again yet: one object a run, for all its models."""

    def __init__(self, store: Store) -> None:
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
