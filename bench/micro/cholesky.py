"""Append and remove of one observation, beside factorising again; all on one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import zopo_fast as zf

from .. import peers
from ..common import limits
from ..common.harness import Result, Settings, rows
from ..common.threads import threads
from .bursts import Job, bursts

QUESTION = "What do an observation more and one less cost, beside factorising again?"
DIM = 384
PEERS = ("numpy_closed", "torch_closed", "gpytorch_peer", "sklearn_peer")
HOW = {
    "zopo_fast": "a row of the factor, a rank-one update",
    "NumPy/SciPy closed form": "K kept and changed by a row, Cholesky anew",
    "PyTorch closed form": "K kept and changed by a row, Cholesky anew",
    "GPyTorch, RBF": "get_fantasy_model",
    "GPyTorch, NTK": "get_fantasy_model",
    "BoTorch, RBF": "condition_on_observations",
    "scikit-learn, RBF": "fit anew",
}


def run(settings: Settings) -> Result:
    """Measure every size; an untimed pop after each append keeps the state constant."""
    result = Result(QUESTION)
    found = peers.load(PEERS, result.skipped)
    if "torch_closed" in found:
        found["torch_closed"].compile_too = False  # these calls are too small to gain from compilation
    for n in (40, 165) if settings.quick else (40, 165, 500, 1000, 2000):
        rng = np.random.default_rng(settings.seed)
        X, y = rng.normal(size=(n + 1, DIM)), rng.normal(size=n + 1)
        kernel = zf.NTK.random(DIM, seed=settings.seed)
        noise = 0.01 * float(kernel.diag(X).mean())
        others = peers.collect(found, "processes", result.skipped, kernel, X[:n], y[:n], noise)
        for name, jobs in (
            ("append", _appending(kernel, X, y, noise, others)),
            ("remove the middle one", _removing(kernel, X[:n], y[:n], noise, others)),
        ):
            cases = peers.working({who: job.call for who, job in jobs.items()}, result.skipped)
            for who in cases:
                undo = jobs[who].undo
                if undo is not None:
                    undo()
            with threads(1):
                timings = bursts({who: jobs[who] for who in cases}, settings, share=0.3)
            for row in rows(f"{name}, n = {n}, 1 thread", timings):
                row.extra["how"] = HOW[row.who]
                if row.who == "zopo_fast" and name == "append":
                    row.extra.update(
                        limits.traffic(limits.append_bytes(n, DIM, 32, 2), row.median, settings.quick)
                    )
                result.rows.append(row)
    return result


def _appending(kernel: Any, X: Any, y: Any, noise: float, others: dict[str, Any]) -> dict[str, Job]:
    gp = zf.GaussianProcess(kernel, noise)
    gp.append(X[:-1], y[:-1])
    x, score = X[-1], float(y[-1])
    jobs = {"zopo_fast": Job(lambda: gp.append(x, score), gp.pop)}
    for who, process in others.items():
        if hasattr(process, "appended"):
            jobs[who] = Job(_bound(process.appended, process.points(X[-1:]), score))
    return jobs


def _removing(kernel: Any, X: Any, y: Any, noise: float, others: dict[str, Any]) -> dict[str, Job]:
    """Append the removed point again, so that the next middle point is another one."""
    gp = zf.GaussianProcess(kernel, noise)
    gp.append(X, y)
    middle = len(X) // 2
    x, score = X[middle].copy(), float(y[middle])

    def back() -> None:
        nonlocal x, score
        gp.append(x, score)
        order.append(order.pop(middle))
        x, score = X[order[middle]], float(y[order[middle]])

    order = list(range(len(X)))
    jobs = {"zopo_fast": Job(lambda: gp.remove(middle), back)}
    for who, process in others.items():
        if hasattr(process, "removed"):
            jobs[who] = Job(_bound(process.removed, middle))
    return jobs


def _bound(function: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: function(*arguments)
