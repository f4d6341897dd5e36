"""Posterior with gradient at one point; mean and variance at many points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import zopo_fast as zf

from .. import peers
from ..common import limits, machine
from ..common.harness import Result, Settings, rows
from ..common.threads import threads
from .bursts import Job, bursts

QUESTION = "What do mean, variance, gradient and gradient uncertainty cost, at one point and at many?"
DIM = 384
SIZES = (165, 500)
GOAL = 20.0
PEERS = ("numpy_closed", "torch_closed", "gpytorch_peer", "sklearn_peer")
PARTS = ("mean", "variance", "gradient", "gradient uncertainty")


def run(settings: Settings) -> Result:
    """Measure n = 165 and 500: one point on one thread, many points on all cores."""
    result = Result(QUESTION)
    found = peers.load(PEERS, result.skipped)
    if "torch_closed" in found:
        found["torch_closed"].compile_too = not settings.quick
        if settings.quick:
            result.skipped["PyTorch closed form, compiled"] = "quick: compiling takes longer than all else"
    for n in SIZES[:1] if settings.quick else SIZES:
        _one_size(result, settings, found, n)
    return result


def _one_size(result: Result, settings: Settings, found: dict[str, Any], n: int) -> None:
    rng = np.random.default_rng(settings.seed)
    X, y = rng.normal(size=(n, DIM)), rng.normal(size=n)
    kernel = zf.NTK.random(DIM, seed=settings.seed)
    noise = 0.01 * float(kernel.diag(X).mean())
    gp = zf.GaussianProcess(kernel, noise)
    gp.append(X, y)
    others = peers.collect(found, "processes", result.skipped, kernel, X, y, noise)
    if n > SIZES[0]:  # takes seconds per call
        others = {who: process for who, process in others.items() if "joint" not in who}
    many = 1_000 if settings.quick else 10_000
    Q = rng.normal(size=(many, DIM))
    one = {who: _bound(p.posterior, p.points(Q[:1])) for who, p in others.items() if hasattr(p, "posterior")}
    all_ = {who: _bound(p.predict, p.points(Q)) for who, p in others.items()}
    predict = gp._gp.predict
    x = Q[0]
    with threads(1):
        _compare(
            result, settings, f"one point, n = {n}, 1 thread", {"zopo_fast": lambda: gp.posterior(x), **one}
        )
    what = f"mean and variance, {many:,} points, n = {n}"
    with threads(machine.cores()):
        medians = _compare(result, settings, what, {"zopo_fast": lambda: predict(Q), **all_})
    for who in ("GPyTorch, RBF", "GPyTorch, RBF, one joint call", "GPyTorch, NTK"):
        if who in medians:
            ratio = medians[who] / medians["zopo_fast"]
            goal = {} if settings.quick else {"goal": GOAL, "reached": ratio >= GOAL}
            result.figures[f"{what}: {who}"] = {"ratio": ratio, **goal}
    # Lower bound of every exact method with this kernel: the products alone at the rate of dgemm.
    flops = limits.predict_flops(many, n, Q.shape[1], 32, 2)
    result.figures[f"{what}: limit"] = limits.compute(
        flops, medians["zopo_fast"], machine.cores(), settings.quick
    )


def _compare(
    result: Result, settings: Settings, what: str, cases: dict[str, Callable[[], Any]]
) -> dict[str, float]:
    """Add the rows with their outputs and deviations from ours; return the medians."""
    values: dict[str, Any] = {}
    cases = peers.working(cases, result.skipped, values)
    expected = values["zopo_fast"]
    timings = bursts({who: Job(case) for who, case in cases.items()}, settings)
    for row in rows(what, timings):
        row.extra["computes"] = ", ".join(PARTS[: len(values[row.who])])
        if row.who != "zopo_fast" and "RBF" not in row.who:  # another kernel gives other values
            row.extra["largest_relative_difference"] = _difference(values[row.who], expected)
        result.rows.append(row)
    return {who: timing.median for who, timing in timings.items()}


def _difference(actual: Any, expected: Any) -> float:
    """Return the largest difference over the largest entry, over all parts."""
    pairs = [(np.ravel(a), np.ravel(e)) for a, e in zip(actual, expected, strict=False)]
    return max(float(np.abs(a - e).max() / np.abs(e).max()) for a, e in pairs)


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)
