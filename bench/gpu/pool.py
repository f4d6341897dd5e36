"""Pool scan on the GPU, as a share of the read bandwidth in the same run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from zopo_fast import _core

from ..common.harness import Result, Settings, rows
from .timing import Devices, spread, throughput

QUESTION = (
    "How long does the exact nearest of millions of candidates take on the GPU, beside reading them once?"
)
M, DIM, QUERIES, NEIGHBORS = 4_000_000, 384, 8, 10
GOAL_OF_BANDWIDTH = 0.85
PRODUCT = "PyTorch, half-precision product and argmin (approximate)"


def run(settings: Settings, devices: Devices) -> Result:
    """Measure nearest and k_nearest over float16 rows."""
    result = Result(QUESTION)
    m, dim = (3000, 48) if settings.quick else (M, DIM)
    Z, x = inputs(m, dim, settings.seed, devices)
    pool = pool_on(devices.ours, Z.cpu().numpy())
    queries = itertools.cycle(list(x.double().cpu().numpy()))
    points = itertools.cycle(list(x.half()))
    squares = torch.cat([(part.float() ** 2).sum(1) for part in Z.split(1 << 20)]).half()
    flat = Z.view(-1)
    words = flat.view(torch.float32)
    cases = {
        "zopo_fast": lambda: pool.nearest(next(queries)),
        PRODUCT: lambda: (squares - 2 * (Z @ next(points))).argmin().item(),
        "read alone, float32 sum of the same bytes (ceiling)": words.sum,
        "read alone, float16 max of the same bytes (ceiling)": flat.amax,
    }
    least = 2 if settings.quick else 9
    timings = throughput(cases, devices, settings.seconds, least)
    size = 2 * m * dim
    read = size / min(t.median for who, t in timings.items() if who.startswith("read alone"))
    what = f"nearest of {m:,} x {dim}, float16"
    for row in rows(what, timings):
        rate = size / row.median
        row.extra.update({"gb_s": rate / 1e9, "of_read": rate / read, "spread": spread(timings[row.who])})
        result.rows.append(row)
    share = size / timings["zopo_fast"].median / read
    result.figures[what] = {
        "of_read_bandwidth": share,
        "of_read_bandwidth_goal": GOAL_OF_BANDWIDTH,
        "of_read_bandwidth_reached": share >= GOAL_OF_BANDWIDTH,
        "exact": _exact(pool, Z, x),
    }
    several = throughput(
        {"zopo_fast": lambda: pool.k_nearest(next(queries), NEIGHBORS)}, devices, settings.seconds / 4, least
    )
    for row in rows(f"{NEIGHBORS} nearest of {m:,} x {dim}, float16", several):
        row.extra.update({"gb_s": size / row.median / 1e9, "of_read": size / row.median / read})
        result.rows.append(row)
    return result


def inputs(m: int, dim: int, seed: int, devices: Devices) -> tuple[Any, Any]:
    """Return random (m, d) float16 and (QUERIES, d) float32 tensors; the pool exceeds every cache."""
    generator = devices.generator(seed)
    Z = torch.empty(m, dim, dtype=torch.float16, device=devices.torch)
    for part in Z.split(1 << 20):
        part.copy_(torch.randn(part.shape, device=devices.torch, generator=generator))
    return Z, torch.randn(QUERIES, dim, device=devices.torch, generator=generator)


def pool_on(device: str, Z: Any) -> Any:
    """Return our pool of (m, d) rows without shift and scale."""
    mean, scale = np.zeros(Z.shape[1]), np.ones(Z.shape[1])
    return _core.Pool(Z, mean, scale) if device == "cpu" else _core.CudaPool(Z, mean, scale, 0)


def _exact(pool: Any, Z: Any, x: Any) -> bool:
    """Return whether every query finds the nearest row by float64 distances."""
    for point in x.double():
        parts = [((part.double() - point) ** 2).sum(1) for part in Z.split(1 << 18)]
        if pool.nearest(point.cpu().numpy()) != int(torch.cat(parts).argmin().item()):
            return False
    return True
