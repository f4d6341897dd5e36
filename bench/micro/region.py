"""Region of the default search in larger pools: quality of the prompt found, and cost of its steps.

The pools are smooth landscapes of many local optima with noise, since no scored pool of real prompts is that
large. Regions of one pool are compared on the same landscapes, with the same seeds, in turn.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf

from ..common.harness import Result, Row, Settings, Timing, uncollected

QUESTION = "Which region finds the best prompt, and what does it cost?"
DIM, PEAKS = 128, 40
POOLS = {1_500: (256, 512, 1_024, 1_500), 2_000: (512, 1_024, 2_000), 10_000: (512, 1_024, 2_048)}
SEEDS, BUDGET, INITIAL = 16, 165, 40
NOISE = 0.3  # standard deviation of a score, as a share of the landscape's


def run(settings: Settings) -> Result:
    """Measure regions of pools of 1,500, 2,000 and 10,000 candidates."""
    result = Result(QUESTION)
    pools = {1_500: (256, 1_500)} if settings.quick else POOLS
    for m, regions in pools.items():
        seconds: dict[int, list[float]] = {region: [] for region in regions}
        quality: dict[int, list[float]] = {region: [] for region in regions}
        for seed in range(1 if settings.quick else SEEDS):
            Z, value = _landscape(m, settings.seed + seed)
            for region in regions:
                samples, found = _search(Z, value, region, seed)
                seconds[region] += samples
                quality[region].append(found)
        for region in regions:
            timing = Timing(tuple(seconds[region]))
            against = np.subtract(quality[region], quality[regions[-1]])
            error = float(against.std(ddof=1) / np.sqrt(len(against))) if len(against) > 1 else 0.0
            extra = timing.tail() | {
                "quality": float(np.mean(quality[region])),
                "less_the_largest_region": float(against.mean()),
                "standard_error": error,
            }
            what = f"m = {m:,}, region {region:,}"
            result.rows.append(
                Row(what, "zopo_fast", timing.median, timing.p99, len(timing.samples), 1.0, extra)
            )
    return result


def _landscape(m: int, seed: int) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Return embeddings (m, d) in clusters, and their values between 0 and 1, (m,)."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(PEAKS, DIM))
    Z = middle[rng.integers(PEAKS, size=m)] + rng.normal(size=(m, DIM))
    peaks = Z[rng.integers(m, size=PEAKS)]
    height = rng.uniform(0.3, 1.0, size=PEAKS)
    square = (Z**2).sum(1)[:, None] - 2 * Z @ peaks.T + (peaks**2).sum(1)
    value = (height * np.exp(-square / (2 * DIM))).max(axis=1)
    return Z.astype(np.float16), (value - value.min()) / (value.max() - value.min())


def _search(
    Z: NDArray[np.float16], value: NDArray[np.float64], region: int, seed: int
) -> tuple[list[float], float]:
    """Return the seconds of the steps after the initial ones, and the value of the prompt found."""
    noise = NOISE * value.std() * np.random.default_rng(seed).normal(size=len(value))
    config = zf.ZopoConfig(budget=BUDGET, initial=INITIAL, seed=seed, region=region)
    samples: list[float] = []
    with uncollected():
        opt = zf.Zopo(Z, config)
        while not opt.done:
            start = perf_counter()
            i = opt.ask()
            opt.tell(i, float(value[i] + noise[i]))
            samples.append(perf_counter() - start)
    return samples[INITIAL:], float(value[opt.best[0]])
