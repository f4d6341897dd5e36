"""Steps of ask and tell over a whole run, beside other libraries' steps on the same pool.

Ours is the default search. The gradient search, which the peers implement too, has a row of its own.

Everything runs on one thread: the products of a step are too small to gain from more, and several OpenMP
threads cost tens of milliseconds a product once anything else runs. The published step is also timed on all
cores.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf
from zopo_fast.search.config import Search
from zopo_fast.search.gradient import GradientModel
from zopo_fast.search.improvement import NUGGETS, ImprovementSearch

from .. import peers
from ..common import limits, machine
from ..common.harness import Result, Settings, Timing, rows
from ..common.threads import threads

QUESTION = "What do ask and tell cost over a whole run of the default configuration, n from 40 to 165?"
DIM = 384
GOAL_SECONDS = {500: 32e-6, 2000: 80e-6}
GOAL_TAIL, GOAL_RATIO, GOAL_OVER_GRADIENT = 3.0, 2000.0, 2.0
OURS, GRADIENT = "zopo_fast", "zopo_fast, gradient"
SEARCHES: dict[str, Search] = {OURS: "improvement", GRADIENT: "gradient"}
# Rare events that slow a step down, and their names in the figures.
SELDOM: dict[str, tuple[type, str, str]] = {
    OURS: (ImprovementSearch, "_build", "building_the_region"),
    GRADIENT: (GradientModel, "_refresh", "choosing_the_noise"),
}
PEERS = ("published", "torch_closed", "numpy_closed", "gpytorch_peer")
STARTS = (40, 80, 120, 160)  # first steps of a slow peer's few samples, in turn
REST = 0.03  # seconds until the last library's spinning threads sleep
PROFILE = "published_profile.txt"

Problem = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]


def run(settings: Settings) -> Result:
    """Measure pools of 500, 2,000 and 10,000."""
    result = Result(QUESTION)
    found = peers.load(PEERS, result.skipped)
    for m in (500, 2000) if settings.quick else (500, 2000, 10_000):
        with threads(1):
            timings, seldom = _measure(result, settings, found, m)
        what = f"step, m = {m:,}"
        for row in rows(what, timings):
            row.extra["mean_us"] = 1e6 * float(np.mean(timings[row.who].samples))
            if row.who in SEARCHES:
                size, flops = _counted(row.who, m)
                row.extra.update(limits.traffic(size, row.median, settings.quick))
                row.extra["mflop"] = flops / 1e6
            result.rows.append(row)
        result.figures[what] = _figures(m, timings, seldom)
    if "published" in found:
        result.figures["published step on all cores, m = 500"] = _on_all_cores(settings, found)
    result.figures["counts a run, m = 500"] = _counts(settings)
    return result


def _counted(who: str, m: int) -> tuple[float, float]:
    """Return bytes and flops of our step at the median n, with float32 rows."""
    n = 102
    if who == GRADIENT:
        return limits.step_bytes(n, m, DIM, 32, 2, 4), limits.step_flops(n, m, DIM, 32, 2)
    region = zf.ZopoConfig().region  # beyond it the observations are members, too
    columns = m if m <= region else region + n
    size = limits.region_bytes(n, columns, DIM, len(NUGGETS))
    return size, limits.region_flops(n, columns, DIM, len(NUGGETS))


def problem(m: int, seed: int) -> Problem:
    """Return random embeddings, a landscape with many local optima, and an order of the first points."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(m, DIM)).astype(np.float32)
    waves = rng.normal(size=(DIM, 3)) / np.sqrt(DIM)
    return Z, np.sin(3.0 * (Z @ waves)).sum(axis=1).astype(np.float64), rng.permutation(m)


# ---- timing ------------------------------------------------------------------------------------------


def _measure(
    result: Result, settings: Settings, found: dict[str, Any], m: int
) -> tuple[dict[str, Timing], dict[str, list[float]]]:
    """Time runs of ours and steps of each peer in turn until the time is up.

    Returns:
        All samples, and those of our steps with a rare event.
    """
    samples: dict[str, list[float]] = {who: [] for who in SEARCHES}
    seldom: dict[str, list[float]] = {who: [] for who in SEARCHES}
    least, end = (2 if settings.quick else 8), time.monotonic() + 2 * settings.seconds
    turn = 0
    while turn < least or time.monotonic() < end:
        Z, scores, order = problem(m, settings.seed + turn % 4)
        for who in _rotated(list(SEARCHES), turn):
            with _quiet():
                run_samples, run_seldom = _our_run(who, Z, scores, settings.seed + turn)
            if turn > 0:  # the first run warms up
                samples[who] += run_samples
                seldom[who] += run_seldom
        start = [int(i) for i in order[: STARTS[turn % len(STARTS)]]]
        kernel = _standard_kernel(turn)
        searches = peers.collect(found, "searches", result.skipped, Z, kernel, scores, start)
        for who in _rotated(list(searches), turn):
            with _quiet():
                samples.setdefault(who, []).extend(_peer_steps(searches[who], 2 if settings.quick else 5))
        turn += 1
    return {who: Timing(tuple(found)) for who, found in samples.items()}, seldom


def _standard_kernel(seed: int) -> zf.NTK:
    """Return the kernel of the gradient search for this seed."""
    return zf.NTK.random(DIM, seed=seed)


def _our_run(who: str, Z: Any, scores: Any, seed: int) -> tuple[list[float], list[float]]:
    """Return the seconds of every ask + tell after the initial ones, and of those with a rare event."""
    opt = zf.Zopo(Z, zf.ZopoConfig(seed=seed, search=SEARCHES[who]))
    values = [float(s) for s in scores]
    for _ in range(40):
        i = opt.ask()
        opt.tell(i, values[i])
    samples, seldom = [], []
    owner, name, _ = SELDOM[who]
    with counting(owner, name) as happened:
        while not opt.done:
            before = happened[0]
            start = time.perf_counter()
            i = opt.ask()
            opt.tell(i, values[i])
            samples.append(time.perf_counter() - start)
            if happened[0] > before:
                seldom.append(samples[-1])
    return samples, seldom


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
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    time.sleep(REST)
    try:
        yield
    finally:
        if collecting:
            gc.enable()


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


def _figures(m: int, timings: dict[str, Timing], seldom: dict[str, list[float]]) -> dict[str, Any]:
    ours, gradient = timings[OURS], timings[GRADIENT]
    figures: dict[str, Any] = {who: _search_figures(who, timings[who], seldom[who]) for who in SEARCHES}
    figures["median over the gradient search's"] = ours.median / gradient.median
    figures["mean over the gradient search's"] = float(np.mean(ours.samples) / np.mean(gradient.samples))
    figures["median over the gradient search's, goal"] = GOAL_OVER_GRADIENT
    figures["within the goal of the gradient search"] = ours.median <= GOAL_OVER_GRADIENT * gradient.median
    if m in GOAL_SECONDS:
        figures["median_us_goal"] = 1e6 * GOAL_SECONDS[m]
        figures["reached"] = {who: timings[who].median <= GOAL_SECONDS[m] for who in SEARCHES}
    for who in ("published", "published, lookup by index"):
        if who in timings:
            figures[f"times faster than {who}"] = timings[who].median / ours.median
    if "published" in timings:
        figures["times faster than published, goal"] = GOAL_RATIO
    return figures


def _search_figures(who: str, timing: Timing, seldom: list[float]) -> dict[str, Any]:
    steady = Timing(tuple(set(timing.samples) - set(seldom)) or timing.samples)
    what = SELDOM[who][2]
    figures = {
        "median_us": 1e6 * timing.median,
        "p99_over_median": timing.p99 / timing.median,
        "p99_over_median_goal": GOAL_TAIL,
        f"p99_over_median_without_{what}": steady.p99 / timing.median,
        f"steps_{what}": len(seldom) / len(timing.samples),
    }
    if seldom:
        figures[f"{what}_ms"] = 1e3 * float(np.median(seldom))
    return figures


@contextmanager
def counting(owner: type, name: str, note: Callable[..., None] | None = None) -> Iterator[list[int]]:
    """Count the calls of a method inside the context; `note` receives their arguments."""
    original, count = getattr(owner, name), [0]

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        if note is not None:
            note(*arguments)
        return original(*arguments)

    setattr(owner, name, counted)
    try:
        yield count
    finally:
        setattr(owner, name, original)


def _counts(settings: Settings) -> dict[str, dict[str, float]]:
    """Count the expensive events of one untimed run of each search."""
    Z, scores, _ = problem(500, settings.seed)

    def asks(who: str, each: Callable[[], None] = lambda: None) -> int:
        opt = zf.Zopo(Z, zf.ZopoConfig(seed=settings.seed, search=SEARCHES[who]))
        count = 0
        while not opt.done:
            i = opt.ask()
            opt.tell(i, float(scores[i]))
            each()
            count += 1
        return count

    with counting(ImprovementSearch, "_build") as builds, counting(ImprovementSearch, "_refresh") as units:
        found: dict[str, dict[str, float]] = {OURS: {"asks": asks(OURS)}}
    found[OURS] |= {"regions_built": builds[0], "score_units_taken_anew": units[0]}

    centers: list[int] = []

    def note(_: object, center: int, pending: list[int]) -> None:
        centers.append(center)

    total: list[int] = [0]
    with (
        counting(GradientModel, "uncertainty_at", note) as evaluations,
        counting(GradientModel, "_refresh") as refreshes,
    ):
        count = asks(GRADIENT, lambda: total.append(evaluations[0]))
    of_each = [after - before for before, after in pairwise(total)]
    found[GRADIENT] = {
        "asks": count,
        "asks_from_a_queue": of_each.count(0),  # initial points and exploration rounds
        "gradient_uncertainty_evaluations": evaluations[0],
        "gradient_uncertainty_evaluations_an_ask_at_most": max(of_each),
        "new_centers": sum(a != b for a, b in pairwise(centers)) + bool(centers),
        "noise_choices": refreshes[0],
    }
    return found


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
