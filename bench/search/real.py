"""Search quality by source: real models' scores from a folder of the user, simulated pools, and landscapes.

    python -m zopo_fast.bench.search.quality --real FOLDER [--seeds 8] [--methods NAME ...]

`paraphrases` are prompts scored in full, 50 of a pool. The other sources count calls: budgets of 0.5 to 3.2
tenths of a full score for every prompt of the pool. Writes <out>/search_real.json and .png;
bench/README.md explains them.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from zopo_fast.errors import ConfigError

from ..common import machine, runner
from ..common.harness import absent
from . import simulation, sources
from .by_source import CALLS, PROMPTS, Runs, plot, rows, table
from .methods import every
from .replay import Array, Landscape, initial_points, load_folder, normalised, replay

NAME, ALIKE = "search_real", "simulation, alike"
SIMULATED = ("simulation", ALIKE)
SOURCES = (*sources.READERS, "simulation", ALIKE, "landscapes")
LANDSCAPES = Path(__file__).resolve().parents[1] / "landscapes"
DEFAULTS = {
    PROMPTS: (
        "random",
        "official",
        "NeuralUCB, INSTINCT",
        "GP-EI, RBF, grid",
        "zopo_fast, 10 random",
        "zopo_fast, embeddings alone",
        "zopo_fast",
    ),
    CALLS: (
        "random",
        "APE, best of init",
        "TRIPLE, halving",
        "halving, own order",
        "halving, same order",
        "HbBoPs-like",
        "POES-like",
        "zopo_fast",
        "zopo_fast, racing",
        "zopo_fast, racing, 16 in flight",
    ),
}
SEEDS_OF_SIMULATION = 1  # at most: its pools are large, and are samples themselves
METHODS = {  # instead of the defaults, by source
    "simulation": (*DEFAULTS[CALLS][:-1], "zopo_fast, racing, one difficulty"),
    ALIKE: (
        "halving, own order",
        "halving, same order",
        "zopo_fast, racing",
        "zopo_fast, racing, one difficulty",
    ),
}
SLOW = {"official": 4, "GP-EI, RBF": 1, "GP-TS, RBF": 1}  # seeds at most, by method


@dataclass(frozen=True)
class Plan:
    """Size of a comparison by source.

    Args:
        seeds: runs of a method on a landscape.
        budget: of paraphrases, in prompts.
        initial: number of initial prompts of the methods that do not choose them.
        tenths: budgets of the other sources, in tenths of a full score for every prompt of the pool.
    """

    seeds: int = 8
    budget: int = 50
    initial: int = 10
    tenths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.2)

    def __post_init__(self) -> None:
        if min(self.seeds, self.budget, self.initial) < 1 or self.initial >= self.budget:
            raise ConfigError(f"seeds, budget and initial must be at least 1, initial below budget: {self}")


def unit(source: str) -> str:
    """Return the unit of a source's budget: PROMPTS or CALLS."""
    return PROMPTS if source == "paraphrases" else CALLS


def load(folder: Path, wanted: Sequence[str] = ()) -> dict[str, list[Landscape]]:
    """Return the landscapes by source; the simulation takes its components from the folder's blocks.

    The source `landscapes` is that of a checkout, bench/landscapes.

    Args:
        folder: with the sources.
        wanted: sources; none: all of SOURCES that the folder holds.

    Raises:
        ConfigError: an unknown source.
        InputError: the folder holds no source, or a file is damaged.
    """
    for source in wanted:
        if source not in SOURCES:
            raise ConfigError(f"no source is named {source!r}; there are {', '.join(SOURCES)}")
    found = sources.load(folder)
    found["simulation"] = simulation.pools(found.get("blocks", ()))
    if not wanted or ALIKE in wanted:
        found[ALIKE] = simulation.pools(found.get("blocks", ()), alike=True)
    if not wanted or "landscapes" in wanted:
        found["landscapes"] = load_folder(LANDSCAPES)
    return {source: each for source, each in found.items() if not wanted or source in wanted}


# ---- running ---------------------------------------------------------------------------------------------


def run(name: str, landscape: Landscape, counts: str, plan: Plan) -> Runs:
    """Run a method on a landscape, with the seeds that there is time for."""
    seeds = range(min(plan.seeds, SLOW.get(name, plan.seeds)))
    return (_by_prompts if counts == PROMPTS else _by_calls)(name, landscape, plan, seeds)


def _by_prompts(name: str, landscape: Landscape, plan: Plan, seeds: Sequence[int]) -> Runs:
    value, examples = normalised(landscape.scores), np.arange(landscape.scores.shape[1])
    curves, reached = [], []
    for seed in seeds:
        done = replay(every()[name], landscape, examples, plan.budget, plan.initial, seed)
        curves.append(done.curve(value, [len(examples) * (k + 1) for k in range(plan.budget)]))
        reached.append(done.calls_to(value, 0.95) / len(examples))
    return Runs(np.array(curves), np.array(reached))


def _by_calls(name: str, landscape: Landscape, plan: Plan, seeds: Sequence[int]) -> Runs:
    m, examples = landscape.scores.shape
    means = landscape.scores.mean(axis=1)
    regret = (means.max() - means) / (means.std() or 1.0)
    found = np.empty((len(seeds), len(plan.tenths)))
    for (row, seed), (column, tenths) in itertools.product(enumerate(seeds), enumerate(plan.tenths)):
        order = np.random.default_rng([seed, 3]).permutation(examples)
        calls = round(tenths * m * examples / 10)
        done = replay(every()[name], landscape, order, 0, plan.initial, seed, calls)
        # Without any score the method deploys the first initial prompt.
        chosen = done.incumbents[-1] if done.incumbents else initial_points(m, 1, seed)[0]
        found[row, column] = regret[chosen]
    return Runs(found, _first_at_zero(found, plan))


def _first_at_zero(regrets: Array, plan: Plan) -> Array:
    """Return the smallest budget from which a seed chooses the best prompt; infinite: none."""
    best = np.flip(np.cumprod(np.flip(regrets <= 0.0, axis=1), axis=1), axis=1).astype(bool)
    tenths = np.array([*plan.tenths, np.inf])
    first: Array = tenths[np.where(best.any(axis=1), best.argmax(axis=1), len(plan.tenths))]
    return first


def compare(
    landscapes: Mapping[str, Sequence[Landscape]],
    plan: Plan,
    wanted: Sequence[str] = (),
    workers: int = 1,
) -> tuple[dict[str, dict[str, list[Runs]]], dict[str, str]]:
    """Run the methods of every source.

    Returns:
        Runs by source and method, one a landscape; and the methods that could not run, with reasons. The runs
        do not depend on the number of workers.

    Raises:
        ConfigError: an unknown method.
    """
    known, skipped, tasks = every(), {}, []
    for name in wanted:
        if name not in known:
            raise ConfigError(f"no method is named {name!r}; there are {', '.join(map(repr, known))}")
    for source, each in landscapes.items():
        counts = unit(source)
        for name in wanted or METHODS.get(source, DEFAULTS[counts]):
            if (why := absent(*known[name].needs)) is not None:
                skipped[name] = why
            elif counts == CALLS or not known[name].partial:
                tasks += [(source, name, landscape) for landscape in each]
    few = replace(plan, seeds=min(plan.seeds, SEEDS_OF_SIMULATION))
    calls = [
        (name, landscape, unit(source), few if source in SIMULATED else plan)
        for source, name, landscape in tasks
    ]
    found: dict[str, dict[str, list[Runs]]] = {}
    for (source, name, _), runs in zip(tasks, _map(calls, workers), strict=True):
        found.setdefault(source, {}).setdefault(name, []).append(runs)
    return found, skipped


def _map(calls: Sequence[tuple[str, Landscape, str, Plan]], workers: int) -> list[Runs]:
    if workers == 1:
        return list(itertools.starmap(run, tqdm(calls, unit="landscape", disable=None)))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(
            variable, "1"
        )  # small matrices; spawned processes read this when they load BLAS
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = pool.map(run, *zip(*calls, strict=True), chunksize=8)
        return list(tqdm(running, total=len(calls), unit="landscape", disable=None))


def write(
    folder: Path,
    out: Path,
    plan: Plan,
    methods: Sequence[str] = (),
    wanted: Sequence[str] = (),
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Compare the methods on the sources of a folder, print the tables, and write JSON and plot.

    The results hold figures only, and each source's origin and licence.

    Raises:
        ConfigError: an unknown method or source.
        InputError: the folder holds no source, or a file is damaged.
    """
    about, landscapes = machine.describe(), load(folder, wanted)
    runs, skipped = compare(landscapes, plan, methods, workers)
    found: list[dict[str, Any]] = []
    for source, by_method in runs.items():
        groups = [each.name.split(" / ")[0] for each in landscapes[source]]
        found += rows(source, unit(source), by_method, plan.initial, plan.tenths, groups)
    print(table(found, plan.tenths))
    origins = {
        source: {"landscapes": len(each), **sources.SOURCES[source]._asdict()}
        for source, each in landscapes.items()
    }
    path = out / f"{NAME}.json"
    runner.publish(path, __doc__, plan, found, skipped, machine=about, sources=origins)
    if absent("matplotlib") is None:
        plot(found, plan.tenths, out / f"{NAME}.png")
    return found
