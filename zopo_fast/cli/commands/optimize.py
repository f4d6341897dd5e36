"""`zopo-fast optimize`: the command; OptimizeRunner does its work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.signals import run_until_terminated
from zopo_fast.cli.optimize_runner import SUMMARY, OptimizeRunner
from zopo_fast.cli.options import (
    answer_options,
    comparison_options,
    dry_run_options,
    embedder_options,
    generate_options,
    growth_options,
    judge_options,
    limit_options,
    model_options,
    pool_options,
    quiet_option,
    search_options,
    task_argument,
    writer_options,
)
from zopo_fast.cli.params import FILE, Command, option
from zopo_fast.cli.plan import fit_heldout
from zopo_fast.cli.resume import FITTED, given_options, resume_options, stored_task
from zopo_fast.cli.settings import is_promptfoo, load_pool, load_task, text_or_file
from zopo_fast.cli.terminal.folder import show_folder
from zopo_fast.errors import ConfigError

if TYPE_CHECKING:
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task

MOST_USED = (
    "pool_file", "generate", "incumbent", "model", "base_url", "metric", "budget", "dry_run", "out", "resume"
)  # fmt: skip


@click.command(cls=Command, most_used=MOST_USED)
@task_argument(required=False)
@option(
    "--resume",
    group="Output",
    may_change=True,
    type=FILE,
    metavar="DIR",
    help="Folder of an interrupted run to resume with its task, pool and options; no call is repeated.",
)
@option(
    "--resume-or-start",
    group="Output",
    is_flag=True,
    help="Resumption of the run in --out where there is one, else a new run; for batch systems that repeat a "
    "command. A finished run prints its summary and makes no call.",
)
@pool_options
@generate_options
@embedder_options
@search_options
@model_options
@answer_options
@writer_options
@growth_options
@judge_options
@limit_options
@dry_run_options
@comparison_options
@option(
    "--out",
    group="Output",
    type=FILE,
    help="Folder for report.html, best_prompt.txt, result.json, trials.jsonl, curve.png and study.sqlite3.",
)
@option(
    "--write-back",
    group="Output",
    may_change=True,
    type=FILE,
    help="Configuration of promptfoo, such as TASK, to whose prompts the winner is added as the first.",
)
@quiet_option
def optimize(task: Path | None, **options: Any) -> int:
    """Find the best prompt for TASK.

    TASK is a JSONL, JSON, CSV, TSV or Parquet file, or a folder of a Hugging Face data set, with an input and
    an output for each example; docs/task_files.md shows each form. A YAML file is a configuration of
    promptfoo, whose prompts are the pool without --pool and --generate.
    """
    _read_texts(options)
    if options["resume"] is not None:
        if options["resume_or_start"]:
            raise click.UsageError("--resume and --resume-or-start contradict each other; give one")
        return _resume(options, options["resume"])
    from zopo_fast.runs.folder import set_aside
    from zopo_fast.storage.file import is_absent
    from zopo_fast.storage.store import STUDY

    if is_promptfoo(task) and options["pool_file"] is None and options["generate"] is None:
        options["pool_file"] = task
    loaded = None if task is None else fit_heldout(load_task(task, options), given_options())
    if options["resume_or_start"]:
        if options["out"] is None:
            raise click.UsageError("--resume-or-start needs --out, the folder of the run")
        if not is_absent(options["out"] / STUDY):
            return _resume(options, options["out"], loaded)
    if loaded is None:
        raise click.MissingParameter(param_hint="TASK", param_type="argument")
    runner = _runner(loaded, options)
    if options["dry_run"]:
        runner.dry_run()
        return 0
    if options["resume_or_start"]:
        set_aside(options["out"])
    return run_until_terminated(runner.run())


def planned(task: Path, options: dict[str, Any]) -> OptimizeRunner:
    """Return a new run that was checked and has made no call; needs the context of the command.

    Raises:
        ZopoError: The run cannot work.
    """
    _read_texts(options)
    return _runner(fit_heldout(load_task(task, options), given_options()), options)


def _runner(task: Task, options: dict[str, Any]) -> OptimizeRunner:
    runner = OptimizeRunner(options, task, given=frozenset(given_options()))
    runner.check()
    return runner


def _read_texts(options: dict[str, Any]) -> None:
    for name in ("incumbent", "rubric"):  # the text and not its file: a resumed study may lack the file
        options[name] = text_or_file(options[name], f"--{name}")


def _require_pool(path: Path, store: Store) -> None:
    """Check that a pool file of a repeated command is that of the study.

    Raises:
        ConfigError: The file has other prompts or scores.
    """
    if load_pool(path) != store.pool():
        raise ConfigError(
            f"--pool {path} is not the pool of {store.path}: give the same one, or another --out"
        )


def _resume(options: dict[str, Any], folder: Path, repeated: Task | None = None) -> int:
    """Resume the study in a folder; return the exit code.

    Args:
        options: Options of the command.
        folder: Folder of the run.
        repeated: Task of a repeated command; None: take task and options from the study.
    """
    from zopo_fast._utils.text import printable
    from zopo_fast.runs.folder import has_results
    from zopo_fast.runs.resume import RESULT
    from zopo_fast.storage.store import STUDY, Store

    if options["dry_run"]:
        raise ConfigError("--dry-run estimates a new run: leave it out with --resume")
    with Store.open(folder / STUDY) as store:
        task = repeated or (stored_task(store) if options["resume_or_start"] else None)
        resumed, task = resume_options(store, options, task)
        if options["resume_or_start"] and options["generate"] is None and options["pool_file"] is not None:
            _require_pool(options["pool_file"], store)
        # Another --prefer-short may choose another winner; the answers of the search are in the study.
        is_same = (store.get(RESULT) or {}).get("prefer_short") == resumed["prefer_short"]
        if options["resume_or_start"] and is_same and (summary := store.get(SUMMARY)) is not None:
            if has_results(folder):
                click.echo(summary)
                show_folder(folder)
                return 0
            click.echo(
                f"{printable(str(folder))}: results are missing; written again from the study", err=True
            )
        given = frozenset(given_options()) | frozenset(store.config.get("given", FITTED))
        return run_until_terminated(OptimizeRunner(resumed, task, store.pool(), store, given).run())
