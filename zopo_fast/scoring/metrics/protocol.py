"""Protocol of metrics, and the base class of those that make no calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.types import CallKey
    from zopo_fast.tasks.task import Example


class Metric(Protocol):
    """Score of one answer; higher is better, and from 0 to 1 for the built-in metrics."""

    async def __call__(self, answer: str, example: Example, /) -> float:
        """Return the score of one answer."""
        ...

    async def measure(self, answer: str, example: Example, key: CallKey | None = None) -> tuple[float, Usage]:
        """Return the score of one answer and the usage of the calls the metric made for it.

        Args:
            answer: text of the answer.
            example: the example it answers.
            key: key of the answer's call; a metric that asks a model passes it on.
        """
        ...


class FreeMetric(ABC):
    """Metric that makes no calls."""

    @abstractmethod
    async def __call__(self, answer: str, example: Example, /) -> float: ...

    async def measure(self, answer: str, example: Example, key: CallKey | None = None) -> tuple[float, Usage]:
        return await self(answer, example), Usage()
