"""The work of `zopo-fast optimize`, from the parsed options to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.signals import stopped_by_signals
from zopo_fast._utils.text import printable
from zopo_fast.cli.group import EXIT_INTERRUPTED, EXIT_TERMINATED, exit_code
from zopo_fast.cli.models import (
    BODIES,
    EmbeddingSettings,
    GrowthWriterSettings,
    JudgeSettings,
    ModelSettings,
    WriterSettings,
    embedder_name,
    settings_of,
)
from zopo_fast.cli.plan import (
    announce,
    chunk_size,
    embeddings_file,
    fit_budget,
    merged,
    model_text,
    part_editors,
    plan_text,
    pool_without_calls,
    prompts_to_score,
    run_config,
)
from zopo_fast.cli.settings import (
    LimitSettings,
    PoolSettings,
    check_generated,
    check_names,
    load_pool,
    prices_of,
    with_prices,
)
from zopo_fast.cli.terminal.folder import show_folder
from zopo_fast.cli.terminal.progress import Progress, used
from zopo_fast.errors import StoreError, ZopoError
from zopo_fast.llm.middleware import MeteredModel, RecordedModel, ReplayedAnswers
from zopo_fast.llm.types import Usage
from zopo_fast.runs.progress import ChunkedEmbedder, CountedModel

if TYPE_CHECKING:
    from zopo_fast.llm.budget import Account
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.cost.estimate import Estimate
    from zopo_fast.runs.folder import RunFolder
    from zopo_fast.runs.result import Result
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task

SUMMARY = "summary"
"""Name under which a study keeps the summary of its complete run."""
COMPLETE = ("budget", "pool", "perfect", "target")
"""Ends of a run that leave nothing to resume."""
_NAMES_ONLY = ("headers", *BODIES)  # values that may be secrets: result.json holds their names alone


@dataclass
class OptimizeRunner:
    """One run of `zopo-fast optimize`.

    Args:
        options: Parsed options.
        task: Task that prompts are scored on.
        pool: Pool of a resumed study.
        store: The resumed study.
        given: Names of the options that were given; the defaults of the others fit pool and task.

    Raises:
        ConfigError: The options contradict each other.
    """

    options: dict[str, Any]
    task: Task
    pool: Pool | None = None
    store: Store | None = None
    given: frozenset[str] = frozenset()
    model: ModelSettings = field(init=False)
    judge: JudgeSettings = field(init=False)
    writer: WriterSettings = field(init=False)
    growth_writer: GrowthWriterSettings = field(init=False)
    embedding: EmbeddingSettings = field(init=False)
    pool_settings: PoolSettings = field(init=False)
    limits: LimitSettings = field(init=False)
    account: Account | None = None  # pays for all calls, those that write and embed the pool included
    config: RunConfig = field(init=False)
    embeddings: Any = field(init=False)  # their file, or the array once it is read; None: an embedder's
    pool_usage: Usage = field(default_factory=Usage)  # of writing and embedding the pool
    is_resumed: bool = field(init=False)
    has_shown_command: bool = field(init=False, default=False)  # that resumes the run
    _exit_of_signal: int = field(init=False, default=EXIT_INTERRUPTED)

    def __post_init__(self) -> None:
        self.is_resumed = self.store is not None
        self.options = with_prices(self.options, self.is_resumed)
        self.model = settings_of(ModelSettings, self.options)
        self.judge = settings_of(JudgeSettings, self.options)
        self.writer = settings_of(WriterSettings, self.options)
        self.growth_writer = settings_of(GrowthWriterSettings, self.options)
        self.embedding = settings_of(EmbeddingSettings, self.options)
        self.pool_settings = settings_of(PoolSettings, self.options)
        self.limits = settings_of(LimitSettings, self.options)
        self.config = replace(
            run_config(self.options),
            limits=self.limits.limits(),
            prices=self.limits.prices(prices_of(self.options)),
        )
        self.embeddings = embeddings_file(self.options)
        if self.pool is None:
            self.pool = pool_without_calls(self.options, self.task, self.model.is_local, self.pool_settings)

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
        if self.options["prior"]:
            from zopo_fast.runs.prior import require_usable

            require_usable(self.config.search, self.options["prior"])
        if self.options.get("write_back") is not None:
            from zopo_fast.integrations import promptfoo

            promptfoo.load(self.options["write_back"])
            promptfoo.require_writable(self.options["write_back"])
        if self.embeddings is not None:
            from zopo_fast.prompts.embedding_file import read_embeddings
            from zopo_fast.runs.optimize import with_incumbent

            assert self.pool is not None  # embeddings_file refuses a pool that is generated
            pool, _ = with_incumbent(self.pool, self.config.incumbent)
            self.embeddings = read_embeddings(self.embeddings, pool)
        self._fit_budget()

    def _fit_budget(self) -> None:
        """Fit defaults to the pool; a resumed run finds the fitted values among the options."""
        size = prompts_to_score(self.options, self.pool, self.config.incumbent)
        self.config = fit_budget(self.config, size, self.given)
        self.options |= {"budget": self.config.budget, "initial": self.config.initial}

    def estimate(self) -> Estimate:
        """Return bounds on the calls, tokens and cost of the run."""
        from zopo_fast.llm.tokens import completion_bound
        from zopo_fast.runs.cost.estimate import EMBED_BATCH, estimate

        pool, size = self.pool, prompts_to_score(self.options, self.pool, self.config.incumbent)
        return estimate(
            self.task,
            [] if pool is None else pool.prompts,
            self.config,
            model=None if self.model.is_local else self.model.model,
            max_tokens=completion_bound(self.model.answer_body()),
            judge_max_tokens=completion_bound(self.judge.body(self.model).merged),
            writer_max_tokens=completion_bound(self.writer.body(self.model).merged),
            # The calls that generating makes at most.
            generate=0 if pool is not None else 4 * (self.options["generate"] or 0),
            writes=self.config.grow is not False
            and (self.growth_writer.writer_model is not None or bool(self.config.grow)),
            embed=size if self.embedder.startswith("endpoint:") else 0,
            embed_batch=self.embedding.embedding_batch or EMBED_BATCH,
            prices=prices_of(self.options),
        )

    def dry_run(self) -> None:
        """Print bounds on the calls, tokens and cost of the run."""
        task = self.task
        click.echo(
            f"{self.config.budget} prompts on {len(task.train)} examples, {len(task.heldout)} held out."
        )
        click.echo(f"This would take {self.estimate()}. No call was made.")

    def _announce(self) -> None:
        """Print what the run will do, before its first call."""
        if not self.options["quiet"]:
            prompts = None if self.pool is None else len(self.pool)
            text = plan_text(self.config, self.task, prompts, self.estimate(), model_text(self.model))
            announce(text + ", earlier runs included" * self.is_resumed, quiet=False)

    async def run(self) -> int:
        """Run the optimisation and return the exit code.

        Raises:
            ZopoError: The run failed before it had results.
        """
        from zopo_fast.cli.terminal.summary import summary
        from zopo_fast.runs.folder import RunFolder

        self.judge.check()
        self.growth_writer.check()
        self.embedding.check(self.embedder)
        out = self.options["out"]
        folder = None if out is None else RunFolder(out, resume=self.is_resumed)
        stop = asyncio.Event()
        progress = Progress(self.options["quiet"])
        try:
            if folder is not None:
                self._open_store(folder)
            self._open_account()
            self._announce()
            result = await self._result(folder, progress, stop)
            result = replace(result, usage=result.usage + self.pool_usage)
            progress.close()
            self._report(result, folder)
            if self.store is not None and result.stopped_by in COMPLETE and result.error is None:
                self.store.put(SUMMARY, summary(result, prices=self.config.prices))
            return self._exit_code(result)
        except ZopoError as error:
            if not stop.is_set():
                raise
            click.echo(f"Error: {printable(str(error))}", err=True)  # interrupted before the first result
            return self._exit_of_signal
        finally:
            progress.close()
            if folder is not None:
                self._close(folder)

    def _open_store(self, folder: RunFolder) -> None:
        """Create the study in the folder, with the options and the pool of this run, unless it is resumed."""
        from zopo_fast.cli.resume import stored_options
        from zopo_fast.storage.store import STUDY, Store

        if self.store is None:
            stored = stored_options(self.options, self.task, self.given)
            self.store = Store.create(folder.path / STUDY, stored, self.pool)
        self.pool_usage = Usage(**(self.store.get("writing") or {}))

    def _store_options(self) -> None:
        """Replace the stored options that depend on the pool."""
        assert self.store is not None
        config = self.store.config
        fitted = {name: self.options[name] for name in ("budget", "initial")}
        self.store.put("config", {**config, "options": {**config["options"], **fitted}})

    def _open_account(self) -> None:
        from zopo_fast.runs.optimize import account_of

        self.account = account_of(self.config, self.store)

    def _exit_code(self, result: Result) -> int:
        """Print the error of the run and the command that resumes it; return the exit code."""
        if result.stopped_by not in COMPLETE or result.error is not None:
            self._show_resume_command()
        if result.error is not None:
            click.echo(f"Error: {printable(str(result.error))}", err=True)
            return exit_code(result.error)
        return self._exit_of_signal if result.stopped_by == "interrupted" else 0

    def _show_resume_command(self) -> None:
        """Print the command that resumes the run, at most once."""
        from zopo_fast.cli.resume import resume_command

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
            body = self.writer.body(self.model)
            writer = await stack.enter_async_context(
                self.growth_writer.opened(self.model, llm, body, self.config.grow)
            )
            embedder = None
            if self.embeddings is None:
                opened = self.embedding.open(self.embedder, self.model, self.account)
                stack.push_async_callback(opened.aclose)
                size = chunk_size(self.embedder, self.model, self.embedding)
                embedder = ChunkedEmbedder(opened, size, progress.update)
            # A judge without a model of its own shares the client of the model.
            own_judge = judge if self.judge.judge_model else None
            if (cache := self.limits.open_cache()) is not None:
                stack.callback(cache.close)
            pool = self.pool
            if pool is None:
                pool = await self._write_pool(folder, progress)
            writing = self.pool_usage
            progress.usage = lambda: writing + used(llm, embedder, own_judge)

            def on_phase(name: str) -> None:
                if name == "search":  # earlier there are no results to keep, and Ctrl-C ends the command
                    stack.enter_context(stopped_by_signals(lambda number: self._stop(stop, progress, number)))
                progress.phase(name)

            def on_resume(trials: list[Any]) -> None:
                if folder is not None:
                    folder.rewrite_trials(trials)
                progress.resume(trials, self._earlier_usage())

            def on_trial(trial: Any) -> None:
                if folder is not None:
                    folder.add(trial)
                progress.show(trial)

            result = await run(
                self.task,
                pool,
                llm,
                self.config,
                embeddings=self.embeddings,
                embedder=embedder,
                judge=judge,
                on_trial=on_trial,
                on_resume=on_resume,
                on_phase=on_phase,
                on_progress=progress.update,
                stop=stop,
                store=self.store,
                cache=cache,
                account=self.account,
                prior=self.options["prior"],
                writers=part_editors(self.options, pool, self.config.grow),
                writer=writer,
            )
            # A resumed run reuses the embeddings: their usage is that of the run that made them.
            stored = None if self.store is None else self.store.get("embedding")
            self.pool_usage += Usage(**stored) if stored else used(embedder)
            return result

    def _earlier_usage(self) -> Usage:
        """Return the usage of the runs that this one resumes, without that of writing the pool."""
        if self.store is None or not self.is_resumed:
            return Usage()
        return self.store.usage() + Usage(**(self.store.get("embedding") or {}))

    def _stop(self, stop: asyncio.Event, progress: Progress, number: signal.Signals) -> None:
        stop.set()
        if number == signal.SIGTERM:
            self._exit_of_signal = EXIT_TERMINATED
        progress.say("\nStopping; press Ctrl-C again to force it.")

    async def _write_pool(self, folder: RunFolder | None, progress: Progress) -> Pool:
        """Let the model write the pool, and store it before a later step can fail."""
        progress.phase("generating")
        given = None if self.options["pool_file"] is None else load_pool(self.options["pool_file"])
        async with self.model.opened(self.writer.body(self.model)) as model:
            writer = model if self.account is None else MeteredModel(model, self.account)
            writer = CountedModel(writer, "generating", self.options["generate"], progress.update)
            progress.usage = lambda: used(model)
            if self.store is not None:
                writer = RecordedModel(writer, ReplayedAnswers(self.store), "writer")
            written, found = await self.pool_settings.write(
                self.options["generate"], self.task, writer, self.model.is_local, self.options["seed"]
            )
        self.pool_usage = found.usage
        pool = self.pool = merged(given, written)
        check_generated(pool, found)
        if found.skipped and len(found.pool) >= self.options["generate"]:  # fewer are logged as a warning
            click.echo(f"{len(found.pool)} prompts generated{found.skipped}", err=True)
        if folder is not None:
            folder.save_pool(pool)
        self._fit_budget()
        if self.store is not None:
            self.store.put("writing", asdict(self.pool_usage))
            self._store_options()  # before the pool: a resumed run with a pool does not fit its budget
            self.store.put_pool(pool)
        return pool

    def _settings(self) -> dict[str, Any]:
        """Return the options as result.json holds them, without secrets."""
        from zopo_fast.llm.openai.redaction import parse_base_url, show_url

        shown = {name: value for name, value in self.options.items() if value is not None}
        for name in _NAMES_ONLY:
            shown[name] = sorted(shown.get(name, ()))
        for name in ("base_url", "judge_base_url", "writer_base_url", "embedding_base_url"):
            if name in shown:  # without a password or a key in its query
                shown[name] = show_url(parse_base_url(name, shown[name]))
        return {"task": self.task.name, "metric": self.task.metric, **shown}

    def _report(self, result: Result, folder: RunFolder | None) -> None:
        """Write all files, then print the summary: the terminal may be gone."""
        from zopo_fast.cli.terminal.look import terminal_look
        from zopo_fast.cli.terminal.summary import summary
        from zopo_fast.report.output import write_output
        from zopo_fast.runs.folder import REPORT

        left_out: list[str] = []
        try:
            if folder is not None:
                folder.finish(result, self._settings())
                left_out = write_output(result, folder.path, None if self.store is None else self.store.path)
        finally:
            click.echo(summary(result, prices=self.config.prices, **terminal_look()._asdict()))
        self._write_back(result)
        if folder is None:
            return
        for note in left_out:
            click.echo(f"Left out: {printable(note)}", err=True)
        show_folder(folder.path, has_report=not any(note.startswith(REPORT) for note in left_out))

    def _write_back(self, result: Result) -> None:
        """Write the winner of a complete run into the configuration of --write-back."""
        path = self.options.get("write_back")
        if path is None or result.stopped_by not in COMPLETE:
            return
        from zopo_fast.integrations import promptfoo

        prompt = promptfoo.load(path).written(result.best_prompt)
        done = promptfoo.write_back(path, prompt)
        state = "is the first prompt of" if done else "is listed already in"
        click.echo(f"The winner {state} {printable(str(path))}")
