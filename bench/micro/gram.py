"""Kernel matrix, beside the rate of NumPy's dgemm in the same run."""

from __future__ import annotations

from typing import Any

import numpy as np

import zopo_fast as zf

from .. import peers
from ..common import limits, machine
from ..common.harness import Result, Settings, rows
from ..common.threads import threads
from .bursts import Job, bursts

QUESTION = "How fast is the kernel matrix, as a share of the rate of NumPy's dgemm on the same threads?"
DIM, WIDTH, DEPTH = 384, 32, 2
GOALS = {"gram(X, Y)": 0.70, "gram(X)": 1.10}
DGEMM = "dgemm of NumPy's BLAS"
FEATURES = "zopo_fast, features and diagonal alone"


def run(settings: Settings) -> Result:
    """Measure gram(X, Y) and gram(X) on one thread and on all."""
    result = Result(QUESTION)
    quick = settings.quick
    found = peers.load(("published", "torch_closed", "numpy_closed", "neural_tangents_peer"), result.skipped)
    if quick and "torch_closed" in found:
        found["torch_closed"].compile_too = False
        result.skipped["PyTorch closed form, compiled"] = "quick: compiling takes longer than all else"
    counts = [machine.cores()]
    if machine.blas_threads(1) is not None:
        counts = sorted({1, *counts})
    else:
        result.skipped["one thread"] = (
            "the number of threads cannot be set in this build or without threadpoolctl"
        )
    for count in counts:
        with threads(count):
            usable = dict(found)
            if count < machine.cores() and "neural_tangents_peer" in usable:
                del usable["neural_tangents_peer"]
                result.skipped[f"neural-tangents, {count} threads"] = "JAX computes on all cores"
            for symmetric in (False, True):
                _compare(result, settings, usable, symmetric, count)
    return result


def _compare(result: Result, settings: Settings, found: dict[str, Any], symmetric: bool, count: int) -> None:
    n = 200 if settings.quick else 500
    rng = np.random.default_rng(settings.seed)
    X, Y = rng.normal(size=(n, DIM)), None if symmetric else rng.normal(size=(n, DIM))
    kernel = zf.NTK.random(DIM, width=WIDTH, depth=DEPTH, seed=settings.seed)
    cases = peers.working(peers.collect(found, "grams", result.skipped, kernel, X, Y), result.skipped)
    size = 768 if settings.quick else 1536
    A, B, out = rng.normal(size=(size, size)), rng.normal(size=(size, size)), np.empty((size, size))
    jobs = {
        "zopo_fast": Job(lambda: kernel.gram(X, Y)),
        FEATURES: Job(lambda: kernel.diag(X)),
        DGEMM: Job(lambda: np.matmul(A, B, out=out)),
        **{label: Job(case) for label, case in cases.items()},
    }
    timings = bursts(jobs, settings)
    # All rates use the flops of the closed form without symmetry and without features.
    flops = limits.gram_flops(n, n, DIM, WIDTH, DEPTH)
    dgemm = 2 * size**3 / timings[DGEMM].median
    name = f"gram({'X' if symmetric else 'X, Y'})"
    for row in rows(f"{name}, {n} x {n}, {count} thread{'s'[: count > 1]}", timings):
        if row.who == DGEMM:
            row.extra.update(gflops=dgemm / 1e9, size=size)
        elif row.who != FEATURES:
            row.extra.update(gflops=flops / row.median / 1e9, of_dgemm=flops / row.median / dgemm)
        result.rows.append(row)
    reached = flops / timings["zopo_fast"].median / dgemm
    goal = {} if settings.quick else {"goal": GOALS[name], "reached": reached >= GOALS[name]}
    result.figures[f"{name}, threads {count}"] = {"of_dgemm": reached, **goal}
