"""Reference of the command line in Markdown, from the options themselves.

The help of each command is formatted by a formatter that writes tables. Groups, defaults and their order are
therefore those of `--help`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from zopo_fast.cli.group import COMMANDS, cli, load_command

_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


class TableFormatter(click.HelpFormatter):
    """Formatter that writes each section of a help as a table in Markdown."""

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.write(f"\n### {name}\n")
        yield

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: Any, **__: Any) -> None:
        self.write("\n| option | meaning |\n|---|---|\n")
        for term, text in rows:
            said = _OPTION.sub(r"`\g<0>`", escaped(text))
            self.write(f"| `{term}` | {said} |\n")


def reference() -> str:
    """Return the sections of all commands."""
    root = click.Context(cli, info_name="zopo-fast")
    return "\n".join(_command(name, load_command(name), root) for name in COMMANDS)


def _command(name: str, command: click.Command, root: click.Context) -> str:
    context = command.context_class(command, info_name=name, parent=root)
    formatter = TableFormatter()
    command.format_options(context, formatter)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = re.sub(r"^### (.+)$", rf"### \1 {{ #{name}-\1 }}", formatter.getvalue(), flags=re.MULTILINE)
    options = re.sub(r"\{ #[^}]+\}", lambda anchor: _slug(anchor[0]), options)
    about = re.sub(r"^ {4,}", "", inspect.cleandoc(command.help or ""), flags=re.MULTILINE)
    return f"## zopo-fast {name}\n\n```text\n{usage}\n```\n\n{escaped(about)}\n{options}"


def _slug(anchor: str) -> str:
    return "{ #" + anchor[3:-2].strip().lower().replace(" ", "-").removeprefix("#") + " }"


def escaped(text: str) -> str:
    """Return a text in which Markdown, attribute lists and HTML find nothing of theirs."""
    return re.sub(r"[&<>|{}*_`\[\]\\]", lambda sign: f"&#{ord(sign[0])};", text)
