"""Progress of a command: a bar for each phase on a terminal, else a line at intervals."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import click

from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.runs.result import Trial

SECONDS = 10.0
"""Seconds between two lines where stderr is no terminal."""


def used(*models: Any) -> Usage:
    """Return the usage of models so far; of None, and of a model without usage, none."""
    return sum((getattr(model, "usage", Usage()) for model in models), Usage())


class _Phase(NamedTuple):
    message: str
    unit: str


class Progress:
    """Progress of the phases of a command on stderr.

    Args:
        quiet: Show nothing.
        is_terminal: stderr is a terminal, so that a bar is shown; None: ask it.
        unit: What the search counts.
        clock: Time in seconds.

    Attributes:
        usage: Returns calls and tokens so far.
    """

    PHASES: ClassVar = {
        "generating": _Phase("Generating prompts", "answer"),
        "embedding": _Phase("Embedding the pool", "prompt"),
        "search": _Phase("Scoring prompts", "example"),
        "random sample": _Phase("Scoring a random sample for comparison", "example"),
        "comparison": _Phase("Scoring the held-out examples", "example"),
    }

    def __init__(
        self,
        quiet: bool,
        *,
        is_terminal: bool | None = None,
        unit: str = "example",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.usage: Callable[[], Usage] = Usage
        self._quiet, self._unit, self._clock = quiet, unit, clock
        self._has_bar = sys.stderr.isatty() if is_terminal is None else is_terminal
        self._name = ""
        self._done, self._total = 0, 0
        self._best: float | None = None
        self._began = clock()
        self._bar: Any = None
        self._ending = threading.Event()
        self._lines: threading.Thread | None = None

    # ---- events of a run ---------------------------------------------------------------------------

    def phase(self, name: str) -> None:
        """Start a phase, which ends the one before."""
        self._end_phase()
        self._name, self._done, self._total, self._began = name, 0, 0, self._clock()
        if self._quiet:
            return
        click.echo(f"{self.PHASES[name].message} ...", err=True)
        if not self._has_bar and self._lines is None:
            self._lines = threading.Thread(target=self._tick_until_end, name="progress", daemon=True)
            self._lines.start()

    def update(self, name: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of a phase are done; both may shrink, as failed work does."""
        self._done, self._total = done, total
        if self._quiet or not self._has_bar or name != self._name:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit=self._unit_of(name), dynamic_ncols=True)
        self._bar.total = total
        self._bar.set_postfix(self._facts(), refresh=False)
        if done < self._bar.n:
            self._bar.n = done
            self._bar.refresh()
        self._bar.update(done - self._bar.n)

    def show(self, trial: Trial) -> None:
        """Take the best score so far from a trial."""
        self._best = trial.best_score

    def resume(self, trials: Sequence[Trial], earlier: Usage | None = None) -> None:
        """Continue from earlier runs.

        Args:
            trials: Trials of the earlier runs.
            earlier: Usage of the earlier runs, that of the comparison included; None: that of the trials.
        """
        before = earlier or (trials[-1].total if trials else Usage())
        now = self.usage
        self.usage = lambda: before + now()
        if trials:
            self._best = trials[-1].best_score

    # ---- output ------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, err=True)
        if self._bar is not None:
            self._bar.refresh()

    def tick(self) -> None:
        """Print the state of the phase as one line."""
        if self._name:
            click.echo(self._line(), err=True)

    def close(self) -> None:
        """End the last phase."""
        self._end_phase()
        self._ending.set()
        if self._lines is not None:
            self._lines.join()
            self._lines = None

    # ---- internals ---------------------------------------------------------------------------------

    def _unit_of(self, name: str) -> str:
        return self._unit if name == "search" else self.PHASES[name].unit

    def _facts(self) -> dict[str, str]:
        usage = self.usage()
        best = "-" if self._best is None else f"{self._best:.3f}"
        return {"best": best, "calls": str(usage.calls), "tokens": str(usage.total_tokens)}

    def _line(self) -> str:
        facts, unit = self._facts(), self._unit_of(self._name)
        seconds = self._clock() - self._began
        return (
            f"{self._name}: {self._done}/{self._total or '?'} {unit}s, best {facts['best']}, "
            f"{facts['calls']} calls, {facts['tokens']} tokens, {seconds:.0f} s"
        )

    def _end_phase(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._name and not self._quiet and not self._has_bar:
            end = "done" if self._done >= self._total else "ended"
            click.echo(f"{self._line()}, {end}", err=True)
        self._name = ""

    def _tick_until_end(self) -> None:
        while not self._ending.wait(SECONDS):
            self.tick()
