"""The work of `zopo-fast optimize`, from the parsed options to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from zopo_fast.cli.group import EXIT_INPUT, EXIT_INTERRUPTED
from zopo_fast.cli.models import (
    BODIES,
    EmbeddingSettings,
    JudgeSettings,
    ModelSettings,
    WriterSettings,
    embedder_name,
    settings_of,
)
from zopo_fast.cli.progress import Progress
from zopo_fast.cli.settings import (
    LimitSettings,
    PoolSettings,
    check_generated,
    check_names,
    prices_of,
    with_prices,
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

_COMPLETE = ("budget", "pool", "perfect", "target")  # ends of a run that leave nothing to resume
_NAMES_ONLY = ("headers", *BODIES)  # values that may be secrets: result.json holds their names alone


def _run_config(options: dict[str, Any]) -> RunConfig:
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
        heldout=not options["no_comparison"],
        compare_random=options["compare_random"],
        racing=options["racing"],
        calls=options["calls"],
        race_error=options["race_error"],
        race_first=options["race_first"],
        race_batch=options["race_batch"],
        score_range=options["score_range"],
        unanswered=options["unanswered"],
        rubric=options["rubric"],
        search=ZopoConfig.official() if options["official"] else ZopoConfig(),
    )


def _pool_without_calls(
    options: dict[str, Any], task: Task, local: bool, settings: PoolSettings
) -> Pool | None:
    """Return the pool; None where a model must write it first."""
    from zopo_fast.prompts.pool import Pool

    if options["pool_file"] is None and options["generate"] is None:
        raise ConfigError("no prompts: give --pool FILE or --generate N")
    given = None if options["pool_file"] is None else Pool.load(options["pool_file"])
    if options["generate"] is None:
        return given
    if settings.method(local) != "compose":
        return None
    return _merged(given, settings.compose(options["generate"], task, options["seed"]))


def _merged(given: Pool | None, more: Pool) -> Pool:
    from zopo_fast.prompts.pool import Pool

    return more if given is None else Pool.from_texts([*given.prompts, *more.prompts], given.scores)


@dataclass
class OptimizeRunner:
    """One run of `zopo-fast optimize`.

    Args:
        options: Parsed options.
        task: Task that prompts are scored on.
        pool: Pool of a resumed study.
        store: The resumed study.

    Raises:
        ConfigError: The options contradict each other.
    """

    options: dict[str, Any]
    task: Task
    pool: Pool | None = None
    store: Store | None = None
    model: ModelSettings = field(init=False)
    judge: JudgeSettings = field(init=False)
    writer: WriterSettings = field(init=False)
    embedding: EmbeddingSettings = field(init=False)
    pool_settings: PoolSettings = field(init=False)
    limits: LimitSettings = field(init=False)
    account: Account | None = None  # pays for all calls, those that write and embed the pool included
    config: RunConfig = field(init=False)
    pool_usage: Usage = field(default_factory=Usage)  # of writing and embedding the pool
    is_resumed: bool = field(init=False)
    has_shown_command: bool = field(init=False, default=False)  # that resumes the run

    def __post_init__(self) -> None:
        self.is_resumed = self.store is not None
        self.options = with_prices(self.options, self.is_resumed)
        self.model = settings_of(ModelSettings, self.options)
        self.judge = settings_of(JudgeSettings, self.options)
        self.writer = settings_of(WriterSettings, self.options)
        self.embedding = settings_of(EmbeddingSettings, self.options)
        self.pool_settings = settings_of(PoolSettings, self.options)
        self.limits = settings_of(LimitSettings, self.options)
        self.config = replace(
            _run_config(self.options),
            limits=self.limits.limits(),
            prices=self.limits.prices(prices_of(self.options)),
        )
        if self.pool is None:
            self.pool = _pool_without_calls(self.options, self.task, self.model.is_local, self.pool_settings)

    @property
    def embedder(self) -> str:
        """Return the name of the embedder."""
        return embedder_name(self.options["embedder"], self.model)

    def check(self) -> None:
        """Check the options before any call is paid for.

        Raises:
            ConfigError: The options cannot work.
        """
        check_names(self.task)
        self.config.races(self.task)
        self.pool_settings.check(self.model.is_local)
        self._check_budget()
        if self.config.initial >= self.config.budget:
            click.echo("Note: --initial takes the whole --budget; all prompts are drawn at random.", err=True)

    def _check_budget(self) -> None:
        size = self._max_prompts()
        incumbent = self.config.incumbent
        size += incumbent is not None and (self.pool is None or incumbent not in self.pool.prompts)
        if self.config.budget > size:
            raise ConfigError(
                f"--budget {self.config.budget} is larger than the pool of {size} prompts to score"
            )

    def _max_prompts(self) -> int:
        """Return the number of prompts without a score, or its upper bound before a model writes them."""
        from zopo_fast.prompts.pool import Pool

        if self.pool is not None:
            return len(self.pool.require(2)) - len(self.pool.scores)
        files = [self.options[name] for name in ("pool_file", "source") if self.options[name] is not None]
        return sum((len(Pool.load(file)) for file in files), self.options["generate"])

    def dry_run(self) -> None:
        """Print bounds on the calls, tokens and cost of the run."""
        from zopo_fast.llm.tokens import completion_bound
        from zopo_fast.runs.estimate import EMBED_BATCH, estimate

        pool, task = self.pool, self.task
        generated = self.options["generate"] or 0
        bound = estimate(
            task,
            [] if pool is None else pool.prompts,
            self.config,
            model=None if self.model.is_local else self.model.model,
            max_tokens=completion_bound(self.model.answer_body()),
            judge_max_tokens=completion_bound(self.judge.body(self.model).merged),
            writer_max_tokens=completion_bound(self.writer.body(self.model).merged),
            generate=0 if pool is not None else 4 * generated,  # the calls that generating makes at most
            embed=(self._max_prompts() if self.embedder.startswith("endpoint:") else 0),
            embed_batch=self.embedding.embedding_batch or EMBED_BATCH,
            prices=prices_of(self.options),
        )
        click.echo(
            f"{self.config.budget} prompts on {len(task.train)} examples, {len(task.heldout)} held out."
        )
        click.echo(f"This would take {bound}. No call was made.")

    async def run(self) -> int:
        """Run the optimisation and return the exit code.

        Raises:
            ZopoError: The run failed before it had results.
        """
        from zopo_fast.runs.report import RunFolder, printable

        self.judge.check()
        self.embedding.check(self.embedder)
        out = self.options["out"]
        folder = None if out is None else RunFolder(out, resume=self.is_resumed)
        stop = asyncio.Event()
        racing = self.config.races(self.task)
        total = self.config.calls_of_race(self.task) if racing else self.config.budget
        progress = Progress(total, self.options["quiet"], racing)
        try:
            if folder is not None:
                self._open_store(folder)
            self._open_account()
            result = await self._result(folder, progress, stop)
            result = replace(result, usage=result.usage + self.pool_usage)
            progress.close()
            _report(result, folder, self._settings())
            return self._exit_code(result)
        except ZopoError as error:
            if not stop.is_set():
                raise
            click.echo(f"Error: {printable(str(error))}", err=True)  # interrupted before the first result
            return EXIT_INTERRUPTED
        finally:
            progress.close()
            if folder is not None:
                self._close(folder)

    def _open_store(self, folder: RunFolder) -> None:
        """Create the study in the folder, with the options and the pool of this run, unless it is resumed."""
        from zopo_fast.cli.resume import stored_options
        from zopo_fast.storage.store import STUDY, Store

        if self.store is None:
            stored = stored_options(self.options, self.task)
            self.store = Store.create(folder.path / STUDY, stored, self.pool)
        self.pool_usage = Usage(**(self.store.get("writing") or {}))

    def _open_account(self) -> None:
        from zopo_fast.runs.optimize import account_of

        self.account = account_of(self.config, self.store)

    def _exit_code(self, result: Result) -> int:
        """Print the error of the run and the command that resumes it; return the exit code."""
        from zopo_fast.runs.report import printable

        if result.stopped_by not in _COMPLETE or result.error is not None:
            self._show_resume_command()
        if result.error is not None:
            click.echo(f"Error: {printable(str(result.error))}", err=True)
            return EXIT_INPUT
        return EXIT_INTERRUPTED if result.stopped_by == "interrupted" else 0

    def _show_resume_command(self) -> None:
        """Print the command that resumes the run, at most once."""
        from zopo_fast.cli.resume import resume_command
        from zopo_fast.runs.report import printable

        if self.store is not None and not self.has_shown_command:
            self.has_shown_command = True
            with contextlib.suppress(StoreError):
                command = resume_command(self.store, self.store.path.parent)
                click.echo(f"To resume without repeating a call: {printable(command)}", err=True)

    def _close(self, folder: RunFolder) -> None:
        """Close study and folder; remove both if they are new and hold no answer."""
        is_empty = not self.is_resumed
        if self.store is not None:
            try:
                is_empty = is_empty and self.store.is_empty
            except StoreError:  # writing failed; keep what was written before
                is_empty = False
            if not is_empty and not folder.finished:
                self._show_resume_command()
            with contextlib.suppress(StoreError):  # the failed write has raised already
                self.store.close()
        folder.close(is_empty)

    async def _result(self, folder: RunFolder | None, progress: Progress, stop: asyncio.Event) -> Result:
        from zopo_fast.runs.optimize import optimize as run

        async with contextlib.AsyncExitStack() as stack:
            llm = await stack.enter_async_context(self.model.opened())
            judge = await stack.enter_async_context(self.judge.opened(self.model, llm, self.task, self.store))
            embedder = self.embedding.open(self.embedder, self.model, self.account)
            stack.push_async_callback(embedder.aclose)
            if (cache := self.limits.open_cache()) is not None:
                stack.callback(cache.close)
            pool = self.pool
            if pool is None:
                pool = await self._write_pool(folder, progress)

            def on_phase(name: str) -> None:
                if name == "search":  # earlier there are no results to keep, and Ctrl-C ends the command
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
            # A resumed run reuses the embeddings: their usage is that of the run that made them.
            stored = None if self.store is None else self.store.get("embedding")
            self.pool_usage += Usage(**stored) if stored else embedder.usage
            return result

    async def _write_pool(self, folder: RunFolder | None, progress: Progress) -> Pool:
        """Let the model write the pool, and store it before a later step can fail."""
        from zopo_fast.prompts.pool import Pool

        progress.phase("generating")
        given = None if self.options["pool_file"] is None else Pool.load(self.options["pool_file"])
        async with self.model.opened(self.writer.body(self.model)) as model:
            writer = model if self.account is None else MeteredModel(model, self.account)
            if self.store is not None:
                writer = RecordedModel(writer, ReplayedAnswers(self.store), "writer")
            written, found = await self.pool_settings.write(
                self.options["generate"], self.task, writer, self.model.is_local, self.options["seed"]
            )
        self.pool_usage = found.usage
        pool = _merged(given, written)
        check_generated(pool, found)
        if (
            found.skipped and len(found.pool) >= self.options["generate"]
        ):  # fewer ones are logged as a warning
            click.echo(f"{len(found.pool)} prompts generated{found.skipped}", err=True)
        if self.store is not None:
            self.store.put("writing", asdict(self.pool_usage))
            self.store.put_pool(pool)
        if folder is not None:
            folder.save_pool(pool)
        self.pool = pool
        self._check_budget()
        return pool

    def _settings(self) -> dict[str, Any]:
        """Return the options as result.json holds them, without secrets."""
        from zopo_fast.llm.openai.redaction import parse_base_url, show_url

        shown = {name: value for name, value in self.options.items() if value is not None}
        for name in _NAMES_ONLY:
            shown[name] = sorted(shown.get(name, ()))
        for name in ("base_url", "judge_base_url", "embedding_base_url"):
            if name in shown:  # without a password or a key in its query
                shown[name] = show_url(parse_base_url(name, shown[name]))
        return {"task": self.task.name, "metric": self.task.metric, **shown}


@contextlib.contextmanager
def _interruptible(stop: asyncio.Event) -> Iterator[None]:
    """Stop the run in order at the first Ctrl-C; the second one interrupts the process."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        click.echo("\nStopping; press Ctrl-C again to force it.", err=True)

    with contextlib.suppress(NotImplementedError):  # Windows' event loop has no signal handlers
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


def _report(result: Result, folder: RunFolder | None, settings: dict[str, Any]) -> None:
    from zopo_fast.runs.report import printable, summary

    try:  # write the files first: the terminal may be gone
        missing = [] if folder is None else folder.finish(result, settings)
    finally:
        click.echo(summary(result))
    for note in missing:
        click.echo(f"Left out: {printable(note)}", err=True)
    if folder is not None:
        click.echo(f"\nWritten to {printable(str(folder.path))}")
