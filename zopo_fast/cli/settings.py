"""Parsed options as models, pools, judges and limits."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast.errors import ConfigError, InputError, MissingDependencyError
from zopo_fast.scoring.judge import JUDGE_MAX_TOKENS

if TYPE_CHECKING:
    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.budget import Account
    from zopo_fast.llm.limits import Limits, Prices

if TYPE_CHECKING:
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.llm.types import Usage
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.tasks.task import Task


S = TypeVar("S")
DEFAULT_EXAMPLES = 20


@dataclass(frozen=True)
class ModelSettings:
    """The model options, as typed."""

    local: bool
    model: str | None
    base_url: str | None
    concurrency: int | None
    temperature: float | None
    max_tokens: int | None
    timeout: float | None
    requests_per_minute: float | None
    tokens_per_minute: float | None
    body: dict[str, Any]
    headers: dict[str, Any]

    @property
    def is_local(self) -> bool:
        if self.local and self.base_url:
            raise ConfigError("--local and --base-url contradict each other; give one")
        if self.base_url and not self.model:
            raise ConfigError("--base-url needs --model, the name of the model there")
        return self.local or self.model is None

    def full_body(self, writing: bool = False) -> dict[str, Any]:
        """Body parameters of a call: one that answers an example, or one that writes a prompt."""
        temperature, max_tokens = (0.9, 256) if writing else (0.0, 64)
        typed = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        given = {k: v for k, v in typed.items() if v is not None}
        return {"temperature": temperature, "max_tokens": max_tokens, **given, **self.body}

    def longest_answer(self) -> int:
        """Most tokens of an answer, --body included."""
        body = self.full_body()
        stated = body.get("max_tokens") or body.get("max_completion_tokens")
        return stated if isinstance(stated, int) else 64

    def client_config(self, writing: bool = False) -> ClientConfig:
        """Settings of the endpoint's client."""
        from zopo_fast.llm.openai.client import ClientConfig

        body = self.full_body(writing)
        config = ClientConfig(
            self.model or "",
            base_url=self.base_url,
            body=body,
            headers=self.headers,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )
        if self.concurrency is not None:
            config = replace(config, concurrency=self.concurrency)
        return config if self.timeout is None else replace(config, timeout=self.timeout)

    @contextlib.asynccontextmanager
    async def opened(self, writing: bool = False) -> AsyncIterator[Any]:
        """Open the model for the length of a block."""
        if self.is_local:
            from zopo_fast.llm.local import LocalModel

            async with LocalModel(
                self.model, slots=self.concurrency or 1, body=self.full_body(writing)
            ) as local:
                yield local
            return
        from zopo_fast.llm.openai.client import OpenAIClient

        async with OpenAIClient(self.client_config(writing)) as client:
            yield client


@dataclass(frozen=True)
class PoolSettings:
    """The generation options, as typed."""

    how: str | None
    kind: str | None
    lists: Path | None
    source: Path | None

    def method(self, local: bool) -> str:
        """How to generate; the embedded model is too weak to write instructions."""
        if self.how:
            return self.how
        if self.source:
            return "paraphrase"
        return "compose" if local or self.lists else "induce"

    def check(self, local: bool) -> None:
        """Refuse what cannot work before any call is paid for."""
        if self.method(local) == "paraphrase" and self.source is None:
            raise ConfigError("--how paraphrase needs --from, a file with the prompts to rephrase")

    def compose(self, n: int, task: Task, seed: int) -> Pool:
        """Return about n composed prompts; no model is needed."""
        from zopo_fast.prompts import generate

        return generate.compose(n, seed, self.lists, kind=self.kind or generate.kind_of(task.name))

    async def write(self, n: int, task: Task, model: Any, local: bool, seed: int) -> tuple[Pool, Usage]:
        """Return about n prompts that the model wrote, and what that took."""
        from zopo_fast.prompts import generate
        from zopo_fast.prompts.pool import Pool

        if self.source is not None and self.method(local) == "paraphrase":
            originals = Pool.load(self.source)
            found = await generate.paraphrase(model, originals.prompts, n, seed=seed)
            return Pool.from_texts([*originals.prompts, *found.pool.prompts]), found.usage
        found = await generate.induce(model, [*task.demonstrations, *task.train], n, seed=seed)
        return found.pool, found.usage


@dataclass(frozen=True)
class JudgeSettings:
    """The options of the metric "judge", as typed."""

    judge_model: str | None
    judge_base_url: str | None
    rubric: str | None

    @contextlib.asynccontextmanager
    async def opened(self, model: ModelSettings) -> AsyncIterator[Any]:
        """Open the judge for the length of a block; None: the model grades itself.

        Time limit and concurrency are the model's; its headers go only where they are meant to.
        """
        if self.judge_model is None:
            if self.judge_base_url is not None:
                raise ConfigError("--judge-base-url needs --judge-model, the name of the model there")
            yield None
            return
        from zopo_fast.llm.openai.client import OpenAIClient

        same = self.judge_base_url in (None, model.base_url)
        config = replace(
            model.client_config(),
            model=self.judge_model,
            base_url=model.base_url if same else self.judge_base_url,
            headers=model.headers if same else {},
            body={"temperature": 0, "max_tokens": JUDGE_MAX_TOKENS},
        )
        async with OpenAIClient(config) as client:
            yield client


def load_task(path: Path, options: dict[str, Any]) -> Task:
    """Load the task; a number of examples that was not typed suits what is there."""
    from zopo_fast.tasks.task import Task

    names = ("heldout", "demonstrations", "seed", "input_field", "output_field", "metric", "template")
    given = {name: options[name] for name in names}
    examples = options["examples"]
    if examples is None:
        everything = Task.load(path, **{**given, "examples": None, "heldout": 0})
        there = len(everything.train)
        examples = DEFAULT_EXAMPLES if there > 2 * DEFAULT_EXAMPLES else max(1, there // 2)
        if there > DEFAULT_EXAMPLES and given["heldout"] is not None:
            examples = min(DEFAULT_EXAMPLES, max(1, there - given["heldout"]))
    return Task.load(path, examples=examples, **given)


def check_names(task: Task) -> None:
    """Refuse an unknown template or metric before any call is paid for."""
    from zopo_fast.scoring import metrics
    from zopo_fast.tasks import template

    template.resolve(task.template)
    if task.metric != "judge":
        metrics.resolve(task.metric)


def embedder_name(given: str | None, model: ModelSettings) -> str:
    """The embedder's name; a GGUF model that answers for the pool embeds it too."""
    return given or (f"local:last:{model.model}" if model.is_local and model.model else "local")


def open_embedder(spec: str, model: ModelSettings, account: Account | None = None) -> Any:
    """The embedder of that name, at the model's endpoint where it has one."""
    from zopo_fast.prompts.embedders import resolve

    try:
        return resolve(spec, config=None if model.is_local else model.client_config(), account=account)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error}; or embed the pool with something else: --embedder endpoint:MODEL, st:NAME or minilm"
        ) from None


def prices_of(options: dict[str, Any]) -> tuple[float, float] | None:
    """Prices of a million tokens in and out, both or neither."""
    price_in, price_out = options["price_in"], options["price_out"]
    if (price_in is None) != (price_out is None):
        raise ConfigError("--price-in and --price-out go together")
    return None if price_in is None else (price_in, price_out)


def settings_of(kind: type[S], options: dict[str, Any]) -> S:
    """Return those of the options that make up a dataclass of settings."""
    return kind(**{f.name: options[f.name] for f in fields(kind)})  # type: ignore[arg-type]


def text_or_file(value: str | None, option: str) -> str | None:
    """A text, or with a leading @ the file that holds it."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return read_bytes(value[1:], MAX_SETTINGS_BYTES).decode("utf-8-sig").strip()
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {value}: cannot be read: {error}") from error


@dataclass(frozen=True)
class LimitSettings:
    """The options above, as typed."""

    limit_calls: int | None = None
    limit_tokens: int | None = None
    limit_cost: float | None = None
    limit_seconds: float | None = None
    cache: bool = True
    cache_size: int | None = None

    def limits(self) -> Limits | None:
        """The limits of the run; None: none was typed."""
        from zopo_fast.llm.limits import Limits

        limits = Limits(self.limit_calls, self.limit_tokens, self.limit_cost, self.limit_seconds)
        return None if limits == Limits() else limits

    def prices(self, prices: tuple[float, float] | None) -> Prices | None:
        """Prices in and out as `options.prices_of` gives them; raises `ConfigError` where they are needed."""
        from zopo_fast.llm.limits import Prices

        if prices is None:
            if self.limit_cost is not None:
                raise ConfigError("--limit-cost needs --price-in and --price-out")
            return None
        return Prices(*prices)

    def open_cache(self) -> AnswerCache | None:
        """The cache of answers; None where it is off. Close it in the end."""
        if not self.cache:
            if self.cache_size is not None:
                raise ConfigError("--cache-size and --no-cache contradict each other; give one")
            return None
        from zopo_fast.llm.answer_cache import MAX_BYTES, AnswerCache

        return AnswerCache(max_bytes=self.cache_size or MAX_BYTES)
