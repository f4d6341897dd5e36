"""From a job's request to a run of optimize()."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from zopo_fast.errors import ConfigError
from zopo_fast.llm.limits import Limits as RunLimits, Prices
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.optimize import RunConfig, optimize
from zopo_fast.runs.result import Result, Trial
from zopo_fast.serve.config import Limits
from zopo_fast.serve.jobs.schemas import CreateJob, JobConfig, JobExample, JobTask
from zopo_fast.serve.studies.payload import check_size, decode_embeddings
from zopo_fast.serve.studies.routes import search_config
from zopo_fast.storage.store import STUDY
from zopo_fast.tasks.task import Example, Task


def check(request: CreateJob, limits: Limits, prices: tuple[float, float] | None) -> None:
    """Refuse what cannot work before any call is paid for; raises ConfigError, PoolError, a Problem."""
    task, pool = task_of(request.task), pool_of(request, limits)
    config = config_of(request.config, prices)
    pool.require(2)
    config.races(task)
    if request.embeddings is not None:
        rows = len(decode_embeddings(request.embeddings, limits))
        if rows != len(pool):
            raise ConfigError(f"embeddings: {rows} rows for {len(pool)} distinct prompts")
        if config.incumbent is not None and config.incumbent not in pool.prompts:
            raise ConfigError("with embeddings the incumbent has to be one of the pool's prompts")


def task_of(given: JobTask) -> Task:
    """The task."""

    def examples(some: list[JobExample]) -> tuple[Example, ...]:
        return tuple(
            Example(one.input, (one.output,) if isinstance(one.output, str) else tuple(one.output))
            for one in some
        )

    return Task(
        given.name,
        examples(given.examples),
        examples(given.heldout),
        given.metric,
        given.template,
        examples(given.demonstrations),
    )


def pool_of(request: CreateJob, limits: Limits) -> Pool:
    """The pool, normalised and merged."""
    check_size(len(request.pool), limits)
    texts = [one if isinstance(one, str) else one.prompt for one in request.pool]
    scores = [None if isinstance(one, str) else one.score for one in request.pool]
    return Pool.from_texts(texts, scores)


def config_of(given: JobConfig, prices: tuple[float, float] | None) -> RunConfig:
    """The settings of the run; raises ConfigError."""
    values = {f.name: getattr(given, f.name) for f in msgspec.structs.fields(given)}
    limits = values.pop("limits")
    values["search"] = search_config(given.search)
    if given.incumbent is not None:
        values["incumbent"] = Pool.from_texts([given.incumbent]).prompts[0]  # normalised, as the pool's are
    if limits is not None:
        values["limits"] = RunLimits(**msgspec.structs.asdict(limits))
    if prices is not None:
        values["prices"] = Prices(*prices)
    return RunConfig(**values)


async def run(
    request: CreateJob,
    folder: Path,
    limits: Limits,
    llm: Any,
    judge: Any,
    embedder: Any,
    prices: tuple[float, float] | None,
    on_trial: Callable[[Any], Any],
    on_phase: Callable[[str], Any],
    on_resume: Callable[[list[Trial]], Any],
    stop: asyncio.Event,
) -> Result:
    """Make the run; the study file in its folder lets it go on where it was."""
    embeddings = request.embeddings
    array = None if embeddings is None else await asyncio.to_thread(decode_embeddings, embeddings, limits)
    if array is None and embedder is None:
        raise ConfigError("a pool needs embeddings: this server was started without --embedder")
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
        store=folder / STUDY,
    )
