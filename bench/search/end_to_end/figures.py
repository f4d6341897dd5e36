"""Figures of the comparison: means, paired intervals, curves and plot."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .comparison import Record
from .methods import METHODS, OURS, OURS_DEMONSTRATED
from .session import SCORED, WRITER

RESAMPLES = 10_000
GRID = 60  # points of a curve


def methods_of(records: Sequence[Record]) -> list[str]:
    """Return the methods with a record, in the order of METHODS."""
    found = {record["method"] for record in records}
    return [name for name in METHODS if name in found]


def cells(records: Sequence[Record], track: str, budget: int, method: str) -> dict[tuple[str, int], float]:
    """Return the held-out score of a method by task and seed; a run with an error counts with its best."""
    return {
        (record["task"], record["seed"]): record["heldout"]
        for record in records
        if (record["track"], record["budget"], record["method"]) == (track, budget, method)
    }


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a row for each track, budget and method: held-out means over tasks and seeds."""
    found = []
    for track, budget, method in _combinations(records):
        scores = cells(records, track, budget, method)
        if not scores:
            continue
        tasks = list(dict.fromkeys(task for task, _ in scores))
        chosen = [r for r in records if (r["track"], r["budget"], r["method"]) == (track, budget, method)]
        found.append(
            {
                "track": track,
                "budget": budget,
                "method": method,
                "heldout": float(np.mean(list(scores.values()))),
                "by_task": {
                    task: float(np.mean([value for (t, _), value in scores.items() if t == task]))
                    for task in tasks
                },
                "runs": len(scores),
                "scored": float(np.mean([r["completions"][SCORED] for r in chosen])),
                "written": float(np.mean([r["completions"][WRITER] for r in chosen])),
                "errors": sum(r["error"] is not None for r in chosen),
            }
        )
    return found


def pairs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return how far our held-out score is ahead of that of each other method, with 95 % intervals.

    A method that shows demonstrations is compared with our search over demonstrations, the others with that
    over instructions. Pairs are runs of the same task and seed; the bootstrap draws pairs.
    """
    found = []
    for track, budget, method in _combinations(records):
        if method in (OURS, OURS_DEMONSTRATED):
            continue
        ours = OURS_DEMONSTRATED if METHODS[method].demonstrates else OURS
        mine, others = (cells(records, track, budget, name) for name in (ours, method))
        shared = sorted(mine.keys() & others.keys())
        if not shared:
            continue
        differences = np.array([mine[cell] - others[cell] for cell in shared])
        low, high = interval(differences)
        found.append(
            {
                "track": track,
                "budget": budget,
                "method": method,
                "ours": ours,
                "mean": float(differences.mean()),
                "low": low,
                "high": high,
                "pairs": len(shared),
            }
        )
    return found


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of (n,) paired differences."""
    drawn = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def curve(record: Record, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the held-out score of the best prompt so far at each number of completions of a grid."""
    calls, scores = (np.array(values, dtype=float) for values in zip(*record["curve"], strict=True))
    # The count of a run with several completions in flight may repeat: the last change counts.
    found: NDArray[np.float64] = scores[np.searchsorted(calls, grid, side="right") - 1]
    return found


def curves(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the mean curve of each method by track, at the largest budget."""
    found = []
    largest = max(record["budget"] for record in records)
    grid = np.linspace(0, largest, GRID + 1)
    for track, method in itertools.product(_tracks(records), methods_of(records)):
        chosen = [r for r in records if (r["track"], r["budget"], r["method"]) == (track, largest, method)]
        if chosen:
            mean = np.mean([curve(record, grid) for record in chosen], axis=0)
            found.append(
                {"track": track, "method": method, "completions": grid.tolist(), "heldout": mean.tolist()}
            )
    return found


def _tracks(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["track"] for record in records))


def _combinations(records: Sequence[Record]) -> list[tuple[str, int, str]]:
    budgets = sorted({record["budget"] for record in records})
    return list(itertools.product(_tracks(records), budgets, methods_of(records)))


def table(found: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]) -> str:
    """Return rows and intervals as plain text."""
    against = {(pair["track"], pair["budget"], pair["method"]): pair for pair in differences}
    lines = []
    for row in found:
        pair = against.get((row["track"], row["budget"], row["method"]))
        ahead = "" if pair is None else f"{pair['mean']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        tasks = ", ".join(f"{task} {value:.3f}" for task, value in row["by_task"].items())
        lines.append(
            f"{row['track']:15} {row['budget']:5} {row['method']:28} {row['heldout']:.3f}  {ahead:26} "
            f"{row['scored']:6.0f} + {row['written']:4.0f}  {tasks}"
        )
    return "\n".join(lines)


def plot(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the mean curves, a panel for every track."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tracks = list(dict.fromkeys(each["track"] for each in found))
    names = list(METHODS)
    figure, axes = plt.subplots(1, len(tracks), figsize=(6.5 * len(tracks), 4.5), squeeze=False, sharey=True)
    for axis, track in zip(axes[0], tracks, strict=True):
        for each in (each for each in found if each["track"] == track):
            place = names.index(each["method"])
            is_ours = each["method"].startswith(OURS)
            axis.step(
                each["completions"],
                each["heldout"],
                where="post",
                color=f"C{place}",
                lw=2.5 if is_ours else 1.3,
                ls="--" if "," in each["method"] else "-",
                label=each["method"],
            )
        axis.set_title(track)
        axis.set_xlabel("completions, the writer's included")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("held-out score of the best prompt so far")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
