"""Figures of the comparison by source: means with clustered errors, ranks, pairs, table and plot."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .metrics import error, ranks
from .replay import Array

PROMPTS, CALLS = "prompts", "calls"
REFERENCE = {PROMPTS: "GP-EI, RBF, grid", CALLS: "halving, same order"}
OURS = ("zopo_fast", "zopo_fast, racing")
LEAST = 5e-3  # regret shown, on a logarithmic axis


class Runs(NamedTuple):
    """Runs of one method on one landscape.

    Args:
        values: by seed. In prompts: value of the incumbent after 1, 2, ... prompts, worst prompt 0, best 1.
            In calls: regret of the final choice at each budget, in standard deviations of the prompts' means.
        reached: budget from which a seed stays at 0.95 (prompts) or at the best prompt (calls); or infinite.
    """

    values: Array
    reached: Array


def figures(runs: Sequence[Runs], counts: str, initial: int) -> dict[str, Array]:
    """Return the named figures of one method, each (landscapes, seeds).

    In prompts: `at_30`, `at_50` (or the last), `mean` over the prompts after the initial ones, and over all,
    `mean_all`.
    In calls: `regret` over all budgets.
    """
    values = np.array([each.values for each in runs])
    if counts == CALLS:
        return {"regret": values.mean(axis=2)}
    last = values.shape[2]
    return {
        "at_30": values[..., min(30, last) - 1],
        "at_50": values[..., min(50, last) - 1],
        "mean": values[..., min(initial, last - 1) :].mean(axis=2),
        "mean_all": values.mean(axis=2),
    }


def clustered(values: Array) -> tuple[float, float]:
    """Return the mean of (landscapes, seeds) and its standard error, clustered by landscape."""
    by_landscape = values.mean(axis=1)
    return float(by_landscape.mean()), error(by_landscape)


def rows(
    source: str,
    counts: str,
    by_method: Mapping[str, Sequence[Runs]],
    initial: int,
    tenths: Sequence[float] = (),
    groups: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return a row of figures for every method of a source.

    Args:
        tenths: budgets of the regrets; unused in prompts.
        groups: of the landscapes, such as their tasks; each gets its own mean, for cross-validation.
    """
    scale = 1.0 if counts == PROMPTS else -1.0  # higher is better
    judge = "mean" if counts == PROMPTS else "regret"
    known = {name: figures(runs, counts, initial) for name, runs in by_method.items()}
    seeds = min(known[name][judge].shape[1] for name in known)
    ranked = ranks(np.array([scale * each[judge][:, :seeds] for each in known.values()]))
    found = []
    for (name, each), rank in zip(known.items(), ranked, strict=True):
        runs = by_method[name]
        row: dict[str, Any] = {"source": source, "unit": counts, "method": name}
        row |= {"landscapes": len(runs), "seeds": each[judge].shape[1]}
        for key, values in each.items():
            row[key], row[f"{key}_error"] = clustered(values)
        row["rank"], row["rank_error"] = clustered(rank)
        for other in dict.fromkeys((REFERENCE[counts], *OURS)):
            if other in known and other != name:
                row[f"less {other}"] = _paired(each[judge], known[other][judge], scale)
        row["by_group"] = {
            group: float(each[judge][[k for k, of in enumerate(groups) if of == group]].mean())
            for group in dict.fromkeys(groups)
        }
        reached = np.concatenate([one.reached for one in runs])
        row["reached"] = float(np.isfinite(reached).mean())
        row["reached_median"] = float(np.median(reached)) if row["reached"] > 0.5 else None
        values = np.array([one.values for one in runs]).mean(axis=1)
        row["curve"] = values.mean(axis=0).round(4).tolist()
        row["curve_error"] = [round(error(column), 4) for column in values.T]
        found.append(row)
    if counts == CALLS:
        finals = {
            row["method"]: row["curve"][-1] for row in found if row["method"] in (REFERENCE[CALLS], *OURS)
        }
        for row in found:
            row["budget_to_final_of"] = {
                other: budget_to(row["curve"], tenths, final) for other, final in finals.items()
            }
    return found


def budget_to(curve: Sequence[float], budgets: Sequence[float], level: float) -> float | None:
    """Return the budget from which a curve of regrets stays at `level` or below; None: never.

    Between two budgets the regret is interpolated linearly.
    """
    above = [k for k, regret in enumerate(curve) if regret > level]
    if not above:
        return float(budgets[0])
    last = above[-1]
    if last + 1 == len(curve):
        return None
    share = (curve[last] - level) / (curve[last] - curve[last + 1])
    return float(budgets[last] + share * (budgets[last + 1] - budgets[last]))


def _paired(one: Array, other: Array, scale: float) -> dict[str, float]:
    """Compare two methods by seed: difference, and share better less share worse, with clustered errors."""
    seeds = min(one.shape[1], other.shape[1])
    less = scale * (one[:, :seeds] - other[:, :seeds])
    keys = ("difference", "difference_error", "better_less_worse", "better_less_worse_error")
    signs = np.where(np.abs(less) > 1e-9, np.sign(less), 0.0)
    return dict(zip(keys, (*clustered(less), *clustered(signs)), strict=True))


# ---- text and plot -----------------------------------------------------------------------------------------


def table(found: Sequence[Mapping[str, Any]], tenths: Sequence[float]) -> str:
    """Return plain text: a table for every source; `tenths` are the budgets of the regrets."""
    text = []
    for source, group in itertools.groupby(found, key=lambda row: row["source"]):
        lines = list(group)
        counts = lines[0]["unit"]
        keys = ("at_30", "at_50", "mean", "mean_all") if counts == PROMPTS else ("regret",)
        shown = [] if counts == PROMPTS else [f"at {each:g}" for each in tenths]
        text.append(f"\n{source}: {lines[0]['landscapes']} landscapes, budget in {counts}")
        head = [
            *keys,
            *shown,
            "rank",
            "to 0.95" if counts == PROMPTS else "to best",
            f"better less worse, {REFERENCE[counts]}",
        ]
        text.append(f"{'':34}" + "".join(f"{cell:>15}" for cell in head))
        for row in lines:
            cells = [_pair(row[key], row[f"{key}_error"]) for key in keys]
            if counts == CALLS:
                cells += [_pair(*each) for each in zip(row["curve"], row["curve_error"], strict=True)]
            cells.append(f"{row['rank']:.2f} {row['rank_error']:.2f}")
            reached = row["reached_median"]
            cells.append("never" if reached is None else f"{reached:.1f}")
            pair = row.get(f"less {REFERENCE[counts]}")
            cells.append("" if pair is None else _signed(pair))
            text.append(f"  {row['method']:32}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(text)


def _pair(value: float, deviation: float) -> str:
    return f"{value:.3f} {deviation:.3f}"


def _signed(pair: Mapping[str, float]) -> str:
    return f"{pair['better_less_worse']:+.2f} {pair['better_less_worse_error']:.2f}"


def plot(found: Sequence[Mapping[str, Any]], tenths: Sequence[float], path: Path) -> None:
    """Plot regret against the budget, a panel for every source; bands are one clustered standard error."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["source"] for row in found))
    methods = list(dict.fromkeys(row["method"] for row in found))
    figure, axes = plt.subplots(1, len(names), figsize=(6.0 * len(names), 4.5), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for row in (row for row in found if row["source"] == name):
            curve, deviation = np.array(row["curve"]), np.array(row["curve_error"])
            in_prompts = row["unit"] == PROMPTS
            x = np.arange(1, len(curve) + 1) if in_prompts else np.array(tenths)
            regret = 1.0 - curve if in_prompts else curve
            color = f"C{methods.index(row['method']) % 10}"
            style = ("-", "--")[methods.index(row["method"]) // 10 % 2]
            width = 2.5 if row["method"] in OURS else 1.2
            axis.plot(x, np.maximum(regret, LEAST), color=color, ls=style, lw=width, label=row["method"])
            low, high = (np.maximum(regret + sign * deviation, LEAST) for sign in (-1.0, 1.0))
            axis.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
        axis.set_title(name)
        axis.set_yscale("log")
        axis.set_ylim(bottom=LEAST)
        axis.set_xlabel(
            "prompts scored in full" if in_prompts else "calls, in tenths of a full score a prompt"
        )
        axis.set_ylabel(
            "regret: best prompt 0, worst 1" if in_prompts else "regret, in sd of the prompts' means"
        )
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
