"""One run of a sweep, in a process of its own: on this machine, or as a task on a node of a cluster."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import click

from zopo_fast import __version__
from zopo_fast._utils.signals import TerminatedError
from zopo_fast.cli.group import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED, exit_code, load_command
from zopo_fast.errors import LimitReachedError, StoreBusyError, StoreError, ZopoError

LOCK_WAIT = 180.0
"""Seconds to wait for a study whose last process is dead: a network file system frees its lock after 90."""
_LOCK_POLL = 0.25


@dataclass(frozen=True)
class Amounts:
    """Calls, tokens and cost: spent, or allowed in total; None where nothing limits them."""

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None


NOTHING = Amounts(0, 0, 0.0)


@dataclass(frozen=True)
class Work:
    """Order to make or resume one run.

    Attributes:
        name: Name of the run.
        task: File or folder of the task.
        options: Options of `optimize` by the name of the parameter.
        folder: Folder of the run.
        log: File that takes what the run prints.
        working_folder: Folder that relative paths start from.
        allowance: Limits of the run in total, earlier attempts included.
        deadline: End of the run in seconds since the epoch; None: no limit.
        version: Version of the package that gave the order.
    """

    name: str
    task: str
    options: dict[str, Any]
    folder: Path
    log: Path
    working_folder: Path
    allowance: Amounts
    deadline: float | None = None
    version: str = __version__


@dataclass(frozen=True)
class Outcome:
    """End of a run.

    Attributes:
        code: Exit code as `optimize` would return it.
        error: Message of the error; None where there is none.
        limit: Limit that ended the run before it had results.
        spent: Spending of the study; None where it could not be read.
    """

    code: int
    error: str | None = None
    limit: str | None = None
    spent: Amounts | None = None


def execute(work: Work) -> Outcome:
    """Make or resume a run; an error is part of the outcome."""
    if work.version != __version__:
        versions = f"zopo_fast is {__version__} here, and {work.version} where the sweep runs"
        return Outcome(EXIT_INPUT, f"{platform.node()}: {versions}; install the same")
    try:
        os.chdir(work.working_folder)
        work.log.parent.mkdir(parents=True, exist_ok=True)
        log = work.log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as error:
        return Outcome(
            EXIT_INPUT,
            f"{platform.node()}: {error}; all nodes must see the same folders under the same paths",
        )
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        at = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"--- {at}: {work.name} on {platform.node()}, process {os.getpid()}", flush=True)
        outcome = _attempt(work, log)
        if outcome.error is not None:
            click.echo(f"Error: {outcome.error}")
        return replace(outcome, spent=spent_in(work.folder))


def _attempt(work: Work, log: IO[str]) -> Outcome:
    from zopo_fast.cli.terminal.log_lines import warning_lines

    optimize = load_command("optimize")
    try:
        defaults = {
            **work.options,
            **_limits(work),
            "out": str(work.folder),
            "resume_or_start": True,
            "quiet": True,
        }
        with (
            warning_lines(),
            optimize.make_context("zopo-fast optimize", [work.task], default_map=defaults) as context,
        ):
            return Outcome(optimize.invoke(context))
    except LimitReachedError as error:
        return Outcome(0, limit=error.limit)
    except ZopoError as error:
        return Outcome(exit_code(error), str(error))
    except click.ClickException as error:
        return Outcome(error.exit_code, error.format_message())
    except (KeyboardInterrupt, click.Abort) as end:
        return Outcome(EXIT_TERMINATED if isinstance(end, TerminatedError) else EXIT_INTERRUPTED)
    except Exception as error:  # a metric of the user, for one: the other runs continue
        traceback.print_exc(file=log)
        return Outcome(EXIT_INPUT, f"{type(error).__name__}: {error}")


def _limits(work: Work) -> dict[str, Any]:
    """Return the limits of the run, and store them in its study, where they replace those of before.

    Raises:
        LimitReachedError: The time is up.
        StoreError: The study cannot be used.
    """
    from zopo_fast.runs.resume import spent

    allowance = work.allowance
    limits: dict[str, Any] = {
        "limit_calls": allowance.calls, "limit_tokens": allowance.tokens, "limit_cost": allowance.cost,
        "limit_seconds": None,
    }  # fmt: skip
    left = None if work.deadline is None else work.deadline - time.time()
    if left is not None and left <= 0:
        raise LimitReachedError("the limit of seconds is reached", "time")
    with _opened(work.folder) as store:
        if left is not None:
            limits["limit_seconds"] = left + (0.0 if store is None else spent(store)["seconds"])
        if store is not None:
            config = store.config
            store.put("config", {**config, "options": {**config.get("options", {}), **limits}})
    return {name: value for name, value in limits.items() if value is not None}


@contextlib.contextmanager
def _opened(folder: Path) -> Any:
    """Open the study of a run for a block; None where there is none.

    Waits while the study is in use: the process that has died may hold its lock for a while.

    Raises:
        StoreError: The study cannot be used.
    """
    from zopo_fast.storage.file import is_absent
    from zopo_fast.storage.store import STUDY, Store

    if is_absent(folder / STUDY):
        yield None
        return
    end = time.monotonic() + LOCK_WAIT
    while True:
        try:
            store = Store.open(folder / STUDY)
            break
        except StoreBusyError:
            if time.monotonic() > end:
                raise
            time.sleep(_LOCK_POLL)
    with store:
        yield store


def spent_in(folder: Path) -> Amounts | None:
    """Return what the study in a folder has spent; None where it cannot be read."""
    with contextlib.suppress(StoreError), _opened(folder) as store:
        return NOTHING if store is None else Amounts(*store.charged())
    return None
