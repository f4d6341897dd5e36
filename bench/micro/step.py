"""Steps of ask and tell over a whole run, beside other libraries' steps on the same pool.

Ours is the default search. The gradient search, which the peers implement too, has a row of its own.

Everything runs on one thread: the products of a step are too small to gain from more, and several OpenMP
threads cost tens of milliseconds a product once anything else runs. The published step is also timed on all
cores.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf
from zopo_fast.search.problem import MAX_WHOLE, REGION

from .. import peers
from ..common import limits, machine
from ..common.harness import Result, Settings, Timing, rows, uncollected
from ..common.threads import threads

QUESTION = "What do ask and tell cost over a whole run of the default configuration, n from 40 to 165?"
DIM, FIRST = 384, 40  # dimension; scores before the first timed step
LEVELS = 4  # noise levels of the default search
OURS, GRADIENT = "zopo_fast", "zopo_fast, gradient"
SEARCHES: dict[str, Literal["improvement", "gradient"]] = {OURS: "improvement", GRADIENT: "gradient"}
# Largest values of the default search's figures, by the size of the pool.
GOALS = {
    500: {"median_us": 18.0, "p99_us": 45.0},
    2000: {"median_us": 60.0, "mean_over_median": 1.5, "worst_of_a_run_us": 1000.0},
    10_000: {"median_us": 250.0},
}
GOAL_RATIO = 1500.0  # published step over ours, m = 500
PEERS = ("published", "torch_closed", "numpy_closed", "gpytorch_peer")
STARTS = (40, 80, 120, 160)  # first steps of a slow peer's few samples, in turn
REST = 0.03  # seconds until the last library's spinning threads sleep
SLOWEST = 5  # numbers of scores listed with the slowest steps
PROFILE = "published_profile.txt"

Problem = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]
Runs = dict[str, list[list[float]]]  # seconds of every step of every run, by search


def run(settings: Settings) -> Result:
    """Measure pools of 500, 2,000 and 10,000."""
    result = Result(QUESTION)
    found = peers.load(PEERS, result.skipped)
    for m in (500, 2000) if settings.quick else GOALS:
        with threads(1):
            runs, timings = _measure(result, settings, found, m)
        what = f"step, m = {m:,}"
        for row in rows(what, timings):
            row.extra.update(timings[row.who].tail())
            if row.who in SEARCHES:
                size, flops = _counted(row.who, m)
                row.extra.update(limits.traffic(size, row.median, settings.quick))
                row.extra["mflop"] = flops / 1e6
            result.rows.append(row)
        result.figures[what] = _figures(m, timings, runs)
    if "published" in found:
        result.figures["published step on all cores, m = 500"] = _on_all_cores(settings, found)
    return result


def _counted(who: str, m: int) -> tuple[float, float]:
    """Return bytes and flops of our step at the median n, with float32 rows."""
    n = 102
    if who == GRADIENT:
        return limits.step_bytes(n, m, DIM, 32, 2, 4), limits.step_flops(n, m, DIM, 32, 2)
    # A smaller pool is searched as a whole, by its Gram matrix; in a larger one, observations are members.
    columns, dim = (m, 0) if m <= MAX_WHOLE["improvement"] else (REGION + n, DIM)
    return limits.region_bytes(n, columns, dim, LEVELS), limits.region_flops(n, columns, dim, LEVELS)


def problem(m: int, seed: int) -> Problem:
    """Return random embeddings, a landscape with many local optima, and an order of the first points."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(m, DIM)).astype(np.float32)
    waves = rng.normal(size=(DIM, 3)) / np.sqrt(DIM)
    return Z, np.sin(3.0 * (Z @ waves)).sum(axis=1).astype(np.float64), rng.permutation(m)


# ---- timing ------------------------------------------------------------------------------------------


def _measure(
    result: Result, settings: Settings, found: dict[str, Any], m: int
) -> tuple[Runs, dict[str, Timing]]:
    """Time runs of ours and steps of each peer in turn until the time is up.

    Returns:
        Our runs, and the samples of all.
    """
    runs: Runs = {who: [] for who in SEARCHES}
    others: dict[str, list[float]] = {}
    least, end = (2 if settings.quick else 8), time.monotonic() + 2 * settings.seconds
    turn = 0
    while turn < least or time.monotonic() < end:
        Z, scores, order = problem(m, settings.seed + turn % 4)
        for who in _rotated(list(SEARCHES), turn):
            with _quiet():
                samples = our_run(Z, scores, zf.ZopoConfig(seed=settings.seed + turn, search=SEARCHES[who]))
            if turn > 0:  # the first run warms up
                runs[who].append(samples)
        start = [int(i) for i in order[: STARTS[turn % len(STARTS)]]]
        kernel = _standard_kernel(turn)
        searches = peers.collect(found, "searches", result.skipped, Z, kernel, scores, start)
        for who in _rotated(list(searches), turn):
            with _quiet():
                others.setdefault(who, []).extend(_peer_steps(searches[who], 2 if settings.quick else 5))
        turn += 1
    ours = {who: Timing(tuple(s for samples in found for s in samples)) for who, found in runs.items()}
    return runs, ours | {who: Timing(tuple(samples)) for who, samples in others.items()}


def _standard_kernel(seed: int) -> zf.NTK:
    """Return the kernel of the gradient search for this seed."""
    return zf.NTK.random(DIM, seed=seed)


def our_run(Z: Any, scores: Any, config: zf.ZopoConfig) -> list[float]:
    """Return the seconds of every ask + tell after the initial ones; step k sees n = 40 + k scores."""
    opt = zf.Zopo(Z, config)
    values = [float(s) for s in scores]
    for _ in range(FIRST):
        i = opt.ask()
        opt.tell(i, values[i])
    samples = []
    while not opt.done:
        start = time.perf_counter()
        i = opt.ask()
        opt.tell(i, values[i])
        samples.append(time.perf_counter() - start)
    return samples


def _peer_steps(search: Any, count: int) -> list[float]:
    """Return the seconds of `count` steps, after one that sets the model up."""
    search.step()
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        search.step()
        samples.append(time.perf_counter() - start)
    return samples


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable garbage collection and wait for other libraries' threads to sleep."""
    with uncollected():
        time.sleep(REST)
        yield


def _on_all_cores(settings: Settings, found: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds of the published step on all cores, by its candidate lookup."""
    Z, scores, order = problem(500, settings.seed)
    start = [int(i) for i in order[:100]]
    searches = found["published"].searches(Z, _standard_kernel(settings.seed), scores, start)
    with threads(machine.cores()):
        return {
            who: float(np.median(_peer_steps(search, 2 if settings.quick else 20)))
            for who, search in searches.items()
        }


def _rotated(names: list[str], by: int) -> list[str]:
    by %= max(1, len(names))
    return names[by:] + names[:by]


# ---- results -----------------------------------------------------------------------------------------


def _figures(m: int, timings: dict[str, Timing], runs: Runs) -> dict[str, Any]:
    ours, gradient = timings[OURS], timings[GRADIENT]
    figures: dict[str, Any] = {who: run_figures(found) for who, found in runs.items()}
    figures["median over the gradient search's"] = ours.median / gradient.median
    figures["mean over the gradient search's"] = ours.mean / gradient.mean
    for who in ("published", "published, lookup by index"):
        if who in timings:
            figures[f"times faster than {who}"] = timings[who].median / ours.median
    figures["goals"] = {
        name: {"goal": goal, "reached": figures[OURS][name] <= goal} for name, goal in GOALS[m].items()
    }
    if m == 500 and "published" in timings:
        reached = figures["times faster than published"] >= GOAL_RATIO
        figures["goals"]["times faster than published"] = {"goal": GOAL_RATIO, "reached": reached}
    return figures


def run_figures(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the distribution of the steps of several runs, and the n of the slowest.

    A disturbance by other work hits one run; a slow step of the search recurs. `worst_of_a_run_us` is
    therefore the median over the runs of each run's slowest step, and `slowest_us_at_n` has the numbers of
    scores n whose steps have the largest medians over the runs.
    """
    timing = Timing(tuple(seconds for samples in runs for seconds in samples))
    worst = [max(enumerate(samples, FIRST), key=operator.itemgetter(1)) for samples in runs]
    of_each = [(statistics.median(at), n) for n, at in enumerate(zip(*runs, strict=False), FIRST)]
    return {
        "median_us": 1e6 * timing.median,
        "p99_us": 1e6 * timing.p99,
        **timing.tail(),
        "mean_over_median": timing.mean / timing.median,
        "worst_of_a_run_us": 1e6 * statistics.median(seconds for _, seconds in worst),
        "worst_of_each_run_at_n": [n for n, _ in worst],
        "slowest_us_at_n": {f"n = {n}": 1e6 * seconds for seconds, n in sorted(of_each)[: -SLOWEST - 1 : -1]},
    }


# ---- the published step's profile --------------------------------------------------------------------


def keep(result: Result, out: Path) -> None:
    """Write a profile of the published step; do nothing without PyTorch."""
    found = peers.load(["published"], {})
    if "published" not in found:
        return
    Z, scores, order = problem(500, 0)
    searches = found["published"].searches(Z, _standard_kernel(0), scores, [int(i) for i in order[:100]])
    parts = [
        f"# {who}, m = 500, d = {DIM}, n from 100\n{_profile(search)}" for who, search in searches.items()
    ]
    (out / PROFILE).write_text("\n".join(parts), encoding="utf-8")


def _profile(search: Any, steps: int = 5) -> str:
    """Return the functions with the largest own time, by file and line, without folders."""
    import cProfile
    import io
    import pstats

    search.step()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(steps):
        search.step()
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines()) + "\n"
