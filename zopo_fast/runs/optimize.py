"""optimize(): from a task, a pool and a model to the best prompt."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from zopo_fast._utils.aio import require_no_loop, require_own_event
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError
from zopo_fast.llm.adapter import as_chat_model, as_embedding_model
from zopo_fast.llm.answer_cache import CachedModel
from zopo_fast.llm.budget import Account
from zopo_fast.llm.middleware import MeteredModel, RecordedModel, ReplayedAnswers
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.pool import Pool, normalise
from zopo_fast.runs import resume
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.driver import Driver
from zopo_fast.runs.result import Result, Trial
from zopo_fast.runs.state import RunState
from zopo_fast.scoring.scorer import prompts_at_once, scorer_for
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.search.problem import as_embeddings
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from pathlib import Path

    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.types import ChatModel
    from zopo_fast.storage.store import Store

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Result", "RunConfig", "Trial", "optimize", "optimize_sync"]


@public
async def optimize(
    task: Task | Callable[[str], Any],
    pool: Pool | Sequence[str],
    llm: Any = None,
    config: RunConfig | ZopoConfig | None = None,
    *,
    embeddings: Any = None,
    embedder: Any = None,
    judge: ChatModel | None = None,
    on_trial: Callable[[Trial], Any] | None = None,
    on_resume: Callable[[list[Trial]], Any] | None = None,
    on_phase: Callable[[str], Any] | None = None,
    stop: asyncio.Event | None = None,
    store: str | Path | Store | None = None,
    cache: AnswerCache | None = None,
    account: Account | None = None,
) -> Result:
    """Find the prompt of `pool` that scores best on `task`, in at most `config.budget` prompts.

    Args:
        task: a Task, or a function `prompt -> score` (sync or async; higher is better).
        pool: candidate prompts; scores that a Pool brings along are taken as prior data.
        llm: what answers: an OpenAIClient, a LocalModel, anything with `chat(messages)`, or a function
            `messages -> text`, sync or async. Not used with a task function.
        config: settings; a ZopoConfig stands for its budget, initial points, seed and search, without racing.
        embeddings: (m, d), one row a prompt of the pool; None: made by `embedder`.
        embedder: None: the embedded model, with a cache on disk.
        judge: the model that grades for the metric "judge"; None: `llm` itself.
        on_trial: called with each Trial as it ends, sync or async. What it raises ends the run.
        on_resume: called before the search goes on from a study, with the trials that it holds.
        on_phase: called with "embedding", "search", "random sample" and "comparison" as each begins.
        stop: set it to end the run early, with the results so far.
        store: a study file, or its path; made where it is missing. Whatever is answered is kept there, and
            where it holds a beginning of this run (same task, pool, settings and model), the run goes on from
            it: nothing that was answered is asked again. `seconds` and `usage` are the whole study's.
        cache: answers shared with other runs: what it holds is not asked for, and costs nothing.
        account: what pays for the calls, where it pays for others too; None: one by `config.limits`.

    Returns:
        The result. When the model fails for good in mid-run, the result so far with `stopped_by="error"`.

    Raises:
        PoolError: fewer than two prompts. ConfigError, ArrayError: as the name says.
        EventLoopError: `stop` belongs to another event loop.
        LLMError, MetricError: scoring failed before any prompt was scored.
        StoreError: the study cannot be used (see errors.py), or could not be written any more; what was
            told of by `on_trial` is in it.
        StudyMismatchError: it was begun with something else; says what.
        LimitReachedError: a limit was reached before any prompt was scored.
    """
    config = _run_config(config)
    if stop is not None:
        require_own_event(stop, "stop")
    pool = pool if isinstance(pool, Pool) else Pool.from_texts(list(pool))
    pool.require(2)
    if config.racing:
        config.races(task)  # says at once where it cannot be done
    model = as_chat_model(llm, config.concurrency) if isinstance(task, Task) else None
    own_judge = None if judge is None else as_chat_model(judge, config.concurrency, "judge")
    grader = own_judge or model
    pool, first = _with_incumbent(pool, config.incumbent)
    phase = on_phase or (lambda _: None)
    with resume.open_store(store) as opened:
        account = account or account_of(config, opened)
        if account is not None and not isinstance(task, Task) and account.limits.has_spending_limit:
            raise ConfigError(
                "limits: the calls of a task function cannot be seen; only seconds can be limited"
            )
        models = _Models(opened, cache, account)
        scorer, slots = scorer_for(
            task,
            None if model is None else models.wrap(model, "model"),
            None if grader is None else models.wrap(grader, "judge"),
            config.rubric,
        )
        if opened is not None:
            resume.check_identity(opened, resume.identity(task, pool, config, model, own_judge))
            slots = resume.pin(opened, "slots", slots)
        Z = await _vectors(pool, embeddings, embedder, phase, opened)
        initial = _initial(pool, first, config)
        races = isinstance(task, Task) and config.races(task)
        race = config.race(task, slots, len(initial)) if isinstance(task, Task) and races else None
        # What a race gives up is refunded: of the search's budget, only what is scored in full is used up.
        budget = config.budget if race is None else max(len(initial), -(-race.calls // race.examples))
        search = replace(config.search, budget=budget, initial=initial, seed=config.seed)
        optimizer = Zopo(Z, search)
        for index, score in pool.scores.items():
            optimizer.tell(index, score)
        in_flight = config.prompts_in_flight or (
            # The calls of a mini-batch end one by one: half as many again as are under way at once.
            prompts_at_once(slots, scorer.parts)
            if race is None
            else prompts_at_once(3 * slots, 2 * race.batch)
        )
        in_flight = resume.pin(opened, "in_flight", in_flight)
        study = RunState(optimizer, pool, config, in_flight, scorer.parts, scorer.perfect, race)
        driver = Driver(
            study,
            scorer,
            config,
            on_trial=on_trial,
            on_resume=on_resume,
            phase=phase,
            stop=stop or asyncio.Event(),
            store=opened,
            account=account,
        )
        try:
            return await driver.run(0 if first is None else first)
        finally:
            await models.written()


def _takes_arguments_of(function: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    def typed(wrapper: Callable[..., T]) -> Callable[P, T]:
        wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return wrapper

    return typed


@public
@_takes_arguments_of(optimize)
def optimize_sync(*args: Any, **kwargs: Any) -> Result:
    """Run optimize() in an event loop of its own; same arguments.

    Raises:
        EventLoopError: an event loop is already running in this thread.
    """
    require_no_loop("optimize_sync", "await optimize() in it")
    return asyncio.run(optimize(*args, **kwargs))


def account_of(config: RunConfig, store: Store | None) -> Account | None:
    """What pays for the calls of a run with limits, with what a study has already spent."""
    if config.limits is None:
        return None
    account = Account(config.limits, config.prices, ledger=store)
    if store is not None:
        account.restore(resume.spent(store))
    return account


class _Models:
    """Wraps the models of a run: an answer comes from the study, else from the cache, else from the model."""

    def __init__(self, store: Store | None, cache: AnswerCache | None, account: Account | None) -> None:
        self._answers = None if store is None else ReplayedAnswers(store)
        self._cache = cache
        self._account = account
        self._cached: list[CachedModel] = []

    def wrap(self, model: ChatModel, role: str) -> ChatModel:
        if self._account is not None:
            model = MeteredModel(model, self._account)
        if self._cache is not None and model.identity is not None:
            model = CachedModel(model, self._cache)
            self._cached.append(model)
        return model if self._answers is None else RecordedModel(model, self._answers, role)

    async def written(self) -> None:
        """Wait until the cache holds all answers so far."""
        for model in self._cached:
            await model.written()


async def _vectors(
    pool: Pool, embeddings: Any, embedder: Any, phase: Callable[[str], Any], store: Store | None
) -> Any:
    """Embeddings as given, as the study holds them, or made and kept there."""
    there = None if store is None else resume.stored_embeddings(store, embeddings)
    if there is not None:
        return there
    usage: Usage | None = None
    if embeddings is None:
        phase("embedding")
        embeddings, usage = await _embed(pool, embedder)
    Z = as_embeddings(embeddings)
    if len(Z) != len(pool):
        raise ConfigError(
            f"embeddings: {len(Z)} rows for {len(pool)} distinct prompts (an incumbent that is not one of "
            "the pool's is put last)"
        )
    if store is not None:
        store.put_pool(pool)
        store.put_array("embeddings", Z)
        store.put("embedding", None if usage is None else asdict(usage))
        await store.flush(durable=True)
    return Z


def _run_config(config: RunConfig | ZopoConfig | None) -> RunConfig:
    if isinstance(config, ZopoConfig):
        initial = config.initial if isinstance(config.initial, int) else len(config.initial)
        # Its budget is prompts, each scored once and in full: not a race's, which is calls.
        return RunConfig(budget=config.budget, initial=initial, seed=config.seed, search=config, racing=False)
    return config or RunConfig()


def _with_incumbent(pool: Pool, incumbent: str | None) -> tuple[Pool, int | None]:
    if incumbent is None:
        return pool, None
    text = normalise(incumbent)
    if text in pool.prompts:
        return pool, pool.prompts.index(text)
    return Pool((*pool.prompts, text), (*pool.counts, 1), pool.scores), len(pool)  # indices stay


def _initial(pool: Pool, first: int | None, config: RunConfig) -> list[int]:
    """Incumbent first, then the indices asked for, or random prompts without a score."""
    chosen = [] if first is None else [first]
    given = config.search.initial
    if not isinstance(given, int):
        return [*chosen, *(i for i in given if i not in chosen)][: config.budget]
    order = np.random.default_rng(config.seed).permutation(len(pool))
    fresh = [int(i) for i in order if i not in chosen and i not in pool.scores]
    some = (chosen + fresh)[: min(config.initial, config.budget, len(pool))]
    return some or [0]  # every prompt has a score: an initial one that has is passed over


async def _embed(pool: Pool, embedder: Any) -> tuple[Any, Usage]:
    if embedder is not None:
        model = as_embedding_model(embedder)
        return np.asarray(await model.embed(list(pool.prompts))), model.usage
    from zopo_fast.prompts.embedders import resolve

    default = resolve("local")
    try:
        return await default.embed(list(pool.prompts)), default.usage
    finally:
        await default.aclose()
