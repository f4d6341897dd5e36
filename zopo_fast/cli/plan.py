"""Plan of a command: pool and settings that fit the task, and the line printed before the first call."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from zopo_fast.cli.models import LITELLM
from zopo_fast.cli.settings import load_pool
from zopo_fast.errors import ConfigError, PoolError

if TYPE_CHECKING:
    from pathlib import Path

    from zopo_fast.cli.models import EmbeddingSettings, ModelSettings
    from zopo_fast.cli.settings import PoolSettings
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.cost.estimate import Estimate
    from zopo_fast.tasks.task import Task

MAX_HELDOUT = 300  # held-out examples where --heldout is not given; an interval gains little from more


def run_config(options: dict[str, Any]) -> RunConfig:
    """Return the settings of a run, without limits and prices.

    Raises:
        ConfigError: An option is out of range.
    """
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.search.config import ZopoConfig

    incumbent = options["incumbent"]
    if incumbent is not None:
        try:
            incumbent = Pool.from_texts([incumbent]).prompts[0]  # normalised like the pool
        except PoolError as error:
            raise ConfigError(f"--incumbent: {error}") from None
    return RunConfig(
        budget=options["budget"],
        initial=options["initial"],
        seed=options["seed"],
        incumbent=incumbent,
        stop_at_perfect=not options["past_perfect"],
        target=options["target"],
        prefer_short=options["prefer_short"],
        heldout=not options["no_comparison"],
        compare_random=options["compare_random"],
        racing=options["racing"],
        grow=options["grow"],
        calls=options["calls"],
        race_error=options["race_error"],
        race_first=options["race_first"],
        race_batch=options["race_batch"],
        score_range=options["score_range"],
        unanswered=options["unanswered"],
        rubric=options["rubric"],
        search=ZopoConfig.official() if options["official"] else ZopoConfig(),
    )


def part_editors(options: dict[str, Any], pool: Pool, grow: bool | None) -> list[Any]:
    """Return the editor of the parts in --lists, where the pool is composed of them; [] for none.

    Raises:
        ConfigError: The file cannot be used.
    """
    if options["lists"] is None or grow is False:
        return []
    from zopo_fast.prompts.writing.part_editor import PartEditor

    editor = PartEditor.for_pool(pool.prompts, options["lists"], options["kind"])
    return [] if editor is None else [editor]


# ---- pool --------------------------------------------------------------------------------------------


def pool_without_calls(
    options: dict[str, Any], task: Task, local: bool, settings: PoolSettings
) -> Pool | None:
    """Return the pool; None where a model must write it first.

    Raises:
        ConfigError: No option names a source of prompts.
        PoolError: A pool file cannot be used.
    """
    if options["pool_file"] is None and options["generate"] is None:
        raise ConfigError("no prompts: give --pool FILE or --generate N")
    given = None if options["pool_file"] is None else load_pool(options["pool_file"])
    if options["generate"] is None:
        return given
    if settings.method(local) != "compose":
        return None
    return merged(given, settings.compose(options["generate"], task, options["seed"]))


def embeddings_file(options: dict[str, Any]) -> Path | None:
    """Return the file with the embeddings of the pool; None where an embedder makes them.

    Raises:
        ConfigError: --embeddings contradicts another option.
        PoolError: The pool is a Parquet file that cannot be read.
    """
    from zopo_fast.prompts.parquet import has_embeddings

    given: Path | None = options["embeddings"]
    pool, generated = options["pool_file"], options.get("generate")
    if given is None:
        is_in_pool = pool is not None and generated is None and options["embedder"] is None
        return pool if is_in_pool and has_embeddings(pool) else None
    if options["embedder"] is not None:
        raise ConfigError("--embeddings and --embedder contradict each other; give one")
    if generated is not None:
        raise ConfigError(
            "--embeddings has no rows for the prompts of --generate: write them with `zopo-fast generate` "
            "first, and embed that pool"
        )
    return given


def merged(given: Pool | None, more: Pool) -> Pool:
    """Return the given prompts with their scores, then the others."""
    from zopo_fast.prompts.pool import Pool

    return more if given is None else Pool.from_texts([*given.prompts, *more.prompts], given.scores)


def candidates_to_score(task: Task, options: dict[str, Any], pool: Pool | None, config: RunConfig) -> int:
    """Return the number of candidates without a score, or its upper bound before a model writes prompts.

    In a search over demonstrations each prompt is a candidate with some sets of them too.

    Raises:
        PoolError: A pool cannot be used.
    """
    from zopo_fast.prompts.writing.demonstrations import most_pairs

    size = prompts_to_score(options, pool, config.incumbent)
    return size + most_pairs(size) if task.reserve else size


def prompts_to_score(options: dict[str, Any], pool: Pool | None, incumbent: str | None) -> int:
    """Return the number of prompts without a score, or its upper bound before a model writes them.

    Raises:
        PoolError: A pool cannot be used.
    """
    if pool is None:
        files = [options[name] for name in ("pool_file", "source") if options[name] is not None]
        size = sum((len(load_pool(file)) for file in files), options["generate"])
    else:
        size = len(pool.require(2)) - len(pool.scores)
    return int(size) + (incumbent is not None and (pool is None or incumbent not in pool.prompts))


def chunk_size(embedder: str, model: ModelSettings, embedding: EmbeddingSettings) -> int:
    """Return the number of texts embedded between two reports of progress.

    At an endpoint a chunk fills all concurrent batches, so that chunks cost no time.
    """
    from zopo_fast.llm.openai.config import ClientConfig
    from zopo_fast.runs.cost.estimate import EMBED_BATCH
    from zopo_fast.runs.progress import LOCAL_CHUNK

    if not embedder.startswith("endpoint:"):
        return LOCAL_CHUNK
    return (embedding.embedding_batch or EMBED_BATCH) * (model.concurrency or ClientConfig.concurrency)


# ---- defaults that fit -------------------------------------------------------------------------------


def fit_heldout(task: Task, given: Collection[str]) -> Task:
    """Return the task with at most MAX_HELDOUT held-out examples, unless --heldout is given."""
    if "heldout" in given or len(task.heldout) <= MAX_HELDOUT:
        return task
    note(f"{MAX_HELDOUT} of {len(task.heldout)} held-out examples are used; --heldout takes more.")
    return replace(task, heldout=task.heldout[:MAX_HELDOUT])


def fit_budget(config: RunConfig, size: int, given: Collection[str]) -> RunConfig:
    """Return the settings with a budget that a pool of `size` prompts allows; with --grow it may be larger.

    Args:
        config: Settings of the run.
        size: Number of prompts to score.
        given: Names of the options that were given; those are not changed.

    Raises:
        ConfigError: A given budget exceeds the pool, or no prompt is left to score.
    """
    budget, initial = config.budget, config.initial
    if budget > size and not (config.grow and size):
        if "budget" in given or size < 1:
            raise ConfigError(f"--budget {budget} is larger than the pool of {size} prompts to score")
        note(f"the budget is {size} instead of {budget} prompts: the pool has no more to score.")
        budget = size
    if initial is not None and initial >= budget and "initial" in given:
        note("--initial takes the whole --budget; all prompts are drawn at random.")
    return replace(config, budget=budget)


def note(text: str) -> None:
    """Print a note on stderr."""
    click.echo(f"Note: {text}", err=True)


# ---- the plan ----------------------------------------------------------------------------------------


def announce(text: str, quiet: bool) -> None:
    """Print the plan of a command on stderr, unless the command is quiet."""
    from zopo_fast._utils.text import printable

    if not quiet:
        click.echo(f"Plan: {printable(text)}.", err=True)


def model_text(model: ModelSettings) -> str:
    """Return the name of the model and the host of its endpoint, without secrets.

    Raises:
        ConfigError: The base URL is invalid.
    """
    import os

    from zopo_fast.llm.openai.endpoint import OPENAI_URL
    from zopo_fast.llm.openai.redaction import parse_base_url

    if model.is_local:
        return f"the embedded model{'' if model.model is None else ' ' + model.model}"
    if model.model is not None and model.model.startswith(LITELLM):
        return f"model {model.model.removeprefix(LITELLM)} by LiteLLM"
    from_environment = os.environ.get("OPENAI_BASE_URL", "").strip()
    source = "OPENAI_BASE_URL" if model.base_url is None else "base_url"
    url = parse_base_url(source, model.base_url or from_environment or OPENAI_URL)
    port = "" if url.is_default_port() else f":{url.port}"
    return f"model {model.model} at {url.host}{port}"


def plan_text(config: RunConfig, task: Task, prompts: int | None, bound: Estimate, model: str) -> str:
    """Return the plan of a run in one line.

    Args:
        config: Settings of the run.
        task: Task of the run.
        prompts: Size of the pool; None before a model writes it.
        bound: Upper bounds of the run.
        model: Text of `model_text`.
    """
    pool = "prompts that the model writes first" if prompts is None else f"{prompts} prompts"
    held = f"{len(task.heldout)} held-out examples" if config.heldout else "no comparison"
    racing = " (racing)" if config.races(task) else ""
    return f"{config.budget} of {pool} on {len(task.train)} examples{racing}, {held}; {bound}; {model}"
