"""Rows of a sweep, one a run: as a table for a terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click

from zopo_fast._utils.columns import shorten, width
from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes, write_atomic
from zopo_fast._utils.text import printable
from zopo_fast.cli.optimize_runner import COMPLETE
from zopo_fast.cli.sweep.config import Run
from zopo_fast.cli.sweep.worker import Outcome
from zopo_fast.cli.terminal.look import Look
from zopo_fast.llm.limits import Prices
from zopo_fast.runs.folder import RESULT
from zopo_fast.scoring.intervals import score_interval

_LIMITS = ("calls", "tokens", "cost", "time")


@dataclass(frozen=True)
class Row:
    """Result of one run.

    Attributes:
        run: Name of the run.
        task: Name of its task.
        model: Name of its model; None where the file has no models.
        settings: Name of its settings; None where the file has none.
        seed: Its seed; None where the file has no seeds.
        stopped_by: End of the run as in result.json, "failed", or None before its first end.
        train_score: Mean score of the winner on the examples.
        heldout_score: Mean score of the winner on the held-out examples.
        heldout_low: Lower end of the 95 % interval of that mean.
        heldout_high: Upper end.
        calls: Calls of the study, as in result.json.
        prompt_tokens: Tokens in.
        completion_tokens: Tokens out.
        cost: Cost of the tokens; None without prices.
        seconds: Duration, interruptions left out.
        best_prompt: The winner.
        error: Error that ended the run.
        code: Exit code that `optimize` would have; None where this command has not started the run.
    """

    run: str
    task: str
    model: str | None = None
    settings: str | None = None
    seed: int | None = None
    stopped_by: str | None = None
    train_score: float | None = None
    heldout_score: float | None = None
    heldout_low: float | None = None
    heldout_high: float | None = None
    calls: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    best_prompt: str | None = None
    error: str | None = None
    code: int | None = None

    @property
    def is_complete(self) -> bool:
        """True if the run leaves nothing to resume."""
        return self.stopped_by in COMPLETE and self.error is None

    @property
    def is_limited(self) -> bool:
        """True if a limit of calls, tokens or cost stopped the run."""
        return self.stopped_by in _LIMITS[:3] and self.error is None


def row_of(run: Run, folder: Path, outcome: Outcome | None = None) -> Row:
    """Return the row of a run.

    Args:
        run: The run.
        folder: Folder of the run, with result.json where it has results.
        outcome: End of the run under this command; None: not started yet.
    """
    found = _found(folder)
    if outcome is not None:
        found["code"] = outcome.code
        if outcome.limit is not None:
            found["stopped_by"] = outcome.limit
        elif outcome.error is not None:
            found["stopped_by"], found["error"] = "failed", outcome.error
        elif outcome.code in (130, 143):
            found["stopped_by"] = "interrupted"
    return Row(run.name, **{"task": run.name, **run.axes, **found})


def _found(folder: Path) -> dict[str, Any]:
    """Return the columns that result.json gives; none where it is missing."""
    try:
        result = json.loads(read_bytes(folder / RESULT, MAX_SETTINGS_BYTES))
        usage, settings = result["usage"], result["settings"]
        winner = next((row for row in result["heldout"] if row["role"] == "winner"), None)
        found = {
            "stopped_by": result["stopped_by"],
            "train_score": result["best_score"],
            "seconds": result["seconds"],
            "best_prompt": result["best_prompt"],
            "error": result["error"],
            **{name: usage[name] for name in ("calls", "prompt_tokens", "completion_tokens")},
        }
        if winner is not None and winner["score"] is not None:
            found["heldout_score"] = winner["score"]
            if (bounds := score_interval(winner["scores"])) is not None:
                found["heldout_low"], found["heldout_high"] = bounds
        if settings.get("price_in") is not None:
            prices = Prices(settings["price_in"], settings["price_out"])
            found["cost"] = prices.of(usage["prompt_tokens"], usage["completion_tokens"])
        return found
    except (UnreadableFileError, ValueError, LookupError, TypeError):
        return {}


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return the rows by task, the best held-out score first."""

    def key(row: Row) -> tuple[Any, ...]:
        scores = (row.heldout_score, row.train_score)
        return (row.task, *(float("inf") if score is None else -score for score in scores), row.run)

    return sorted(rows, key=key)


def save(rows: Sequence[Row], out: Path) -> None:
    """Write sweep.json and sweep.csv.

    Raises:
        OutputError: A file cannot be written.
    """
    table = [asdict(row) for row in rows]
    text = json.dumps(table, ensure_ascii=False, indent=2) + "\n"
    write_atomic(out / "sweep.json", text.encode(errors="replace"))
    lines = io.StringIO()
    writer = csv.DictWriter(lines, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomic(out / "sweep.csv", lines.getvalue().encode(errors="replace"))


# ---- terminal ----------------------------------------------------------------------------------------

_HEAD = ("run", "held-out", "95 % interval", "train", "calls", "tokens", "cost", "end")


def table(rows: Sequence[Row], look: Look) -> str:
    """Return the rows as a table for a terminal; names give way where the line is too short."""
    cells = [_HEAD, *map(_cells, rows)]
    if all(row[6] == "-" for row in cells[1:]):
        cells = [(*row[:6], *row[7:]) for row in cells]
    widths = [max(width(row[i]) for row in cells) for i in range(len(cells[0]))]
    widths[0] = max(12, min(widths[0], look.columns - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = []
    for i, row in enumerate(cells):
        name = shorten(row[0], widths[0])
        padded = [name + " " * (widths[0] - width(name))]
        padded += [text.rjust(size) for text, size in zip(row[1:-1], widths[1:-1], strict=True)]
        line = "  ".join([*padded, row[-1]])
        if look.has_color:
            is_failed = i > 0 and row[-1] == "failed"
            line = click.style(line, bold=i == 0 or None, fg="yellow" if is_failed else None)
        lines.append(line)
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    tokens = None if row.prompt_tokens is None else row.prompt_tokens + (row.completion_tokens or 0)
    has_interval = row.heldout_low is not None
    return (
        printable(row.run),
        _number(row.heldout_score, ".3f"),
        f"[{row.heldout_low:.3f}, {row.heldout_high:.3f}]" if has_interval else "-",
        _number(row.train_score, ".3f"),
        _number(row.calls, "d"),
        _number(tokens, "d"),
        _number(row.cost, ".4f"),
        ("limit: " if row.stopped_by in _LIMITS else "") + (row.stopped_by or "not started"),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
