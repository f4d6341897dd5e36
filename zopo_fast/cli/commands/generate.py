"""`zopo-fast generate`: a pool of candidate prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.files import exists
from zopo_fast._utils.signals import run_until_terminated
from zopo_fast._utils.text import printable
from zopo_fast.cli.models import ModelSettings, WriterSettings, settings_of
from zopo_fast.cli.options import (
    generate_options,
    model_options,
    task_options,
    writer_options,
    writing_options,
)
from zopo_fast.cli.params import FILE, Command, option
from zopo_fast.cli.plan import announce, model_text
from zopo_fast.cli.settings import PoolSettings, check_generated, load_task
from zopo_fast.cli.terminal.progress import Progress, used
from zopo_fast.errors import ConfigError, OutputError
from zopo_fast.runs.progress import CountedModel

if TYPE_CHECKING:
    from zopo_fast.prompts.generate import Generated
    from zopo_fast.prompts.pool import Pool


@click.command(cls=Command, most_used=("number", "how", "model", "base_url", "out"))
@task_options
@option(
    "-n",
    "--number",
    group="Pool",
    type=click.IntRange(2),
    default=200,
    show_default=True,
    help="Number of prompts to generate.",
)
@generate_options
@model_options
@writing_options
@writer_options
@option("--out", group="Output", type=FILE, required=True, help="Pool file to write, .jsonl.")
def generate(task: Path, **options: Any) -> int:
    """Write a pool of candidate prompts for TASK."""
    model, settings = settings_of(ModelSettings, options), settings_of(PoolSettings, options)
    writer = settings_of(WriterSettings, options)
    settings.check(model.is_local)
    loaded = load_task(task, options)
    out: Path = options["out"]
    if exists(out):
        raise OutputError(f"{out}: exists already; give another name")
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: must end in .jsonl")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):  # before any call is paid for
        raise OutputError(f"{out}: its folder is missing or cannot be written")

    what = f"generate {options['number']} prompts ({settings.method(model.is_local)})"
    if settings.method(model.is_local) == "compose":
        announce(f"{what} without any call", quiet=False)
    else:
        announce(f"{what} in at most {4 * options['number']} calls; {model_text(model)}", quiet=False)

    async def work() -> tuple[Pool, Generated | None]:
        if settings.method(model.is_local) == "compose":
            return settings.compose(options["number"], loaded, options["seed"]), None
        async with model.opened(writer.body(model, sampling=True)) as llm:
            progress, number = Progress(quiet=False), options["number"]
            progress.phase("generating")
            progress.usage = lambda: used(llm)
            try:
                counted = CountedModel(llm, "generating", number, progress.update)
                return await settings.write(number, loaded, counted, model.is_local, options["seed"])
            finally:
                progress.close()

    pool, found = run_until_terminated(work())
    check_generated(pool, found)
    pool.save(out)
    click.echo(
        f"{len(pool)} prompts written to {printable(str(out))}" + ("" if found is None else found.skipped)
    )
    return 0
