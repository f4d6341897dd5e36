"""Progress of a command: a bar above the best prompt so far on a terminal, else a line at intervals."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from zopo_fast._utils.columns import shorten
from zopo_fast.cli.terminal.look import COLUMNS
from zopo_fast.llm.types import Usage
from zopo_fast.runs.progress import PHASES, BestSoFar, PhaseBar

if TYPE_CHECKING:
    from zopo_fast.runs.result import Trial

SECONDS = 10.0
"""Seconds between two lines where stderr is no terminal."""
_PROMPT_COLUMNS = 60  # of the best prompt in such a line


def used(*models: Any) -> Usage:
    """Return the usage of models so far; of None, and of a model without usage, none."""
    return sum((getattr(model, "usage", Usage()) for model in models), Usage())


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
        self._best = BestSoFar()
        self._began = clock()
        self._bar: PhaseBar | None = None
        self._best_line: Any = None
        self._ending = threading.Event()
        self._lines: threading.Thread | None = None

    # ---- events of a run ---------------------------------------------------------------------------

    def phase(self, name: str) -> None:
        """Start a phase, which ends the one before."""
        self._end_phase()
        self._name, self._done, self._total, self._began = name, 0, 0, self._clock()
        if self._quiet:
            return
        click.echo(f"{PHASES[name].message} ...", err=True)
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

            self._bar = PhaseBar(tqdm, done, total, unit=self._unit_of(name))
        usage = self.usage()
        self._bar.update(done, total, f"{usage.calls} calls, {usage.total_tokens} tokens")
        self._show_best()

    def show(self, trial: Trial) -> None:
        """Take the best score so far, and its prompt, from a trial."""
        self._best.take(trial)
        self._show_best()

    def resume(self, trials: Sequence[Trial], earlier: Usage | None = None) -> None:
        """Continue from earlier runs.

        Args:
            trials: Trials of the earlier runs.
            earlier: Usage of the earlier runs, that of the comparison included; None: that of the trials.
        """
        before = earlier or (trials[-1].total if trials else Usage())
        now = self.usage
        self.usage = lambda: before + now()
        for trial in trials:
            self._best.take(trial)

    # ---- output ------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.tqdm.write(text, file=sys.stderr)

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
        return self._unit if name == "search" else PHASES[name].unit

    def _show_best(self) -> None:
        """Show the best prompt so far in the line below the bar, cut to the width of the terminal."""
        if self._bar is None or self._best.score is None:
            return
        columns = self._bar.tqdm.format_dict["ncols"] or COLUMNS
        text = self._best.line(columns)
        if self._best_line is None:
            self._best_line = type(self._bar.tqdm)(
                total=0, desc=text, bar_format="{desc}", position=1, leave=False, dynamic_ncols=True
            )
        elif text != self._best_line.desc:
            self._best_line.set_description_str(text)

    def _line(self) -> str:
        usage, unit = self.usage(), self._unit_of(self._name)
        best = "-"
        if self._best.score is not None:
            best = f'{self._best.score:.3f} ("{shorten(self._best.prompt, _PROMPT_COLUMNS)}")'
        return (
            f"{self._name}: {self._done}/{self._total or '?'} {unit}s, best {best}, "
            f"{usage.calls} calls, {usage.total_tokens} tokens, {self._clock() - self._began:.0f} s"
        )

    def _end_phase(self) -> None:
        if self._best_line is not None:
            self._best_line.close()  # first: the bar above moves the cursor below itself
            self._best_line = None
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
