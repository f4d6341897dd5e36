"""The command line: the commands, and what becomes of errors."""

from __future__ import annotations

import io
import sys

import click

from zopo_fast import __version__
from zopo_fast._utils.text import printable
from zopo_fast.cli.bench import bench
from zopo_fast.cli.generate import generate
from zopo_fast.cli.landscape import landscape
from zopo_fast.cli.optimize import optimize
from zopo_fast.cli.optimize_runner import EXIT_INPUT, EXIT_INTERRUPTED
from zopo_fast.cli.serve import serve
from zopo_fast.errors import ZopoError


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
cli.add_command(generate)
cli.add_command(landscape)
cli.add_command(bench)
cli.add_command(serve)
