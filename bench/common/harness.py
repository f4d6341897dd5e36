"""Harness of all benchmarks: interleaved timing, medians, p99, ratios and results.

A speed is a ratio from one run on one machine. All cases of a comparison run interleaved on the same
inputs, in an order that rotates every round.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Case = Callable[[], object]
HINT = "pip install zopo-fast[bench]"


@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark.

    Args:
        quick: smaller inputs and fewer rounds; all benchmarks together take under a minute.
        seed: seed of all inputs.
        seconds: time to spend on one comparison.
    """

    quick: bool = False
    seed: int = 0
    seconds: float = 10.0


@dataclass(frozen=True)
class Timing:
    """Samples of one case, in seconds per call."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.samples)

    @property
    def p90(self) -> float:
        """90th percentile, in seconds; the largest sample when there are fewer than 10."""
        return self._ranked(0.9)

    @property
    def p99(self) -> float:
        """99th percentile, in seconds; the largest sample when there are fewer than 100."""
        return self._ranked(0.99)

    @property
    def worst(self) -> float:
        """Largest sample, in seconds."""
        return max(self.samples)

    @property
    def mean(self) -> float:
        """Mean, in seconds."""
        return statistics.fmean(self.samples)

    def tail(self) -> dict[str, float]:
        """Return mean, 90th percentile and largest sample in microseconds, beside the columns of a row."""
        return {"mean_us": 1e6 * self.mean, "p90_us": 1e6 * self.p90, "worst_us": 1e6 * self.worst}

    def _ranked(self, share: float) -> float:
        ranked = sorted(self.samples)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


@dataclass(frozen=True)
class Row:
    """One row of a result: operation, implementation, time and ratio.

    Args:
        what: the operation and its size, such as "append, n = 165".
        who: "zopo_fast" or the peer.
        ratio: the peer's median over ours; 1 for ours.
        extra: further figures in stated units, such as {"gflops": 41.2, "of_dgemm": 0.83}.
    """

    what: str
    who: str
    median: float
    p99: float
    samples: int
    ratio: float
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """Result of one benchmark.

    Args:
        skipped: peers that could not run here, with the reason.
        figures: further JSON values, such as limits of the machine, counts and slopes.
    """

    question: str
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def absent(*modules: str) -> str | None:
    """Return the reason why a peer that needs these modules cannot run; None where all are installed.

    The modules are found but not imported, so an installed one may still fail to load.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed; {HINT}" if missing else None


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable garbage collection: a collection during a call is not the call's own cost."""
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def interleave(
    cases: Mapping[str, Case], seconds: float, least: int = 5, most: int = 2000
) -> dict[str, Timing]:
    """Time the cases in turn until the time is up, with `least` to `most` samples each.

    A case slower than its share of the time leaves the rounds after `least` samples, so that one slow peer
    does not reduce the samples of the others. One untimed call warms each case up.
    """
    for case in cases.values():
        case()
    samples: dict[str, list[float]] = {name: [] for name in cases}
    spent = dict.fromkeys(cases, 0.0)
    share = seconds / max(1, len(cases))
    names = list(cases)
    collecting = gc.isenabled()
    gc.disable()  # a collection during a call is not the call's own cost
    try:
        while True:
            wanting = [
                n for n in names if len(samples[n]) < least or (spent[n] < share and len(samples[n]) < most)
            ]
            if not wanting:
                return {name: Timing(tuple(values)) for name, values in samples.items()}
            for name in wanting:
                case = cases[name]
                start = time.perf_counter()
                case()
                elapsed = time.perf_counter() - start
                samples[name].append(elapsed)
                spent[name] += elapsed
            names.append(names.pop(0))
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()


def rows(what: str, timings: Mapping[str, Timing], ours: str = "zopo_fast", **extra: Any) -> list[Row]:
    """Return the rows of one comparison, with ratios to `ours`."""
    unit = timings[ours].median
    return [
        Row(what, who, t.median, t.p99, len(t.samples), t.median / unit, dict(extra) if who == ours else {})
        for who, t in timings.items()
    ]
