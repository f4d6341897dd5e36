"""`zopo-fast optimize`: the command; OptimizeRunner does its work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from zopo_fast.cli.optimize_runner import OptimizeRunner
from zopo_fast.cli.options import (
    answer_options,
    comparison_options,
    dry_run_options,
    embedder_options,
    generate_options,
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
from zopo_fast.cli.settings import load_task, text_or_file
from zopo_fast.errors import ConfigError

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
@pool_options
@generate_options
@embedder_options
@search_options
@model_options
@answer_options
@writer_options
@judge_options
@limit_options
@dry_run_options
@comparison_options
@option(
    "--out",
    group="Output",
    type=FILE,
    help="Folder for best_prompt.txt, result.json, trials.jsonl, curve.png and study.sqlite3.",
)
@quiet_option
def optimize(task: Path | None, **options: Any) -> int:
    """Find the best prompt for TASK.

    TASK is a JSONL, JSON, CSV, TSV or Parquet file, or a folder of a Hugging Face data set, with an input and
    an output for each example; docs/task_files.md shows each form.
    """
    for name in ("incumbent", "rubric"):  # the text and not its file: a resumed study may lack the file
        options[name] = text_or_file(options[name], f"--{name}")
    if options["resume"] is not None:
        return _resume(options)
    if task is None:
        raise click.MissingParameter(param_hint="TASK", param_type="argument")
    runner = OptimizeRunner(options, load_task(task, options))
    runner.check()
    if options["dry_run"]:
        runner.dry_run()
        return 0
    return asyncio.run(runner.run())


def _resume(options: dict[str, Any]) -> int:
    """Resume the study in the folder of --resume; return the exit code."""
    from zopo_fast.cli.resume import resume_options
    from zopo_fast.storage.store import STUDY, Store

    if options["dry_run"]:
        raise ConfigError("--dry-run estimates a new run: leave it out with --resume")
    with Store.open(options["resume"] / STUDY) as store:
        resumed, task = resume_options(store, options)
        return asyncio.run(OptimizeRunner(resumed, task, store.pool(), store).run())
