"""Cost of a step as observations and candidates grow, beside n^2 w + n d + m d."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf

from ..common.harness import Result, Row, Settings

QUESTION = "Does the cost of a step grow as n^2 w + n d + m d and no faster?"
DIM, WIDTH = 384, 32
POOL = 5_000  # candidates while n grows
OBSERVED = 165  # observations while m grows
PICTURE = "scaling.png"
FITTED = "$a + b n^2w + c nd + e md$, fitted"
# A constant center, as in most of a run; and the worst case, a new best at every step.
EXPONENTS = {"n": 2.0, "m": 1.0}
SERIES = ("same center", "new center")


def run(settings: Settings) -> Result:
    """Measure both series, over n and over m: medians of some steps at each size."""
    result = Result(QUESTION)
    quick = settings.quick
    sizes = [64, 128, 256, 512] if quick else [64, 128, 256, 512, 1024, 2048, 4096]
    pools = [1_000, 10_000] if quick else [1_000, 10_000, 100_000, 1_000_000]
    steps = 6 if quick else 24
    Z = _embeddings(POOL, settings.seed)
    for series in SERIES:
        for n, samples in _growing(Z, sizes, steps, series, settings.seed).items():
            result.rows.append(_row("n", n, POOL, series, samples))
    for m in pools:
        Z = _embeddings(m, settings.seed)
        for series in SERIES:
            (samples,) = _growing(Z, [OBSERVED], steps, series, settings.seed).values()
            result.rows.append(_row("m", OBSERVED, m, series, samples))
    for series in SERIES:
        for over in EXPONENTS:
            result.figures[f"over {over}, {series}"] = _slope(result.rows, over, series)
        result.figures[f"fit, {series}"] = _costs(result.rows, series)
    return result


def _embeddings(m: int, seed: int) -> NDArray[np.float16]:
    """Return (m, d) samples of N(0, 1), drawn in blocks to bound memory."""
    rng = np.random.default_rng(seed)
    Z = np.empty((m, DIM), np.float16)
    for begin in range(0, m, 10_000):
        block = Z[begin : begin + 10_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    return Z


def _growing(Z: NDArray[Any], sizes: list[int], steps: int, series: str, seed: int) -> dict[int, list[float]]:
    """Time `steps` steps from each number of observations on; the observations between are prior data.

    The noise is fixed and exploration is off, so that every step follows the gradient. The first step, which
    absorbs all prior data, is not counted.
    """
    config = zf.ZopoConfig(
        search="gradient", budget=len(Z), initial=[0], seed=seed, noise=0.01, exploration=0
    )
    opt = zf.Zopo(Z, config)
    rng = np.random.default_rng(seed)
    told, best = 0, 10.0
    opt.tell(opt.ask(), best)
    free = iter(rng.permutation(np.arange(1, len(Z))))
    found: dict[int, list[float]] = {}
    asked = {0}
    for n in sizes:
        while len(asked) + told < n:
            i = int(next(free))
            if i not in asked:
                opt.tell(i, float(rng.normal()))
                told += 1
        samples = []
        for _ in range(steps + 2):
            best += 1.0
            score = best if series == "new center" else float(rng.normal())
            start = time.perf_counter()
            i = opt.ask()
            opt.tell(i, score)
            samples.append(time.perf_counter() - start)
            asked.add(i)
        found[n] = samples[2:]
    return found


def _row(over: str, n: int, m: int, series: str, samples: list[float]) -> Row:
    median = float(np.median(samples))
    what = f"over {over}, {series}: n = {n:,}, m = {m:,}"
    return Row(what, "zopo_fast", median, max(samples), len(samples), 1.0, {"n": n, "m": m})


def _points(rows: list[Row], over: str, series: str) -> tuple[list[Row], list[int], list[float]]:
    """Return the rows of one line of the plot, its sizes and its seconds."""
    found = [row for row in rows if row.what.startswith(f"over {over}, {series}:")]
    return found, [row.extra[over] for row in found], [row.median for row in found]


def _slope(rows: list[Row], over: str, series: str) -> dict[str, Any]:
    """Return the exponent of the time over the larger half of the sizes, and the model's upper bound."""
    found, sizes, seconds = _points(rows, over, series)
    half = slice(len(found) // 2 if len(found) > 2 else 0, None)
    slope = float(np.polyfit(np.log(sizes[half]), np.log(seconds[half]), 1)[0])
    # A tenth for caches: data beyond them cost more per byte.
    return {"exponent": slope, "model": EXPONENTS[over], "no_faster": slope <= EXPONENTS[over] + 0.1}


def fit(rows: list[Row], series: str) -> tuple[NDArray[np.float64], float]:
    """Fit the seconds of a call and of a multiply-add of n^2 w, n d and m d, all non-negative, (4,).

    Least squares of relative errors over both lines. Also returns the largest relative error.
    """
    from scipy.optimize import nnls

    found = [row for over in EXPONENTS for row in _points(rows, over, series)[0]]
    terms = np.array([_terms(row) for row in found])
    seconds = np.array([row.median for row in found])
    costs, _ = nnls(terms / seconds[:, None], np.ones(len(found)))
    return costs, float(np.abs(terms @ costs / seconds - 1.0).max())


def _costs(rows: list[Row], series: str) -> dict[str, float] | str:
    try:
        costs, error = fit(rows, series)
    except ImportError:
        return "SciPy is not installed"
    names = ("microseconds a call", "ns n^2 w", "ns n d", "ns m d")
    return {
        **{name: float(cost) for name, cost in zip(names, costs * (1e6, 1e9, 1e9, 1e9), strict=True)},
        "largest relative error": error,
    }


def _terms(row: Row) -> tuple[float, ...]:
    n, m = row.extra["n"], row.extra["m"]
    return 1.0, n * n * WIDTH, n * DIM, m * DIM


def plot(result: Result, path: Path) -> None:
    """Plot seconds per step over n and over m (log-log) with the fitted model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    fixed = {"n": f"m = {POOL:,}", "m": f"n = {OBSERVED}"}
    for axis, over in zip(axes, ("n", "m"), strict=True):
        for series, colour in zip(SERIES, ("tab:blue", "tab:orange"), strict=True):
            found, sizes, seconds = _points(result.rows, over, series)
            axis.loglog(sizes, 1e6 * np.array(seconds), "o-", color=colour, label=series)
            costs, _ = fit(result.rows, series)
            line = 1e6 * np.array([_terms(row) for row in found]) @ costs
            axis.loglog(
                sizes, line, "--", color=colour, alpha=0.6, label="$a + b n^2w + c nd + e md$, fitted"
            )
        axis.set_xlabel(f"{'observations n' if over == 'n' else 'candidates m'}   ({fixed[over]}, d = {DIM})")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    axes[0].set_ylabel("ask + tell, microseconds")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def keep(result: Result, out: Path) -> None:
    """Write the plot; do nothing without matplotlib."""
    try:
        plot(result, out / PICTURE)
    except ImportError:
        return
