"""Embeddings of a run: given, held by its study, or made by an embedder, for the pool and what is added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.aio import AsyncCloseable
from zopo_fast._utils.files import is_file
from zopo_fast.errors import ConfigError
from zopo_fast.llm.adapter import Embeds, as_embedding_model
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.embedding_file import read_embeddings
from zopo_fast.prompts.vectors import warn_if_blind
from zopo_fast.runs import resume
from zopo_fast.runs.progress import LOCAL_CHUNK, ChunkedEmbedder, OnProgress
from zopo_fast.search.problem import as_embeddings

if TYPE_CHECKING:
    from zopo_fast.llm.types import EmbeddingModel
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.storage.store import Store


class RunEmbedder(AsyncCloseable):
    """Embedder of a run: that of the caller, or the default one, which is closed at the end.

    Args:
        embedder: of the caller; None: the embedded model, loaded at the first call.
        on_progress: called while the pool is embedded.
    """

    def __init__(self, embedder: Embeds | None, on_progress: OnProgress) -> None:
        self._given, self._on_progress = embedder, on_progress
        self._default: EmbeddingModel | None = None

    @property
    def name(self) -> str | None:
        """Name of the caller's embedder; None for the default one, or where it has none."""
        return getattr(self._given, "name", None)

    async def pool(self, texts: Sequence[str]) -> tuple[Any, Usage]:
        """Embed the texts of a pool, (m, d), with progress; return also all usage of the model so far."""
        self._on_progress("embedding", 0, len(texts))
        rows, usage = await self._embedded(texts, self._on_progress)
        self._on_progress("embedding", len(texts), len(texts))
        return rows, usage

    async def more(self, texts: Sequence[str]) -> tuple[NDArray[Any], Usage]:
        """Embed further texts, (k, d); return also what they cost."""
        before = Usage() if self._given is None and self._default is None else self._model().usage
        rows, after = await self._embedded(texts, None)
        return as_embeddings(rows), _difference(after, before)

    def _model(self) -> EmbeddingModel:
        if self._given is not None:
            return as_embedding_model(self._given)
        if self._default is None:
            from zopo_fast.prompts.embedders import resolve

            self._default = resolve("local")
        return self._default

    async def _embedded(self, texts: Sequence[str], on_progress: OnProgress | None) -> tuple[Any, Usage]:
        model = self._model()
        if self._given is None and on_progress is not None:
            model = ChunkedEmbedder(model, LOCAL_CHUNK, on_progress)
        return np.asarray(await model.embed(list(texts))), model.usage

    async def aclose(self) -> None:
        """Close the default embedder."""
        if self._default is not None:
            await self._default.aclose()


def _difference(after: Usage, before: Usage) -> Usage:
    """Return the tokens and calls between two states of one model."""
    return Usage(
        prompt_tokens=max(0, after.prompt_tokens - before.prompt_tokens),
        completion_tokens=max(0, after.completion_tokens - before.completion_tokens),
        calls=max(0, after.calls - before.calls),
        retries=max(0, after.retries - before.retries),
        estimated_calls=max(0, after.estimated_calls - before.estimated_calls),
        cached=max(0, after.cached - before.cached),
        lost_calls=max(0, after.lost_calls - before.lost_calls),
    )


async def embeddings_of(
    pool: Pool,
    to_embed: Sequence[str],
    given: Any,
    embedder: RunEmbedder,
    on_phase: Callable[[str], Any],
    study: Store | None,
) -> NDArray[Any]:
    """Return the embeddings: given, held by the study, or made by the embedder and stored in the study.

    Args:
        pool: the prompts.
        to_embed: the text to embed of each prompt.
        given: embeddings of the caller, or their file; None: the embedder makes them.
        embedder: of the run.
        on_phase: called with "embedding" before any is made.
        study: of the run; None: nothing is stored.

    Raises:
        ConfigError: the number of embeddings is not that of the prompts.
    """
    source = None if given is None else str(getattr(given, "filename", None) or "")  # of a memory map
    if isinstance(given, str | Path):
        source = str(given)
        # A study that holds the embeddings is resumed without their file.
        is_kept = study is not None and not is_file(given) and study.array("embeddings") is not None
        given = None if is_kept else read_embeddings(given, pool)
    stored = None if study is None else resume.stored_embeddings(study, given)
    if stored is not None:
        return stored
    usage: Usage | None = None
    if given is None:
        on_phase("embedding")
        given, usage = await embedder.pool(to_embed)
    Z = as_embeddings(given)
    if len(Z) != len(pool):
        raise ConfigError(
            f"embeddings: {len(Z)} rows for {len(pool)} distinct prompts (an incumbent that is not in the "
            "pool comes last)"
        )
    warn_if_blind(Z, embedder.name)
    if study is not None:
        study.put_pool(pool)
        resume.keep_embeddings(study, Z, source)
        study.put("embedding", None if usage is None else asdict(usage))
        await study.flush(durable=True)
    return Z
