"""Burst timing of calls that take microseconds, beside calls of other libraries.

A turn is a whole burst of calls. After another library's call the caches are cold, and its threads (OpenBLAS,
OpenMP) keep spinning for some 25 ms on the cores that the next case uses.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ..common.harness import Case, Settings, Timing

SLOW = 0.1  # seconds; a call this long warms its caches itself


@dataclass(frozen=True)
class Job:
    """A case whose `call` is timed and whose `undo` runs afterwards, untimed."""

    call: Case
    undo: Case | None = None


def bursts(
    jobs: Mapping[str, Job], settings: Settings, share: float = 1.0, most: int = 2000
) -> dict[str, Timing]:
    """Time every job in turn, a burst of calls each, in an order that rotates every round.

    Args:
        jobs: the cases by name.
        share: share of the settings' seconds for timed calls, split evenly. A job slower than its part is
            called once a round, and no more once it has three samples and no time left.
        most: maximum number of samples of one job.
    """
    rounds, rest = (2, 0.01) if settings.quick else (5, 0.03)
    part = settings.seconds * share / max(1, len(jobs)) / rounds
    samples: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for _ in range(rounds):
        for name in names:
            if len(samples[name]) >= 3 and sum(samples[name]) > part * rounds:
                continue
            gc.collect(0)
            time.sleep(rest)
            warm = bool(samples[name]) and samples[name][-1] > SLOW
            samples[name] += _burst(jobs[name], part, -(-most // rounds), warm)
        names.append(names.pop(0))
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def _burst(job: Job, seconds: float, most: int, warm: bool) -> list[float]:
    """Warm up with one call unless warm, then time calls until the time is up; at least one."""
    found: list[float] = []
    spent = 0.0
    collecting = gc.isenabled()
    gc.disable()  # a collection during a call is not the call's own cost
    try:
        if not warm:
            _once(job)
        while not found or (spent < seconds and len(found) < most):
            found.append(_once(job))
            spent += found[-1]
    finally:
        if collecting:
            gc.enable()
    return found


def _once(job: Job) -> float:
    start = time.perf_counter()
    kept = job.call()
    elapsed = time.perf_counter() - start
    del kept  # free results outside the timed calls
    if job.undo is not None:
        job.undo()
    return elapsed
