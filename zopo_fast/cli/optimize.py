"""`zopo-fast optimize`: from the options to a run, its files and its summary."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from zopo_fast.cli.optimize_runner import Command
from zopo_fast.cli.options import (
    FILE,
    dry_run_options,
    embedder_option,
    generate_options,
    judge_options,
    limit_options,
    model_options,
    task_argument,
)
from zopo_fast.cli.settings import load_task, text_or_file
from zopo_fast.errors import ConfigError
from zopo_fast.scoring.race import DEFAULT_ERROR, DEFAULT_FIRST


def _range(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        low, high = (float(end) for end in value.split(":"))
    except ValueError:
        raise click.BadParameter("expected LOW:HIGH, as in 0:1", param=parameter) from None
    return low, high


@click.command()
@task_argument(required=False)
@click.option(
    "--resume",
    type=FILE,
    metavar="DIR",
    help="Go on with the run in this folder: with its task, pool and options, and nothing asked twice.",
)
@click.option("--pool", "pool_file", type=FILE, help="Candidate prompts, .txt or .jsonl.")
@click.option(
    "--generate", type=click.IntRange(2), metavar="N", help="Generate N candidate prompts instead, or on top."
)
@generate_options
@click.option(
    "--incumbent", help="The prompt in use today (or @FILE): scored first, the winner is compared with it."
)
@click.option(
    "--budget", type=click.IntRange(1), default=50, show_default=True, help="Prompts scored in all."
)
@click.option(
    "--initial", type=click.IntRange(1), default=10, show_default=True, help="Of them, random first ones."
)
@click.option(
    "--racing/--no-racing",
    default=None,
    help="Give up on prompts unlikely to beat the best one after some examples.  [default: where it can be]",
)
@click.option(
    "--calls",
    type=click.IntRange(1),
    help="Examples scored in all while racing.  [default: budget x examples]",
)
@click.option(
    "--race-error",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULT_ERROR,
    show_default=True,
    help="Probability that a prompt is given up although it would beat the best one.",
)
@click.option(
    "--race-first",
    type=click.IntRange(1),
    default=DEFAULT_FIRST,
    show_default=True,
    help="Examples of a prompt's first mini-batch.",
)
@click.option(
    "--race-batch",
    type=click.IntRange(1),
    help="Examples of each one after it.  [default: 2, more with over 16 calls at once]",
)
@click.option(
    "--score-range",
    metavar="LOW:HIGH",
    callback=_range,
    help="Least and greatest score of a metric of your own, without which it cannot race.",
)
@click.option("--target", type=float, help="End when a score reaches this.")
@click.option("--past-perfect", is_flag=True, help="Go on after a perfect score.")
@click.option("--compare-random", is_flag=True, help="Also score an equally large random sample of the pool.")
@click.option("--no-comparison", is_flag=True, help="Skip the comparison on held-out examples.")
@click.option("--official", is_flag=True, help="Search as the published implementation does.")
@embedder_option
@model_options
@judge_options
@limit_options
@dry_run_options
@click.option("--out", type=FILE, help="Folder for best_prompt.txt, result.json, trials.jsonl and curve.png.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def optimize(task: Path | None, **options: Any) -> int:
    """Find the best prompt for TASK (JSONL, CSV, TSV, or instruction-induction JSON)."""
    for name in ("incumbent", "rubric"):  # what a file holds, not where it lies: a run may go on without it
        options[name] = text_or_file(options[name], f"--{name}")
    if options["resume"] is not None:
        return _resumed(options)
    if task is None:
        raise click.MissingParameter(param_hint="TASK", param_type="argument")
    command = Command(options, load_task(task, options))
    command.check()
    if options["dry_run"]:
        command.dry_run()
        return 0
    return asyncio.run(command.run())


def _resumed(options: dict[str, Any]) -> int:
    from zopo_fast.cli.resume import taken_up
    from zopo_fast.storage.store import STUDY, Store

    if options["dry_run"]:
        raise ConfigError("--dry-run says what a run would take before it has begun: not with --resume")
    with Store.open(options["resume"] / STUDY) as store:
        used, task = taken_up(store, options)
        command = Command(used, task, store.pool(), store)
        return asyncio.run(command.run())
