"""What `zopo-fast optimize` does between its options and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from zopo_fast.cli.progress import Progress
from zopo_fast.cli.settings import (
    JudgeSettings,
    LimitSettings,
    ModelSettings,
    PoolSettings,
    check_names,
    embedder_name,
    open_embedder,
    prices_of,
    settings_of,
)
from zopo_fast.errors import ConfigError, PoolError, StoreError, ZopoError
from zopo_fast.llm.middleware import MeteredModel, RecordedModel, ReplayedAnswers
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.budget import Account
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.report import RunFolder
    from zopo_fast.runs.result import Result
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task

EXIT_INPUT, EXIT_INTERRUPTED = 2, 130
_AT_ITS_END = ("budget", "pool", "perfect", "target")  # what leaves nothing to go on with
# Values that may be secrets: only their names are kept.
_NAMES_ONLY = ("headers", "body")


def _run_config(options: dict[str, Any]) -> RunConfig:
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.search.config import ZopoConfig

    incumbent = options["incumbent"]
    if incumbent is not None:
        try:
            incumbent = Pool.from_texts([incumbent]).prompts[0]  # normalised, as the pool's are
        except PoolError as error:
            raise ConfigError(f"--incumbent: {error}") from None
    return RunConfig(
        budget=options["budget"],
        initial=options["initial"],
        seed=options["seed"],
        incumbent=incumbent,
        stop_at_perfect=not options["past_perfect"],
        target=options["target"],
        heldout=not options["no_comparison"],
        compare_random=options["compare_random"],
        racing=options["racing"],
        calls=options["calls"],
        race_error=options["race_error"],
        race_first=options["race_first"],
        race_batch=options["race_batch"],
        score_range=options["score_range"],
        rubric=options["rubric"],
        search=ZopoConfig.official() if options["official"] else ZopoConfig(),
    )


def _given_pool(options: dict[str, Any], task: Task, local: bool, settings: PoolSettings) -> Pool | None:
    """The pool, where no call is needed to have it; None where a model is yet to write it."""
    from zopo_fast.prompts.pool import Pool

    if options["pool_file"] is None and options["generate"] is None:
        raise ConfigError("where do the prompts come from? give --pool FILE or --generate N")
    given = None if options["pool_file"] is None else Pool.load(options["pool_file"])
    if options["generate"] is None:
        return given
    if settings.method(local) != "compose":
        return None
    return _joined(given, settings.compose(options["generate"], task, options["seed"]))


def _joined(given: Pool | None, more: Pool) -> Pool:
    from zopo_fast.prompts.pool import Pool

    return more if given is None else Pool.from_texts([*given.prompts, *more.prompts], given.scores)


@dataclass
class Command:
    """One `optimize`, between its options and its exit code."""

    options: dict[str, Any]
    task: Task
    pool: Pool | None = None  # of a study that goes on
    store: Store | None = None  # the same
    model: ModelSettings = field(init=False)
    judge: JudgeSettings = field(init=False)
    pool_settings: PoolSettings = field(init=False)
    limits: LimitSettings = field(init=False)
    account: Account | None = None  # pays for all calls, those that write and embed the pool too
    config: RunConfig = field(init=False)
    spent: Usage = field(default_factory=Usage)  # on writing and embedding the pool
    resumed: bool = field(init=False)
    said: bool = field(init=False, default=False)  # how to go on

    def __post_init__(self) -> None:
        self.resumed = self.store is not None
        self.model = settings_of(ModelSettings, self.options)
        self.judge = settings_of(JudgeSettings, self.options)
        self.pool_settings = settings_of(PoolSettings, self.options)
        self.limits = settings_of(LimitSettings, self.options)
        self.config = replace(
            _run_config(self.options),
            limits=self.limits.limits(),
            prices=self.limits.prices(prices_of(self.options)),
        )
        if self.pool is None:
            self.pool = _given_pool(self.options, self.task, self.model.is_local, self.pool_settings)

    @property
    def embedder(self) -> str:
        """The embedder's name."""
        return embedder_name(self.options["embedder"], self.model)

    def check(self) -> None:
        """Refuse what cannot work before any call is paid for."""
        check_names(self.task)
        self.config.races(self.task)
        self.pool_settings.check(self.model.is_local)
        self._check_budget()
        if self.config.initial >= self.config.budget:
            click.echo(
                "Note: --initial leaves no budget for the search; prompts are drawn at random.", err=True
            )

    def _check_budget(self) -> None:
        size = self._most_prompts()
        incumbent = self.config.incumbent
        size += incumbent is not None and (self.pool is None or incumbent not in self.pool.prompts)
        if self.config.budget > size:
            raise ConfigError(
                f"--budget {self.config.budget} is larger than the pool of {size} prompts to score"
            )

    def _most_prompts(self) -> int:
        """Prompts without a score; where a model is yet to write them, as many as there can be."""
        from zopo_fast.prompts.pool import Pool

        if self.pool is not None:
            return len(self.pool.require(2)) - len(self.pool.scores)
        files = [self.options[name] for name in ("pool_file", "source") if self.options[name] is not None]
        return sum((len(Pool.load(file)) for file in files), self.options["generate"])

    def dry_run(self) -> None:
        """Print what the run would take."""
        from zopo_fast.runs.estimate import estimate

        pool, task = self.pool, self.task
        generated = self.options["generate"] or 0
        bound = estimate(
            task,
            [] if pool is None else pool.prompts,
            self.config,
            model=None if self.model.is_local else self.model.model,
            max_tokens=self.model.longest_answer(),
            generate=0 if pool is not None else 4 * generated,  # generate's own limit
            embed=(self._most_prompts() if self.embedder.startswith("endpoint:") else 0),
            prices=prices_of(self.options),
        )
        click.echo(
            f"{self.config.budget} prompts on {len(task.train)} examples, {len(task.heldout)} held out."
        )
        click.echo(f"This would take {bound}. No call was made.")

    async def run(self) -> int:
        """Make the run; return the exit code."""
        from zopo_fast.runs.report import RunFolder, printable

        out = self.options["out"]
        folder = None if out is None else RunFolder(out, resume=self.resumed)
        stop = asyncio.Event()
        racing = self.config.races(self.task)
        total = self.config.calls_of_race(self.task) if racing else self.config.budget
        progress = Progress(total, self.options["quiet"], racing)
        try:
            if folder is not None:
                self._keep(folder)
            self._open_account()
            result = await self._result(folder, progress, stop)
            result = replace(result, usage=result.usage + self.spent)
            progress.close()
            _report(result, folder, self._settings())
            return self._ended(result)
        except ZopoError as error:
            if not stop.is_set():
                raise
            click.echo(f"Error: {printable(str(error))}", err=True)  # there are no results so far
            return EXIT_INTERRUPTED
        finally:
            progress.close()
            if folder is not None:
                self._let_go(folder)

    def _keep(self, folder: RunFolder) -> None:
        """Open the study of the folder; in a new one, with the settings and the pool of this run."""
        from zopo_fast.cli.resume import to_keep
        from zopo_fast.storage.store import STUDY, Store

        if self.store is None:
            kept = to_keep(self.options, self.task)
            self.store = Store.create(folder.path / STUDY, kept, self.pool)
        self.spent = Usage(**(self.store.get("writing") or {}))

    def _open_account(self) -> None:
        from zopo_fast.runs.optimize import account_of

        self.account = account_of(self.config, self.store)

    def _ended(self, result: Result) -> int:
        """Say what is to be said of how the run has ended; return the exit code."""
        from zopo_fast.runs.report import printable

        if result.stopped_by not in _AT_ITS_END or result.error is not None:
            self._say_how_to_go_on()
        if result.error is not None:
            click.echo(f"Error: {printable(str(result.error))}", err=True)
            return EXIT_INPUT
        return EXIT_INTERRUPTED if result.stopped_by == "interrupted" else 0

    def _say_how_to_go_on(self) -> None:
        """Once, where a run that is not at its end has left a study."""
        from zopo_fast.cli.resume import how_to_go_on
        from zopo_fast.runs.report import printable

        if self.store is not None and not self.said:
            self.said = True
            with contextlib.suppress(StoreError):
                how = how_to_go_on(self.store, self.store.path.parent)
                click.echo(f"To go on, with nothing asked twice: {printable(how)}", err=True)

    def _let_go(self, folder: RunFolder) -> None:
        """Close study and folder; remove both where nothing was answered and nothing was there before."""
        empty = not self.resumed
        if self.store is not None:
            try:
                empty = empty and self.store.is_empty
            except StoreError:  # it could not be written any more: what was before is kept
                empty = False
            if not empty and not folder.finished:
                self._say_how_to_go_on()
            with contextlib.suppress(StoreError):  # raised before, where it was met first
                self.store.close()
        folder.close(empty)

    async def _result(self, folder: RunFolder | None, progress: Progress, stop: asyncio.Event) -> Result:
        from zopo_fast.runs.optimize import optimize as run

        async with contextlib.AsyncExitStack() as stack:
            llm = await stack.enter_async_context(self.model.opened())
            judge = await stack.enter_async_context(self.judge.opened(self.model))
            embedder = open_embedder(self.embedder, self.model, self.account)
            stack.push_async_callback(embedder.aclose)
            if (cache := self.limits.open_cache()) is not None:
                stack.callback(cache.close)
            pool = self.pool
            if pool is None:
                pool = await self._write_pool(folder, progress)

            def on_phase(name: str) -> None:
                if name == "search":  # before it there are no results to keep: Ctrl-C just ends the command
                    stack.enter_context(_interruptible(stop))
                progress.phase(name)

            def on_resume(trials: list[Any]) -> None:
                if folder is not None:
                    folder.rewrite_trials(trials)
                progress.resume(trials)

            def on_trial(trial: Any) -> None:
                if folder is not None:
                    folder.add(trial)
                progress.show(trial)

            result = await run(
                self.task,
                pool,
                llm,
                self.config,
                embedder=embedder,
                judge=judge,
                on_trial=on_trial,
                on_resume=on_resume,
                on_phase=on_phase,
                stop=stop,
                store=self.store,
                cache=cache,
                account=self.account,
            )
            # Of the embeddings that this run, or the one before it, has made.
            kept = None if self.store is None else self.store.get("embedding")
            self.spent += Usage(**kept) if kept else embedder.usage
            return result

    async def _write_pool(self, folder: RunFolder | None, progress: Progress) -> Pool:
        """Let the model write the pool, and keep it before anything else can go wrong."""
        from zopo_fast.prompts.pool import Pool

        progress.phase("generating")
        given = None if self.options["pool_file"] is None else Pool.load(self.options["pool_file"])
        async with self.model.opened(writing=True) as model:
            writer = model if self.account is None else MeteredModel(model, self.account)
            if self.store is not None:
                writer = RecordedModel(writer, ReplayedAnswers(self.store), "writer")
            written, self.spent = await self.pool_settings.write(
                self.options["generate"], self.task, writer, self.model.is_local, self.options["seed"]
            )
        pool = _joined(given, written)
        if self.store is not None:
            self.store.put("writing", asdict(self.spent))
            self.store.put_pool(pool)
        if folder is not None:
            folder.save_pool(pool)
        self.pool = pool
        self._check_budget()
        return pool

    def _settings(self) -> dict[str, Any]:
        """What the run was asked for, without what may be secret."""
        from zopo_fast.llm.openai.redaction import parse_base_url, show_url

        kept = {k: v for k, v in self.options.items() if v is not None}
        for name in _NAMES_ONLY:
            kept[name] = sorted(kept[name])
        for name in ("base_url", "judge_base_url"):
            if name in kept:  # without a password or a key in its query
                kept[name] = show_url(parse_base_url(name, kept[name]))
        return {"task": self.task.name, "metric": self.task.metric, **kept}


@contextlib.contextmanager
def _interruptible(stop: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C asks the run to stop, a second one ends it the hard way."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        click.echo("\nStopping; once more to force it.", err=True)

    with contextlib.suppress(NotImplementedError):  # Windows' event loop has no signal handlers
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


def _report(result: Result, folder: RunFolder | None, settings: dict[str, Any]) -> None:
    from zopo_fast.runs.report import printable, summary

    try:  # the files first: a terminal may be gone by now
        left_out = [] if folder is None else folder.finish(result, settings)
    finally:
        click.echo(summary(result))
    for note in left_out:
        click.echo(f"Left out: {printable(note)}", err=True)
    if folder is not None:
        click.echo(f"\nWritten to {printable(str(folder.path))}")
