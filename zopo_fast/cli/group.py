"""Command group: loads each command when it is needed, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import io
import sys

import click

from zopo_fast import __version__
from zopo_fast._utils.text import printable
from zopo_fast.errors import ZopoError

EXIT_INPUT, EXIT_INTERRUPTED = 2, 130

COMMANDS = ("optimize", "generate", "landscape", "bench", "serve")  # each in a module of its name


class LazyGroup(click.Group):
    """Group that imports the module of a command when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None


def load_command(name: str) -> click.Command:
    """Return one of `COMMANDS`."""
    command: click.Command = getattr(importlib.import_module(f"zopo_fast.cli.{name}"), name)
    return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
def cli() -> None:
    """Find the instruction that makes an LLM do a task best, in the fewest calls."""


def main() -> None:
    """Run the command line; an error of the package becomes one line on stderr and exit code 2."""
    from zopo_fast.cli.log_lines import warning_lines

    if isinstance(sys.stdout, io.TextIOWrapper):  # escape what the encoding of the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warning_lines():
            code = cli(standalone_mode=False)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        text = io.StringIO()  # the message quotes arguments or a configuration file
        error.show(text)
        click.echo(printable(text.getvalue()), err=True, nl=False)
        code = error.exit_code
    except ZopoError as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        code = EXIT_INPUT
    sys.exit(code)
