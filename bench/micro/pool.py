"""Exact scan of the pool for the nearest candidates without a score."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zopo_fast import _core

from ..common import machine
from ..common.harness import Case, Result, Row, Settings, absent, interleave, rows

QUESTION = "How long does it take to find the nearest candidate without a score among m of them?"
DIM, TAKEN, NEIGHBORS = 384, 300, 10
SIZES, QUICK_SIZES = (500, 2_000, 10_000, 100_000, 1_000_000), (500, 2_000, 20_000)
TREES_UP_TO = 10_000  # no faster than brute force in 384 dimensions, and slow to build
GOAL_OF_BANDWIDTH = 0.70
OURS = "zopo_fast"
READ = "read alone (ceiling)"

Find = Callable[[NDArray[np.float64], int], NDArray[np.int64]]  # x (d,), k -> indices (k,), nearest first


@dataclass
class Inputs:
    """Pool with some scored candidates, and query points.

    Args:
        Z: (m, d) float16. standard: (m, d) float32, the same with standardised columns, which the peers
            search; its creation is not timed. mean, scale: (d,) of the columns.
        taken: indices with a score. queries: (q, d) float64, in standardised coordinates.
    """

    Z: NDArray[np.float16]
    standard: NDArray[np.float32]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    taken: NDArray[np.int64]
    queries: NDArray[np.float64]

    @classmethod
    def random(cls, m: int, seed: int) -> Inputs:
        """Create clustered embeddings, as prompts have, and queries one step from a candidate."""
        rng = np.random.default_rng([seed, m])
        standard = rng.standard_normal((m, DIM), dtype=np.float32)
        standard += 2 * rng.standard_normal((64, DIM), dtype=np.float32)[rng.integers(64, size=m)]
        Z = (standard * np.float32(0.05)).astype(np.float16)
        mean, scale = _core.column_moments(Z)
        np.subtract(Z, mean.astype(np.float32), out=standard)
        standard /= scale.astype(np.float32)
        taken = rng.permutation(m)[: min(TAKEN, m // 3)]
        queries = standard[rng.integers(m, size=16)] + 0.3 * rng.standard_normal((16, DIM))
        return cls(Z, standard, mean, scale, taken, queries)


# ---- implementations ---------------------------------------------------------------------------------


def ours(inputs: Inputs) -> Find:
    """Native pool on the float16 embeddings."""
    pool = _core.Pool(inputs.Z, inputs.mean, inputs.scale)
    for i in inputs.taken:
        pool.take(int(i))

    def find(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        return np.array([pool.nearest(x)]) if k == 1 else pool.k_nearest(x, k, available_only=True)

    return find


def _norms(inputs: Inputs) -> NDArray[np.float32]:
    """Return squared norms, infinite for taken candidates, so that skipping them is free."""
    norms = np.einsum("ij,ij->i", inputs.standard, inputs.standard)
    norms[inputs.taken] = np.inf
    return norms


def numpy_find(inputs: Inputs) -> Find:
    """Scan by |z|^2 - 2 z.x in float32: one matrix-vector product."""
    Z, norms = inputs.standard, _norms(inputs)

    def find(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        distances = norms - 2 * (Z @ x.astype(np.float32))
        if k == 1:
            return np.array([distances.argmin()])
        some = np.argpartition(distances, k)[:k]
        return some[np.argsort(distances[some])]

    return find


def torch_find(inputs: Inputs, how: str) -> Find:
    """Scan by the same product in PyTorch, or by its cdist."""
    import torch

    Z, norms = torch.from_numpy(inputs.standard), torch.from_numpy(_norms(inputs))
    penalty = torch.where(torch.isinf(norms), torch.inf, 0.0)

    def find(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        with torch.inference_mode():
            point = torch.from_numpy(x.astype(np.float32))
            if how == "cdist":
                distances = torch.cdist(point[None], Z)[0] + penalty
            else:
                distances = torch.addmv(norms, Z, point, alpha=-2)
            if k == 1:
                return np.array([int(distances.argmin())])
            return torch.topk(distances, k, largest=False).indices.numpy()

    return find


def sklearn_find(inputs: Inputs, algorithm: str) -> Find:
    """Scan by NearestNeighbors, fitted on the free candidates; the fit after every score is not timed."""
    from sklearn.neighbors import NearestNeighbors

    free = np.setdiff1d(np.arange(len(inputs.Z)), inputs.taken)
    fitted = NearestNeighbors(algorithm=algorithm).fit(inputs.standard[free])

    def find(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        point = x.astype(np.float32)[None]
        return free[fitted.kneighbors(point, n_neighbors=k, return_distance=False)[0]]

    return find


def finders(inputs: Inputs, skipped: dict[str, str]) -> dict[str, Find]:
    """Return the implementations available here; add the others to `skipped` with the reason."""
    found = {OURS: ours(inputs), "NumPy float32": numpy_find(inputs)}
    for how in ("matmul", "cdist"):
        reason = absent("torch")
        if reason is None:
            found[f"torch {how}"] = torch_find(inputs, how)
        else:
            skipped[f"torch {how}"] = reason
    for algorithm in ("brute", "kd_tree", "ball_tree"):
        reason = absent("sklearn")
        if reason is not None:
            skipped[f"scikit-learn {algorithm}"] = reason
        elif algorithm == "brute" or len(inputs.Z) <= TREES_UP_TO:
            found[f"scikit-learn {algorithm}"] = sklearn_find(inputs, algorithm)
    return found


# ---- the comparison ----------------------------------------------------------------------------------


def run(settings: Settings) -> Result:
    """Time the nearest candidate and the k nearest for every pool size."""
    result = Result(QUESTION)
    result.figures["dim"] = DIM
    for m in QUICK_SIZES if settings.quick else SIZES:
        inputs = Inputs.random(m, settings.seed)
        found = finders(inputs, result.skipped)
        for k in (1, NEIGHBORS):
            result.rows += compare(inputs, found, k, settings)
        del inputs, found
        gc.collect()  # a pool of a million and its copies take gigabytes
    largest = next(row for row in reversed(result.rows) if row.who == OURS and row.what.startswith("nearest"))
    result.figures["of_bandwidth"] = largest.extra["of_bandwidth"]
    result.figures["goal_of_bandwidth"] = GOAL_OF_BANDWIDTH
    result.figures["reached"] = largest.extra["of_bandwidth"] >= GOAL_OF_BANDWIDTH
    return result


def compare(inputs: Inputs, found: dict[str, Find], k: int, settings: Settings) -> list[Row]:
    """Return the rows for one size and one k, with the share of answers equal to float64's."""
    m = len(inputs.Z)
    agreeing = agreement(inputs, found, k)
    cases: dict[str, Case] = {who: _case(find, inputs.queries, k) for who, find in found.items()}
    if k == 1 and inputs.Z.nbytes > (machine.cache_bytes(3) or machine.ASSUMED_L3):  # else the caches answer
        cases[READ] = machine.reader(inputs.Z)
    what = f"nearest of {m:,}" if k == 1 else f"{k} nearest of {m:,}"
    compared = rows(what, interleave(cases, settings.seconds), ours=OURS)
    bandwidth = machine.ceilings(settings.quick)["bandwidth_gb_s"]
    for row in compared:
        moved = m * DIM * (2 if row.who in (OURS, READ) else 4)
        row.extra["gb_s"] = moved / row.median / 1e9
        if row.who == READ:  # other work may have slowed the ceilings: take the better one
            bandwidth = max(bandwidth, row.extra["gb_s"])
        else:
            row.extra["same_as_float64"] = agreeing[row.who]
    mine = next(row for row in compared if row.who == OURS)
    mine.extra["of_bandwidth"] = mine.extra["gb_s"] / bandwidth
    return compared


def _case(find: Find, queries: NDArray[np.float64], k: int) -> Case:
    turn = itertools.cycle(queries)
    return lambda: find(next(turn), k)


def agreement(inputs: Inputs, found: dict[str, Find], k: int) -> dict[str, str]:
    """Count the queries for which each implementation returns the float64 indices in order.

    Raises:
        RuntimeError: ours returns others, so that timing is pointless.
    """
    queries = inputs.queries[: 16 if len(inputs.Z) <= 20_000 else 4]
    exact = [exact_nearest(inputs, x, k) for x in queries]
    same = {
        who: sum(np.array_equal(find(x, k), e) for x, e in zip(queries, exact, strict=True))
        for who, find in found.items()
    }
    if same[OURS] != len(queries):
        raise RuntimeError(f"the pool scan is wrong in {len(queries) - same[OURS]} of {len(queries)} queries")
    return {who: f"{count} of {len(queries)}" for who, count in same.items()}


def exact_nearest(inputs: Inputs, x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the k nearest free candidates by float64 NumPy, ties to the lowest index."""
    distances = np.empty(len(inputs.Z))
    for start in range(0, len(distances), 10_000):
        rows64 = inputs.Z[start : start + 10_000].astype(np.float64)
        distances[start : start + 10_000] = (((rows64 - inputs.mean) / inputs.scale - x) ** 2).sum(axis=1)
    distances[inputs.taken] = np.inf
    return np.argsort(distances, kind="stable")[:k]
