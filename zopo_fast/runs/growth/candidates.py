"""Candidates that a run starts with: the prompts of a pool, some of them also with demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import ConfigError
from zopo_fast.prompts.pool import Pool
from zopo_fast.prompts.writing.demonstrations import DemonstrationSpace, initial_pairs
from zopo_fast.runs.growth.describe import space_of
from zopo_fast.search.problem import as_embeddings

if TYPE_CHECKING:
    from zopo_fast.search.config import ZopoConfig
    from zopo_fast.storage.store import Store

OWN = "own"
"""Name of the number of given prompts among the values of a study."""


class Candidates:
    """Prompts of a pool, in order, then those of them with demonstrations.

    Args:
        own: The given pool.
        space: Sets of demonstrations; None: the candidates are the given pool.
        seed: Of the choice of the sets.

    Attributes:
        own: The given pool.
        space: The same.
        pool: All candidates.
    """

    def __init__(self, own: Pool, space: DemonstrationSpace | None, seed: int) -> None:
        self.own, self.space, self.pool = own, space, own
        self._pairs = None
        if space is not None:
            self._pairs = initial_pairs(own.prompts, space, seed=seed)
            added = len(self._pairs.prompts) - len(own)
            self.pool = Pool(self._pairs.prompts, (*own.counts, *[1] * added), own.scores)

    @classmethod
    def of(cls, own: Pool, task: Any, search: ZopoConfig, seed: int) -> Candidates:
        """Return the candidates of a run on a task.

        Raises:
            TaskError: Too few examples of the reserve can be shown.
            ConfigError: The template or the search cannot use demonstrations.
        """
        space = space_of(task, seed)
        if space is not None and (search.search != "improvement" or search.official_settings is not None):
            raise ConfigError('demonstrations: only search="improvement" searches over them')
        return cls(own, space, seed)

    @property
    def texts(self) -> list[str]:
        """Texts to embed, one a prompt of the given pool."""
        return list(self.own.prompts) if self.space is None else self.space.instructions(self.own.prompts)

    def rows(self, embeddings: Any) -> Any:
        """Return the embeddings of all candidates.

        Args:
            embeddings: (m, d), one row a prompt of the given pool; more rows are those of all candidates.
        """
        if self._pairs is None:
            return embeddings  # unchanged: what cannot be used is refused later, by its own error
        Z = as_embeddings(embeddings)
        return Z[list(self._pairs.origins)] if len(Z) == len(self.own) else Z

    def first(self, initial: Sequence[int], budget: int) -> list[int]:
        """Return the candidates to ask first, at most `budget`, given initial prompts of the given pool."""
        if self._pairs is None or self.space is None:
            return list(initial)
        return self._pairs.first(initial, self.space)[:budget]

    def keep(self, study: Store) -> None:
        """Store the candidates in a new study."""
        study.put_pool(self.pool)
        if self.space is not None:
            study.put(OWN, len(self.own))


def given_pool(study: Store) -> Pool | None:
    """Return the pool that a run was given, without the candidates made of it; None before there is one."""
    pool = study.pool()
    own = study.get(OWN)
    if pool is None or not isinstance(own, int):
        return pool
    return Pool(pool.prompts[:own], pool.counts[:own], pool.scores)
