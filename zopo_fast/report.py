"""What a run leaves behind: its folder, and its summary for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import MissingDependencyError, OutputError
from .files import exists, reason
from .pool import Pool
from .result import HeldOut, Result, Trial
from .text import json_line, printable

__all__ = ["RunFolder", "plot_curve", "printable", "summary"]

TRIALS, RESULT, BEST, CURVE = "trials.jsonl", "result.json", "best_prompt.txt", "curve.png"
POOL = "pool.jsonl"


class RunFolder:
    """The folder of one run, made before the first call so that nothing is paid for and then lost.

    Raises:
        OutputError: it cannot be written, or already holds a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._made = not exists(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            held = [name for name in (TRIALS, RESULT, BEST, CURVE, POOL) if exists(self.path / name)]
            if held:
                raise OutputError(f"{self.path}: already holds a run ({held[0]}); give another folder")
            self._trials: IO[str] = (self.path / TRIALS).open("x", encoding="utf-8")
            self._scored = False
        except OutputError:
            raise
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path}: cannot be written: {reason(error)}") from error

    def add(self, trial: Trial) -> None:
        """Append a trial to trials.jsonl; it is in the file when this returns."""
        row = asdict(trial)
        for redundant in ("best_score", "total"):
            del row[redundant]
        self._write(json_line(row))
        self._scored |= trial.score is not None

    def _write(self, line: str) -> None:
        try:
            self._trials.write(line)
            self._trials.flush()
        except (OSError, UnicodeError) as error:
            raise OutputError(f"{self.path / TRIALS}: cannot be written: {error}") from error

    def finish(self, result: Result, settings: dict[str, Any]) -> list[str]:
        """Write best_prompt.txt, result.json and curve.png; return what had to be left out, and why."""
        self._trials.close()
        document = {**result.to_dict(), "settings": settings}
        try:
            (self.path / BEST).write_text(result.best_prompt + "\n", encoding="utf-8", errors="replace")
            text = json.dumps(document, ensure_ascii=False, indent=2, default=str)
            (self.path / RESULT).write_text(text + "\n", encoding="utf-8", errors="replace")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        try:
            plot_curve(result.trials, self.path / CURVE)
        except Exception as error:  # a picture must not cost a run that is paid for its summary
            return [f"{CURVE}: {error}"]
        return []

    def keep_pool(self, pool: Pool) -> None:
        """Write pool.jsonl: prompts that a model wrote are paid for, whatever comes after."""
        pool.save(self.path / POOL)

    def close(self) -> None:
        """Close the trials file; remove it, and the folder made for it, when no prompt was scored.

        Nothing is lost by that, and the folder does not stand in the way of another try.
        """
        if self._trials.closed:
            return
        self._trials.close()
        if not self._scored:
            with suppress(OSError):
                (self.path / TRIALS).unlink(missing_ok=True)
                if self._made:
                    self.path.rmdir()


def plot_curve(trials: Sequence[Trial], path: Path) -> None:
    """Draw score and best so far against prompts scored, to a PNG file."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError('needs matplotlib: pip install "zopo-fast[plot]"') from None
    scored = [t for t in trials if t.score is not None]
    means = np.array([t.score for t in scored], dtype=np.float64)
    partial = np.array([t.partial for t in scored], dtype=bool)
    best = np.maximum.accumulate(np.where(partial, -np.inf, means))
    numbers = list(range(1, len(scored) + 1))
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no global state
    axes = figure.add_subplot()
    axes.plot(numbers, np.where(partial, np.nan, means), ".", color="0.6", label="score of the prompt")
    if partial.any():
        axes.plot(numbers, np.where(partial, means, np.nan), "x", color="0.8", label="given up: score so far")
    axes.step(numbers, np.where(np.isinf(best), np.nan, best), where="post", color="C0", label="best so far")
    axes.set_xlabel("prompts scored")
    axes.set_ylabel("train score")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


STOPPED = {
    "budget": "the budget is spent",
    "pool": "every prompt of the pool is scored",
    "perfect": "a perfect score",
    "target": "the target is reached",
    "interrupted": "interrupted; these are the results so far",
    "failures": "too many prompts could not be scored",
    "error": "the model could not be reached any more; these are the results so far",
}


def summary(result: Result) -> str:
    """Return the end of a run in words, for a terminal."""
    scored, full = len(result.prompts_scored()), len(result.prompts_scored(in_full=True))
    failed = sum(t.score is None for t in result.trials)
    usage = result.usage
    lines = [
        f"Stopped: {STOPPED[result.stopped_by]}.",
        f"Prompts scored: {scored}"
        + (f", {full} of them on all examples" if full < scored else "")
        + (f", failed: {failed}" if failed else ""),
        f"Calls: {usage.calls}, tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out"
        + (f" ({usage.estimated_calls} calls estimated)" if usage.estimated_calls else ""),
        f"Time: {result.seconds:.1f} s",
        "",
        "Best prompt:",
        *("  " + line for line in printable(result.best_prompt).split("\n")),
        f"Train score: {result.best_score:.3f}",
    ]
    if result.heldout:
        lines += ["", *_table(result.heldout)]
    return "\n".join(lines)


def _table(rows: Sequence[HeldOut]) -> list[str]:
    examples = len(rows[0].scores)
    lines = [
        f"On {examples} held-out examples:",
        f"  {'':16}{'train':>7}{'held-out':>10}   winner ahead by (95 % CI)",
    ]
    for row in rows:
        ahead = ""
        if row.winner_ahead is not None:
            ahead = "   {:+.3f} [{:+.3f}, {:+.3f}]".format(*row.winner_ahead)
        train = "-" if row.train_score is None else f"{row.train_score:.3f}"
        lines.append(f"  {row.role:16}{train:>7}{row.score:10.3f}{ahead}")
    return lines
