"""Wrong decisions and saved calls of races, replayed on the scored landscapes.

    python -m zopo_fast.bench.search.racing [--seeds 200] [--landscapes FOLDER] [--errors 0.05 0.1 0.2]

Prints the share of wrong decisions in whole runs by landscape and stated error. Then prints the curves in
calls beside the official preset, and the calls after which racing reaches the preset's final value. Writes
<out>/search_racing.json.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast.cli.bench import default_folder
from zopo_fast.errors import ZopoError

from ..common import machine, runner
from . import race_view
from .methods import Official, Racing
from .metrics import error
from .quality import BENCH, BLOCK, Plan
from .replay import Array, Landscape, load_folder, normalised, replay

if TYPE_CHECKING:
    from zopo_fast.runs.state import RunState

NAME = "search_racing"
ERRORS = (0.05, 0.1, 0.2, 0.3)
CALLS = (100, 150, 200, 250, 300, 333, 400, 500, 700, 1000)  # of 50 prompts on 20 examples


class Watched(Racing):
    """Race whose decisions are judged by the scores on all examples, which the race does not see.

    A decision is the last one on a candidate: dropped, or completed after a comparison with an incumbent. The
    candidate is a winner where its full mean exceeds that incumbent's.

    Attributes:
        winners: decisions about winners.
        wrong: winners that were dropped.
        losers: candidates dropped correctly.
        examples: examples scored on all dropped candidates.
    """

    def __init__(self, means: Array, stated: float) -> None:
        super().__init__(race_error=stated)
        self.means, self.incumbent, self.seen = means, -1, 0
        self.out: set[int] = set()
        self.winners = self.wrong = self.losers = self.examples = 0

    def decided(self, state: RunState, index: int) -> None:
        best = race_view.complete(state)
        if best is None:
            return  # without an incumbent nothing is dropped
        for trial in race_view.dropped(state, self.seen):
            wrong = bool(self.means[trial.index] > self.means[best] + 1e-9)
            self.winners += wrong
            self.wrong += wrong
            self.losers += not wrong
            self.examples += len(trial.examples)
            self.out.add(trial.index)
        self.seen = len(state.trials)
        if best != self.incumbent:
            self.winners += self.incumbent >= 0 and index not in self.out
            self.incumbent = best


@dataclass(frozen=True)
class Decisions:
    """Counts over runs; `wrong` of `winners` were dropped."""

    winners: int
    wrong: int
    losers: int
    examples: int


def decisions(landscape: Landscape, stated: float, plan: Plan, seeds: Sequence[int]) -> Decisions:
    """Judge the decisions of whole runs; each seed has its own order of examples."""
    counts = np.zeros(4, dtype=int)
    for seed in seeds:
        order = np.random.default_rng([seed, 3]).permutation(landscape.scores.shape[1])
        method = Watched(landscape.scores.mean(axis=1), stated)
        replay(method, landscape, order, plan.budget, plan.initial, seed)
        counts += (method.winners, method.wrong, method.losers, method.examples)
    return Decisions(*(int(count) for count in counts))


def _curves(official: bool, landscape: Landscape, plan: Plan, seeds: Sequence[int]) -> Array:
    """Return the value of the incumbent at each of CALLS, (seeds, CALLS)."""
    method = Official("official") if official else Racing()
    examples, value, found = landscape.scores.shape[1], normalised(landscape.scores), []
    grid = [calls * plan.budget * examples // CALLS[-1] for calls in CALLS]
    for seed in seeds:
        order = np.random.default_rng([seed, 3]).permutation(examples)
        run = replay(method, landscape, order, plan.budget, plan.initial, seed)
        found.append(run.curve(value, grid))
    return np.array(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the replays, print and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--landscapes", type=Path, default=BENCH / "landscapes", metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--errors", type=float, nargs="+", default=list(ERRORS))
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="bench/results")
    parser.add_argument("--workers", type=int, default=min(2, machine.cores()), help="processes")
    options = parser.parse_args(arguments)
    out = options.out or default_folder(False)
    try:
        plan = Plan(options.seeds)
        landscapes = load_folder(options.landscapes)
        for stated in options.errors:
            race_view.check_error(stated)
        runner.prepare(out)
    except ZopoError as problem:
        parser.error(str(problem))
    seeds = [range(plan.seeds)[k : k + BLOCK] for k in range(0, plan.seeds, BLOCK)]
    judged: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        print("  stated landscape     winners  given up    rate     +-  examples")
        for stated, landscape in itertools.product(options.errors, landscapes):
            parts = list(
                pool.map(decisions, *zip(*((landscape, stated, plan, s) for s in seeds), strict=True))
            )
            counts = np.array([list(asdict(part).values()) for part in parts]).sum(axis=0)
            winners, wrong, losers, examples = (int(count) for count in counts)
            rate = wrong / max(1, winners)
            row = {
                "stated": stated,
                "landscape": landscape.name,
                "winners": winners,
                "given_up": wrong,
                "rate": rate,
                "rate_error": float(np.sqrt(rate * (1.0 - rate) / max(1, winners))),
                "examples_of_given_up": examples / max(1, wrong + losers),
            }
            judged.append(row)
            print(
                f"{stated:8.2f} {landscape.name:12}{winners:9}{wrong:10}{rate:8.3f}{row['rate_error']:7.3f}"
                f"{row['examples_of_given_up']:10.1f}"
            )
        curves: dict[str, dict[str, Array]] = {}
        for official, landscape in itertools.product((True, False), landscapes):
            parts_ = list(
                pool.map(_curves, *zip(*((official, landscape, plan, s) for s in seeds), strict=True))
            )
            name = "official" if official else "racing"
            curves.setdefault(name, {})[landscape.name] = np.concatenate(parts_)
    rows = _curve_rows(curves)
    runner.write(
        out / f"{NAME}.json",
        {
            "question": (__doc__ or "").splitlines()[0],
            "machine": machine.describe(),
            "settings": asdict(plan),
            "decisions": judged,
            "calls": list(CALLS),
            "curves": rows,
        },
    )


def _curve_rows(curves: dict[str, dict[str, Array]]) -> list[dict[str, Any]]:
    """Return and print mean curves with standard errors, by landscape and over all."""
    rows: list[dict[str, Any]] = []
    print(f"\n{'':22}" + "".join(f"{calls:>13}" for calls in CALLS))
    for name, by_landscape in curves.items():
        over_all = np.mean(list(by_landscape.values()), axis=0)
        for where, curve in {**by_landscape, "over all": over_all}.items():
            mean, errors = curve.mean(axis=0), [error(column) for column in curve.T]
            rows.append({"method": name, "landscape": where, "mean": mean.tolist(), "error": errors})
            cells = "".join(f"{m:7.3f} {e:.3f}" for m, e in zip(mean, errors, strict=True))
            print(f"{name:9} {where:12}{cells}")
    return rows


if __name__ == "__main__":
    main()
