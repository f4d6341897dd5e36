"""`zopo-fast bench`: microbenchmarks of this package beside its peers, on this machine."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from zopo_fast.cli.options import FILE

QUICK_SECONDS, SECONDS = 0.3, 10.0  # for one comparison


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="Small inputs, few rounds: all questions in under a minute.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"Time for one comparison.  [default: {SECONDS:g}; {QUICK_SECONDS:g} with --quick]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all inputs.")
@click.option(
    "--out",
    type=FILE,
    help="Folder for the results.  [default: bench/results in a source checkout, its subfolder quick with "
    "--quick; else bench-results]",
)
@click.option("--list", "listing", is_flag=True, help="List the questions and end.")
def bench(
    names: tuple[str, ...], quick: bool, seconds: float | None, seed: int, out: Path | None, listing: bool
) -> int:
    """Measure this package beside its peers, here and now: NAMEs, or everything there is to ask.

    Peers that are not installed are left out: pip install zopo-fast[bench].
    """
    runner = _part("runner")
    if listing:
        for name in runner.chosen(names):
            click.echo(f"{name:12} {runner.question(name)}")
        return 0
    settings = _part("harness").Settings(
        quick=quick, seed=seed, seconds=seconds or (QUICK_SECONDS if quick else SECONDS)
    )
    folder = out or default_folder(quick)
    failed = runner.run(names, settings, folder, show=click.echo)
    click.echo(f"\nResults in {folder}")
    if failed:
        click.echo(f"Failed: {', '.join(failed)}", err=True)
    return 1 if failed else 0


def default_folder(quick: bool) -> Path:
    """Return where results go unless told otherwise.

    In a checkout a quick run has a folder of its own: it must not take the place of a full run's results.
    """
    if Path("bench/common/runner.py").exists() and Path("pyproject.toml").exists():
        return Path("bench/results/quick") if quick else Path("bench/results")
    return Path("bench-results")


def _part(name: str) -> Any:
    return importlib.import_module(f"zopo_fast.bench.common.{name}")  # only now: it loads the native module
