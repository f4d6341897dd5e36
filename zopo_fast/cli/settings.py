"""Models, pools, judges and limits made from parsed options."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import printable
from zopo_fast.errors import ConfigError, InputError, MissingDependencyError
from zopo_fast.llm.bodies import ANSWER_BODY, JUDGE_BODY, WRITER_BODY

if TYPE_CHECKING:
    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.budget import Account
    from zopo_fast.llm.limits import Limits, Prices
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.llm.types import Usage
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.tasks.task import Task

S = TypeVar("S")

DEFAULT_EXAMPLES = 20  # of a prompt, where the task is large enough


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

    def full_body(self, writing: bool = False) -> dict[str, Any]:
        """Return the body parameters of a call that answers an example or, if `writing`, writes a prompt."""
        options = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        given = {name: value for name, value in options.items() if value is not None}
        return {**(WRITER_BODY if writing else ANSWER_BODY), **given, **self.body}

    def max_answer_tokens(self) -> int:
        """Return the tokens of the longest answer, --body included."""
        body = self.full_body()
        stated = body.get("max_tokens") or body.get("max_completion_tokens")
        return stated if isinstance(stated, int) else int(ANSWER_BODY["max_tokens"])

    def client_config(self, writing: bool = False) -> ClientConfig:
        """Return the settings of the client of the endpoint."""
        from zopo_fast.llm.openai.config import ClientConfig

        given = {"concurrency": self.concurrency, "timeout": self.timeout}
        return ClientConfig(
            self.model or "",
            base_url=self.base_url,
            body=self.full_body(writing),
            headers=self.headers,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )

    @contextlib.asynccontextmanager
    async def opened(self, writing: bool = False) -> AsyncIterator[Any]:
        """Open the model for a block."""
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
    """Values of the options that generate prompts."""

    how: str | None
    kind: str | None
    lists: Path | None
    source: Path | None

    def method(self, local: bool) -> str:
        """Return the method; the embedded model is too weak to write instructions."""
        if self.how:
            return self.how
        if self.source:
            return "paraphrase"
        return "compose" if local or self.lists else "induce"

    def check(self, local: bool) -> None:
        """Check the options before any call is paid for.

        Raises:
            ConfigError: Prompts to paraphrase are missing.
        """
        if self.method(local) == "paraphrase" and self.source is None:
            raise ConfigError("--how paraphrase needs --from, a file with the prompts to rephrase")

    def compose(self, n: int, task: Task, seed: int) -> Pool:
        """Return about `n` composed prompts; makes no call."""
        from zopo_fast.prompts import generate

        return generate.compose(n, seed, self.lists, kind=self.kind or generate.kind_of(task.name))

    async def write(self, n: int, task: Task, model: Any, local: bool, seed: int) -> tuple[Pool, Usage]:
        """Return about `n` prompts written by the model, and the usage of the calls."""
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
    """Values of the options of the metric judge."""

    judge_model: str | None
    judge_base_url: str | None
    rubric: str | None

    @contextlib.asynccontextmanager
    async def opened(self, model: ModelSettings) -> AsyncIterator[Any]:
        """Open the judge for a block; None where the model itself grades.

        The judge has the timeout and concurrency of the model, and its headers at the same endpoint only,
        since headers may hold a secret.

        Raises:
            ConfigError: The endpoint of the judge lacks the name of the model there.
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
            body=JUDGE_BODY,
        )
        async with OpenAIClient(config) as client:
            yield client


def load_task(path: Path, options: dict[str, Any]) -> Task:
    """Load the task, print remarks on its rows, and suit the number of examples to its size."""
    with _printed_remarks():
        return _load_task(path, options)


@contextlib.contextmanager
def _printed_remarks() -> Iterator[None]:
    """Print the warnings about a task file, each once although the file may be read twice."""
    import logging

    remarks: dict[str, None] = {}

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            remarks[record.getMessage()] = None

    log, handler = logging.getLogger("zopo_fast.tasks"), Collector(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        for remark in remarks:
            click.echo(f"Note: {printable(remark)}", err=True)


def _load_task(path: Path, options: dict[str, Any]) -> Task:
    from zopo_fast.tasks.task import Task

    names = (
        "heldout", "demonstrations", "seed", "input_field", "output_field", "metric", "template", "encoding"
    )  # fmt: skip
    given = {name: options[name] for name in names}
    examples = options["examples"]
    if examples is None:
        whole = Task.load(path, **{**given, "examples": None, "heldout": 0})
        size = len(whole.train)
        examples = DEFAULT_EXAMPLES if size > 2 * DEFAULT_EXAMPLES else max(1, size // 2)
        if size > DEFAULT_EXAMPLES and given["heldout"] is not None:
            examples = min(DEFAULT_EXAMPLES, max(1, size - given["heldout"]))
    return Task.load(path, examples=examples, **given)


def check_names(task: Task) -> None:
    """Check that template and metric exist before any call is paid for.

    Raises:
        ConfigError: One of them does not.
    """
    from zopo_fast.scoring import metrics
    from zopo_fast.tasks import template

    template.resolve(task.template)
    if task.metric != "judge":
        metrics.resolve(task.metric)


def embedder_name(given: str | None, model: ModelSettings) -> str:
    """Return the name of the embedder; by default a GGUF model given by its path also embeds the pool."""
    return given or (f"local:last:{model.model}" if model.is_local and model.model else "local")


def open_embedder(spec: str, model: ModelSettings, account: Account | None = None) -> Any:
    """Return the embedder of a name, at the endpoint of the model if the embedder needs one.

    Raises:
        MissingDependencyError: A package of the embedder is not installed.
    """
    from zopo_fast.prompts.embedders import resolve

    try:
        return resolve(spec, config=None if model.is_local else model.client_config(), account=account)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error}; or choose another embedder: --embedder endpoint:MODEL, st:NAME or minilm"
        ) from None


def prices_of(options: dict[str, Any]) -> tuple[float, float] | None:
    """Return the prices of a million prompt and completion tokens; None where neither is given.

    Raises:
        ConfigError: Only one of them is given.
    """
    price_in, price_out = options["price_in"], options["price_out"]
    if (price_in is None) != (price_out is None):
        raise ConfigError("--price-in and --price-out go together; give both")
    return None if price_in is None else (price_in, price_out)


def settings_of(kind: type[S], options: dict[str, Any]) -> S:
    """Return a dataclass made from the options named like its fields."""
    return kind(**{f.name: options[f.name] for f in fields(kind)})  # type: ignore[arg-type]


def text_or_file(value: str | None, option: str) -> str | None:
    """Return the value of an option, or with a leading @ the text of the file it names.

    Raises:
        InputError: The file cannot be read.
    """
    if value is None or not value.startswith("@"):
        return value
    try:
        return read_bytes(value[1:], MAX_SETTINGS_BYTES).decode("utf-8-sig").strip()
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {value}: cannot be read: {error}") from error


@dataclass(frozen=True)
class LimitSettings:
    """Values of the options of limits and cache."""

    limit_calls: int | None = None
    limit_tokens: int | None = None
    limit_cost: float | None = None
    limit_seconds: float | None = None
    cache: bool = True
    cache_size: int | None = None

    def limits(self) -> Limits | None:
        """Return the limits of the run; None where no limit is given."""
        from zopo_fast.llm.limits import Limits

        limits = Limits(self.limit_calls, self.limit_tokens, self.limit_cost, self.limit_seconds)
        return None if limits == Limits() else limits

    def prices(self, prices: tuple[float, float] | None) -> Prices | None:
        """Return the prices of `prices_of` as `Prices`.

        Raises:
            ConfigError: A limit of cost needs prices and there are none.
        """
        from zopo_fast.llm.limits import Prices

        if prices is None:
            if self.limit_cost is not None:
                raise ConfigError("--limit-cost needs --price-in and --price-out")
            return None
        return Prices(*prices)

    def open_cache(self) -> AnswerCache | None:
        """Return the answer cache, which the caller closes; None where it is off.

        Raises:
            ConfigError: A size is given for a cache that is off.
        """
        if not self.cache:
            if self.cache_size is not None:
                raise ConfigError("--cache-size and --no-cache contradict each other; give one")
            return None
        from zopo_fast.llm.answer_cache import MAX_BYTES, AnswerCache

        return AnswerCache(max_bytes=self.cache_size or MAX_BYTES)
