"""optimize(): from a task, a pool and a model to the best prompt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import metrics, resume
from .answer_cache import Cached, identity_of
from .budget import Account
from .concurrency import require_no_loop, require_own_event
from .config import ZopoConfig, as_integer, as_number
from .driver import Driver
from .errors import ConfigError
from .limits import Limits, Prices
from .metered import Metered
from .optimizer import Zopo
from .pool import Pool, normalise
from .racing import BATCH, ERROR, FIRST, Race, check_settings
from .recording import Kept, Recorded
from .result import Result, Trial
from .scoring import Wrap, prompts_at_once, scorer_for
from .start import as_embeddings
from .study import Study
from .task import Task

if TYPE_CHECKING:
    from pathlib import Path

    from .answer_cache import AnswerCache
    from .store import Store
    from .usage import ChatModel

__all__ = ["Result", "RunConfig", "Trial", "optimize", "optimize_sync"]


LEAST_EXAMPLES = 10  # below, mini-batches leave little to save


class _Embeds(Protocol):
    async def embed(self, texts: Sequence[str]) -> Any: ...


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    Args:
        budget: prompts scored in all, the incumbent and the initial ones included.
        initial: how many of them are chosen before the model of the scores is used.
        seed: of every random choice.
        concurrency: calls at once, where the model does not bring its own limit.
        prompts_in_flight: prompts scored at once; None: as many as keep the model's slots full, at
            least two; with a task function, two.
        incumbent: the prompt in use today; scored first, and what the winner is compared with.
        stop_at_perfect: end when a prompt scores 1.0 on every example of a Task.
        target: end when a score reaches this.
        heldout: score winner, seed prompt and pool median on the held-out examples.
        compare_random: also score an equally large random sample of the pool.
        racing: score prompts in mini-batches of examples and give up those unlikely to beat the best one
            scored in full, so that the same calls look at more prompts; `best_score` is a full one all
            the same. None: wherever it can be done, which takes a Task with at least 10 train examples
            and a metric with known bounds, and a search that is not the `official` one.
        calls: examples scored in all while racing; None: budget x train examples.
        race_error: probability, for each prompt and over the order of the examples, that it is given up
            although its full score exceeds that of the best one it was measured against.
        race_first: examples of a prompt's first mini-batch.
        race_batch: examples of each one after it; None: 2, or more where the model has more than 16 slots.
        score_range: least and greatest value of a metric of your own, without which it cannot be raced.
        rubric: message to the judge, with {input}, {references} and {answer}; None: the default one.
        max_failures: end after this many prompts in a row could not be scored.
        limits: what the whole run may take in calls, tokens, money and time, judge, comparison and earlier
            runs that it goes on from included; never exceeded, however many calls are in flight. Of a task
            function the time alone can be limited.
        prices: of a million tokens, for the limit of money.
        search: settings of the search; its budget and seed give way to those here, and its number of
            initial prompts too (a list of indices stands).

    Raises:
        ConfigError: a value out of range; names the setting.
    """

    budget: int = 50
    initial: int = 10
    seed: int = 0
    concurrency: int = 16
    prompts_in_flight: int | None = None
    incumbent: str | None = None
    stop_at_perfect: bool = True
    target: float | None = None
    heldout: bool = True
    compare_random: bool = False
    racing: bool | None = None
    calls: int | None = None
    race_error: float = ERROR
    race_first: int = FIRST
    race_batch: int | None = None
    score_range: tuple[float, float] | None = None
    rubric: str | None = None
    max_failures: int = 5
    limits: Limits | None = None
    prices: Prices | None = None
    search: ZopoConfig = field(default_factory=ZopoConfig)

    def __post_init__(self) -> None:
        least = {"budget": 1, "initial": 1, "seed": 0, "concurrency": 1, "max_failures": 1}
        optional = ("prompts_in_flight", "calls", "race_batch")
        least.update({name: 1 for name in optional if getattr(self, name) is not None})
        for name, low in least.items():
            value = as_integer(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value < low:
                raise ConfigError(f"{name} must be at least {low}, got {value}")
        if not isinstance(self.incumbent, (str, type(None))):
            raise ConfigError("incumbent: a prompt is a text")
        if self.target is not None and not math.isfinite(as_number("target", self.target)):
            raise ConfigError(f"target must be finite, got {self.target}")
        check_settings(self.race_error, self.race_first, self.race_batch or BATCH)
        for name, kind in (("limits", Limits), ("prices", Prices)):
            if not isinstance(getattr(self, name), (kind, type(None))):
                raise ConfigError(
                    f"{name}: expected {kind.__name__}, got {type(getattr(self, name)).__name__}"
                )
        if self.limits is not None and self.limits.cost is not None and self.prices is None:
            raise ConfigError("a limit of cost needs the prices of a million tokens in and out")

    def races(self, task: Task | Callable[[str], Any]) -> bool:
        """Whether prompts race on this task.

        Raises:
            ConfigError: asked to and it cannot be done; says why.
        """
        if self.racing is False:
            return False
        why = None
        if not isinstance(task, Task):
            why = "a function prompt -> score has no examples to stop after"
        elif self._bounds(task) is None:
            why = f"the metric {task.metric!r} has no known bounds: give them as score_range"
        elif self.search.official_settings is not None:
            why = "the official preset scores every prompt in full"
        if self.racing and why is not None:
            raise ConfigError(f"racing: {why}, or turn racing off")
        return why is None and (self.racing is True or len(task.train) >= LEAST_EXAMPLES)  # type: ignore[union-attr]

    def calls_of_race(self, task: Task) -> int:
        """Examples scored in all, where prompts race."""
        return self.calls or self.budget * len(task.train)

    def _bounds(self, task: Task) -> tuple[float, float] | None:
        return (0.0, 1.0) if task.metric in metrics.NAMES else self.score_range

    def race(self, task: Task, slots: int, initial: int) -> Race:
        """The race on a task with a model that runs so many calls at once."""
        batch = self.race_batch or max(BATCH, -(-slots // 8))
        return Race(
            len(task.train),
            self.calls_of_race(task),
            initial=initial,
            error=self.race_error,
            first=max(self.race_first, batch) if self.race_batch is None else self.race_first,
            batch=batch,
            bounds=self._bounds(task) or (0.0, 1.0),
            binary=task.metric in metrics.BINARY,
            seed=self.seed,
        )


def optimize_sync(*args: Any, **kwargs: Any) -> Result:
    """Run optimize() to its end in an event loop of its own; EventLoopError from inside a running one."""
    require_no_loop("optimize_sync", "await optimize() in it")
    return asyncio.run(optimize(*args, **kwargs))


async def optimize(
    task: Task | Callable[[str], Any],
    pool: Pool | Sequence[str],
    llm: Any = None,
    config: RunConfig | ZopoConfig | None = None,
    *,
    embeddings: Any = None,
    embedder: _Embeds | None = None,
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
    pool, first = _with_incumbent(pool, config.incumbent)
    phase = on_phase or (lambda _: None)
    with resume.opened(store) as opened:
        account = account or account_of(config, opened)
        if account is not None and not isinstance(task, Task) and account.limits.others:
            raise ConfigError(
                "limits: the calls of a task function cannot be seen; only seconds can be limited"
            )
        cached: list[Cached] = []
        wrap = _around(None if opened is None else Kept(opened), cache, account, cached)
        scorer, slots = scorer_for(task, llm, config.concurrency, judge, config.rubric, wrap)
        if opened is not None:
            resume.recognise(opened, resume.identity(task, pool, config, llm, judge))
            slots = resume.kept(opened, "slots", slots)
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
        in_flight = resume.kept(opened, "in_flight", in_flight)
        study = Study(optimizer, pool, config, in_flight, scorer.parts, scorer.perfect, race)
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
            for one in cached:
                await one.written()


def account_of(config: RunConfig, store: Store | None) -> Account | None:
    """What pays for the calls of a run with limits, with what a study has already spent."""
    if config.limits is None:
        return None
    account = Account(config.limits, config.prices, ledger=store)
    if store is not None:
        account.restore(resume.spent(store))
    return account


def _around(
    kept: Kept | None, cache: AnswerCache | None, account: Account | None, cached: list[Cached]
) -> Wrap:
    """What is put around the models of a run: it is looked up first in the study, then in the cache.

    Models with a cache in front are added to `cached`.
    """

    def wrap(model: ChatModel, role: str) -> ChatModel:
        wrapped = model if account is None else Metered(model, account)
        if cache is not None and (known_as := identity_of(model)) is not None:
            wrapped = Cached(wrapped, cache, known_as)
            cached.append(wrapped)
        return wrapped if kept is None else Recorded(wrapped, kept, role)

    return wrap


async def _vectors(
    pool: Pool, embeddings: Any, embedder: _Embeds | None, phase: Callable[[str], Any], store: Store | None
) -> Any:
    """Embeddings as given, as the study holds them, or made and kept there."""
    there = None if store is None else resume.same_embeddings(store, embeddings)
    if there is not None:
        return there
    if embeddings is None:
        phase("embedding")
        embeddings = await _embed(pool, embedder)
    Z = as_embeddings(embeddings)
    if len(Z) != len(pool):
        raise ConfigError(
            f"embeddings: {len(Z)} rows for {len(pool)} distinct prompts (an incumbent that is not one of "
            "the pool's is put last)"
        )
    if store is not None:
        store.keep_pool(pool)
        store.keep_array("embeddings", Z)
        store.put("embedding", resume.usage_of(embedder))
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


async def _embed(pool: Pool, embedder: _Embeds | None) -> Any:
    if embedder is not None:
        return np.asarray(await embedder.embed(list(pool.prompts)))
    from .embed import resolve

    default = resolve("local")
    try:
        return await default.embed(list(pool.prompts))
    finally:
        await default.aclose()
