"""Description of prompts: texts to embed and arrays beside their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import ConfigError
from zopo_fast.prompts.words import WordFeatures
from zopo_fast.prompts.writing.demonstrations import DemonstrationSpace
from zopo_fast.tasks.splits import MIN_RESERVE, RESERVE
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Description:
    """Turns prompts into what a search needs to know of them.

    Prompts that are added later are described as the first pool was: by its document frequencies.

    Args:
        pool_prompts: Prompts of the first pool.
        space: Demonstrations that prompts may hold; None: prompts are instructions only. Embeddings and
            words describe the instructions, and a linear part of the kernel the demonstrations.
        words: True where the search uses the words of prompts.
    """

    def __init__(
        self, pool_prompts: Sequence[str], space: DemonstrationSpace | None = None, *, words: bool = True
    ) -> None:
        self._space = space
        # Each instruction counts once, however many sets of demonstrations it has.
        self._words = WordFeatures(dict.fromkeys(self.to_embed(pool_prompts))) if words else None

    def to_embed(self, texts: Sequence[str]) -> list[str]:
        """Return the texts to embed, one a prompt."""
        return list(texts) if self._space is None else self._space.instructions(texts)

    def features(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the word features of k prompts, shape (k, 1024); None without them."""
        return None if self._words is None else self._words.of(self.to_embed(texts))

    def linear(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the features of a linear part of the kernel, shape (k, r); None without such a part."""
        return None if self._space is None else self._space.linear(texts)

    def arrays(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of k prompts by the name of the argument of `Zopo` and `Zopo.add`."""
        found = {"features": self.features(texts), "linear": self.linear(texts)}
        return {name: array for name, array in found.items() if array is not None}


def with_reserve(task: Any, demonstrations: str | None) -> Any:
    """Return the task with a reserve where the run searches demonstrations.

    Args:
        task: Task of the run.
        demonstrations: The setting of the run; None: the task stays as it is.

    Returns:
        The task, whose fixed demonstrations become the reserve, or a third of its train examples, at most 16.


    Raises:
        ConfigError: The task is a function, or has too few train examples to set some aside.
    """
    if demonstrations is None or (isinstance(task, Task) and task.reserve):
        return task
    if not isinstance(task, Task):
        raise ConfigError("demonstrations: a search over them needs a Task, not a function")
    if task.demonstrations:
        return replace(task, demonstrations=(), reserve=task.demonstrations)
    size = min(RESERVE, len(task.train) // 3)
    if size < MIN_RESERVE:
        raise ConfigError(
            f"demonstrations: {len(task.train)} train examples leave none to set aside; give at least "
            f"{3 * MIN_RESERVE}, or Task(reserve=...)"
        )
    return replace(task, train=task.train[:-size], reserve=task.train[-size:])


def space_of(task: Any, seed: int = 0) -> DemonstrationSpace | None:
    """Return the demonstrations that the prompts of a task may hold; None for a task without a reserve.

    Raises:
        TaskError: Too few examples of the reserve can be shown.
        ConfigError: The template has prompts that are whole templates.
    """
    if not isinstance(task, Task) or not task.reserve:
        return None
    return DemonstrationSpace(task.reserve, task.template, seed=seed)
