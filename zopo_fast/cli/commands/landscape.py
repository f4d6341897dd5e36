"""`zopo-fast landscape`: score a whole pool once and export it for benchmarks."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.files import exists
from zopo_fast._utils.signals import TerminatedError, run_until_terminated
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.cli.group import EXIT_INTERRUPTED, EXIT_TERMINATED
from zopo_fast.cli.models import (
    EmbeddingSettings,
    JudgeSettings,
    ModelSettings,
    embedder_name,
    settings_of,
)
from zopo_fast.cli.options import (
    answer_options,
    dry_run_options,
    embedder_options,
    judge_options,
    limit_options,
    model_options,
    quiet_option,
    task_options,
)
from zopo_fast.cli.params import FILE, Command, FiniteRange, default_help, option, setting_option
from zopo_fast.cli.plan import announce, chunk_size, embeddings_file, model_text
from zopo_fast.cli.settings import LimitSettings, check_names, load_task, prices_of, text_or_file, with_prices
from zopo_fast.cli.terminal.progress import Progress, used
from zopo_fast.errors import (
    ConfigError,
    LimitReachedError,
    LLMError,
    OutputError,
    PoolError,
    StoreError,
    StudyMismatchError,
    ZopoError,
)
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.progress import ChunkedEmbedder

if TYPE_CHECKING:
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.cost.estimate import Estimate
    from zopo_fast.runs.result import Result, Trial
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task


@click.command(cls=Command, most_used=("pool_file", "model", "base_url", "embedder", "dry_run", "out"))
@task_options
@option(
    "--pool",
    "pool_file",
    group="Pool",
    type=FILE,
    required=True,
    help="Prompts to score, .txt, .jsonl or .parquet; scores in the file are ignored.",
)
@embedder_options
@model_options
@answer_options
@judge_options
@setting_option(
    RunConfig,
    "unanswered",
    group="Task",
    type=click.Choice(("zero", "fail")),  # a landscape holds a score for every example
    help="Treatment of an example that a single call cannot get an answer for: its score is zero and the "
    "landscape lists it, or the prompt fails." + default_help("zero"),
)
@option(
    "--max-failed",
    group="Limits",
    type=FiniteRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the pool that may fail and be left out.",
)
@limit_options
@dry_run_options
@option("--out", group="Output", type=FILE, required=True, help="Folder for NAME.json and NAME.npy.")
@option("--name", group="Output", help="Name of the landscape." + default_help("name of the task"))
@quiet_option
def landscape(task: Path, **options: Any) -> int:
    """Score every prompt of a pool on TASK once, to replay searches on the scores.

    Answers are stored as they arrive: after an error, a limit or Ctrl-C, the same command resumes.
    """
    command = LandscapeRunner(options, load_task(task, options))
    if options["dry_run"]:
        command.dry_run()
        return 0
    try:
        return run_until_terminated(command.run())
    except StudyMismatchError:  # the same command would be refused again
        raise
    except ZopoError:
        command.say_how_to_resume()
        raise
    except KeyboardInterrupt as end:
        is_terminated = isinstance(end, TerminatedError)
        click.echo("Terminated." if is_terminated else "Interrupted.", err=True)
        command.say_how_to_resume()
        return EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED


class LandscapeRunner:
    """One `landscape` command: checks its options, then scores and exports the pool."""

    def __init__(self, options: dict[str, Any], task: Task) -> None:
        from zopo_fast.prompts.embedding_file import read_embeddings
        from zopo_fast.prompts.pool import Pool
        from zopo_fast.runs.landscape import LandscapeFiles

        options = with_prices(options)
        self.options, self.task = options, task
        self._has_opened_study = False
        self.model = settings_of(ModelSettings, options)
        self.judge = settings_of(JudgeSettings, options)
        self.limits = settings_of(LimitSettings, options)
        self.embedding = settings_of(EmbeddingSettings, options)
        self.embedder = embedder_name(options["embedder"], self.model)
        self.embedding.check(self.embedder)
        pool: Pool = Pool.load(options["pool_file"]).require(2)
        # A landscape needs a score for every example; a pool file holds means, possibly of another task.
        self.pool = Pool(pool.prompts, pool.counts)
        self.embeddings: Any = None  # None: made by the embedder
        if (file := embeddings_file(options)) is not None:
            self.embedder, self.embeddings = "file", read_embeddings(file, self.pool)
        self.config = self._run_config()
        check_names(task)
        name = options["name"] or task.name
        if name != Path(name).name or not name.isprintable():
            raise ConfigError(f"--name {short_repr(name)}: expected a file name without folder and suffix")
        self.files = LandscapeFiles.of(options["out"], name)
        written = [self.files.scores]
        if not exists(self.files.study):  # with a study, the embeddings are those of an interrupted export
            written.append(self.files.embeddings)
        for path in written:
            if exists(path):
                raise OutputError(f"{path}: exists already; give another --name or --out")

    def _run_config(self) -> RunConfig:
        """Settings of a run that scores every prompt on every example, in the order of the pool."""
        from zopo_fast.search.config import ZopoConfig

        prompts = len(self.pool)
        return RunConfig(
            budget=prompts,
            seed=self.options["seed"],
            stop_at_perfect=False,
            heldout=False,
            racing=False,
            unanswered=self.options["unanswered"],
            rubric=text_or_file(self.options["rubric"], "--rubric"),
            max_failures=prompts + 1,  # never reached: --max-failed limits the failures of the whole pool
            limits=self.limits.limits(),
            prices=self.limits.prices(prices_of(self.options)),
            # All prompts are initial ones; this search fits no model to the scores of initial prompts.
            search=ZopoConfig.official(budget=prompts, initial=list(range(prompts))),
        )

    def dry_run(self) -> None:
        """Print an upper bound of calls, tokens and cost."""
        click.echo(f"{len(self.pool)} prompts on {len(self.task.train)} examples.")
        click.echo(f"This would take {self._estimate()}. No call was made.")

    def _announce(self) -> None:
        """Print what the run will do, before its first call."""
        if not self.options["quiet"]:
            scored = f"{len(self.pool)} prompts on {len(self.task.train)} examples each"
            announce(f"{scored}; {self._estimate()}; {model_text(self.model)}", quiet=False)

    def _estimate(self) -> Estimate:
        """Return an upper bound of calls, tokens and cost."""
        from zopo_fast.llm.tokens import completion_bound
        from zopo_fast.runs.cost.estimate import EMBED_BATCH, estimate

        return estimate(
            self.task,
            self.pool.prompts,
            self.config,
            model=None if self.model.is_local else self.model.model,
            max_tokens=completion_bound(self.model.answer_body()),
            judge_max_tokens=completion_bound(self.judge.body(self.model).merged),
            embed=len(self.pool) if self.embedder.startswith("endpoint:") else 0,
            embed_batch=self.embedding.embedding_batch or EMBED_BATCH,
            prices=prices_of(self.options),
        )

    async def run(self) -> int:
        """Score the pool, or what an interrupted run has left of it, and export it; return the exit code."""
        is_new_folder = not exists(self.files.study.parent)
        store = self._open_study()
        self._has_opened_study = True
        is_exported = False
        try:
            self._announce()
            await self._score_and_export(store)
            is_exported = True
        finally:
            is_needed = not is_exported
            with suppress(StoreError):  # a failed write was raised before
                is_needed = is_needed and not store.is_empty
            with suppress(StoreError):
                store.close()
            if not is_needed:
                self._remove_study(is_new_folder and not is_exported)
        return 0

    def _open_study(self) -> Store:
        """Open the study of this landscape, or create it.

        Raises:
            StudyMismatchError: the study holds embeddings of another embedder.
        """
        from zopo_fast.runs.resume import open_or_create, retry_failures

        store = open_or_create(self.files.study, {"embedder": self.embedder})
        try:
            before = store.config.get("embedder")
            if before != self.embedder:
                raise StudyMismatchError(
                    f"{store.path} was started with other settings: embedder: {before} then, "
                    f"{self.embedder} now. Use the same settings again, or another --name"
                )
            retry_failures(store)
        except BaseException:
            store.close()
            raise
        return store

    def _remove_study(self, with_folder: bool) -> None:
        study = self.files.study
        with suppress(OSError):
            for path in (study, study.with_name(study.name + "-wal")):
                path.unlink(missing_ok=True)
            if with_folder:
                study.parent.rmdir()

    async def _score_and_export(self, store: Store) -> None:
        from zopo_fast.runs.landscape import export
        from zopo_fast.runs.resume import failures

        progress = Progress(self.options["quiet"])
        try:
            async with self.model.opened() as llm:
                result = await self._score(store, llm, progress)
                model = self._model_name(llm)
        finally:
            progress.close()
        self._require_complete(result)
        failed = failures(store)
        embeddings = store.array("embeddings") if self.embeddings is None else self.embeddings
        assert embeddings is not None
        means = export(self.files, self.task, model, self.pool.prompts, result.trials, embeddings, failed)
        self._report(store, result, means, len(failed))

    async def _score(self, store: Store, llm: Any, progress: Progress) -> Result:
        from zopo_fast.runs.optimize import account_of, optimize

        account = account_of(self.config, store)

        def on_trial(trial: Trial) -> None:
            if trial.error is not None:
                self._check_failure(store, trial, progress)
            progress.show(trial)

        async with AsyncExitStack() as stack:
            judge = await stack.enter_async_context(self.judge.opened(self.model, llm, self.task, store))
            embedder = None
            if self.embeddings is None:
                opened = self.embedding.open(self.embedder, self.model, account)
                stack.push_async_callback(opened.aclose)
                size = chunk_size(self.embedder, self.model, self.embedding)
                embedder = ChunkedEmbedder(opened, size, progress.update)
            progress.usage = lambda: used(llm, embedder, judge if self.judge.judge_model else None)
            if (cache := self.limits.open_cache()) is not None:
                stack.callback(cache.close)
            return await optimize(
                self.task,
                self.pool,
                llm,
                self.config,
                embeddings=self.embeddings,
                embedder=embedder,
                judge=judge,
                on_trial=on_trial,
                on_resume=progress.resume,
                on_phase=progress.phase,
                on_progress=progress.update,
                store=store,
                cache=cache,
                account=account,
            )

    def _check_failure(self, store: Store, trial: Trial, progress: Progress) -> None:
        """Warn of a prompt that failed.

        Raises:
            LLMError: more prompts failed than --max-failed allows.
            PoolError: fewer than two prompts are left to export.
        """
        from zopo_fast.runs.resume import failures

        failed, prompts = len(found := failures(store)), len(self.pool)
        if trial.index not in found:  # an error of the whole run, which optimize() raises or returns
            return
        _warn(progress, trial)
        if failed > self.options["max_failed"] * prompts:
            raise LLMError(
                f"{failed} of {prompts} prompts failed, more than --max-failed "
                f"{self.options['max_failed']:g} allows; the last one: {trial.error}"
            )
        if prompts - failed < 2:
            raise PoolError(f"only {prompts - failed} of {prompts} prompts could be scored")

    def _require_complete(self, result: Result) -> None:
        """Raise the error or the limit that ended the run before the whole pool was scored."""
        from zopo_fast.cli.terminal.summary import STOPPED

        if result.error is not None:
            raise result.error
        if result.stopped_by in ("calls", "tokens", "cost", "time"):
            raise LimitReachedError(
                f"{STOPPED[result.stopped_by]}: {len(result.prompts_scored())} of {len(self.pool)} prompts "
                "are scored",
                result.stopped_by,
            )

    def _model_name(self, llm: Any) -> str:
        """Model and temperature, as the landscape states them."""
        name = llm.path.name if self.model.is_local else llm.config.model
        temperature = self.model.answer_body().get("temperature")
        return (
            f"{name}, temperature {'unset' if temperature is None else str(temperature).removesuffix('.0')}"
        )

    def _report(self, store: Store, result: Result, means: list[float], failed: int) -> None:
        from zopo_fast.cli.terminal.summary import usage_line
        from zopo_fast.llm.types import Usage
        from zopo_fast.runs.log.unanswered import unanswered_lines

        if failed:
            click.echo(
                f"Warning: {failed} of {len(self.pool)} prompts failed and are left out.",
                err=True,
            )
        click.echo(f"Prompts scored: {len(means)} on {len(self.task.train)} examples")
        click.echo(f"Mean scores: {min(means):.3f} to {max(means):.3f}")
        for line in unanswered_lines(result.unanswered):
            click.echo(printable(line))
        click.echo(usage_line(result.usage + Usage(**(store.get("embedding") or {}))))
        scores, embeddings, _ = self.files
        click.echo(f"Written to {printable(str(scores))} and {printable(str(embeddings))}")

    def say_how_to_resume(self) -> None:
        """Name the study that holds the answers so far, if there are any."""
        if self._has_opened_study and exists(self.files.study):
            click.echo(
                f"The answers so far are stored in {printable(str(self.files.study))}; "
                "run the same command again to resume.",
                err=True,
            )


def _warn(progress: Progress, trial: Trial) -> None:
    """Report a failed prompt above the progress bar."""
    what = printable(f"{trial.prompt!r:.80}: {trial.error}")
    progress.say(f"Warning: a prompt failed and is left out: {what}")
