"""Warnings of the package's loggers as lines on stderr, above the progress bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from zopo_fast._utils.text import printable


class _Lines(logging.Handler):
    """Handler that prints each message once: a client for each phase of a run may say the same."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = printable(self.format(record))
            if line in self._shown:
                return
            self._shown.add(line)
            if "tqdm" in sys.modules:
                from tqdm import tqdm

                tqdm.write(line, file=sys.stderr)  # moves a bar below the line
            else:
                click.echo(line, err=True)
        except Exception:  # as the handlers of `logging` do: a log line must not end the run
            self.handleError(record)


@contextmanager
def warning_lines() -> Iterator[None]:
    """Print warnings while the block runs.

    The handler is that of the root logger: `serve` writes its logs by loggers that do not propagate.
    """
    handler = _Lines()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
