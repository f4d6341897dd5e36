"""Search of a pool of millions, whose embeddings are mapped from a file and not copied.

A fresh process maps the file and searches, so that its memory is that of the search. `own_gb` is the largest
memory of its own after a step (RssAnon of Linux). `peak_gb` (VmHWM) counts the resident pages of the file
too, which the system takes back where they are needed. The file is read once before the clock starts, as by
the check of a run. `budget` prompts are asked and told in turn, on a landscape of many local optima.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import zopo_fast as zf

from ..common.harness import Result, Row, Settings, Timing, uncollected

QUESTION = (
    "What do the start of a search, its asks and its tells cost on a pool of millions, in time and memory?"
)
DIM, BUDGET, CLUSTERS = 384, 200, 64
SIZES, QUICK_SIZES = (1_000_000, 5_000_000), (4_000, 20_000)
BLOCK = 20_000  # rows made at a time


def run(settings: Settings) -> Result:
    """Search the first rows of one file, for each size that the disk has room for."""
    result = Result(QUESTION)
    sizes = list(QUICK_SIZES if settings.quick else SIZES)
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        while sizes and (needed := 2 * DIM * sizes[-1]) > 0.8 * free:
            result.skipped[f"m = {sizes.pop():,}"] = f"the folder for temporary files has no {needed:,} bytes"
        if not sizes:
            return result
        path = Path(folder) / "pool.npy"
        write(path, sizes[-1], settings.seed)
        for m in sizes:
            result.rows += _rows(m, _measured(path, m, settings.seed))
    result.figures = {"dim": DIM, "dtype": "float16", "budget": BUDGET}
    return result


def write(path: Path, m: int, seed: int) -> None:
    """Write clustered embeddings, as prompts have them, in blocks to bound memory."""
    rng = np.random.default_rng(seed)
    centers = 2 * rng.standard_normal((CLUSTERS, DIM), dtype=np.float32)
    Z = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=(m, DIM))
    for begin in range(0, m, BLOCK):
        block = Z[begin : begin + BLOCK]
        rows = rng.standard_normal(block.shape, dtype=np.float32)
        block[:] = 0.05 * (rows + centers[rng.integers(CLUSTERS, size=len(block))])
    Z.flush()


def _measured(path: Path, m: int, seed: int) -> dict[str, Any]:
    """Return the figures of a fresh process.

    Raises:
        RuntimeError: The process failed; the message is its last line.
    """
    plan = json.dumps({"path": str(path), "m": m, "seed": seed})
    command = [sys.executable, "-m", __name__, plan]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def searched(path: str, m: int, seed: int) -> dict[str, Any]:
    """Search the first m rows of a file in this process."""
    Z = np.load(path, mmap_mode="r")[:m]
    rng = np.random.default_rng(seed)
    waves = (8.0 * rng.normal(size=(DIM, 3)) / np.sqrt(DIM)).astype(np.float32)
    for begin in range(0, m, BLOCK):
        Z[begin : begin + BLOCK].max()  # into the system's cache
    begun = perf_counter()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=BUDGET, seed=seed))
    start, own, asks, tells = perf_counter() - begun, 0.0, [], []
    with uncollected():
        while not opt.done:
            begun = perf_counter()
            i = opt.ask()
            asks.append(perf_counter() - begun)
            score = float(np.sin(3.0 * (Z[i].astype(np.float32) @ waves)).sum())
            begun = perf_counter()
            opt.tell(i, score)
            tells.append(perf_counter() - begun)
            own = max(own, _gigabytes("RssAnon"))
    return {"start": start, "asks": asks, "tells": tells, "own_gb": own, "peak_gb": _gigabytes("VmHWM")}


def _gigabytes(name: str) -> float:
    """Return a memory figure of this process in units of 10^9 bytes; NaN where the system has none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024 * int(line.split()[1]) / 1e9 for line in lines if line.startswith(name)), float("nan"))


def _rows(m: int, found: dict[str, Any]) -> list[Row]:
    memory = {"file_gb": 2 * DIM * m / 1e9, "own_gb": found["own_gb"], "peak_gb": found["peak_gb"]}
    samples = {"start": [found["start"]], "ask": found["asks"], "tell": found["tells"]}
    rows = []
    for name, values in samples.items():
        timing = Timing(tuple(values))
        extra = memory if name == "start" else timing.tail()
        what = f"{name}, m = {m:,}"
        rows.append(Row(what, "zopo_fast", timing.median, timing.p99, len(values), 1.0, extra))
    return rows


if __name__ == "__main__":
    print(json.dumps(searched(**json.loads(sys.argv[1]))))
