"""A whole run of ask and tell, step by step, beside other libraries' steps on the same pool.

All on one thread: the products of a step are too small to gain from more, and several OpenMP threads
cost tens of milliseconds a product as soon as anything else runs. The published step is also timed on
all cores.
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
from zopo_fast.surrogate import Surrogate

from . import limits, machine, peers
from .harness import Result, Settings, Timing, rows
from .threads import threads

QUESTION = "What do ask and tell cost over a whole run of the default configuration, n from 40 to 165?"
DIM = 384
GOAL_SECONDS = {500: 32e-6, 2000: 80e-6}
GOAL_TAIL, GOAL_RATIO = 3.0, 2000.0
PEERS = ("published", "torch_closed", "numpy_closed", "gpytorch_peer")
STARTS = (40, 80, 120, 160)  # where a slow peer's few steps begin, in turn
REST = 0.03  # seconds for the last library's spinning threads to go to sleep
PROFILE = "published_profile.txt"

Problem = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]


def run(settings: Settings) -> Result:
    """Pools of 500, 2,000 and 10,000."""
    result = Result(QUESTION)
    found = peers.load(PEERS, result.skipped)
    for m in (500, 2000) if settings.quick else (500, 2000, 10_000):
        with threads(1):
            timings, refreshes = _measure(result, settings, found, m)
        what = f"step, m = {m:,}"
        for row in rows(what, timings):
            row.extra["mean_us"] = 1e6 * float(np.mean(timings[row.who].samples))
            if row.who == "zopo_fast":  # at the n of the median step, float32 rows
                size = limits.step_bytes(102, m, DIM, 32, 2, 4)
                row.extra.update(limits.traffic(size, row.median, settings.quick))
                row.extra["mflop"] = limits.step_flops(102, m, DIM, 32, 2) / 1e6
            result.rows.append(row)
        result.figures[what] = _figures(m, timings, refreshes)
    if "published" in found:
        result.figures["published step on all cores, m = 500"] = _on_all_cores(settings, found)
    result.figures["counts a run, m = 500"] = _counts(settings)
    return result


def problem(m: int, seed: int) -> Problem:
    """Random embeddings, a landscape with many local optima, and an order of the first points."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(m, DIM)).astype(np.float32)
    waves = rng.normal(size=(DIM, 3)) / np.sqrt(DIM)
    return Z, np.sin(3.0 * (Z @ waves)).sum(axis=1).astype(np.float64), rng.permutation(m)


# ---- timing ------------------------------------------------------------------------------------------


def _measure(
    result: Result, settings: Settings, found: dict[str, Any], m: int
) -> tuple[dict[str, Timing], list[float]]:
    """Runs of ours and steps of each peer in turn until the time is up.

    Returns:
        Samples of all; those of our steps that chose the noise.
    """
    samples: dict[str, list[float]] = {"zopo_fast": []}
    refreshes: list[float] = []
    least, end = (2 if settings.quick else 8), time.monotonic() + 2 * settings.seconds
    turn = 0
    while turn < least or time.monotonic() < end:
        Z, scores, order = problem(m, settings.seed + turn % 4)
        with _quiet():
            run_samples, run_refreshes = _our_run(Z, scores, settings.seed + turn)
        if turn > 0:  # the first run warms up
            samples["zopo_fast"] += run_samples
            refreshes += run_refreshes
        start = [int(i) for i in order[: STARTS[turn % len(STARTS)]]]
        kernel = _standard_kernel(turn)
        searches = peers.collect(found, "searches", result.skipped, Z, kernel, scores, start)
        for who in _rotated(list(searches), turn):
            with _quiet():
                samples.setdefault(who, []).extend(_peer_steps(searches[who], 2 if settings.quick else 5))
        turn += 1
    return {who: Timing(tuple(found)) for who, found in samples.items()}, refreshes


def _standard_kernel(seed: int) -> zf.NTK:
    """The kernel of our run of this seed."""
    return zf.NTK.random(DIM, seed=seed)


def _our_run(Z: Any, scores: Any, seed: int) -> tuple[list[float], list[float]]:
    """Seconds of every ask + tell after the initial ones; and again of those that chose the noise."""
    opt = zf.Zopo(Z, zf.ZopoConfig(seed=seed))
    values = [float(s) for s in scores]
    for _ in range(40):
        i = opt.ask()
        opt.tell(i, values[i])
    samples, refreshes = [], []
    with counting(Surrogate, "_refresh") as refreshed:
        while not opt.done:
            before = refreshed[0]
            start = time.perf_counter()
            i = opt.ask()
            opt.tell(i, values[i])
            samples.append(time.perf_counter() - start)
            if refreshed[0] > before:
                refreshes.append(samples[-1])
    return samples, refreshes


def _peer_steps(search: Any, count: int) -> list[float]:
    """Seconds of `count` steps, after one that sets the model up."""
    search.step()
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        search.step()
        samples.append(time.perf_counter() - start)
    return samples


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection in a step, and nobody else's threads at work."""
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
    """Median seconds of the published step on all cores, by how it looks candidates up."""
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


# ---- what was found ----------------------------------------------------------------------------------


def _figures(m: int, timings: dict[str, Timing], refreshes: list[float]) -> dict[str, Any]:
    ours = timings["zopo_fast"]
    steady = Timing(tuple(set(ours.samples) - set(refreshes)))
    figures: dict[str, Any] = {
        "median_us": 1e6 * ours.median,
        "p99_over_median": ours.p99 / ours.median,
        "p99_over_median_goal": GOAL_TAIL,
        "p99_over_median_without_choosing_the_noise": steady.p99 / ours.median,
        "steps_choosing_the_noise": len(refreshes) / len(ours.samples),
    }
    if refreshes:
        figures["choosing_the_noise_ms"] = 1e3 * float(np.median(refreshes))
    if m in GOAL_SECONDS:
        figures["median_us_goal"] = 1e6 * GOAL_SECONDS[m]
        figures["reached"] = ours.median <= GOAL_SECONDS[m]
    for who in ("published", "published, lookup by index"):
        if who in timings:
            figures[f"times faster than {who}"] = timings[who].median / ours.median
    if "published" in timings:
        figures["times faster than published, goal"] = GOAL_RATIO
    return figures


@contextmanager
def counting(owner: type, name: str, note: Callable[..., None] | None = None) -> Iterator[list[int]]:
    """Count the calls of a method while the context lasts; `note` sees their arguments."""
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


def _counts(settings: Settings) -> dict[str, float]:
    """How often one run, off the clock, evaluates the gradient's uncertainty, moves, chooses the noise."""
    Z, scores, _ = problem(500, settings.seed)
    opt = zf.Zopo(Z, zf.ZopoConfig(seed=settings.seed))
    centers: list[int] = []

    def note(_: object, center: int, pending: list[int]) -> None:
        centers.append(center)

    asks = most = queued = 0
    with (
        counting(Surrogate, "uncertainty_at", note) as evaluations,
        counting(Surrogate, "_refresh") as refreshes,
    ):
        while not opt.done:
            before = evaluations[0]
            i = opt.ask()
            opt.tell(i, float(scores[i]))
            asks += 1
            most = max(most, evaluations[0] - before)
            queued += evaluations[0] == before
    moves = sum(a != b for a, b in pairwise(centers)) + bool(centers)
    return {
        "asks": asks,
        "asks_from_a_queue": queued,  # initial points and rounds of exploration
        "gradient_uncertainty_evaluations": evaluations[0],
        "gradient_uncertainty_evaluations_an_ask_at_most": most,
        "new_centers": moves,
        "noise_choices": refreshes[0],
    }


# ---- the published step's profile --------------------------------------------------------------------


def keep(result: Result, out: Path) -> None:
    """Write where the published step spends its time; nothing when PyTorch is not there."""
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
    """The functions with the largest own time, by file and line, no folders."""
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
