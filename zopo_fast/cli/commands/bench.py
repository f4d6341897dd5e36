"""`zopo-fast bench`: microbenchmarks of this package and its peers on this machine."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from zopo_fast.cli.params import FILE

QUICK_SECONDS, SECONDS = 0.3, 10.0  # for one comparison


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="Small inputs and few rounds: every question in under a minute.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"Seconds for one comparison.  [default: {SECONDS:g}; {QUICK_SECONDS:g} with --quick]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all inputs.")
@click.option(
    "--out",
    type=FILE,
    help="Folder for the results.  [default: bench/results in a source checkout, its subfolder quick with "
    "--quick; else bench-results]",
)
@click.option("--list", "listing", is_flag=True, help="List of the questions, without running any.")
def bench(
    names: tuple[str, ...], quick: bool, seconds: float | None, seed: int, out: Path | None, listing: bool
) -> int:
    """Compare this package with its peers on this machine.

    Asks the questions NAME, by default all. Peers that are not installed are left out;
    `pip install zopo-fast[bench]` installs them.
    """
    runner = _bench_module("runner")
    if listing:
        for name in runner.chosen(names):
            click.echo(f"{name:12} {runner.question(name)}")
        return 0
    settings = _bench_module("harness").Settings(
        quick=quick, seed=seed, seconds=seconds or (QUICK_SECONDS if quick else SECONDS)
    )
    folder = out or default_folder(quick)
    failed = runner.run(names, settings, folder, show=click.echo)
    click.echo(f"\nResults in {folder}")
    if failed:
        click.echo(f"Failed: {', '.join(failed)}", err=True)
    return 1 if failed else 0


def default_folder(quick: bool) -> Path:
    """Return the default folder of the results.

    In a source checkout a quick run has its own folder and does not replace the results of a full run.
    """
    if Path("bench/common/runner.py").exists() and Path("pyproject.toml").exists():
        return Path("bench/results/quick") if quick else Path("bench/results")
    return Path("bench-results")


def _bench_module(name: str) -> Any:
    return importlib.import_module(f"zopo_fast.bench.common.{name}")  # lazily: loads the native module
