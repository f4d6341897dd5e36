"""`zopo-fast landscape`: scores a whole pool once and keeps it for benchmarks."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.files import exists
from zopo_fast._utils.text import short_repr
from zopo_fast.cli.group import EXIT_INTERRUPTED
from zopo_fast.cli.options import (
    dry_run_options,
    embedder_option,
    judge_options,
    model_options,
    task_options,
)
from zopo_fast.cli.params import FILE, FiniteRange
from zopo_fast.cli.progress import Progress
from zopo_fast.cli.settings import (
    JudgeSettings,
    ModelSettings,
    check_names,
    embedder_name,
    load_task,
    open_embedder,
    prices_of,
    settings_of,
    text_or_file,
)
from zopo_fast.errors import ConfigError, OutputError, ZopoError

if TYPE_CHECKING:
    import numpy as np

    from zopo_fast.llm.types import Usage
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.runs.landscape import Journal
    from zopo_fast.runs.result import Trial
    from zopo_fast.tasks.task import Task


@click.command()
@task_options
@click.option("--pool", "pool_file", type=FILE, required=True, help="Prompts to score, .txt or .jsonl.")
@embedder_option
@model_options
@judge_options
@click.option(
    "--max-failed",
    type=FiniteRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the pool that may fail and be left out.",
)
@dry_run_options
@click.option("--out", type=FILE, required=True, help="Folder for NAME.json and NAME.npy.")
@click.option("--name", help="Of the landscape.  [default: the task's]")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def landscape(task: Path, **options: Any) -> int:
    """Score every prompt of a pool on TASK once, for searches to be replayed on.

    What was answered is kept as it comes: after Ctrl-C or an error the same command goes on from there.
    """
    command = _Command(options, load_task(task, options))
    if options["dry_run"]:
        command.dry_run()
        return 0
    try:
        return asyncio.run(command.run())
    except ZopoError:
        command.say_how_to_go_on()
        raise
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        command.say_how_to_go_on()
        return EXIT_INTERRUPTED


class _Command:
    """One `landscape`, between its options and its exit code; what cannot work is refused here."""

    def __init__(self, options: dict[str, Any], task: Task) -> None:
        from zopo_fast.prompts.pool import Pool
        from zopo_fast.runs.landscape import paths

        self.options, self.task = options, task
        self.begun = False
        self.model = settings_of(ModelSettings, options)
        self.judge = settings_of(JudgeSettings, options)
        self.rubric = text_or_file(options["rubric"], "--rubric")
        self.pool: Pool = Pool.load(options["pool_file"]).require(2)
        check_names(task)
        name = options["name"] or task.name
        if name != Path(name).name or not name.isprintable():
            raise ConfigError(
                f"--name {short_repr(name)}: has to be a file's name, without a folder and an ending"
            )
        self.stem: Path = options["out"] / name
        *written, self.journal_path = paths(self.stem)
        for path in written:
            if exists(path):
                raise OutputError(f"{path}: exists already; give another --name or --out")

    def dry_run(self) -> None:
        """Print what scoring the whole pool would take."""
        from zopo_fast.runs.config import RunConfig
        from zopo_fast.runs.estimate import estimate

        embedder = embedder_name(self.options["embedder"], self.model)
        bound = estimate(
            self.task,
            self.pool.prompts,
            RunConfig(budget=len(self.pool), heldout=False, rubric=self.rubric),
            model=None if self.model.is_local else self.model.model,
            max_tokens=self.model.max_answer_tokens(),
            embed=len(self.pool) if embedder.startswith("endpoint:") else 0,
            prices=prices_of(self.options),
        )
        click.echo(f"{len(self.pool)} prompts on {len(self.task.train)} examples.")
        click.echo(f"This would take {bound}. No call was made.")

    async def run(self) -> int:
        """Embed the pool, score it, write the landscape; return the exit code."""
        from zopo_fast.runs.landscape import Journal, PoolScorer, save

        prompts = self.pool.prompts
        progress = Progress(len(prompts), self.options["quiet"])
        saved = False
        async with self.model.opened() as llm, self.judge.opened(self.model) as judge:
            settings = self._settings(llm, judge)
            journal = Journal(self.journal_path, settings, len(prompts), len(self.task.train))
            self.begun = True
            try:
                embeddings, spent = await self._embed(progress)
                progress.done = sum(journal.done)

                def on_trial(trial: Trial) -> None:
                    if trial.error is not None:
                        self._warn(progress, trial)
                    progress.show(trial)

                scorer = PoolScorer(
                    self.task,
                    prompts,
                    llm,
                    journal,
                    judge=judge,
                    rubric=self.rubric,
                    max_failed=self.options["max_failed"],
                    on_trial=on_trial,
                )
                progress.phase("search")
                await scorer.run()
                progress.close()
                kept = save(self.stem, self.task, self._model_name(llm), prompts, journal, embeddings)
                saved = True
            finally:
                progress.close()
                journal.close(remove=saved)
        self._report(kept, journal, spent + scorer.spent)
        return 0

    async def _embed(self, progress: Progress) -> tuple[np.ndarray[Any, Any], Usage]:
        """Embed the pool before anything is scored: what fails here has cost least."""
        embedder = open_embedder(embedder_name(self.options["embedder"], self.model), self.model)
        progress.phase("embedding")
        try:
            return await embedder.embed(list(self.pool.prompts)), embedder.usage
        finally:
            await embedder.aclose()

    def _settings(self, llm: Any, judge: Any) -> dict[str, Any]:
        """All that the scores depend on; texts, and what may be secret, by their fingerprint."""
        from zopo_fast.runs.landscape import fingerprint
        from zopo_fast.tasks import template

        def named(values: list[Any], unit: str) -> str:
            return f"{len(values)} {unit} ({fingerprint(values)})"

        task, layout = self.task, template.resolve(self.task.template)
        return {
            "task": task.name,
            "pool": named(list(self.pool.prompts), "prompts"),
            "examples": named([asdict(example) for example in task.train], "examples"),
            "demonstrations": named([asdict(example) for example in task.demonstrations], "examples"),
            "metric": task.metric,
            "template": f"{layout.name} ({fingerprint(asdict(layout))})",
            "model": llm.name if self.model.is_local else self._model_name(llm),
            "endpoint": None if self.model.is_local else _shown(llm),
            "body": named(sorted(self.model.full_body().items()), "parameters"),
            "judge": None if judge is None else judge.config.model,
            "judge's endpoint": None if judge is None else _shown(judge),
            "rubric": None if self.rubric is None else fingerprint(self.rubric),
        }

    def _model_name(self, llm: Any) -> str:
        """The model as the landscape names it."""
        name = llm.path.name if self.model.is_local else llm.config.model
        temperature = str(self.model.full_body()["temperature"]).removesuffix(".0")
        return f"{name}, temperature {temperature}"

    def _warn(self, progress: Progress, trial: Trial) -> None:
        from zopo_fast.runs.report import printable

        progress.say(
            f"Warning: a prompt failed and is left out: {printable(f'{trial.prompt!r:.80}: {trial.error}')}"
        )

    def _report(self, kept: int, journal: Journal, usage: Usage) -> None:
        from zopo_fast.runs.landscape import paths
        from zopo_fast.runs.report import printable

        means = [sum(s for s in row if s is not None) / len(row) for row in journal.rows if None not in row]
        if journal.errors:
            click.echo(
                f"Warning: {len(journal.errors)} of {len(self.pool)} prompts failed and are left out.",
                err=True,
            )
        click.echo(f"Prompts scored: {kept} on {len(self.task.train)} examples")
        click.echo(f"Mean scores: {min(means):.3f} to {max(means):.3f}")
        click.echo(f"Calls: {usage.calls}, tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out")
        scores, embeddings, _ = paths(self.stem)
        click.echo(f"Written to {printable(str(scores))} and {printable(str(embeddings))}")

    def say_how_to_go_on(self) -> None:
        """Say where the answers so far are, if there are any."""
        if self.begun and exists(self.journal_path):
            from zopo_fast.runs.report import printable

            click.echo(
                f"What was answered is kept in {printable(str(self.journal_path))}; the same command goes on "
                "from there.",
                err=True,
            )


def _shown(client: Any) -> str:
    """The client's endpoint, without a password or a key in its query."""
    from zopo_fast.llm.openai.endpoint import Endpoint
    from zopo_fast.llm.openai.redaction import show_url

    return show_url(Endpoint(client.config).url(""))
