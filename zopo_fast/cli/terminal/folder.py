"""Lines that name the folder of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zopo_fast._utils.files import exists
from zopo_fast._utils.text import printable

if TYPE_CHECKING:
    from pathlib import Path


def show_folder(path: Path, has_report: bool = True) -> None:
    """Print the folder of a run and, where it holds one, the page to open.

    Args:
        path: Folder of the run.
        has_report: False if the page could not be written: one in the folder is out of date.
    """
    from zopo_fast.runs.folder import REPORT

    click.echo(f"\nWritten to {printable(str(path))}")
    if has_report and exists(path / REPORT):
        click.echo(f"Report: {printable(str(path / REPORT))}")
