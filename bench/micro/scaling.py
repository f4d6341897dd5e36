"""Cost of a step as observations and candidates grow: median, 90th and 99th percentile, and worst step.

The gradient search is set beside n^2 w + n d + m d, with a constant center, as in most of a run, and in the
worst case, a new best at every step. The default search runs on a landscape of many local optima, since its
slow steps depend on what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf

from ..common.harness import Result, Row, Settings, Timing, uncollected

QUESTION = "How does the cost of a step grow with n and m, and how far above the median are its slow steps?"
DIM, WIDTH = 384, 32
POOL = 5_000  # candidates while n grows
OBSERVED = 165  # observations while m grows
PICTURE = "scaling.png"
DEFAULT, SAME_CENTER, NEW_CENTER = "default", "gradient, same center", "gradient, new center"
SERIES = (DEFAULT, SAME_CENTER, NEW_CENTER)
GRADIENT = (SAME_CENTER, NEW_CENTER)
# Exponents of the models: n^2 + n m + m d, and n^2 w + n d + m d.
EXPONENTS = {
    DEFAULT: {"n": 2.0, "m": 1.0}, SAME_CENTER: {"n": 2.0, "m": 1.0}, NEW_CENTER: {"n": 2.0, "m": 1.0}
}  # fmt: skip
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
POOLS = (500, 1_000, 2_000, 5_000, 10_000, 100_000, 1_000_000)
LARGEST = {DEFAULT: (2048, 100_000), SAME_CENTER: (4096, 1_000_000), NEW_CENTER: (4096, 1_000_000)}
STEPS, REPEATS = 24, 5  # steps at a size, so few that n stays near it; searches with other seeds


def run(settings: Settings) -> Result:
    """Measure all series, over n and over m."""
    result = Result(QUESTION)
    quick = settings.quick
    sizes, pools = ((64, 128, 256), (500, 2_000)) if quick else (SIZES, POOLS)
    steps, repeats = (6, 1) if quick else (STEPS, REPEATS)
    found: dict[tuple[str, str, int, int], list[float]] = {}  # over, series, n, m: seconds

    def measure(over: str, m: int, wanted: tuple[int, ...]) -> None:
        Z = _embeddings(m, settings.seed)
        for number in range(repeats):
            for series in SERIES:
                most_n, most_m = LARGEST[series]
                if m > most_m:
                    continue
                within = [n for n in wanted if n <= most_n]
                for n, samples in _growing(Z, within, steps, series, settings.seed + number):
                    found.setdefault((over, series, n, m), []).extend(samples)

    measure("n", POOL, sizes)
    for m in pools:
        measure("m", m, (OBSERVED,))
    result.rows = [_row(*key, Timing(tuple(samples))) for key, samples in sorted(found.items(), key=_place)]
    for series in SERIES:
        for over in ("n", "m"):
            result.figures[f"over {over}, {series}"] = _slope(result.rows, over, series)
        if series in GRADIENT:
            result.figures[f"fit, {series}"] = _costs(result.rows, series)
    return result


def _place(entry: tuple[tuple[str, str, int, int], Any]) -> tuple[int, int, int, int]:
    over, series, n, m = entry[0]
    return ("n", "m").index(over), SERIES.index(series), n, m


def _embeddings(m: int, seed: int) -> NDArray[np.float16]:
    """Return (m, d) samples of N(0, 1), drawn in blocks to bound memory."""
    rng = np.random.default_rng(seed)
    Z = np.empty((m, DIM), np.float16)
    for begin in range(0, m, 10_000):
        block = Z[begin : begin + 10_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    return Z


def _growing(
    Z: NDArray[Any], sizes: list[int], steps: int, series: str, seed: int
) -> Iterator[tuple[int, list[float]]]:
    """Time `steps` steps from each number of observations on; the observations between are prior data.

    The noise of a gradient search is fixed and exploration is off, so that every step follows the gradient.
    The first two steps, which absorb all prior data and choose a region, are not counted.
    """
    if series == DEFAULT:
        config = zf.ZopoConfig(budget=len(Z), initial=[0], seed=seed)
    else:
        config = zf.ZopoConfig(
            search="gradient", budget=len(Z), initial=[0], seed=seed, noise=0.01, exploration=0
        )
    opt = zf.Zopo(Z, config)
    rng = np.random.default_rng(seed)
    waves = (rng.normal(size=(DIM, 3)) / np.sqrt(DIM)).astype(np.float32)
    best = 10.0  # of a gradient search

    def score(i: int, proposed: bool) -> float:
        nonlocal best
        if series == DEFAULT:
            return float(np.sin(3.0 * (Z[i].astype(np.float32) @ waves)).sum())
        if proposed and series == NEW_CENTER:
            best += 1.0
            return best
        return float(rng.normal())

    first = opt.ask()
    opt.tell(first, score(first, proposed=False) if series == DEFAULT else best)
    seen = {first}
    free = iter(rng.permutation(len(Z)))
    for n in sizes:
        while len(seen) < n:
            i = int(next(free))
            if i not in seen:
                opt.tell(i, score(i, proposed=False))
                seen.add(i)
        samples = []
        with uncollected():
            for _ in range(steps + 2):
                start = perf_counter()
                i = opt.ask()
                asked = perf_counter() - start
                value = score(i, proposed=True)
                start = perf_counter()
                opt.tell(i, value)
                samples.append(asked + perf_counter() - start)
                seen.add(i)
        yield n, samples[2:]


def _row(over: str, series: str, n: int, m: int, timing: Timing) -> Row:
    what = f"over {over}, {series}: n = {n:,}, m = {m:,}"
    extra = {"n": n, "m": m, **timing.tail()}
    return Row(what, "zopo_fast", timing.median, timing.p99, len(timing.samples), 1.0, extra)


def _points(rows: list[Row], over: str, series: str) -> tuple[list[Row], list[int], list[float]]:
    """Return the rows of one line of the plot, its sizes and its seconds."""
    found = [row for row in rows if row.what.startswith(f"over {over}, {series}:")]
    return found, [row.extra[over] for row in found], [row.median for row in found]


def _slope(rows: list[Row], over: str, series: str) -> dict[str, Any]:
    """Return the exponent of the time over the larger half of the sizes, and the model's upper bound."""
    found, sizes, seconds = _points(rows, over, series)
    half = slice(len(found) // 2 if len(found) > 2 else 0, None)
    slope = float(np.polyfit(np.log(sizes[half]), np.log(seconds[half]), 1)[0])
    model = EXPONENTS[series][over]
    # A tenth for caches: data beyond them cost more per byte.
    return {"exponent": slope, "model": model, "no_faster": slope <= model + 0.1}


def fit(rows: list[Row], series: str) -> tuple[NDArray[np.float64], float]:
    """Fit the seconds of a call and of a multiply-add of n^2 w, n d and m d, all non-negative, (4,).

    Least squares of relative errors over both lines. Also returns the largest relative error.
    """
    from scipy.optimize import nnls

    found = [row for over in ("n", "m") for row in _points(rows, over, series)[0]]
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
    """Plot microseconds per step over n and over m (log-log), the default search above the gradient search.

    A line is the median, its band reaches to the 90th percentile, and marks show the 99th and the worst step.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(2, 2, figsize=(10, 8), sharex="col", sharey=True)
    fixed = {"n": f"m = {POOL:,}", "m": f"n = {OBSERVED}"}
    colours = dict(zip(SERIES, ("tab:green", "tab:blue", "tab:orange"), strict=True))
    for line, (group, title) in enumerate((((DEFAULT,), "default search"), (GRADIENT, "gradient search"))):
        for axis, over in zip(axes[line], ("n", "m"), strict=True):
            for series in group:
                _draw(axis, result.rows, over, series, colours[series])
            axis.set_title(f"{title}, {fixed[over]}, d = {DIM}", fontsize=10)
            axis.grid(alpha=0.3, which="both")
        axes[line][0].set_ylabel("ask + tell, microseconds")
    axes[1][0].set_xlabel("observations n")
    axes[1][1].set_xlabel("candidates m")
    entries: list[Any] = [
        Line2D([], [], marker="o", color=colour, label=name) for name, colour in colours.items()
    ]
    entries += [
        Line2D([], [], linestyle="--", color="gray", label="$a + b n^2w + c nd + e md$, fitted"),
        Patch(color="gray", alpha=0.3, label="median to p90"),
        Line2D([], [], linestyle="", marker="^", fillstyle="none", color="gray", label="p99"),
        Line2D([], [], linestyle="", marker="x", color="gray", label="worst"),
    ]
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(handles=entries, loc="lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(axis: Any, rows: list[Row], over: str, series: str, colour: str) -> None:
    found, sizes, seconds = _points(rows, over, series)
    median = 1e6 * np.array(seconds)
    axis.loglog(sizes, median, "o-", color=colour)
    axis.fill_between(sizes, median, [row.extra["p90_us"] for row in found], color=colour, alpha=0.2)
    axis.plot(sizes, [1e6 * row.p99 for row in found], "^", color=colour, fillstyle="none")
    axis.plot(sizes, [row.extra["worst_us"] for row in found], "x", color=colour)
    if series in GRADIENT:
        costs, _ = fit(rows, series)
        line = 1e6 * np.array([_terms(row) for row in found]) @ costs
        axis.loglog(sizes, line, "--", color=colour, alpha=0.6)


def keep(result: Result, out: Path) -> None:
    """Write the plot; do nothing without matplotlib or SciPy."""
    try:
        plot(result, out / PICTURE)
    except ImportError:
        return
