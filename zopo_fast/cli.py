"""The command line: the commands, and what becomes of errors."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast import __version__
from zopo_fast._utils.files import exists
from zopo_fast._utils.text import printable
from zopo_fast.errors import ConfigError, OutputError, ZopoError
from zopo_fast.landscape_command import landscape
from zopo_fast.optimize_command import optimize
from zopo_fast.optimize_job import EXIT_INPUT, EXIT_INTERRUPTED
from zopo_fast.options import (
    FILE,
    ModelSettings,
    PoolSettings,
    generate_options,
    load_task,
    model_options,
    settings_of,
    task_options,
)
from zopo_fast.serve_command import serve

from .bench_command import bench

if TYPE_CHECKING:
    from zopo_fast.prompts.pool import Pool


def main() -> None:
    """Run the command line; a typed error becomes one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding lacks is shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli(standalone_mode=False)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        text = io.StringIO()  # it quotes what was typed, or what a configuration file holds
        error.show(text)
        click.echo(printable(text.getvalue()), err=True, nl=False)
        code = error.exit_code
    except ZopoError as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        code = EXIT_INPUT
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Find the instruction that makes an LLM do a task best, in the fewest calls."""


cli.add_command(optimize)
cli.add_command(landscape)
cli.add_command(bench)
cli.add_command(serve)


@cli.command()
@task_options
@click.option(
    "-n", "--number", type=click.IntRange(2), default=200, show_default=True, help="Prompts to generate."
)
@generate_options
@model_options
@click.option("--out", type=FILE, required=True, help="Pool file to write, .jsonl.")
def generate(task: Path, **options: Any) -> int:
    """Write a pool of candidate prompts for TASK."""
    model, settings = settings_of(ModelSettings, options), settings_of(PoolSettings, options)
    settings.check(model.is_local)
    loaded = load_task(task, options)
    out: Path = options["out"]
    if exists(out):
        raise OutputError(f"{out}: exists already; give another name")
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: a pool is a .jsonl file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):  # before the calls are paid for
        raise OutputError(f"{out}: its folder is missing or cannot be written")

    async def work() -> Pool:
        if settings.method(model.is_local) == "compose":
            return settings.compose(options["number"], loaded, options["seed"])
        async with model.opened(writing=True) as llm:
            click.echo("Generating prompts ...", err=True)
            written = await settings.write(options["number"], loaded, llm, model.is_local, options["seed"])
            return written[0]

    pool = asyncio.run(work())
    pool.save(out)
    click.echo(f"{len(pool)} prompts written to {printable(str(out))}")
    return 0
