"""What the terminal shows while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import click

if TYPE_CHECKING:
    from zopo_fast.runs.result import Trial


class Progress:
    """A bar over the budget with best score, calls and tokens; the library adds the time left.

    The budget is in prompts, or in a race in examples scored.
    """

    _WORDS: ClassVar = {
        "generating": "Generating prompts ...",
        "embedding": "Embedding the pool ...",
        "random sample": "Scoring a random sample for comparison ...",
        "comparison": "Scoring the held-out examples ...",
    }

    def __init__(self, budget: int, quiet: bool, racing: bool = False) -> None:
        self._budget, self._quiet = budget, quiet
        self._counted: dict[int, int] | None = {} if racing else None  # examples, by prompt
        self.done = 0  # of the budget, before the bar begins
        self._bar: Any = None

    def phase(self, name: str) -> None:
        """Start the bar with the search, so that its estimate counts nothing else; end it after."""
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
            click.echo(self._WORDS[name], err=True)

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
        """Begin where the trials of an earlier run have led."""
        if self._counted is None:
            self.done = sum(trial.score is not None for trial in trials)
            return
        for trial in trials:
            self._counted[trial.index] = max(self._counted.get(trial.index, 0), len(trial.scores))
        self.done = sum(self._counted.values())

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._bar.clear()
        click.echo(text, err=True)
        self._bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
