"""Search quality: every method replayed on the scored landscapes.

    python -m zopo_fast.bench.search.quality [--seeds 200] [--methods random zopo_fast] [--quick]
    python -m zopo_fast.bench.search.quality --methods zopo_fast --ablations --parallel
    python -m zopo_fast.bench.search.quality --real FOLDER

Each method gets 50 prompts' worth of calls. The first 10 prompts are random and the same for every method
of a seed, except for this package's, which gets its budget alone. The worst prompt counts 0, the best 1.
Writes <out>/search_quality.json and .png; bench/README.md explains them. With --real, the scores are those of
real models in the folder (real.py), and the results are search_real.json and .png.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from zopo_fast.cli.commands.bench import default_folder
from zopo_fast.errors import ConfigError, ZopoError

from ..common import machine, runner
from ..common.harness import absent
from . import real
from .methods import ablations, every, methods, parallel
from .metrics import Outcome, error, overall, prompts_to, summary
from .replay import (
    Landscape,
    Method,
    expected_random,
    halves,
    load_folder,
    normalised,
    replay,
)

BENCH = Path(__file__).resolve().parents[1]
NAME = "search_quality"
OURS, REFERENCE = "zopo_fast", "official"
BLOCK = 10  # seeds per task
# "seen": judged on the examples of the selection; "unseen": on the other half.
BOARDS = {
    "prompts": "prompts scored in full, selected and judged on all examples",
    "calls": "single calls, selected and judged on all examples",
    "seen": "single calls, selected and judged on one half of the examples",
    "unseen": "single calls, selected on one half of the examples, judged on the other",
}
Outcomes = dict[str, dict[str, dict[str, Outcome]]]  # by board, landscape, method


@dataclass(frozen=True)
class Plan:
    """Size of a comparison; budget and initial in prompts."""

    seeds: int = 200
    budget: int = 50
    initial: int = 10

    def __post_init__(self) -> None:
        if min(self.seeds, self.budget, self.initial) < 1 or self.initial > self.budget:
            raise ConfigError(f"seeds, budget and initial must be at least 1, initial at most budget: {self}")


# ---- running -----------------------------------------------------------------------------------------


def block(method: Method, landscape: Landscape, plan: Plan, seeds: Sequence[int]) -> dict[str, Outcome]:
    """Return runs of some seeds by the way they are judged: "all", "seen" and "unseen"."""
    curves: dict[str, list[Any]] = {"all": [], "seen": [], "unseen": []}
    calls: dict[str, list[float]] = {judge: [] for judge in curves}
    every = np.arange(landscape.scores.shape[1])
    prompts = min(plan.budget, len(landscape.scores))
    for seed in seeds:
        seen, unseen = halves(len(every), seed)
        shuffled = np.random.default_rng([seed, 3]).permutation(every)
        for used, judges in ((shuffled, {"all": every}), (seen, {"seen": seen, "unseen": unseen})):
            run = replay(method, landscape, used, prompts, plan.initial, seed)
            grid = [len(used) * (k + 1) for k in range(prompts)]
            for judge, examples in judges.items():
                value = normalised(landscape.scores[:, examples])
                curves[judge].append(run.curve(value, grid))
                calls[judge].append(run.calls_to(value, 0.95))
    return {judge: Outcome(np.array(curves[judge]), np.array(calls[judge])) for judge in curves}


def _task(
    name: str, landscape: Landscape, plan: Plan, seeds: Sequence[int], keep: Path | None
) -> dict[str, Outcome]:
    path = None if keep is None else keep / _key(name, landscape, plan, seeds)
    if path is not None and path.exists():
        with np.load(path) as kept:
            judges = [field.removesuffix("/calls") for field in kept if field.endswith("/calls")]
            return {judge: Outcome(kept[f"{judge}/curves"], kept[f"{judge}/calls"]) for judge in judges}
    done = block(every()[name], landscape, plan, seeds)
    if path is not None:
        arrays: dict[str, Any] = {f"{judge}/curves": outcome.curves for judge, outcome in done.items()}
        arrays |= {f"{judge}/calls": outcome.calls for judge, outcome in done.items()}
        unfinished = path.with_name(f"{os.getpid()}.unfinished.npz")
        np.savez_compressed(unfinished, **arrays)
        unfinished.replace(path)
    return done


def _key(name: str, landscape: Landscape, plan: Plan, seeds: Sequence[int]) -> str:
    """Return the file of a block, named by all its settings."""
    data = hashlib.blake2b(landscape.Z.tobytes() + landscape.scores.tobytes(), digest_size=6).hexdigest()
    method = re.sub(r"[^a-z0-9]+", "_", name.lower())
    return f"{method}-{landscape.name}-{data}-{plan.budget}-{plan.initial}-{seeds[0]}-{len(seeds)}.npz"


def compare(
    landscapes: Sequence[Landscape],
    names: Sequence[str],
    plan: Plan,
    workers: int = 1,
    keep: Path | None = None,
) -> Outcomes:
    """Run every method on every landscape; the result does not depend on the number of workers."""
    seeds = [range(plan.seeds)[k : k + BLOCK] for k in range(0, plan.seeds, BLOCK)]
    tasks = list(itertools.product(names, landscapes, [plan], seeds, [keep]))
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    if workers == 1:
        done = list(itertools.starmap(_task, tasks))
    else:
        # One thread each, because the matrices are small. Spawned processes read this when they load BLAS
        # and torch.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(variable, "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            running = pool.map(_task, *zip(*tasks, strict=True))
            done = list(tqdm(running, total=len(tasks), unit="block", disable=None))
    known, found = every(), Outcomes({board: {} for board in BOARDS})
    for (name, landscape), blocks in itertools.groupby(
        zip(tasks, done, strict=True), key=lambda pair: (pair[0][0], pair[0][1].name)
    ):
        parts = [outcome for _, outcome in blocks]
        for board in BOARDS:
            if board == "prompts" and known[name].partial:
                continue
            judge = board if board in parts[0] else "all"
            joined = Outcome(
                np.concatenate([part[judge].curves for part in parts]),
                np.concatenate([part[judge].calls for part in parts]),
            )
            found[board].setdefault(landscape, {})[name] = joined
    return {board: by for board, by in found.items() if by}


def chosen(wanted: Sequence[str], more: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Return the methods to run (default: methods() and `more`), and the unavailable ones with reasons.

    Raises:
        ConfigError: an unknown name; the message lists the known ones.
    """
    known = every()
    for name in wanted:
        if name not in known:
            raise ConfigError(f"no method is named {name!r}; there are {', '.join(map(repr, known))}")
    names = list(dict.fromkeys([*(wanted or methods()), *more]))
    skipped = {name: why for name in names if (why := absent(*known[name].needs))}
    return [name for name in names if name not in skipped], skipped


# ---- results ----------------------------------------------------------------------------------------


def rows(outcomes: Outcomes, landscapes: Sequence[Landscape], plan: Plan) -> list[dict[str, Any]]:
    """Return a row per board, landscape and method, and the exact expectation of random search."""
    found: list[dict[str, Any]] = []
    for board, by_landscape in outcomes.items():
        for landscape in landscapes:
            by_method = by_landscape[landscape.name]
            examples = len(halves(landscape.scores.shape[1], 0)[0])
            examples = examples if board in ("seen", "unseen") else landscape.scores.shape[1]
            place = {"board": board, "landscape": landscape.name}
            reference, ours = by_method.get(REFERENCE), by_method.get(OURS)
            for name, outcome in by_method.items():
                row = {**place, "method": name, **summary(outcome, plan.initial)}
                curve = outcome.curves.mean(axis=0)
                if reference is not None:
                    prompts = prompts_to(curve, float(reference.finals.mean()))
                    row[f"calls_to_{REFERENCE}_final"] = None if prompts is None else prompts * examples
                if ours is not None and len(ours.finals) == len(outcome.finals):
                    less = outcome.finals - ours.finals  # paired by seed
                    row["less_ours"], row["less_ours_error"] = float(less.mean()), error(less)
                found.append({**row, "budget_calls": len(curve) * examples, "curve": curve.round(4).tolist()})
            if board in ("prompts", "calls"):
                curve = expected_random(normalised(landscape.scores), outcome.curves.shape[1])
                exact = {"final": float(curve[-1]), "mean": float(curve[plan.initial :].mean())}
                found.append({**place, "method": "random, exact", **exact, "curve": curve.round(4).tolist()})
    return found


def table(found: Sequence[Mapping[str, Any]], over_all: Mapping[str, Any]) -> str:
    """Return plain text: values per board and landscape, then ranks over all landscapes."""
    text = []
    for board, group in itertools.groupby(found, key=lambda row: row["board"]):
        text.append(f"\n{board}: {BOARDS[board]}")
        for landscape, lines in itertools.groupby(group, key=lambda row: row["landscape"]):
            head = (
                "final",
                "+-",
                "mean",
                "+-",
                "best",
                "95 %",
                "calls to",
                f"{REFERENCE}'s",
                "less ours",
                "+-",
            )
            text.append(f"{landscape:32}" + "".join(f"{cell:>11}" for cell in head))
            text += [_line(row) for row in lines]
        text.append(
            f"{'over all, 95 % interval':32} {'rank':>21}{'rank of mean':>21}{'final':>21}{'mean':>21}"
        )
        ranked = sorted(over_all[board].items(), key=lambda pair: pair[1]["rank"][0])
        for name, figures in ranked:
            cells = "".join(f"{_interval(figures[k]):>21}" for k in ("rank", "rank_mean", "final", "mean"))
            text.append(f"  {name:31}{cells}")
    return "\n".join(text)


def _line(row: Mapping[str, Any]) -> str:
    def number(key: str, form: str) -> str:
        value = row.get(key)
        return form.format(value) if value is not None else ("never" if key in row else "")

    cells = [number(key, "{:.3f}") for key in ("final", "final_error", "mean", "mean_error")]
    cells += [number(key, "{:.0%}") for key in ("found_best", "reached_95")]
    cells += [number(key, "{:.0f}") for key in ("calls_to_95", f"calls_to_{REFERENCE}_final")]
    cells += [number("less_ours", "{:+.3f}"), number("less_ours_error", "{:.3f}")]
    return f"  {row['method']:30}" + "".join(f"{cell:>11}" for cell in cells)


def _interval(figures: Sequence[float]) -> str:
    mean, low, high = figures
    return f"{mean:.3f} [{low:.2f}, {high:.2f}]" if mean < 1.01 else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def plot(found: Sequence[Mapping[str, Any]], initial: int, path: Path) -> None:
    """Plot the mean value of the incumbent over calls: one column per landscape, two boards."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["landscape"] for row in found))
    methods_shown = dict.fromkeys(r["method"] for r in found if "seeds" in r)
    styles = {m: (f"C{k % 10}", ("-", "--", ":")[k // 10 % 3]) for k, m in enumerate(methods_shown)}
    shown = [board for board in ("calls", "unseen") if any(row["board"] == board for row in found)]
    size = (4.2 * len(names), 3.6 * len(shown))
    figure, axes = plt.subplots(len(shown), len(names), figsize=size, squeeze=False)
    for (k, board), (column, name) in itertools.product(enumerate(shown), enumerate(names)):
        axis = axes[k][column]
        lines = [r for r in found if (r["board"], r["landscape"]) == (board, name) and "seeds" in r]
        for row in lines:
            curve, width = row["curve"], 2.5 if row["method"] == OURS else 1.0
            start = min(initial, len(curve)) - 1
            x = range(start + 1, len(curve) + 1)
            color, dashes = styles[row["method"]]
            axis.plot(x, curve[start:], color=color, ls=dashes, lw=width, label=row["method"])
        axis.set_title(
            f"{name}, {'all examples' if board == 'calls' else 'judged on the unseen half'}", parse_math=False
        )
        axis.set_ylim(bottom=max(axis.get_ylim()[0], 0.5))
        axis.grid(alpha=0.3)
        axis.set_xlabel("calls, in prompts scored in full")
    axes[0][0].set_ylabel("incumbent: worst prompt 0, best 1")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, print and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help=", ".join(every()))
    parser.add_argument("--ablations", action="store_true", help="add ours with one ingredient changed")
    parser.add_argument("--parallel", action="store_true", help="add ours with 4 and 16 prompts in flight")
    parser.add_argument("--landscapes", type=Path, default=BENCH / "landscapes", metavar="FOLDER")
    parser.add_argument(
        "--real", type=Path, default=None, metavar="FOLDER", help="compare by source on this folder's scores"
    )
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME", help="of --real; default: all")
    parser.add_argument("--seeds", type=int, default=None, help="200, or 4 with --quick; with --real 8, or 1")
    parser.add_argument("--budget", type=int, default=Plan.budget, help="in prompts scored in full")
    parser.add_argument("--initial", type=int, default=Plan.initial)
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="bench/results[/quick]")
    parser.add_argument(
        "--keep",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="keep blocks of seeds there and run none twice; empty it when a method has changed",
    )
    parser.add_argument("--workers", type=int, default=min(2, machine.cores()), help="processes")
    parser.add_argument("--quick", action="store_true", help="few seeds")
    options = parser.parse_args(arguments)
    out = options.out or default_folder(options.quick)
    try:
        more = [*(ablations() if options.ablations else ()), *(parallel() if options.parallel else ())]
        if options.real is not None:
            runner.prepare(out)
            seeds = options.seeds or (1 if options.quick else real.Plan.seeds)
            size = real.Plan(seeds, options.budget, options.initial)
            wanted = list(dict.fromkeys([*options.methods, *more]))
            real.write(options.real, out, size, wanted, options.sources, max(1, options.workers))
            return
        plan = Plan(options.seeds or (4 if options.quick else Plan.seeds), options.budget, options.initial)
        names, skipped = chosen(options.methods, more)
        landscapes = load_folder(options.landscapes)
        runner.prepare(out)
    except ZopoError as error:
        parser.error(str(error))
    about = machine.describe()
    outcomes = compare(landscapes, names, plan, max(1, options.workers), options.keep)
    found = rows(outcomes, landscapes, plan)
    over_all = {board: overall(by, plan.initial) for board, by in outcomes.items()}
    print(table(found, over_all))
    path = out / f"{NAME}.json"
    runner.publish(path, __doc__, plan, found, skipped, machine=about, boards=BOARDS, overall=over_all)
    if absent("matplotlib") is None:
        plot(found, plan.initial, out / f"{NAME}.png")


if __name__ == "__main__":
    main()
