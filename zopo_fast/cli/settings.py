"""Tasks, pools, prices and limits made from parsed options."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.cli.models import LITELLM
from zopo_fast.errors import ConfigError, InputError, PoolError

if TYPE_CHECKING:
    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.limits import Limits, Prices
    from zopo_fast.prompts.generate import Generated
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.tasks.task import Task

DEFAULT_EXAMPLES = 20  # of a prompt, where the task is large enough


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

    async def write(self, n: int, task: Task, model: Any, local: bool, seed: int) -> tuple[Pool, Generated]:
        """Return about `n` prompts written by the model, and what its calls gave."""
        from zopo_fast.prompts import generate
        from zopo_fast.prompts.pool import Pool

        if self.source is not None and self.method(local) == "paraphrase":
            originals = Pool.load(self.source)
            found = await generate.paraphrase(model, originals.prompts, n, seed=seed)
            return Pool.from_texts([*originals.prompts, *found.pool.prompts]), found
        found = await generate.induce(model, [*task.demonstrations, *task.train], n, seed=seed)
        return found.pool, found


def check_generated(pool: Pool, found: Generated | None = None) -> None:
    """Check that a generated pool gives a search something to choose from.

    Raises:
        PoolError: It holds fewer than two prompts; says what the calls gave.
    """
    if len(pool) >= 2:
        return
    calls = "" if found is None else f" from {found.calls} calls{found.skipped}"
    raise PoolError(
        f"generating gave one prompt only{calls}: {short_repr(printable(pool.prompts[0]), 200)}. At least "
        "2 distinct prompts are needed: use another model, a higher temperature, --how compose or "
        "paraphrase, or a pool of your own"
    )


def load_task(path: Path, options: dict[str, Any]) -> Task:
    """Load the task; the number of examples, unless given, suits the size of the task.

    A YAML file is a configuration of promptfoo, which also sets the options that its tests need.
    """
    from zopo_fast.tasks.task import Task

    names = ["heldout", "demonstrations", "seed"]
    if is_promptfoo(path):
        from zopo_fast.integrations import promptfoo

        found = promptfoo.load(path)
        if "score_range" in options and found.task.metric != "judge":
            options["score_range"] = options["score_range"] or (0.0, 1.0)
        if "rubric" in options:
            options["rubric"] = options["rubric"] or found.rubric

        def load(**given: Any) -> Task:
            changes = {name: options[name] for name in ("metric", "template") if options[name]}
            return replace(promptfoo.load(path, **given).task, **changes)
    else:
        names += ["input_field", "output_field", "metric", "template", "encoding"]

        def load(**given: Any) -> Task:
            return Task.load(path, **given)

    given = {name: options[name] for name in names}
    examples = options["examples"]
    if examples is None:
        whole = load(**{**given, "examples": None, "heldout": None})
        examples = _fitting_examples(len(whole.train), len(whole.heldout), given["heldout"])
    return load(examples=examples, **given)


def is_promptfoo(path: Path | None) -> bool:
    """Return whether a file is a configuration of promptfoo, by its suffix."""
    return path is not None and path.suffix.lower() in (".yaml", ".yml")


def load_pool(path: Path) -> Pool:
    """Load a pool file, or the prompts of a configuration of promptfoo."""
    from zopo_fast.prompts.pool import Pool

    if not is_promptfoo(path):
        return Pool.load(path)
    from zopo_fast.integrations import promptfoo

    return promptfoo.load(path).pool


def _fitting_examples(size: int, held_out: int, wanted: int | None) -> int:
    """Return the number of train examples that suits a task.

    Args:
        size: Examples that the file does not hold out.
        held_out: Examples that the file holds out.
        wanted: Value of --heldout; None: not given.
    """
    if wanted is None and not held_out:
        return DEFAULT_EXAMPLES if size > 2 * DEFAULT_EXAMPLES else max(1, size // 2)
    needed = max(0, (wanted or 0) - held_out)  # to hold out beside those of the file
    if size > DEFAULT_EXAMPLES or held_out:
        return min(DEFAULT_EXAMPLES, max(1, size - needed))
    return max(1, size // 2)


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


def with_prices(options: dict[str, Any], is_resumed: bool = False) -> dict[str, Any]:
    """Return the options with the listed prices of `--price auto` as if typed, and print which these are.

    With a judge or a writer of its own, the highest price of the models counts, so that a limit of cost
    holds. A resumed study keeps its prices.

    Raises:
        ConfigError: The list has no such model, or prices are also given by hand.
        MissingDependencyError: The price list is not installed.
    """
    if options["price"] is None:
        return options
    if options["price_in"] is not None or options["price_out"] is not None:
        if not is_resumed:
            raise ConfigError("--price auto and --price-in contradict each other; give one")
        return options
    if options["local"] or not options["model"]:
        raise ConfigError("--price auto needs --model and an endpoint; the embedded model has no price")
    from zopo_fast.llm.price_list import listed_prices

    url = options["base_url"] or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    asked = [(options["model"], url)]
    if options["judge_model"] is not None:
        asked.append((options["judge_model"], options["judge_base_url"] or url))
    if options.get("writer_model") is not None:
        asked.append((options["writer_model"], options["writer_base_url"] or url))
    # The name of a model of LiteLLM begins with its provider.
    found = [
        listed_prices(model.removeprefix(LITELLM), None if model.startswith(LITELLM) else where)
        for model, where in asked
    ]
    price_in = max(each.prices.prompt for each in found)
    price_out = max(each.prices.completion for each in found)
    entries = " and ".join(dict.fromkeys(each.entry for each in found))
    click.echo(
        f"Note: a million tokens cost {price_in:g} in and {price_out:g} out: {entries} in {found[0].source}. "
        "Discounts of cached tokens are not counted; reasoning tokens cost what tokens out cost.",
        err=True,
    )
    return {**options, "price_in": price_in, "price_out": price_out}


def prices_of(options: dict[str, Any]) -> tuple[float, float] | None:
    """Return the prices of a million prompt and completion tokens; None where neither is given.

    Raises:
        ConfigError: Only one of them is given.
    """
    price_in, price_out = options["price_in"], options["price_out"]
    if (price_in is None) != (price_out is None):
        raise ConfigError("--price-in and --price-out go together; give both")
    return None if price_in is None else (price_in, price_out)


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
                raise ConfigError("--limit-cost needs prices: --price auto, or --price-in and --price-out")
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
