"""`zopo-fast sweep`: many runs of optimize on one machine or a cluster, with one table at the end."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.files import exists
from zopo_fast._utils.text import printable
from zopo_fast.cli.group import EXIT_INTERRUPTED, EXIT_LATER, EXIT_TERMINATED, load_command
from zopo_fast.cli.options import amount_options
from zopo_fast.cli.params import FILE, Command, default_help, defaults_of, option, read_toml
from zopo_fast.cli.sweep.config import SweepFile
from zopo_fast.errors import ConfigError, OutputError, ZopoError

if TYPE_CHECKING:
    from zopo_fast.cli.sweep.config import Run
    from zopo_fast.cli.sweep.rows import Row
    from zopo_fast.cli.sweep.schedule import Executor
    from zopo_fast.llm.limits import Limits
    from zopo_fast.runs.cost.estimate import Estimate

RETRIES = 3


def _read(context: click.Context, _: click.Parameter, path: Path) -> SweepFile:
    """Read the sweep file; the keys that are options of this command become their defaults."""
    file = SweepFile.of(path, read_toml(path))
    context.default_map = {**(context.default_map or {}), **defaults_of(context, file.own, str(path))}
    return file


@click.command(cls=Command, most_used=("out", "processes", "ray", "dry_run"))
@click.argument("file", metavar="FILE", type=FILE, is_eager=True, callback=_read)
@option(
    "--processes",
    group="Other",
    type=click.IntRange(1),
    help="Runs at a time." + default_help("cores of this machine, or CPUs of the Ray cluster"),
)
@option(
    "--ray",
    group="Other",
    metavar="ADDRESS",
    help="Ray cluster that makes the runs, or auto; needs the extra ray and a folder that all nodes see."
    + default_help("processes of this machine"),
)
@option(
    "--retries",
    group="Other",
    type=click.IntRange(0),
    default=RETRIES,
    show_default=True,
    help="Restarts of a run whose process or node dies.",
)
@amount_options
@option("--dry-run", group="Limits", is_flag=True, help="The runs and their bounds, without any call.")
@option(
    "--out",
    group="Output",
    type=FILE,
    help="Folder for runs/, logs/, report.html, sweep.json and sweep.csv." + default_help("name of FILE"),
)
@option("--quiet", group="Output", is_flag=True, help="No line for each run that ends.")
def sweep(file: SweepFile, **options: Any) -> int:
    """Make the runs of a sweep: tasks x models x seeds x settings.

    FILE is a TOML file: the tables [options], [tasks.NAME], [models.NAME] and [settings.NAME] hold options of
    optimize; seeds and the options of this command stand above them. The same command resumes a sweep.
    """
    from zopo_fast.llm.limits import Limits

    runs = file.runs(load_command("optimize"))
    limits = Limits(*(options[f"limit_{kind}"] for kind in ("calls", "tokens", "cost", "seconds")))
    bounds = _check(file, runs, options)
    if options["dry_run"]:
        for run, bound in zip(runs, bounds, strict=True):
            click.echo(f"{run.name}: {bound}")
        click.echo(f"{_plan(runs, bounds, limits)}. No call was made.")
        return 0
    if not options["quiet"]:
        click.echo(f"Plan: {_plan(runs, bounds, limits)}.", err=True)
    out = (options["out"] or file.path.with_suffix("")).absolute()
    return _make(runs, out, limits, options)


def _check(file: SweepFile, runs: list[Run], options: dict[str, Any]) -> list[Estimate]:
    """Check every run before any call is paid for; return the bounds of the runs.

    Raises:
        ConfigError: A run cannot work; the message names it.
    """
    from zopo_fast.cli.commands.optimize import planned

    command, bounds = load_command("optimize"), []
    cost = {} if options["limit_cost"] is None else {"limit_cost": options["limit_cost"]}
    notes = io.StringIO()
    for run in runs:
        try:
            with (
                contextlib.redirect_stderr(notes),
                command.make_context(
                    "zopo-fast optimize", [run.task], default_map={**run.options, **cost}
                ) as context,
            ):
                bounds.append(planned(context.params.pop("task"), context.params).estimate())
        except (ZopoError, click.ClickException) as error:
            text = error.format_message() if isinstance(error, click.ClickException) else str(error)
            raise ConfigError(f"{file.path}: run {run.name}: {text}") from error
    for line in dict.fromkeys(notes.getvalue().splitlines()):
        click.echo(line, err=True)
    return bounds


def _plan(runs: list[Run], bounds: list[Estimate], limits: Limits) -> str:
    text = f"{len(runs)} runs, at most {sum(bound.calls for bound in bounds)} calls"
    prices = [bound.price for bound in bounds if bound.price is not None]
    text += f", at most {sum(prices):.4f} in money" if len(prices) == len(bounds) else ""
    given = [
        f"{value:g} {kind}" for kind, value in vars(limits).items() if value is not None
    ]  # "cost" in the unit of the prices
    return text + (f"; limits: {', '.join(given)}" if given else "")


def _make(runs: list[Run], out: Path, limits: Limits, options: dict[str, Any]) -> int:
    """Make the runs, then write and print their table; return the exit code."""
    from zopo_fast.cli.sweep.ledger import Ledger
    from zopo_fast.cli.sweep.schedule import Schedule

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written: {error.strerror}") from error

    def show(row: Row, done: int, total: int) -> None:
        if not options["quiet"]:
            reason = row.stopped_by if row.error is None else row.error
            click.echo(f"{done}/{total} complete; {printable(f'{row.run}: {reason}')}", err=True)

    code = 0
    with contextlib.closing(Ledger(out, limits)) as ledger:
        with contextlib.closing(_executor(options)) as executor:
            schedule = Schedule(runs, out, executor, ledger, show)

            def stop(number: int) -> None:
                nonlocal code
                code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
                click.echo("Stopping; press Ctrl-C again to force it.", err=True)
                schedule.stop()

            with _signals(stop):
                schedule.run()
        _report(list(schedule.rows.values()), out)
    if any(not row.is_complete for row in schedule.rows.values()):
        click.echo("The same command resumes the sweep without repeating a call.", err=True)
    return code or _exit_code(list(schedule.rows.values()))


def _executor(options: dict[str, Any]) -> Executor:
    if options["ray"] is not None:
        from zopo_fast.cli.sweep.ray import RayTasks

        return RayTasks(options["ray"], options["processes"], options["retries"])
    from zopo_fast.cli.sweep.local import LocalProcesses

    return LocalProcesses(options["processes"], options["retries"])


def _report(rows: list[Row], out: Path) -> None:
    """Write the files of the sweep and print its table."""
    from zopo_fast.cli.sweep.rows import ordered, save, table
    from zopo_fast.cli.terminal.look import terminal_look
    from zopo_fast.report.output import write_page
    from zopo_fast.report.study import Study
    from zopo_fast.runs.folder import REPORT, RESULT
    from zopo_fast.storage.store import STUDY

    rows = ordered(rows)
    try:
        save(rows, out)
        with contextlib.ExitStack() as opened:
            folders = [out / "runs" / row.run for row in rows]
            files = [folder / STUDY for folder in folders if exists(folder / RESULT)]
            if studies := [opened.enter_context(Study.open(path)) for path in files]:
                write_page(studies, out / REPORT)
    except ZopoError as error:
        click.echo(f"Left out: {printable(str(error))}", err=True)
    click.echo(table(rows, terminal_look()))
    for row in rows:
        if row.error is not None:
            click.echo(f"Error: {printable(f'{row.run}: {row.error}')}", err=True)
    click.echo(f"\nWritten to {printable(str(out))}")
    if exists(out / REPORT):
        click.echo(f"Report: {printable(str(out / REPORT))}")


def _exit_code(rows: list[Row]) -> int:
    """Return 0 where no run failed, EXIT_LATER where a repetition may help, else the code of a run."""
    codes = {row.code for row in rows if row.code}
    return EXIT_LATER if EXIT_LATER in codes else max(codes, default=0)


@contextlib.contextmanager
def _signals(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Call `on_signal` at the first SIGINT or SIGTERM in a block; the next one acts as before.

    Raising at any point could lose a run that has just started or ended.
    """

    def first(number: int, _: object) -> None:
        restore()
        on_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        restore()
