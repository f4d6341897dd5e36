"""Translation of a job request into a run of optimize()."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from zopo_fast.errors import ConfigError
from zopo_fast.llm.limits import Limits, Prices
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.optimize import optimize
from zopo_fast.runs.result import Result, Trial
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.jobs.schemas import CreateJob, JobConfig, JobExample, JobTask
from zopo_fast.serve.studies.payload import check_size, decode_embeddings
from zopo_fast.serve.studies.routes import search_config
from zopo_fast.storage.store import Store
from zopo_fast.tasks.task import Example, Task


def check(request: CreateJob, limits: ServerLimits, prices: tuple[float, float] | None) -> None:
    """Refuse a job that cannot work, before any call is paid for.

    Raises:
        ConfigError: The settings, embeddings or the incumbent do not fit.
        PoolError: The pool holds fewer than two prompts.
        Problem: The pool is larger than the server allows.
    """
    task, pool = task_of(request.task), pool_of(request, limits)
    config = config_of(request.config, prices)
    pool.require(2)
    config.races(task)
    if request.embeddings is not None:
        rows = len(decode_embeddings(request.embeddings, limits))
        if rows != len(pool):
            raise ConfigError(f"embeddings: {rows} rows for {len(pool)} distinct prompts")
        if config.incumbent is not None and config.incumbent not in pool.prompts:
            raise ConfigError(
                "config.incumbent: with embeddings the incumbent must be one of the prompts of the pool"
            )


def task_of(given: JobTask) -> Task:
    """Return the task of a request."""

    def examples(rows: list[JobExample]) -> tuple[Example, ...]:
        return tuple(
            Example(one.input, (one.output,) if isinstance(one.output, str) else tuple(one.output))
            for one in rows
        )

    return Task(
        given.name,
        examples(given.examples),
        examples(given.heldout),
        given.metric,
        given.template,
        examples(given.demonstrations),
    )


def pool_of(request: CreateJob, limits: ServerLimits) -> Pool:
    """Return the pool of a request, with normalised texts and equal prompts merged.

    Raises:
        PoolError: The texts or scores cannot be used.
        Problem: The pool is larger than the server allows.
    """
    check_size(len(request.pool), limits)
    texts = [one if isinstance(one, str) else one.prompt for one in request.pool]
    scores = [None if isinstance(one, str) else one.score for one in request.pool]
    return Pool.from_texts(texts, scores)


def config_of(given: JobConfig, prices: tuple[float, float] | None) -> RunConfig:
    """Return the settings of the run.

    Raises:
        ConfigError: The settings contradict each other.
    """
    values = {f.name: getattr(given, f.name) for f in msgspec.structs.fields(given)}
    limits = values.pop("limits")
    values["search"] = search_config(given.search)
    if given.incumbent is not None:
        values["incumbent"] = Pool.from_texts([given.incumbent]).prompts[0]  # normalised like the pool
    if limits is not None:
        values["limits"] = Limits(**msgspec.structs.asdict(limits))
    if prices is not None:
        values["prices"] = Prices(*prices)
    return RunConfig(**values)


async def run(
    request: CreateJob,
    store: Path | Store,
    limits: ServerLimits,
    llm: Any,
    judge: Any,
    embedder: Any,
    prices: tuple[float, float] | None,
    on_trial: Callable[[Any], Any],
    on_phase: Callable[[str], Any],
    on_resume: Callable[[list[Trial]], Any],
    stop: asyncio.Event,
) -> Result:
    """Run the job, or resume it from its study.

    Raises:
        ConfigError: The pool has no embeddings and the server no embedder.
        ZopoError: The run failed.
    """
    embeddings = request.embeddings
    array = None if embeddings is None else await asyncio.to_thread(decode_embeddings, embeddings, limits)
    if array is None and embedder is None:
        raise ConfigError(
            "embeddings: the server was started without --embedder; give the embeddings of the pool"
        )
    return await optimize(
        task_of(request.task),
        pool_of(request, limits),
        llm,
        config_of(request.config, prices),
        embeddings=array,
        embedder=None if array is not None else embedder,
        judge=judge,
        on_trial=on_trial,
        on_phase=on_phase,
        on_resume=on_resume,
        stop=stop,
        store=store,
    )
