"""Many searches at once on the GPU: steps per second, beside single searches on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import zopo_fast as zf

from .. import peers
from ..common.harness import Result, Row, Settings, Timing
from .timing import Devices

QUESTION = "How many steps a second do 1,024 studies make on the GPU, one ask and one tell each a step?"
STUDIES, N, M, DIM, STEPS = 1024, 128, 500, 384, 32
SINGLE = 16  # searches in the rows that would take too long with all of them
GOAL = 1e6


def run(settings: Settings, devices: Devices) -> Result:
    """Measure searches of 112 to 144 observations: 32 steps around n = 128."""
    result = Result(QUESTION)
    B, first, steps, m, dim = (
        (3, 6, 4, 40, 12) if settings.quick else (STUDIES, N - STEPS // 2, STEPS, M, DIM)
    )
    rng = np.random.default_rng(settings.seed)
    pools = rng.standard_normal((B, m, dim), dtype=np.float32).astype(np.float16)
    waves = rng.normal(size=(dim, 3)) / np.sqrt(dim)
    scores = np.sin(3.0 * (pools.reshape(B * m, dim) @ waves)).sum(1).reshape(B, m).astype(np.float64)
    budget = first + 2 * steps
    repeats = 1 if settings.quick else 3
    few = min(SINGLE, B)
    runs: dict[str, tuple[int, Callable[[], list[float]]]] = {
        "zopo_fast": (B, lambda: _batch(pools, scores, first, budget, steps, devices.ours)),
        "zopo_fast on the CPU, ZopoBatch of all": (
            B, lambda: _batch(pools, scores, first, budget, steps, "cpu")
        ),
        f"zopo_fast on the CPU, {few} single Zopo, scaled up": (
            few, lambda: _singles(pools[:few], scores, first, budget, steps)
        ),
    }  # fmt: skip
    samples: dict[str, list[float]] = {}
    for _ in range(repeats):
        for who, (count, call) in runs.items():
            try:
                samples.setdefault(who, []).extend(s / count for s in call())
            except Exception as error:
                result.skipped[who] = peers.reason(error)
    timings = {who: Timing(tuple(found)) for who, found in samples.items() if found}
    if "zopo_fast" not in timings:
        return result
    unit = timings["zopo_fast"].median
    what = f"step of one of {B:,} studies, n about {first + steps // 2}, m = {m}, d = {dim}"
    result.rows += [
        Row(what, who, t.median, t.p99, len(t.samples), t.median / unit, {"steps_a_second": 1.0 / t.median})
        for who, t in timings.items()
    ]
    result.figures[what] = {
        "steps_a_second": 1.0 / unit,
        "steps_a_second_goal": GOAL,
        "steps_a_second_reached": 1.0 / unit >= GOAL,
    }
    return result


def _batch(pools: Any, scores: Any, first: int, budget: int, steps: int, device: str) -> list[float]:
    """Return the seconds of each step (ask + tell) of the whole batch, without the first model step."""
    configs = [
        zf.ZopoConfig(search="gradient", budget=budget, initial=first, seed=b) for b in range(len(pools))
    ]
    batch = zf.ZopoBatch(list(pools), configs, device=device)
    every = np.arange(len(pools))
    for _ in range(first):
        indices = batch.ask()
        batch.tell(indices, scores[every, indices])
    samples = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        indices = batch.ask()
        elapsed = time.perf_counter() - start
        values = scores[every, indices]
        start = time.perf_counter()
        batch.tell(indices, values)
        samples.append(elapsed + time.perf_counter() - start)
    return samples[1:]


def _singles(pools: Any, scores: Any, first: int, budget: int, steps: int) -> list[float]:
    """Return the seconds of a step of all searches in sequence, each a `Zopo` of its own."""
    studies = []
    for b, pool in enumerate(pools):
        study = zf.Zopo(pool, zf.ZopoConfig(search="gradient", budget=budget, initial=first, seed=b))
        for _ in range(first):
            i = study.ask()
            study.tell(i, float(scores[b, i]))
        studies.append(study)
    values = scores.tolist()
    samples = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        for b, study in enumerate(studies):
            i = study.ask()
            study.tell(i, values[b][i])
        samples.append(time.perf_counter() - start)
    return samples[1:]
