"""One posterior and one append: GPU engine, CPU engine, PyTorch and the published step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import zopo_fast as zf

from .. import peers
from ..common.harness import Result, Settings, rows
from ..micro.bursts import Job, bursts
from .timing import Devices

QUESTION = (
    "What do one posterior and one append cost on the GPU, and from which size on is it the faster engine?"
)
N, DIM, WIDTH, DEPTH = 256, 768, 32, 2
POINTS = 16  # query points, used in turn
GOAL_SECONDS, GOAL_RATIO = 40e-6, 100.0
CPU = "zopo_fast on the CPU"
FIT, LOOP = "published, fit and gradient on all points", "published, whole step, pool of 500, lookup by index"
CROSSOVER = {
    "step": (64, 256, 1024, 4096),
    "gram": (64, 256, 1024, 4096),
    "nearest": (1_000, 10_000, 100_000),
}


def run(settings: Settings, devices: Devices) -> Result:
    """Measure the step at n = 256, d = 768 for all, then ours on both engines at several sizes."""
    result = Result(QUESTION)
    n, dim = (24, 12) if settings.quick else (N, DIM)
    jobs = _ours(n, dim, settings.seed, devices)
    jobs |= _torch_jobs(result, n, dim, settings, devices)
    timings = bursts(jobs, settings, share=2.0, most=1000 if not settings.quick else 5)
    what = f"posterior + append, n = {n}, d = {dim}"
    result.rows += rows(what, timings)
    ours = timings["zopo_fast"].median
    figures: dict[str, Any] = {
        "median_us": 1e6 * ours,
        "median_us_goal": 1e6 * GOAL_SECONDS,
        "median_us_reached": ours <= GOAL_SECONDS,
        "cpu_median_us": 1e6 * timings[CPU].median,
        "cpu_time_over_gpu_time": timings[CPU].median / ours,
        "cpu_time_over_gpu_time_goal": 1.0,
        "cpu_time_over_gpu_time_reached": ours <= timings[CPU].median,
    }
    if FIT in timings:
        figures["times_faster_than_published_goal"] = GOAL_RATIO
        figures["times_faster_than_published"] = timings[FIT].median / ours
        figures["times_faster_than_published_reached"] = timings[FIT].median / ours >= GOAL_RATIO
    result.figures[what] = figures
    _crossovers(result, settings, devices)
    return result


def problem(n: int, dim: int, seed: int) -> tuple[zf.NTK, Any, Any, Any, float]:
    """Return a kernel, points (n, d), scores (n,), queries (POINTS, d) and the noise."""
    rng = np.random.default_rng([seed, n, dim])
    kernel = zf.NTK.random(dim, width=WIDTH, depth=DEPTH, seed=seed)
    X, x = rng.normal(size=(n, dim)), rng.normal(size=(POINTS, dim))
    return kernel, X, rng.normal(size=n), x, 1e-2 * float(kernel.diag(X).mean())


def _ours(n: int, dim: int, seed: int, devices: Devices) -> dict[str, Job]:
    kernel, X, y, x, noise = problem(n, dim, seed)

    def job(device: str) -> Job:
        gp = zf.GaussianProcess(kernel, noise=noise, device=device)
        gp.append(X, y)
        points = itertools.cycle(list(x))

        def call() -> None:
            point = next(points)
            gp.posterior(point)
            gp.append(point, 0.0)

        def undo() -> None:
            gp.pop()

        return Job(call, undo)

    return {"zopo_fast": job(devices.ours), CPU: job("cpu")}


def _torch_jobs(result: Result, n: int, dim: int, settings: Settings, devices: Devices) -> dict[str, Job]:
    """Return the peers on the same inputs, on the device before timing; results return to the host."""
    from ..peers import torch_step

    kernel, X, y, x, noise = problem(n, dim, settings.seed)
    at = torch.tensor(x, device=devices.torch)[:, None]
    made: dict[str, Callable[[], Callable[[], object]]] = {}
    for who, maker in torch_step.steps(kernel, X, y, noise, devices.torch, not settings.quick).items():
        made[who] = functools.partial(_made_and_cycled, maker, list(at))
    made[FIT] = lambda: _published_fit(kernel, X, y, x, devices)
    made[LOOP] = lambda: _published_loop(dim, n, settings.seed, devices)
    jobs = {}
    for who, make in made.items():
        try:
            call = make()
            call()
        except Exception as error:
            result.skipped[who] = peers.reason(error)
        else:
            jobs[who] = Job(call)
    return jobs


def _made_and_cycled(maker: Callable[[], Any], points: list[Any]) -> Callable[[], object]:
    return _cycled(maker(), points)


def _cycled(step: Callable[[Any], object], points: list[Any]) -> Callable[[], object]:
    turn = itertools.cycle(points)
    return lambda: step(next(turn))


def _published_fit(kernel: zf.NTK, X: Any, y: Any, x: Any, devices: Devices) -> Callable[[], object]:
    """Return the published step's work for one gradient on all n points: refit, then autograd."""
    from zopo_fast.search.config import OfficialSettings

    from ..peers.published import EmpiricalNTK, Surrogate

    ntk = EmpiricalNTK(kernel, torch.float32, devices.torch)
    points, scores, at = (torch.tensor(a, dtype=torch.float32, device=devices.torch) for a in (X, y, x))
    settings = OfficialSettings(gp_queries=len(X))

    def call(center: Any) -> object:
        gradient, variance = Surrogate(ntk, points, scores, center, settings).descent(center)
        return gradient.cpu(), variance

    return _cycled(call, list(at))


def _published_loop(dim: int, n: int, seed: int, devices: Devices) -> Callable[[], object]:
    """Return the whole published step with the projection onto the pool; its fit uses 20 points."""
    from ..peers.published import PublishedZopo

    m = max(500, 2 * n)
    rng = np.random.default_rng([seed, m])
    kernel = zf.NTK.random(dim, initialization="normal")
    start = list(range(n))
    Z, scores = rng.normal(size=(m, dim)), rng.normal(size=m)
    search = PublishedZopo(Z, kernel, scores, start, 10**6, lookup="index", device=devices.torch)

    def call() -> object:
        index = search.step()
        devices.wait()
        return index

    return call


# ---- crossover ---------------------------------------------------------------------------------------


def _crossovers(result: Result, settings: Settings, devices: Devices) -> None:
    """Measure from which size our GPU engine is faster than our CPU engine; device="auto" follows this."""
    for what, sizes in CROSSOVER.items():
        make = {"step": _ours, "gram": _gram_jobs, "nearest": _nearest_jobs}[what]
        dim = 12 if settings.quick else DIM
        faster: dict[str, float] = {}
        for n in [s // 16 for s in sizes[:2]] if settings.quick else sizes:
            try:
                jobs = make(n, dim, settings.seed, devices)
                timings = bursts(jobs, settings, share=0.15, most=300 if not settings.quick else 3)
            except Exception as error:
                result.skipped[f"crossover of {what}, n = {n:,}"] = peers.reason(error)
                continue
            result.rows += rows(f"{what}, n = {n:,}, d = {dim}", timings)
            faster[f"n = {n}"] = timings[CPU].median / timings["zopo_fast"].median
        result.figures[f"{what}: time on the CPU over time on the GPU"] = faster


def _gram_jobs(n: int, dim: int, seed: int, devices: Devices) -> dict[str, Job]:
    """Time with host arrays in and out, copies included."""
    kernel, X, *_ = problem(n, dim, seed)
    return {
        "zopo_fast": Job(lambda: kernel.gram(X, device=devices.ours)),
        CPU: Job(lambda: kernel.gram(X, device="cpu")),
    }


def _nearest_jobs(m: int, dim: int, seed: int, devices: Devices) -> dict[str, Job]:
    from .pool import pool_on

    rng = np.random.default_rng([seed, m])
    Z = rng.standard_normal((m, dim), dtype=np.float32).astype(np.float16)
    x = list(rng.normal(size=(POINTS, dim)))
    pools = {"zopo_fast": pool_on(devices.ours, Z), CPU: pool_on("cpu", Z)}
    return {who: Job(_cycled(pool.nearest, x)) for who, pool in pools.items()}
