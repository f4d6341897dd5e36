"""Schedule of a sweep: starts its runs, divides its limits among them and collects what they return."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from zopo_fast.cli.group import exit_code
from zopo_fast.cli.sweep.config import Run
from zopo_fast.cli.sweep.ledger import Ledger
from zopo_fast.cli.sweep.rows import Row, row_of
from zopo_fast.cli.sweep.worker import Outcome, Work
from zopo_fast.errors import StoreError

_POLL = 0.5  # seconds between two looks at the clock


class Executor(Protocol):
    """Processes that make runs; each is repeated where its process dies."""

    def slots(self) -> int:
        """Return the number of runs that may be under way at a time."""

    def start(self, work: Work) -> None:
        """Start a run."""

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Return the names and outcomes of the runs that have ended, after at most `seconds`."""

    def stop(self) -> None:
        """Ask all runs to end in order."""

    def close(self) -> None:
        """Kill the runs that are left, and free what the executor holds."""


class Schedule:
    """One command's work on a sweep.

    Args:
        runs: Runs of the sweep, in the order of its file.
        out: Folder of the sweep.
        executor: Processes that make the runs.
        ledger: Spending and limits of the sweep.
        on_end: Called with the row of a run that has ended, and the numbers of runs done and in all.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        out: Path,
        executor: Executor,
        ledger: Ledger,
        on_end: Callable[[Row, int, int], None],
    ) -> None:
        self._runs = {run.name: run for run in runs}
        self._out, self._executor, self._ledger, self._on_end = out, executor, ledger, on_end
        for run in runs:
            ledger.require_same(run.name, run.identity)
        self.rows = {run.name: row_of(run, self.folder(run.name)) for run in runs}
        self._running: set[str] = set()
        self._is_stopping = False
        left = ledger.seconds_left
        self._deadline = None if left is None else time.time() + left

    def folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self._out / "runs" / name

    def run(self) -> None:
        """Make all runs that are not complete.

        What ended runs have left of a limit is divided again among the runs that the limit has stopped. Once
        a division has completed no run, one of them after the other takes all.
        """
        waiting = deque(name for name, row in self.rows.items() if not row.is_complete)
        is_shared = True
        while waiting:
            before = self._complete()
            self._round(waiting, is_shared)
            if not is_shared or self._is_late() or self._is_stopping:
                return
            is_shared = self._complete() > before
            waiting = deque(name for name, row in self.rows.items() if row.is_limited)

    def _round(self, waiting: deque[str], is_shared: bool) -> None:
        """Start each waiting run once, and wait for all."""
        while waiting or self._running:
            if self._is_stopping:
                waiting.clear()
                self._executor.stop()
            slots = self._executor.slots() if is_shared else 1
            while waiting and len(self._running) < slots and not self._is_late():
                name = waiting.popleft()
                self._start(name, len(waiting) + 1 if is_shared else 1)
            if self._is_late():
                for name in waiting:
                    self.rows[name] = row_of(self._runs[name], self.folder(name), Outcome(0, limit="time"))
                waiting.clear()
            self._collect()

    def _start(self, name: str, among: int) -> None:
        run = self._runs[name]
        try:
            allowance = self._ledger.grant(name, among, run.identity)
        except StoreError as error:
            self.rows[name] = row_of(run, self.folder(name), Outcome(exit_code(error), str(error)))
            return
        if allowance is None:
            left = self._ledger.left()
            kind = next(kind for kind in ("calls", "tokens", "cost") if getattr(left, kind) == 0)
            self.rows[name] = row_of(run, self.folder(name), Outcome(0, limit=kind))
            return
        log = self._out / "logs" / f"{name}.log"
        work = Work(
            name, run.task, run.options, self.folder(name), log, Path.cwd(), allowance, self._deadline
        )
        self._running.add(name)
        self._executor.start(work)

    def _collect(self) -> None:
        for name, outcome in self._executor.wait(_POLL):
            self._running.discard(name)
            self._ledger.settle(name, outcome.spent)
            self.rows[name] = row_of(self._runs[name], self.folder(name), outcome)
            self._on_end(self.rows[name], self._complete(), len(self.rows))
        self._ledger.tick()

    def stop(self) -> None:
        """Let `run` ask the runs under way to end in order, and return then; for signal handlers."""
        self._is_stopping = True

    def _is_late(self) -> bool:
        return self._ledger.seconds_left == 0

    def _complete(self) -> int:
        return sum(row.is_complete for row in self.rows.values())
