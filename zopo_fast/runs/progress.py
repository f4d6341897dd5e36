"""Progress of a run's phases: the callback, and models that report to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast.llm.middleware import ModelWrapper
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer, CallKey, ChatModel, EmbeddingModel, Message, Payer

OnProgress = Callable[[str, int, int], Any]
"""Called with the name of a phase, the units done and the units in total; the total may change."""

LOCAL_CHUNK = 16
"""Texts that a model in this process embeds between two reports."""


class ChunkedEmbedder:
    """Embedding model that embeds chunk by chunk and reports after each.

    Args:
        model: embeds the texts.
        size: texts in a chunk; at an endpoint enough for all concurrent batches.
        on_progress: called with "embedding".
    """

    def __init__(self, model: EmbeddingModel, size: int, on_progress: OnProgress) -> None:
        self._model, self._size, self._on_progress = model, size, on_progress

    @property
    def name(self) -> str | None:
        """Name of the model; None if it has none."""
        return getattr(self._model, "name", None)

    @property
    def usage(self) -> Usage:
        """Usage of the model."""
        return self._model.usage

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one row a text: (n, d) float32."""
        parts = []
        for start in range(0, len(texts), self._size):
            self._on_progress("embedding", start, len(texts))
            parts.append(await self._model.embed(texts[start : start + self._size]))
        self._on_progress("embedding", len(texts), len(texts))
        return np.concatenate(parts) if parts else await self._model.embed(texts)

    async def aclose(self) -> None:
        """Close the model."""
        await self._model.aclose()


class CountedModel(ModelWrapper):
    """Chat model that reports the number of its answers as progress.

    Args:
        model: answers the calls.
        phase: name of the phase.
        total: answers that are expected; more are possible.
        on_progress: the callback.
    """

    def __init__(self, model: ChatModel, phase: str, total: int, on_progress: OnProgress) -> None:
        super().__init__(model)
        self._phase, self._total, self._on_progress = phase, total, on_progress
        self._answers = 0

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` by the wrapped model, whose errors it raises."""
        answer = await super().chat(messages, key=key, account=account)
        self._answers += 1
        self._on_progress(self._phase, self._answers, max(self._answers, self._total))
        return answer
