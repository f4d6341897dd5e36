"""optimize(): the best prompt of a pool for a task and a model."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from zopo_fast._utils import tracing
from zopo_fast._utils.aio import require_no_loop, require_own_event
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError
from zopo_fast.llm.adapter import Embeds, ModelLike, as_chat_model
from zopo_fast.llm.budget import Account
from zopo_fast.llm.cached_model import CachedModel
from zopo_fast.llm.middleware import MeteredModel, ProbedModel, RecordedModel, ReplayedAnswers
from zopo_fast.prompts.pool import Pool, normalise
from zopo_fast.prompts.writing.demonstrations import messages_of
from zopo_fast.prompts.writing.types import Writer
from zopo_fast.runs import resume
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.driver.driver import Driver
from zopo_fast.runs.driver.embedding import RunEmbedder, embeddings_of
from zopo_fast.runs.driver.setup import grower_of, growth_state, identity_of, writing_of_run
from zopo_fast.runs.growth.candidates import Candidates
from zopo_fast.runs.growth.describe import Description, with_reserve
from zopo_fast.runs.prior import earlier_winners, prior_of_run, require_usable
from zopo_fast.runs.progress import OnProgress, RunBars
from zopo_fast.runs.result import Result, Trial
from zopo_fast.runs.state import RunState
from zopo_fast.scoring.scorer import FunctionTask, Scorer, prompts_at_once, scorer_for
from zopo_fast.scoring.traced import TracedScorer
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.search.problem import MAX_WHOLE, SearchProblem
from zopo_fast.search.sources import beside_winners
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.types import ChatModel
    from zopo_fast.runs.growth.state import GrowthState
    from zopo_fast.storage.store import Store

OFFICIAL_INITIAL = 10  # random prompts that a run of the official preset starts with

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Result", "RunConfig", "Trial", "optimize", "optimize_sync"]


@public
async def optimize(
    task: Task | Callable[..., Any],
    pool: Pool | Sequence[str],
    llm: ModelLike | None = None,
    config: RunConfig | ZopoConfig | None = None,
    *,
    examples: Sequence[Any] | None = None,
    embeddings: Any = None,
    embedder: Embeds | None = None,
    judge: ModelLike | None = None,
    on_trial: Callable[[Trial], Any] | None = None,
    on_resume: Callable[[list[Trial]], Any] | None = None,
    on_phase: Callable[[str], Any] | None = None,
    on_progress: OnProgress | None = None,
    stop: asyncio.Event | None = None,
    store: str | Path | Store | None = None,
    cache: AnswerCache | None = None,
    account: Account | None = None,
    prior: Sequence[str | Path | Store] = (),
    writers: Sequence[Writer | Callable[..., Any]] = (),
    writer: ModelLike | None = None,
    progress: bool = False,
) -> Result:
    """Find the prompt of `pool` that scores best on `task`, in at most `config.budget` prompts.

    Args:
        task: a Task, or a function `prompt -> score`, sync or async; higher is better. With `examples` a
            function `prompt, example -> score`, whose mean over the examples is the score of the prompt. It
            can race where `config.score_range` bounds it, with `config.concurrency` calls at a time.
        pool: candidate prompts; the search takes the scores of a Pool as prior data.
        llm: model that answers the examples of a Task: an OpenAIClient, a LocalModel, an object with
            `chat(messages)`, or a function `messages -> text`, sync or async.
        config: settings. A ZopoConfig sets budget, initial points, seed and search of a run without racing.
        examples: of a function `prompt, example -> score`; of any type.
        embeddings: (m, d), one row a prompt of the pool, or a .npy or Parquet file of them; None: `embedder`
            makes them. A memory-mapped array is not copied. A study refers to more than 256 MiB of them by a
            fingerprint, and is resumed with the same embeddings.
        embedder: embedding model; None: the embedded model with a cache on disk.
        judge: model of the metric "judge"; None: `llm`.
        on_trial: called with each Trial as it ends, sync or async. An exception of it ends the run.
        on_resume: called with the trials of a resumed study before the search continues.
        on_phase: called with "embedding", "search", "random sample" and "comparison" as each begins.
        on_progress: called as `on_progress(phase, done, total)` during each of these phases, with the prompts
            embedded or the examples scored. The total may change.
        stop: event that ends the run early, with the results so far.
        store: study file or its path, created where it is missing. The study keeps every answer. A study with
            an interrupted run of the same task, pool, settings and model is resumed: no answered call is
            repeated, and `seconds` and `usage` of the result cover the whole study.
        cache: answers shared with other runs; a hit makes no call and costs nothing.
        account: budget shared with other work; None: one with `config.limits`.
        prior: earlier studies of the same or an overlapping pool, such as those of other models: folders of
            runs, study files or Stores. The search learns from their scores and starts with their winners.
        writers: of new prompts, for a pool that grows: objects such as PartEditor, or functions
            `parents, n -> texts`. An editor of parts is added where the pool is composed of known parts.
        writer: model that writes new prompts; with `config.grow` and None: `llm`.
        progress: show a bar for each phase with the best prompt so far: a widget in a notebook, else text.

    Returns:
        The result. If the model fails for good during the run, the result so far with `stopped_by="error"`.

    Raises:
        PoolError: the pool has fewer than two prompts.
        ConfigError: a setting, or a combination of arguments, cannot be used.
        ArrayError: the embeddings cannot be used.
        EventLoopError: `stop` belongs to another event loop.
        LLMError: scoring failed before any prompt was scored.
        MetricError: the metric failed before any prompt was scored.
        LimitReachedError: a limit was reached before any prompt was scored.
        StoreError: the study cannot be used (see errors.py), or cannot be written any more; it holds all
            trials reported by `on_trial`.
        StudyMismatchError: the study was started with other arguments; names them.
        InputError: a study of `prior` has no score of a prompt of the pool.
    """
    config = _run_config(config)
    scored: Task | FunctionTask | Callable[[str], Any] = with_reserve(
        _with_examples(task, examples), config.demonstrations
    )
    if prior:
        require_usable(config.search)
    if stop is not None:
        require_own_event(stop, "stop")
    pool = (pool if isinstance(pool, Pool) else Pool.from_texts(list(pool))).require(2)
    if config.racing:
        config.races(scored)  # raises before any call where racing is not possible
    can_embed = embeddings is None or embedder is not None
    model = as_chat_model(llm, config.concurrency) if isinstance(scored, Task) else None
    author = _author(writer, model, config)
    own_judge = None if judge is None else as_chat_model(judge, config.concurrency, "judge")
    grader = own_judge or model
    own, incumbent = with_incumbent(pool, config.incumbent)
    candidates = Candidates.of(own, scored, config.search, config.seed)
    pool = candidates.pool
    bars = RunBars(progress)
    on_trial, on_resume, on_phase, on_progress = bars.callbacks(on_trial, on_resume, on_phase, on_progress)
    attributes = {"zopo_fast.prompts": len(pool), "zopo_fast.budget": config.budget}
    with bars, resume.open_store(store) as study, tracing.span("zopo_fast.optimize", attributes) as span:
        span.set({"zopo_fast.study": None if study is None else str(study.path)})
        config = config if study is None else resume.config_as_begun(study, config)
        account = _checked(account or account_of(config, study), scored)
        models = RunModels(study, cache, account)
        scorer, slots = scorer_for(
            scored if study is None else resume.task_as_begun(study, scored),
            None if model is None else models.wrap(model, "model"),
            None if grader is None else models.wrap(grader, "judge"),
            config.rubric,
            unanswered=config.unanswered,
            lowest=config.lowest_score(scored),
            concurrency=config.concurrency,
        )
        earlier = prior_of_run(study, prior, pool)
        writing = writing_of_run(
            config,
            pool,
            writers,
            None if author is None else models.wrap(author, "writer"),
            can_embed,
            candidates.space,
            study,
        )
        if study is not None:
            resume.check_identity(
                study, resume.identity(scored, pool, config, model, own_judge, identity_of(writing))
            )
            resume.describe(study, scored, config)
            slots = resume.pin(study, "slots", slots)
        async with RunEmbedder(embedder, on_progress) as run_embedder:
            Z = await embeddings_of(candidates, embeddings, run_embedder, on_phase, study)
            about = _description(candidates, config, study)
            if writing is None:
                await run_embedder.aclose()
            initial = resume.pin(
                study, "initial", _first(candidates, Z, incumbent, config, earlier_winners(earlier))
            )
            growth = growth_state(writing, config, len(pool))
            state = _state(scored, pool, Z, about, growth, config, initial, scorer, slots, study, earlier)
            driver = Driver(
                state,
                _traced(scorer, state, scored),
                config,
                on_trial=on_trial,
                on_resume=on_resume,
                on_phase=on_phase,
                on_progress=on_progress,
                stop=stop or asyncio.Event(),
                store=study,
                account=account,
                grower=grower_of(writing, state, config, run_embedder, about, Z, scored, study),
            )
            try:
                result = _with_messages(await driver.run(incumbent or 0), scored)
            finally:
                await models.written()
        if study is not None:
            study.put(resume.RESULT, result.to_dict())
        _describe(span, _score_name(scored), result)
        return result


def _with_messages(result: Result, task: Task | FunctionTask | Callable[[str], Any]) -> Result:
    """Return the result with the messages of the winner, where a model answered it."""
    if not isinstance(task, Task):
        return result
    return replace(result, best_messages=messages_of(task, result.best_prompt))


def _checked(account: Account | None, task: Task | FunctionTask | Callable[[str], Any]) -> Account | None:
    """Return the account.

    Raises:
        ConfigError: it limits the calls of a function, which are unknown.
    """
    if account is not None and not isinstance(task, Task) and account.limits.has_spending_limit:
        raise ConfigError("limits: only seconds can be limited with a task function, whose calls are unknown")
    return account


def _traced(scorer: Scorer, state: RunState, task: Task | FunctionTask | Callable[[str], Any]) -> Scorer:
    """Return the scorer, in spans where these are recorded."""
    if not tracing.is_on():
        return scorer
    return TracedScorer(scorer, lambda: state.pool.prompts, _score_name(task))


def _score_name(task: Task | FunctionTask | Callable[[str], Any]) -> str:
    """Return the name of a task's metric, or of the function that scores."""
    if isinstance(task, Task | FunctionTask):
        return task.metric_name
    return str(getattr(task, "__name__", type(task).__name__))


def _describe(span: tracing.Span, score_name: str, result: Result) -> None:
    """Record the result of a run in its span."""
    span.score(score_name, result.best_score)
    span.set(
        {
            "zopo_fast.best.index": result.best_index,
            "zopo_fast.stopped_by": result.stopped_by,
            "zopo_fast.calls": result.usage.calls,
            "zopo_fast.cached": result.usage.cached,
        }
    )
    if result.error is not None:
        span.fail(type(result.error).__qualname__)


def _author(writer: ModelLike | None, model: ChatModel | None, config: RunConfig) -> ChatModel | None:
    """Return the model that writes prompts: the one given, else with growth asked for the scored one."""
    if config.grow is False:
        return None
    if writer is not None:
        return as_chat_model(writer, config.concurrency, "writer")
    return model if config.grow else None


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
    """Return the account of a run with limits, with the budget a study has already spent; None: no limits."""
    if config.limits is None:
        return None
    account = Account(config.limits, config.prices, ledger=store)
    if store is not None:
        account.restore(resume.spent(store))
    return account


class RunModels:
    """Wraps the models of a run: answers come from the study, else the cache, else the model."""

    def __init__(self, store: Store | None, cache: AnswerCache | None, account: Account | None) -> None:
        self._answers = None if store is None else ReplayedAnswers(store)
        self._cache = cache
        self._account = account
        self._cached: list[CachedModel] = []

    def wrap(self, model: ChatModel, role: str) -> ChatModel:
        """Return the model of a role, "model" or "judge", at the expense of the account."""
        if self._account is not None:
            model = MeteredModel(model, self._account)
        model = ProbedModel(model)
        if self._cache is not None and model.identity is not None:
            model = CachedModel(model, self._cache)
            self._cached.append(model)
        return model if self._answers is None else RecordedModel(model, self._answers, role)

    async def written(self) -> None:
        """Wait until the cache holds all answers so far."""
        for model in self._cached:
            await model.written()


def _description(candidates: Candidates, config: RunConfig, study: Store | None) -> Description:
    """Return what describes prompts; without words for a search that cannot use them, or began without."""
    search = config.search
    is_default = search.search == "improvement" and search.official_settings is None
    # A step on a pool that is searched in regions computes kernel rows, and would pay for the features.
    uses_words = is_default and search.region is None and len(candidates.pool) <= MAX_WHOLE["improvement"]
    if study is not None:
        uses_words = resume.pin(study, "words", uses_words and resume.is_new(study))
    return Description(candidates.pool.prompts, candidates.space, words=uses_words)


def _state(
    task: Task | FunctionTask | Callable[[str], Any],
    pool: Pool,
    Z: Any,
    description: Description,
    growth: GrowthState | None,
    config: RunConfig,
    initial: list[int],
    scorer: Scorer,
    slots: int,
    study: Store | None,
    prior: Sequence[Mapping[str, Any]],
) -> RunState:
    """Return the state of a new run."""
    race = None
    if isinstance(task, Task | FunctionTask) and config.races(task):
        race = config.race(task, slots, len(initial))
    # A race bounds the calls, not the prompts.
    budget = config.budget if race is None else len(pool) + (0 if growth is None else growth.most)
    settings = replace(config.search, budget=budget, initial=initial, seed=config.seed)
    with warnings.catch_warnings():
        if growth is not None:  # the budget is that of the pool once it has grown
            warnings.simplefilter("ignore")
        optimizer = Zopo(Z, settings, None, **description.arrays(pool.prompts))
    for source in prior:
        optimizer.learn_from(**source)
    for index, score in pool.scores.items():
        optimizer.tell(index, score)
    # The calls of a look end one by one: in a race, as many looks as there are slots keep them full.
    in_flight = config.prompts_in_flight or (
        prompts_at_once(slots, scorer.parts) if race is None else max(2, slots)
    )
    in_flight = resume.pin(study, "in_flight", in_flight)
    limit = None if race is None or config.prompts_in_flight else resume.pin(study, "calls_in_flight", slots)
    return RunState(
        optimizer, pool, config, in_flight, scorer.parts, scorer.perfect, race, limit, growth, description
    )


def _with_examples(
    task: Task | Callable[..., Any], examples: Sequence[Any] | None
) -> Task | FunctionTask | Callable[[str], Any]:
    if examples is None:
        return task
    if isinstance(task, Task) or not callable(task):
        kind = type(task).__name__
        raise ConfigError(
            f"examples: only with a function prompt, example -> score as the task, not a {kind}"
        )
    if not len(examples):
        raise ConfigError("examples: expected at least one")
    return FunctionTask(task, tuple(examples))


def _run_config(config: RunConfig | ZopoConfig | None) -> RunConfig:
    if isinstance(config, ZopoConfig):
        given = config.initial
        initial = given if given is None or isinstance(given, int) else len(given)
        # No racing: the budget of a ZopoConfig counts full scores, the budget of a race calls.
        return RunConfig(budget=config.budget, initial=initial, seed=config.seed, search=config, racing=False)
    return config or RunConfig()


def with_incumbent(pool: Pool, incumbent: str | None) -> tuple[Pool, int | None]:
    """Return the pool with the incumbent, and the incumbent's index."""
    if incumbent is None:
        return pool, None
    text = normalise(incumbent)
    if text in pool.prompts:
        return pool, pool.prompts.index(text)
    # Last, so that the indices stay.
    return Pool((*pool.prompts, text), (*pool.counts, 1), pool.scores), len(pool)


def _first(
    candidates: Candidates, Z: Any, incumbent: int | None, config: RunConfig, winners: Sequence[int]
) -> list[int]:
    """Return the initial prompts, with demonstrations too where the run searches over them."""
    own = len(candidates.own)
    initial = _initial(candidates.own, Z[:own], incumbent, config, [i for i in winners if i < own])
    return candidates.first(initial, config.budget)


def _initial(
    pool: Pool, Z: Any, incumbent: int | None, config: RunConfig, winners: Sequence[int] = ()
) -> list[int]:
    """Return the initial prompts: the incumbent, then the given ones, or earlier winners and others.

    The others have no score yet, and are spread over the pool.
    """
    chosen = [] if incumbent is None else [incumbent]
    given = config.search.initial
    if not (given is None or isinstance(given, int)):
        return [*chosen, *(i for i in given if i not in chosen)][: config.budget]
    earlier = [i for i in winners if i not in chosen and i not in pool.scores]
    covered = [*chosen, *(i for i in pool.scores if i not in chosen)]
    chosen = [*chosen, *earlier][: config.budget]
    if config.initial is None and config.search.official_settings is None:
        settings = replace(config.search, budget=len(pool), initial=1, seed=config.seed)
        problem = SearchProblem(Z, settings, None)
        # A known score covers its part of the pool; an incumbent is added to the start. An earlier winner
        # takes the place of another prompt but covers nothing: what it tells may not apply here.
        count = max(0, problem.size_of_start(config.budget) - len(pool.scores))
        spread = [i for i in problem.start(count, covered) if i not in chosen]
        fresh = spread[: min(beside_winners(count, len(earlier)), config.budget - len(chosen))]
        return (chosen + fresh) or [next(iter(pool.scores), 0)]  # the search skips a prompt with a score
    order = np.random.default_rng(config.seed).permutation(len(pool))
    fresh = [int(i) for i in order if i not in chosen and i not in pool.scores]
    initial = (chosen + fresh)[: min(config.initial or OFFICIAL_INITIAL, config.budget, len(pool))]
    return initial or [0]  # where all prompts have scores; the search skips an initial prompt with a score
