"""`zopo-fast report`: the page of a run, or the comparison of several."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from zopo_fast._utils.text import printable
from zopo_fast.cli.commands.show import study_file
from zopo_fast.cli.params import FILE, Command, option
from zopo_fast.errors import InputError


@click.command(cls=Command)
@click.argument("folders", metavar="DIR...", type=FILE, nargs=-1, required=True)
@option(
    "--out",
    group="Output",
    type=FILE,
    metavar="FILE",
    help="File of the page. [default: report.html in DIR; for several, comparison.html here]",
)
def report(folders: tuple[Path, ...], out: Path | None) -> int:
    """Write the page of the run in DIR; of several runs, write their comparison.

    DIR is the folder of --out, or a study file. The page is one file that opens without a network. A run in
    progress can be shown too.
    """
    from zopo_fast.report.output import write_page
    from zopo_fast.report.study import Study
    from zopo_fast.runs.folder import REPORT

    files = [study_file(folder) for folder in folders]
    target = out or (files[0].parent / REPORT if len(files) == 1 else Path("comparison.html"))
    if target.is_dir():
        raise InputError(f"--out {target}: is a folder; give the name of a file in it")
    with ExitStack() as opened:
        studies = [opened.enter_context(Study.open(file)) for file in files]
        size = write_page(studies, target)
    click.echo(f"Report: {printable(str(target))} ({size / 1e6:.1f} MB)")
    return 0
