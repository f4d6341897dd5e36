"""Steps of many searches at once: one ZopoBatch beside as many Zopo objects.

The default batch and one other case advance by one step in turn, and a batch changes its number of threads
from step to step. Only two cases exist at a time: a thousand searches take gigabytes. Their data is far
larger than the caches, so no case finds its own there.

The second comparison is a server's: objects in turn, each with its data out of the caches, beside the same
objects one after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf

from ..common import limits, machine
from ..common.harness import Result, Settings, Timing, rows, uncollected
from . import memory
from .step import LEVELS

QUESTION = "How many steps a second do 1,024 searches make in one ZopoBatch, beside separate objects?"
M, DIM = 500, 384
GOAL_STEPS = 100_000  # a second, default configuration on all cores
GOAL_COLD = 130e-6  # seconds of ask + tell of objects in turn, mean of a run
OURS, SEPARATE, ONE_THREAD = "zopo_fast", "zopo_fast, separate Zopo", ", 1 thread"
Search = Literal["improvement", "thompson", "gradient"]
# Cases beside the default batch, and the search of each.
OTHERS: dict[str, Search] = {
    SEPARATE: "improvement", "zopo_fast, thompson": "thompson", "zopo_fast, gradient": "gradient"
}  # fmt: skip
IN_TURN, ALONE = "zopo_fast", "zopo_fast, one after another"

Pools = list[NDArray[Any]]
Scores = NDArray[np.float64]
Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Size of the benchmark.

    Args:
        searches: number of searches in a batch.
        rounds: repetitions.
        objects: number of objects that a server has.
        measured: number of searches whose memory is measured.
        budget: scores of each search.
        initial: random prompts at the start of each, untimed in a batch.
    """

    searches: int
    rounds: int
    objects: int
    measured: int
    budget: int = 165
    initial: int = 40


FULL = Plan(searches=1024, rounds=2, objects=200, measured=memory.COUNT)
QUICK = Plan(searches=64, rounds=1, objects=8, measured=4, budget=56)


def run(settings: Settings) -> Result:
    """Measure the batch, a server's objects, and the memory of a search."""
    result = Result(QUESTION)
    plan = QUICK if settings.quick else FULL
    _many(result, plan, settings.seed, settings.quick)
    _cold(result, plan, settings.seed)
    for case in memory.CASES:
        try:
            result.figures[f"memory of a search, {case}"] = memory.of_search(case, plan.measured, plan.budget)
        except RuntimeError as error:
            result.skipped[f"memory, {case}"] = str(error)
    return result


# ---- one batch ---------------------------------------------------------------------------------------


def _many(result: Result, plan: Plan, seed: int, quick: bool) -> None:
    """Add the rows of the batches and of the separate objects: seconds of a step of one search."""
    samples: dict[str, list[float]] = {who: [] for who in (OURS, *OTHERS)}
    for number in range(plan.rounds):
        for beside in OTHERS:
            for who, seconds in _steps(plan, seed, number, beside):
                samples.setdefault(who, []).append(seconds / plan.searches)
    timings = {who: Timing(tuple(found)) for who, found in samples.items()}
    what = (
        f"step of one of {plan.searches:,} searches, m = {M}, d = {DIM}, "
        f"n from {plan.initial} to {plan.budget}"
    )
    for row in rows(what, timings):
        row.extra["steps_a_second"] = 1.0 / timings[row.who].mean
        row.extra.update(timings[row.who].tail())
        if row.who in (OURS, OURS + ONE_THREAD, SEPARATE):
            size = limits.region_bytes((plan.initial + plan.budget) // 2, M, 0, LEVELS)
            row.extra.update(limits.traffic(size, row.median, quick))
        result.rows.append(row)
    mean = timings[OURS].mean
    result.figures["steps a second"] = {
        "default, all cores": 1.0 / mean,
        "goal": GOAL_STEPS,
        "reached": 1.0 / mean >= GOAL_STEPS,
        "times as many as separate objects": timings[SEPARATE].mean / mean,
        "times as many as on one thread": timings[OURS + ONE_THREAD].mean / mean,
    }


def _steps(plan: Plan, seed: int, number: int, beside: str) -> Iterator[tuple[str, float]]:
    """Yield case and seconds of every step of all searches, of the default batch and another case in turn.

    A batch takes each step on one thread or on all cores, alternately; the next round exchanges the two.
    """
    pools, scores = problems(plan.searches, seed + number * plan.searches)
    cases = {OURS: _together(pools, scores, _configs(plan, "improvement"))}
    if beside == SEPARATE:
        cases[beside] = _separate(pools, scores, _configs(plan, "improvement"))
    else:
        cases[beside] = _together(pools, scores, _configs(plan, OTHERS[beside]))
    order = list(cases)
    try:
        with uncollected():
            for step in range(plan.budget):
                one = (step + number) % 2 == 0
                for who in order:
                    alone = one and who != SEPARATE
                    zf.set_num_threads(1 if alone else machine.cores())
                    seconds = cases[who]()
                    if step >= plan.initial:
                        yield who + ONE_THREAD * alone, seconds
                order.reverse()
    finally:
        zf.set_num_threads(0)


def _together(pools: Pools, scores: Scores, configs: list[zf.ZopoConfig]) -> Callable[[], float]:
    """Return a function that advances a batch by one step and returns the seconds of ask and tell."""
    batch, every = zf.ZopoBatch(pools, configs), np.arange(len(pools))

    def step() -> float:
        start = time.perf_counter()
        indices = batch.ask()
        elapsed = time.perf_counter() - start
        told = scores[every, indices]
        start = time.perf_counter()
        batch.tell(indices, told)
        return elapsed + time.perf_counter() - start

    return step


def _separate(pools: Pools, scores: Scores, configs: list[zf.ZopoConfig]) -> Callable[[], float]:
    """Return a function that advances as many objects by one step each and returns the seconds of all."""
    searches = [
        (zf.Zopo(pool, config), values)
        for pool, config, values in zip(pools, configs, scores.tolist(), strict=True)
    ]
    return lambda: sum(pairs_in_turn(searches))


def _configs(plan: Plan, search: Search) -> list[zf.ZopoConfig]:
    return [
        zf.ZopoConfig(budget=plan.budget, initial=plan.initial, seed=b, search=search)
        for b in range(plan.searches)
    ]


def problems(count: int, seed: int, dtype: Any = np.float16) -> tuple[Pools, Scores]:
    """Return pools (M, DIM) and scores (count, M) with many local optima, as in the benchmark `step`."""
    pools: Pools = []
    scores = np.empty((count, M))
    for b in range(count):
        rng = np.random.default_rng(seed + b)
        Z = rng.standard_normal((M, DIM), dtype=np.float32)
        waves = (rng.normal(size=(DIM, 3)) / np.sqrt(DIM)).astype(np.float32)
        scores[b] = np.sin(3.0 * (Z @ waves)).sum(axis=1)
        pools.append(Z.astype(dtype))
    return pools, scores


# ---- objects in turn ---------------------------------------------------------------------------------


def pairs_in_turn(searches: Iterable[tuple[zf.Zopo, Sequence[float]]]) -> list[float]:
    """Ask and tell each search once, given the scores of its pool; return the seconds of each pair."""
    samples = []
    for search, values in searches:
        start = time.perf_counter()
        i = search.ask()
        search.tell(i, values[i])
        samples.append(time.perf_counter() - start)
    return samples


def _cold(result: Result, plan: Plan, seed: int) -> None:
    """Add the rows of objects in turn and one after another; the figures are of whole runs."""
    found: dict[str, list[Samples]] = {IN_TURN: [], ALONE: []}
    for number in range(plan.rounds):
        for who in (IN_TURN, ALONE) if number % 2 == 0 else (ALONE, IN_TURN):
            found[who].append(pairs(plan, seed, in_turn=who == IN_TURN))
    samples = {who: np.concatenate(runs) for who, runs in found.items()}
    timings = {who: Timing(tuple(all_[:, plan.initial :].ravel().tolist())) for who, all_ in samples.items()}
    what = (
        f"ask + tell, {plan.objects} Zopo in turn, m = {M}, d = {DIM}, float32, "
        f"n from {plan.initial} to {plan.budget}"
    )
    for row in rows(what, timings):
        row.extra.update(timings[row.who].tail())
        result.rows.append(row)
    mean, alone = (float(samples[who].mean()) for who in (IN_TURN, ALONE))
    result.figures["objects in turn, initial prompts included"] = {
        "mean_us": 1e6 * mean,
        "mean_us_goal": 1e6 * GOAL_COLD,
        "reached": mean <= GOAL_COLD,
        "over one after another": mean / alone,
    }


def pairs(plan: Plan, seed: int, in_turn: bool) -> Samples:
    """Return the seconds of each ask + tell of whole searches on float32 pools, (objects, budget)."""
    pools, scores = problems(plan.objects, seed, np.float32)
    searches = [
        (zf.Zopo(pool, zf.ZopoConfig(budget=plan.budget, initial=plan.initial, seed=b)), values)
        for b, (pool, values) in enumerate(zip(pools, scores.tolist(), strict=True))
    ]
    with uncollected():
        if in_turn:
            return np.array([pairs_in_turn(searches) for _ in range(plan.budget)]).T
        return np.array([pairs_in_turn([search] * plan.budget) for search in searches])
