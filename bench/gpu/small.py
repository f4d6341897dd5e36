#!/usr/bin/env python3
"""Every GPU operation once on small inputs, compared with the CPU: for compute-sanitizer.

    compute-sanitizer --tool memcheck python bench/gpu/small.py
    ZOPO_CUDA=EMULATE builds run it without a GPU.

Needs only NumPy. Runs all operations; the exit code is 1 if one fails or gives a wrong result.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp.ntk import GramPrecision

# No size is a multiple of a tile.
N, M, DIM = 67, 45, 37
LOOSE: dict[GramPrecision, float] = {"float64": 1e-11, "float32": 1e-4, "tf32x3": 1e-4}


def close(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Raise if the largest difference exceeds the tolerance times the largest entry."""
    actual = np.asarray(actual if isinstance(actual, (np.ndarray, float)) else actual.numpy())
    expected = np.asarray(expected)
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {actual.shape}, expected {expected.shape}")
    error = float(np.abs(actual - expected).max() / (np.abs(expected).max() or 1.0))
    if not error <= tolerance:
        raise AssertionError(f"off by {error:.3g} of the largest entry, more than {tolerance:.3g}")


def check_gram(device: str, rng: np.random.Generator) -> None:
    """Check the three precisions, with and without symmetry."""
    kernel = zf.NTK.random(DIM)
    X, Y = rng.normal(size=(N, DIM)), rng.normal(size=(M, DIM))
    for precision, tolerance in LOOSE.items():
        if precision != "float64" and device == "cpu":
            continue
        for other in (None, Y):
            close(kernel.gram(X, other, precision=precision, device=device), kernel.gram(X, other), tolerance)


def check_process(device: str, rng: np.random.Generator) -> None:
    """Check append (one, many), remove, pop, the posterior at one point and at many, and the likelihood."""
    kernel = zf.NTK.random(DIM)
    X, y, x = rng.normal(size=(N, DIM)), rng.normal(size=N), rng.normal(size=(33, DIM))
    ours, other = (zf.GaussianProcess(kernel, noise=1.0, device=d) for d in (device, "cpu"))
    for gp in (ours, other):
        gp.append(X[:40], y[:40])
        for i in range(40, N):
            gp.append(X[i], y[i])
        gp.remove(3)
        gp.remove(50)
        gp.pop()
    for points in (x[0], x):
        for a, b in zip(ours.posterior(points), other.posterior(points), strict=True):
            close(a, b)
    close(ours.log_marginal_likelihood(), other.log_marginal_likelihood())
    close(ours.gradient_covariance(x[0]), other.gradient_covariance(x[0]))


def check_pool(device: str, rng: np.random.Generator) -> None:
    """Check the scan over rows of every precision."""
    if not device.startswith("cuda"):
        return
    mean, scale = rng.normal(size=DIM), rng.uniform(0.5, 2.0, DIM)
    for dtype in (np.float16, np.float32):
        Z = rng.normal(size=(999, DIM)).astype(dtype)
        pools = _core.CudaPool(Z, mean, scale, 0), _core.Pool(Z, mean, scale)
        for pool in pools:
            for i in range(0, 999, 7):
                pool.take(i)
        for x in rng.normal(size=(4, DIM)):
            answers = [
                (pool.nearest(x), *pool.k_nearest(x, 9).tolist(), *pool.k_nearest(x, 9, True).tolist())
                for pool in pools
            ]
            if answers[0] != answers[1]:
                raise AssertionError(f"{answers[0]}, expected {answers[1]}")


def check_batch(device: str, rng: np.random.Generator) -> None:
    """Check searches of different sizes, index for index as on the CPU."""
    pools = [rng.normal(size=(m, DIM)).astype(np.float16) for m in (30, 47, 64)]
    configs = [zf.ZopoConfig(search="gradient", budget=16 + 2 * b, initial=6 + b, seed=b) for b in range(3)]
    scores = rng.normal(size=(3, 64))
    batches = [zf.ZopoBatch(pools, configs, device=d) for d in (device, "cpu")]
    while not batches[1].done.all():
        asked = [batch.ask() for batch in batches]
        if not np.array_equal(asked[0], asked[1]):
            raise AssertionError(f"{asked[0]}, expected {asked[1]}")
        for batch in batches:
            batch.tell(asked[1], scores[np.arange(3), asked[1]])
    if not batches[0].done.all():
        raise AssertionError("not done where the CPU is")


CHECKS: dict[str, Callable[[str, np.random.Generator], None]] = {
    "gram": check_gram,
    "process": check_process,
    "pool": check_pool,
    "batch": check_batch,
}


def main(device: str = "cuda") -> int:
    """Run all checks; return 1 if one failed."""
    failed = []
    for name, check in CHECKS.items():
        try:
            check(device, np.random.default_rng(20240305))
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {'FAILED' if name in failed else 'right'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
