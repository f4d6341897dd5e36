"""Wrong decisions and saved calls of races, replayed on the scored landscapes.

    python -m zopo_fast.bench.search.racing [--seeds 200] [--landscapes FOLDER] [--errors 0.05 0.1 0.2]
    python -m zopo_fast.bench.search.racing --real FOLDER --seeds 20

Prints the share of wrong decisions in whole runs by source, landscape and stated error. Then prints the
curves in calls beside the official preset, on the landscapes, and the time that a race adds to an answer.
With --real, decisions are also judged on the blocks of that folder and on simulated pools, with budgets of
2.5 tenths of a full score a prompt. Writes <out>/search_racing.json.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast.cli.commands.bench import default_folder
from zopo_fast.errors import ZopoError
from zopo_fast.llm.types import Usage

from ..common import machine, runner
from . import race_view, real, simulation
from .methods import Official, Racing
from .metrics import error
from .quality import BENCH, BLOCK, Plan
from .replay import Array, Landscape, Problem, load_folder, normalised, replay

if TYPE_CHECKING:
    from zopo_fast.runs.state import RunState

NAME, LANDSCAPES = "search_racing", "landscapes"
ERRORS = (0.05, 0.1, 0.2, 0.3)
TENTHS = 2.5  # budget on blocks and simulated pools, in tenths of a full score for every prompt
COST_CALLS = 30_000
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


def decisions(
    landscape: Landscape, stated: float, plan: Plan, seeds: Sequence[int], calls: int | None = None
) -> Decisions:
    """Judge the decisions of whole runs; each seed has its own order of examples.

    Args:
        calls: budget in single calls, which replaces that of the plan.
    """
    counts = np.zeros(4, dtype=int)
    for seed in seeds:
        order = np.random.default_rng([seed, 3]).permutation(landscape.scores.shape[1])
        method = Watched(landscape.scores.mean(axis=1), stated)
        replay(method, landscape, order, plan.budget, plan.initial, seed, calls)
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


def cost(calls: int = COST_CALLS) -> dict[str, Any]:
    """Measure what a race of 300 prompts on 300 examples adds to an answer: search and race, no model."""
    landscape = simulation.simulate(simulation.Components(), 300, 300, seed=0, name="300 x 300")
    problem = Problem(
        landscape.Z, 300, [], calls // 300, calls, seed=0, rng=np.random.default_rng(0), is_binary=True
    )
    state, seconds = race_view.start(problem), []
    flight = race_view.Flight(state, 1).calls()
    while True:
        begun = time.perf_counter()
        work, examples = next(flight, (None, ()))
        if work is None:
            break
        for example in examples:
            state.record_score(work.index, example, landscape.scores[work.index, example], Usage(), 0.0)
        spent = time.perf_counter() - begun
        seconds += [spent / len(examples)] * len(examples)
    per_answer = np.array(seconds) * 1e3
    row = {
        "prompts": 300,
        "examples": 300,
        "answers": len(per_answer),
        "mean_ms": float(per_answer.mean()),
        "p99_ms": float(np.quantile(per_answer, 0.99)),
    }
    print(f"\nrace of 300 prompts on 300 examples: {row['mean_ms']:.3f} ms an answer on average, "
          f"{row['p99_ms']:.2f} at the 99th percentile, over {row['answers']} answers")  # fmt: skip
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the replays, print and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--landscapes", type=Path, default=BENCH / "landscapes", metavar="FOLDER")
    parser.add_argument(
        "--real", type=Path, default=None, metavar="FOLDER", help="judge on this folder's blocks too"
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--errors", type=float, nargs="+", default=list(ERRORS))
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="bench/results")
    parser.add_argument("--workers", type=int, default=min(2, machine.cores()), help="processes")
    options = parser.parse_args(arguments)
    out = options.out or default_folder(False)
    try:
        plan = Plan(options.seeds)
        by_source = {LANDSCAPES: load_folder(options.landscapes)}
        if options.real is not None:
            by_source |= real.load(options.real, ["blocks", "simulation"])
        for stated in options.errors:
            race_view.check_error(stated)
        runner.prepare(out)
    except ZopoError as problem:
        parser.error(str(problem))
    seeds = [range(plan.seeds)[k : k + BLOCK] for k in range(0, plan.seeds, BLOCK)]
    judged: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(f"  stated {'landscape':32} winners  given up    rate     +-  examples")
        for stated, (source, landscapes) in itertools.product(options.errors, by_source.items()):
            counted = {}
            for landscape in landscapes:
                calls = None if source == LANDSCAPES else round(TENTHS / 10 * landscape.scores.size)
                tasks = [(landscape, stated, plan, some, calls) for some in seeds]
                parts = list(pool.map(decisions, *zip(*tasks, strict=True)))
                counted[landscape.name] = np.array([list(asdict(part).values()) for part in parts]).sum(
                    axis=0
                )
            judged += _judged(stated, source, counted)
        landscapes = by_source[LANDSCAPES]
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
            "cost": cost(COST_CALLS // 15 if plan.seeds < BLOCK else COST_CALLS),
        },
    )


def _judged(stated: float, source: str, counted: dict[str, Array]) -> list[dict[str, Any]]:
    """Return and print the share of wrong decisions by landscape and over all of a source.

    The error over all is clustered by landscape; that of a landscape takes decisions as independent.
    """
    table, found = np.array(list(counted.values())), []
    over_all = table.sum(axis=0)
    share = over_all[1] / max(1, over_all[0])
    clustered = float(np.sqrt(((table[:, 1] - share * table[:, 0]) ** 2).sum()) / max(1, over_all[0]))
    for name, counts in {**counted, f"{source}, over all": over_all}.items():
        winners, wrong, losers, examples = (int(count) for count in counts)
        rate = wrong / max(1, winners)
        deviation = clustered if counts is over_all else float(np.sqrt(rate * (1.0 - rate) / max(1, winners)))
        row = {
            "stated": stated,
            "source": source,
            "landscape": name,
            "winners": winners,
            "given_up": wrong,
            "rate": rate,
            "rate_error": deviation,
            "examples_of_given_up": examples / max(1, wrong + losers),
        }
        found.append(row)
        print(
            f"{stated:8.2f} {name:32}{winners:8}{wrong:10}{rate:8.3f}{deviation:7.3f}"
            f"{row['examples_of_given_up']:10.1f}"
        )
    return found


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
