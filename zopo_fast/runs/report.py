"""Output of a run: its folder, the plot, and the summary for a terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from zopo_fast._utils.files import error_reason, exists, write_atomic
from zopo_fast._utils.text import json_line, printable
from zopo_fast.errors import MissingDependencyError, OutputError
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.result import HeldOut, Result, Trial
from zopo_fast.runs.unanswered import unanswered_lines
from zopo_fast.storage.file import is_absent
from zopo_fast.storage.store import STUDY

__all__ = ["RunFolder", "plot_curve", "printable", "summary"]

_log = logging.getLogger(__name__)

TRIALS, RESULT, BEST, CURVE = "trials.jsonl", "result.json", "best_prompt.txt", "curve.png"
POOL = "pool.jsonl"


class RunFolder:
    """Folder of one run, created before the first call so that no paid answer is lost.

    Args:
        path: of the folder.
        resume: the folder holds a run to resume; `rewrite_trials` replaces its trials.

    Raises:
        OutputError: the folder cannot be written, or already holds a run.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.finished = False
        try:
            self._is_new = not exists(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            names = (STUDY, TRIALS, RESULT, BEST, CURVE, POOL)
            held = [name for name in names if exists(self.path / name)]
            if held == [STUDY] and is_absent(self.path / STUDY):  # empty: left by a full disk
                held = []
            if held == [TRIALS] and not (self.path / TRIALS).stat().st_size:
                (self.path / TRIALS).unlink()  # left by a run that was killed before its first call
                held = []
            if held and not resume:
                more = f", or resume the run: --resume {self.path}" if held[0] == STUDY else ""
                raise OutputError(f"{self.path}: already holds a run ({held[0]}); give another folder{more}")
            self._trials: IO[str] = (self.path / TRIALS).open("a" if resume else "x", encoding="utf-8")
        except OutputError:
            raise
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path}: cannot be written: {error_reason(error)}") from error

    def add(self, trial: Trial) -> None:
        """Append a trial to trials.jsonl and flush the file."""
        self._write(self._line(trial))

    def rewrite_trials(self, trials: Sequence[Trial]) -> None:
        """Replace trials.jsonl atomically by the trials of a resumed run."""
        self._trials.close()
        lines = "".join(self._line(trial) for trial in trials)
        write_atomic(self.path / TRIALS, lines.encode(errors="replace"))
        try:
            self._trials = (self.path / TRIALS).open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.path / TRIALS}: cannot be written: {error}") from error

    @staticmethod
    def _line(trial: Trial) -> str:
        row = asdict(trial)
        for redundant in ("best_score", "total"):
            del row[redundant]
        return json_line(row)

    def _write(self, line: str) -> None:
        try:
            self._trials.write(line)
            self._trials.flush()
        except (OSError, UnicodeError) as error:
            raise OutputError(f"{self.path / TRIALS}: cannot be written: {error}") from error

    def finish(self, result: Result, settings: dict[str, Any]) -> list[str]:
        """Write best_prompt.txt, result.json and curve.png.

        Returns:
            Files that could not be written, each with the reason.

        Raises:
            OutputError: best_prompt.txt or result.json cannot be written.
        """
        self.finished = True
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
        except Exception as error:  # a failed plot must not hide the summary of a paid run
            return [f"{CURVE}: {error}"]
        return []

    def save_pool(self, pool: Pool) -> None:
        """Write pool.jsonl, so that prompts written by a model are kept even if the run fails later."""
        pool.save(self.path / POOL)

    def close(self, remove: bool = False) -> None:
        """Close trials.jsonl.

        Args:
            remove: delete trials.jsonl, the study, and the folder if this object created it, unless the run
                is finished. For runs without any answer, whose folder would block another try.
        """
        self._trials.close()
        if remove and not self.finished:
            with suppress(OSError):
                for name in (TRIALS, STUDY, STUDY + "-wal"):
                    (self.path / name).unlink(missing_ok=True)
                if self._is_new:
                    self.path.rmdir()


def has_results(folder: Path) -> bool:
    """Return True if a folder holds the best prompt and the result of a run."""
    return exists(folder / BEST) and exists(folder / RESULT)


def set_aside(folder: Path) -> None:
    """Rename the files of a run whose study is an empty file, so that another run can start in the folder.

    Raises:
        OutputError: a file cannot be renamed.
    """
    if not exists(folder / STUDY) or not is_absent(folder / STUDY):
        return
    held = [name for name in (TRIALS, RESULT, BEST, CURVE, POOL) if exists(folder / name)]
    try:
        for name in held:
            (folder / name).replace(folder / f"{name}.old")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error_reason(error)}") from error
    kept = f"; {', '.join(held)} renamed to *.old" if held else ""
    _log.warning("%s: the study is an empty file, so a new run starts%s", folder / STUDY, kept)


def plot_curve(trials: Sequence[Trial], path: Path) -> None:
    """Plot the score of each trial and the best score so far to a PNG file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
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
    FigureCanvasAgg(figure)  # needs neither a window system nor global state
    axes = figure.add_subplot()
    axes.plot(numbers, np.where(partial, np.nan, means), ".", color="0.6", label="score of the prompt")
    if partial.any():
        axes.plot(
            numbers, np.where(partial, means, np.nan), "x", color="0.8", label="stopped early: score so far"
        )
    axes.step(numbers, np.where(np.isinf(best), np.nan, best), where="post", color="C0", label="best so far")
    axes.set_xlabel("prompts scored")
    axes.set_ylabel("train score")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


STOPPED = {
    "budget": "the budget is spent",
    "pool": "every prompt of the pool is scored",
    "perfect": "a perfect score is reached",
    "target": "the target is reached",
    "interrupted": "interrupted; these are the results so far",
    "failures": "too many prompts could not be scored",
    "calls": "the limit of calls is reached",
    "tokens": "the limit of tokens is reached",
    "cost": "the limit of cost is reached",
    "time": "the time is up",
    "error": "the model is unavailable; these are the results so far",
}


def summary(result: Result) -> str:
    """Return the summary of a run for a terminal."""
    scored, full = len(result.prompts_scored()), len(result.prompts_scored(in_full=True))
    failed = sum(t.score is None for t in result.trials)
    lines = [
        f"Stopped: {STOPPED[result.stopped_by]}.",
        f"Prompts scored: {scored}"
        + (f", {full} of them on all examples" if full < scored else "")
        + (f", failed: {failed}" if failed else ""),
        usage_line(result.usage),
        *map(_one_line, unanswered_lines(result.unanswered)),
        f"Time: {result.seconds:.1f} s",
        "",
        "Best prompt:",
        *("  " + line for line in printable(result.best_prompt).split("\n")),
        f"Train score: {result.best_score:.3f}" + " (over some examples only)" * result.in_part,
    ]
    if result.heldout:
        lines += ["", *_table(result.heldout)]
    lines += [_one_line(f"Note: {note}") for note in result.comparison_notes]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(printable(text).split("\n"))


def usage_line(usage: Usage) -> str:
    """Return calls and tokens as one line for a terminal."""
    return (
        f"Calls: {usage.calls}, tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out"
        + (f" ({usage.estimated_calls} calls estimated)" if usage.estimated_calls else "")
        + (f"; from the cache: {usage.cached}{_reused_words(usage)}" if usage.cached else "")
        + (f"; lost, possibly billed: {usage.lost_calls}" if usage.lost_calls else "")
    )


def _reused_words(usage: Usage) -> str:
    """Return how many answers of the cache earlier runs gave, and the age of the oldest."""
    if not usage.reused:
        return ""
    count = "" if usage.reused == usage.cached else f"{usage.reused} "
    return f", {count}of earlier runs, the oldest {age_words(usage.reused_age)} old"


def age_words(seconds: float) -> str:
    """Return an age in whole days, hours or minutes."""
    if seconds < 60:
        return "less than a minute"
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60))
    name, size = next(unit for unit in units if seconds >= unit[1])
    number = int(seconds // size)
    return f"{number} {name}{'' if number == 1 else 's'}"


def _table(rows: Sequence[HeldOut]) -> list[str]:
    examples = max(len(row.scores) for row in rows)
    lines = [
        f"On {examples} held-out examples:" if examples else "On the held-out examples:",
        f"  {'':16}{'train':>7}{'held-out':>10}   winner ahead by (95 % CI)",
    ]
    for row in rows:
        after = ""
        if row.winner_ahead is not None:
            after = "   {:+.3f} [{:+.3f}, {:+.3f}]".format(*row.winner_ahead)
        if row.unanswered:
            after += (
                f"   {len(row.unanswered)} unanswered ({', '.join(sorted(set(row.unanswered.values())))})"
            )
        if row.error is not None:
            after += f"   not scored: {row.error}"
        train = "-" if row.train_score is None else f"{row.train_score:.3f}"
        score = "-" if row.score is None else f"{row.score:.3f}"
        lines.append(_one_line(f"  {row.role:16}{train:>7}{score:>10}{after}"))
    return lines
