"""Cache of embeddings on disk: one SQLite file, shared by threads and processes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from zopo_fast._utils.files import default_cache_dir, expand_user
from zopo_fast._utils.sqlite_cache import SQLiteCache
from zopo_fast.llm.adapter import as_embedding_model
from zopo_fast.llm.types import EmbeddingModel, Usage
from zopo_fast.prompts.vectors import Vectors, checked, listed

_CACHE_FILE = "embeddings-1.sqlite3"
_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB, digest BLOB)"
_TEXTS_PER_WRITE = 256  # texts embedded between two writes to the cache

_log = logging.getLogger(__name__)


class Embedder(EmbeddingModel, Protocol):
    """Embedding model with a name; models of equal name give equal vectors."""

    @property
    def name(self) -> str: ...


class CachedEmbedder:
    """Embedder with a cache on disk, keyed by embedder name and text.

    Only missing texts are embedded, in parts that are stored as they arrive. A damaged entry is computed
    again. A cache that cannot be read or written logs a warning, and all texts are embedded.

    Args:
        embedder: embeds the missing texts.
        cache_dir: folder of the cache; None: `files.default_cache_dir()`.
    """

    def __init__(self, embedder: Embedder, cache_dir: str | Path | None = None) -> None:
        self.name = embedder.name
        self._embedder = as_embedding_model(embedder)
        folder = default_cache_dir() if cache_dir is None else expand_user(cache_dir)
        self._file = _VectorFile(folder / _CACHE_FILE)

    @property
    def usage(self) -> Usage:
        """Usage of the embedder; a vector from the cache is free."""
        return self._embedder.usage

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text: (n, d) float32.

        Raises:
            ArrayError: the embedder returned an array of another shape, or NaN or infinity.
        """
        texts = listed(texts)
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        kept = await asyncio.to_thread(self._file.get, [self._key(text) for text in distinct])
        found = {text: kept[key] for text in distinct if (key := self._key(text)) in kept}
        await self._fill([text for text in distinct if text not in found], found)
        if len({row.size for row in found.values()}) > 1:
            _log.warning("%s: the cached vectors differ in length; computing them again", self.name)
            await self._fill(distinct, found)
        return checked(np.stack([found[text] for text in texts]), len(texts), self.name)

    async def aclose(self) -> None:
        """Close the embedder."""
        await self._embedder.aclose()

    async def _fill(self, texts: list[str], found: dict[str, Vectors]) -> None:
        for start in range(0, len(texts), _TEXTS_PER_WRITE):
            part = texts[start : start + _TEXTS_PER_WRITE]
            rows = checked(await self._embedder.embed(part), len(part), self.name)
            found.update(zip(part, rows, strict=True))
            await asyncio.to_thread(self._file.put, {self._key(text): found[text] for text in part})

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.name}\0{text}".encode()).digest()


class _VectorFile:
    """Vectors by key in one SQLite file; problems with the file are logged, never raised."""

    def __init__(self, path: Path) -> None:
        self._file = SQLiteCache(path, "embedding cache", [_SCHEMA])

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Return the intact entries among `keys`."""
        query = "SELECT vector, digest FROM embeddings WHERE key = ?"

        def read(connection: sqlite3.Connection) -> dict[bytes, Vectors]:
            rows = ((key, connection.execute(query, (key,)).fetchone()) for key in keys)
            return {key: row for key, found in rows if found and (row := _unpacked(*found)) is not None}

        return self._file.transaction(read) or {}

    def put(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Store all of `vectors`, or none."""

        def write(connection: sqlite3.Connection) -> None:
            packed = ((key, row.astype("<f4").tobytes()) for key, row in vectors.items())
            rows = ((key, data, hashlib.sha256(data).digest()) for key, data in packed)
            connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)

        self._file.transaction(write)


def _unpacked(vector: object, digest: object) -> Vectors | None:
    if not isinstance(vector, bytes) or len(vector) % 4 or hashlib.sha256(vector).digest() != digest:
        return None
    return np.frombuffer(vector, dtype="<f4").astype(np.float32)
