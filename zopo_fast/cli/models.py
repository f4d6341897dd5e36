"""Models that answer, write, grade and embed, made from parsed options."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from zopo_fast.errors import AuthenticationError, ConfigError, MissingDependencyError
from zopo_fast.llm.bodies import ANSWER_BODY, JUDGE_BODY, WRITER_BODY, ChatBody, explicit_body

if TYPE_CHECKING:
    from zopo_fast.llm.budget import Account
    from zopo_fast.llm.openai.client import OpenAIClient
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task

S = TypeVar("S")

LITELLM = "litellm:"
"""Start of the name of a model that LiteLLM serves."""

# Options whose value is a JSON object that may hold a secret.
BODIES = ("body", "judge_body", "generate_body", "embedding_body")


def settings_of(kind: type[S], options: dict[str, Any]) -> S:
    """Return a dataclass made from the options named like its fields."""
    return kind(**{f.name: options[f.name] for f in fields(kind)})  # type: ignore[arg-type]


_LIMITS = ("max_tokens", "max_completion_tokens")


def _chat_body(
    defaults: Mapping[str, Any],
    common: Mapping[str, Any],
    max_tokens: int | None = None,
    own: Mapping[str, Any] | None = None,
) -> ChatBody:
    """Return the body of calls for one purpose.

    Args:
        defaults: Parameters by default.
        common: Parameters of --body.
        max_tokens: Limit of the purpose's own option, before those in `defaults` and `common`. The client may
            rename it, as it may a default.
        own: Parameters of the purpose's own body.
    """
    if max_tokens is not None:
        name = "max_completion_tokens" if common.get("max_completion_tokens") else "max_tokens"
        defaults = {**{n: v for n, v in defaults.items() if n not in _LIMITS}, name: max_tokens}
        common = {name: value for name, value in common.items() if name not in _LIMITS}
    return ChatBody(defaults, {**common, **(own or {})})


def client_of(config: ClientConfig) -> OpenAIClient:
    """Return the client of an endpoint, or LiteLLM's where the name of the model begins with "litellm:"."""
    if config.model.startswith(LITELLM):
        from zopo_fast.llm.litellm import LiteLLMModel

        return LiteLLMModel(replace(config, model=config.model.removeprefix(LITELLM)))
    from zopo_fast.llm.openai.client import OpenAIClient

    return OpenAIClient(config)


@dataclass(frozen=True)
class ModelSettings:
    """Values of the model options."""

    local: bool
    model: str | None
    base_url: str | None
    concurrency: int | None
    temperature: float | None
    max_tokens: int | None
    timeout: float | None
    max_wait: float | None
    requests_per_minute: float | None
    tokens_per_minute: float | None
    body: dict[str, Any]
    headers: dict[str, Any]

    @property
    def is_local(self) -> bool:
        """True when the embedded model answers.

        Raises:
            ConfigError: The options contradict each other.
        """
        if self.local and self.base_url:
            raise ConfigError("--local and --base-url contradict each other; give one")
        if self.base_url and not self.model:
            raise ConfigError("--base-url needs --model, the name of the model there")
        return self.local or self.model is None

    def answer_body(self) -> dict[str, Any]:
        """Return the body parameters of a call that answers an example."""
        return self._answers().merged

    def _answers(self) -> ChatBody:
        return self.sampling(ANSWER_BODY)

    def sampling(self, defaults: Mapping[str, Any]) -> ChatBody:
        """Return `defaults` with --temperature, --max-tokens and --body in their place."""
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        given = {} if self.temperature is None else {"temperature": self.temperature}
        # The limit is a default: the client may rename it for a model that knows it by its new name.
        return _chat_body({**defaults, **limit}, {**given, **self.body})

    def client_config(self) -> ClientConfig:
        """Return the settings of the client of the endpoint."""
        from zopo_fast.llm.openai.config import ClientConfig

        given = {"concurrency": self.concurrency, "timeout": self.timeout, "max_elapsed": self.max_wait}
        return ClientConfig(
            self.model or "",
            base_url=self.base_url,
            body=self._answers().given,
            default_body=self._answers().defaults,
            headers=self.headers,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )

    @contextlib.asynccontextmanager
    async def opened(self, body: ChatBody | None = None) -> AsyncIterator[Any]:
        """Open the model for a block, with a body other than that of the answers if one is given."""
        if self.is_local:
            from zopo_fast.llm.local import LocalModel

            full = explicit_body((body or self._answers()).merged)
            async with LocalModel(self.model, slots=self.concurrency or 1, body=full) as local:
                yield local
            return
        config = self.client_config()
        if body is not None:
            config = replace(config, body=body.given, default_body=body.defaults)
        async with client_of(config) as client:
            yield client


@dataclass(frozen=True)
class WriterSettings:
    """Values of the options of calls that write prompts."""

    generate_body: dict[str, Any]
    generate_max_tokens: int | None

    def body(self, model: ModelSettings, *, sampling: bool = False) -> ChatBody:
        """Return the body parameters of a call that writes a prompt.

        Args:
            model: Values of the model options, whose --body applies to every call.
            sampling: Apply --temperature and --max-tokens too; else they concern answers alone.
        """
        base = model.sampling(WRITER_BODY) if sampling else ChatBody(WRITER_BODY, model.body)
        return _chat_body(base.defaults, base.given, self.generate_max_tokens, self.generate_body)


@dataclass(frozen=True)
class GrowthWriterSettings:
    """Values of the options of a model that writes prompts beside the scored one."""

    writer_model: str | None
    writer_base_url: str | None
    writer_key_env: str | None

    def check(self) -> None:
        """Check the options before any call is paid for.

        Raises:
            ConfigError: The name of the writer or its key is missing.
        """
        _check_other("writer", self.writer_model, self.writer_base_url, self.writer_key_env)

    @contextlib.asynccontextmanager
    async def opened(
        self, model: ModelSettings, answering: Any, body: ChatBody, grow: bool | None
    ) -> AsyncIterator[Any]:
        """Open the writer for a block; None where no model writes.

        Args:
            model: Values of the model options.
            answering: The open model, which writes where growth is asked for and no writer is named.
            body: Body parameters of calls that write a prompt.
            grow: Value of --grow; None: not given.
        """
        if grow is False or (self.writer_model is None and not grow):
            yield None
        elif self.writer_model is None:
            yield _with_body(model, answering, body)
        else:
            config = _other_config(model, self.writer_model, self.writer_base_url, self.writer_key_env, body)
            async with client_of(config) as client:
                yield client


@dataclass(frozen=True)
class JudgeSettings:
    """Values of the options of the metric judge."""

    judge_model: str | None
    judge_base_url: str | None
    judge_key_env: str | None
    judge_body: dict[str, Any]
    judge_max_tokens: int | None

    def check(self) -> None:
        """Check the options before any call is paid for.

        Raises:
            ConfigError: The name of the judge or its key is missing.
        """
        _check_other("judge", self.judge_model, self.judge_base_url, self.judge_key_env)

    def body(self, model: ModelSettings) -> ChatBody:
        """Return the body parameters of a call that grades; --body applies where the model itself grades."""
        common = model.body if self.judge_model is None else {}
        return _chat_body(JUDGE_BODY, common, self.judge_max_tokens, self.judge_body)

    @contextlib.asynccontextmanager
    async def opened(
        self, model: ModelSettings, answering: Any, task: Task, store: Store | None
    ) -> AsyncIterator[Any]:
        """Open the judge for a block; None where no judge is needed.

        A judge has the timeout and concurrency of the model, and its headers at the same endpoint only,
        since headers may hold a secret.

        Args:
            model: Values of the model options.
            answering: The open model, which grades with the body of a judge where no judge is named.
            task: Task with its metric.
            store: Study of the run.

        Raises:
            ConfigError: The endpoint of the judge lacks the name of the model there, or its key.
        """
        from zopo_fast.runs.resume import graded_by_model

        self.check()
        if self.judge_model is None and (task.metric != "judge" or graded_by_model(store)):
            yield None
            return
        if self.judge_model is None:
            yield _with_body(model, answering, self.body(model))
            return
        body = self.body(model)
        config = _other_config(model, self.judge_model, self.judge_base_url, self.judge_key_env, body)
        async with client_of(config) as client:
            yield client


def _with_body(model: ModelSettings, answering: Any, body: ChatBody) -> Any:
    """Return the open model with another body of its calls."""
    if model.is_local:
        return answering.with_body(explicit_body(body.merged))
    return answering.with_body(body.given, body.defaults)


def _check_other(role: str, name: str | None, base_url: str | None, key_env: str | None) -> None:
    """Check the options of a model beside the scored one.

    Raises:
        ConfigError: Its name or its key is missing.
    """
    if name is None:
        for option, value in ((f"--{role}-base-url", base_url), (f"--{role}-key-env", key_env)):
            if value is not None:
                raise ConfigError(f"{option} needs --{role}-model, the name of the model there")
    if key_env is not None:
        from zopo_fast.llm.openai.endpoint import require_key

        require_key(f"--{role}-key-env", key_env)


def _other_config(
    model: ModelSettings, name: str, base_url: str | None, key_env: str | None, body: ChatBody
) -> ClientConfig:
    """Return the client settings of a model beside the scored one, by default at the same endpoint.

    It has the timeout and concurrency of the model, and its headers at the same endpoint only, since headers
    may hold a secret.
    """
    is_same_client = name.startswith(LITELLM) == (model.model or "").startswith(LITELLM)
    same = is_same_client and base_url in (None, model.base_url)
    config = replace(
        model.client_config(),
        model=name,
        base_url=model.base_url if same else base_url,
        headers=model.headers if same else {},
        body=body.given,
        default_body=body.defaults,
    )
    return config if key_env is None else replace(config, key_env=key_env)


def embedder_name(given: str | None, model: ModelSettings) -> str:
    """Return the name of the embedder; by default a GGUF model given by its path also embeds the pool."""
    return given or (f"local:last:{model.model}" if model.is_local and model.model else "local")


@dataclass(frozen=True)
class EmbeddingSettings:
    """Values of the options of an embedding endpoint."""

    embedding_base_url: str | None
    embedding_key_env: str | None
    embedding_batch: int | None
    embedding_body: dict[str, Any]

    def check(self, spec: str) -> None:
        """Check the options before any call is paid for.

        Raises:
            ConfigError: The embedder needs no endpoint, or the key of its endpoint is missing.
        """
        for each in fields(self):
            if getattr(self, each.name) and not spec.startswith("endpoint:"):
                option = f"--{each.name.replace('_', '-')}"
                raise ConfigError(f"{option} needs --embedder endpoint:MODEL, the embedder is {spec}")
        if self.embedding_key_env is not None:
            from zopo_fast.llm.openai.endpoint import require_key

            require_key("--embedding-key-env", self.embedding_key_env)

    def open(self, spec: str, model: ModelSettings, account: Account | None = None) -> Any:
        """Return the embedder of a name, by default at the endpoint of the model if it needs an endpoint.

        Raises:
            ConfigError: The options cannot work.
            AuthenticationError: The endpoint needs a key and there is none.
            MissingDependencyError: A package of the embedder is not installed.
        """
        from zopo_fast.prompts.embedders import embedding_config, resolve

        self.check(spec)
        config = embedding_config(
            None if model.is_local else model.client_config(),
            base_url=self.embedding_base_url,
            key_env=self.embedding_key_env,
            batch=self.embedding_batch,
            body=self.embedding_body,
        )
        try:
            return resolve(spec, config=config, account=account)
        except MissingDependencyError as error:
            raise MissingDependencyError(
                f"{error}; or choose another embedder: --embedder endpoint:MODEL, st:NAME or minilm"
            ) from None
        except AuthenticationError as error:
            raise AuthenticationError(
                f"{error}; --embedding-key-env names the variable with the key"
            ) from None
