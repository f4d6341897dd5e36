"""Progress of a run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import click

if TYPE_CHECKING:
    from zopo_fast.runs.result import Trial


class Progress:
    """Progress bar over the budget with best score, calls and tokens.

    Args:
        budget: Number of prompts, or of examples in a race.
        quiet: Show nothing.
        racing: Whether prompts race.
    """

    _MESSAGES: ClassVar = {
        "generating": "Generating prompts ...",
        "embedding": "Embedding the pool ...",
        "random sample": "Scoring a random sample for comparison ...",
        "comparison": "Scoring the held-out examples ...",
    }

    def __init__(self, budget: int, quiet: bool, racing: bool = False) -> None:
        self._budget, self._quiet = budget, quiet
        self._counted: dict[int, int] | None = {} if racing else None  # examples scored by prompt
        self.done = 0  # part of the budget that earlier runs have used
        self._bar: Any = None

    def phase(self, name: str) -> None:
        """Start the bar with the search, so that the estimated time covers the search alone; end it after."""
        if name == "search":
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._budget,
                initial=self.done,
                unit="prompt" if self._counted is None else "example",
                disable=self._quiet,
                dynamic_ncols=True,
            )
            return
        self.close()
        if not self._quiet:
            click.echo(self._MESSAGES[name], err=True)

    def show(self, trial: Trial) -> None:
        """Count a trial."""
        best = "-" if trial.best_score is None else f"{trial.best_score:.3f}"
        total = trial.total
        self._bar.set_postfix(best=best, calls=total.calls, tokens=total.total_tokens, refresh=False)
        if self._counted is None:
            self._bar.update()
            return
        before, now = self._counted.get(trial.index, 0), len(trial.scores)
        self._counted[trial.index] = max(before, now)
        self._bar.update(max(0, now - before))

    def resume(self, trials: Sequence[Trial]) -> None:
        """Count the trials of earlier runs."""
        if self._counted is None:
            self.done = sum(trial.score is not None for trial in trials)
            return
        for trial in trials:
            self._counted[trial.index] = max(self._counted.get(trial.index, 0), len(trial.scores))
        self.done = sum(self._counted.values())

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.clear()
        click.echo(text, err=True)
        self._bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
