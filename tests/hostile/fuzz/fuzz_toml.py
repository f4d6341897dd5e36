"""Fuzz TOML files: configurations of the command line, and lists of parts of prompts."""

from __future__ import annotations

from pathlib import Path

import click
from harness import fuzz, in_file, instrumented

with instrumented:
    from zopo_fast.cli import params as option_types
    from zopo_fast.cli.commands import optimize as optimize_command
    from zopo_fast.prompts import generate


def target(folder: Path, data: bytes) -> None:
    """Read the file as --config and parse all options, or read it as --lists."""
    path = in_file(folder, (".toml", ".lists.toml", ".json"))(data)
    if path.name != "x.toml":
        generate.compose(5, 0, path)
        return
    context = click.Context(optimize_command.optimize)
    option_types.from_toml(context, optimize_command.optimize.params[0], path)
    try:
        optimize_command.optimize.make_context("optimize", ["task.jsonl", "--config", str(path)])
    except click.ClickException as error:
        error.format_message()


if __name__ == "__main__":
    fuzz(target)
