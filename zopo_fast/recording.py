"""A model whose answers are kept in a study, so that a run that goes on asks for none of them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import Store
    from .usage import Answer, ChatModel, Message

OCCASION: ContextVar[tuple[Any, ...]] = ContextVar("zopo_fast_occasion", default=())
"""What the present call is for, such as (part of the task, prompt, example): calls with equal messages are
told apart by it."""


_KEEP: ContextVar[Callable[[Answer], None] | None] = ContextVar("zopo_fast_keep", default=None)


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
        if (there := self._kept.take(key)) is not None:
            return there
        done = False

        def keep(answer: Answer) -> None:
            nonlocal done
            if not done:
                self._kept.store.add_answer(key, self._role, answer)
                done = True

        before = _KEEP.set(keep)
        try:
            answer = await self._model.chat(messages)
        finally:
            _KEEP.reset(before)
        keep(answer)
        return answer


class Heard:
    """A chat model inside a `Recorded` one, a cache between them: its answers are kept as they come.

    Else a call that is cancelled while the cache writes its answer down would be paid for and forgotten.
    """

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._model, name)

    async def chat(self, messages: Sequence[Message]) -> Answer:
        """Answer `messages`; raises what the model does."""
        answer = await self._model.chat(messages)
        if (keep := _KEEP.get()) is not None:
            keep(answer)
        return answer
