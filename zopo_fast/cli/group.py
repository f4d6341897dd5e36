"""Command group: loads each command when it is needed, and turns errors into messages and exit codes.

Exit codes, which scripts of batch systems rely on:

    0    done
    1    `check`: the score is below the threshold
    2    invalid input, or a run that cannot work: wrong key, unknown model, every prompt failed
    75   try again later (EX_TEMPFAIL): endpoint down, rate limit or quota of the provider, study in use
    130  interrupted by Ctrl-C
    143  terminated by SIGTERM, in order
"""

from __future__ import annotations

import importlib
import io
import sys

import click

from zopo_fast import __version__
from zopo_fast._utils.signals import TerminatedError
from zopo_fast._utils.text import printable
from zopo_fast.errors import (
    AuthenticationError,
    LLMError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    StoreBusyError,
    UnreachableError,
    ZopoError,
)

EXIT_BELOW, EXIT_INPUT, EXIT_LATER, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 75, 130, 143
EPILOG = (
    "Exit codes: 0 done, 1 check below its threshold, 2 invalid input, 75 try again later (endpoint down, "
    "limit of the provider), 130 interrupted, 143 terminated. Shell completion: see docs/command_line.md."
)
_LATER = (
    UnreachableError, RequestTimeoutError, ServerError, RateLimitError, StoreBusyError
)  # fmt: skip

# Each in a module of its name.
COMMANDS = ("optimize", "show", "report", "check", "generate", "landscape", "sweep", "bench", "serve")


class LazyGroup(click.Group):
    """Group that imports the module of a command when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None


def load_command(name: str) -> click.Command:
    """Return one of `COMMANDS`."""
    command: click.Command = getattr(importlib.import_module(f"zopo_fast.cli.commands.{name}"), name)
    return command


def exit_code(error: Exception) -> int:
    """Return the exit code of an error: EXIT_LATER where the same command may succeed later."""
    if isinstance(error, LLMError):
        if error.concerns == "call":
            return EXIT_INPUT
        is_quota = error.concerns == "account" and not isinstance(error, AuthenticationError)
        return EXIT_LATER if is_quota or isinstance(error, _LATER) else EXIT_INPUT
    return EXIT_LATER if isinstance(error, _LATER) else EXIT_INPUT


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
def cli() -> None:
    """Find the instruction that makes an LLM do a task best, in the fewest calls."""


def main() -> None:
    """Run the command line; an error of the package becomes one line on stderr and an exit code."""
    from zopo_fast.cli.terminal.log_lines import warning_lines

    if isinstance(sys.stdout, io.TextIOWrapper):  # escape what the encoding of the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warning_lines():
            code = cli(standalone_mode=False)
    except click.Abort as abort:
        is_terminated = isinstance(abort.__cause__, TerminatedError)
        click.echo("Terminated." if is_terminated else "Interrupted.", err=True)
        code = EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED
    except click.ClickException as error:
        text = io.StringIO()  # the message quotes arguments or a configuration file
        error.show(text)
        click.echo(printable(text.getvalue()), err=True, nl=False)
        code = error.exit_code
    except ZopoError as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        code = exit_code(error)
    sys.exit(code)
