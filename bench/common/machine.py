"""Description and measured ceilings of the machine of a result.

Results are published, so nothing here names the host, its user or a path.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast import __version__, _core

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "numpy", "scipy", "threadpoolctl", "torch", "gpytorch", "botorch", "linear-operator", "scikit-learn",
    "jax", "jaxlib", "neural-tangents", "optuna", "dspy", "matplotlib",
)  # fmt: skip
ASSUMED_L3 = 64 << 20  # bytes, where the system reports none


# ---- description -------------------------------------------------------------------------------------


def describe() -> dict[str, Any]:
    """Return the machine, the software on it and the commit, as JSON values."""
    # The kernel's release may carry its builder's name after the number.
    release = "".join(re.findall(r"^[\d.]+", platform.release()))
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "l2_bytes": cache_bytes(2),
        "l3_bytes": cache_bytes(3),
        "isa": _core.isa(),
        "os": f"{platform.system()} {release} {platform.machine()}",
        "python": platform.python_version(),
        "zopo_fast": __version__,
        "versions": versions(),
        "blas": blas(),
        "commit": commit(),
        "load": load(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """Return the processor's own name."""
    try:
        found = re.search(r"(?m)^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_bytes(level: int) -> int | None:
    """Return the size in bytes of the first core's cache of that level; None if unknown."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if int((index / "level").read_text()) == level:
                size = (index / "size").read_text().strip()
                return int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
        except (OSError, ValueError):
            continue
    return None


def load() -> float | None:
    """Return the load average of the last minute; None if unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Return the versions of the installed peers, without importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def blas() -> dict[str, Any]:
    """Return the BLAS that NumPy calls; with threadpoolctl also its threads and code path."""
    try:
        import threadpoolctl
    except ImportError:
        try:
            show: Any = np.show_config
            built = show(mode="dicts")["Build Dependencies"]["blas"]
            return {"name": built["name"], "version": built["version"]}
        except (TypeError, KeyError):  # NumPy before 1.25
            return {}
    loaded = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    # SciPy may bring a copy of its own: prefer the one beside NumPy.
    loaded.sort(key=lambda pool: "numpy" not in pool["filepath"])
    kept = ("internal_api", "version", "num_threads", "threading_layer", "architecture")
    return {key: loaded[0].get(key) for key in kept} if loaded else {}


def commit() -> str | None:
    """Return the commit of the checkout, with `-dirty` for changed sources; None outside a checkout."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:  # installed, perhaps into someone else's checkout
        return None
    head = _git("rev-parse", "--short=12", "HEAD")
    # Exclude results: files that this run wrote do not change what was measured.
    changed = _git("status", "--porcelain", "--", ".", ":(exclude)bench/results")
    return head and head + ("-dirty" if changed else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


# ---- ceilings ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def ceilings(quick: bool = False) -> dict[str, Any]:
    """Measure the ceilings, once per process.

    Returns:
        dgemm_gflops: float64 rate of NumPy's BLAS on all threads; dgemm_gflops_1: on one thread (None
        without threadpoolctl); read_gb_s, copy_gb_s: memory bandwidth on all cores, GB = 1e9 bytes, a copy
        counted as bytes read plus bytes written; bandwidth_gb_s: the better of the two;
        bandwidth_bytes: size of the arrays; bandwidth_over_l3: that size over the L3 cache's.
    """
    l3 = cache_bytes(3) or ASSUMED_L3
    size = max(4 * l3, 128 << 20)
    read, copy = bandwidth(size, rounds=5 if quick else 15)
    return {
        "dgemm_gflops": dgemm_gflops(None, rounds=3 if quick else 9),
        "dgemm_gflops_1": dgemm_gflops(1, rounds=3 if quick else 9),
        "read_gb_s": read,
        "copy_gb_s": copy,
        "bandwidth_gb_s": max(read, copy),
        "bandwidth_bytes": size,
        "bandwidth_over_l3": size / l3,
    }


def dgemm_gflops(threads: int | None, n: int = 1536, rounds: int = 9) -> float | None:
    """Return the median rate, in 1e9 flops a second, of NumPy's float64 n x n product.

    Args:
        threads: BLAS threads; None: its own choice.
    """
    limit = blas_threads(threads)
    if limit is None:
        return None
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(n, n)), rng.normal(size=(n, n))
    out = np.empty((n, n))
    with limit:
        return 2.0 * n**3 / _median_seconds(lambda: np.matmul(A, B, out=out), rounds) / 1e9


def blas_threads(threads: int | None) -> AbstractContextManager[Any] | None:
    """Return a context that limits BLAS to that many threads; None without threadpoolctl."""
    if threads is None:
        return nullcontext()
    try:
        import threadpoolctl
    except ImportError:
        return None
    return threadpoolctl.threadpool_limits(limits=threads, user_api="blas")


def bandwidth(size: int, rounds: int = 15) -> tuple[float, float]:
    """Return (read, copy) bandwidth of main memory over `size` bytes, all cores, in GB/s; medians."""
    x = np.random.default_rng(0).standard_normal(size // 4, dtype=np.float32)
    half = x.size // 2
    source, target = x[:half], x[half : 2 * half]
    read = x.nbytes / _median_seconds(reader(x), rounds)
    copy = 2 * source.nbytes / _median_seconds(lambda: _copy(source, target), rounds)
    return read / 1e9, copy / 1e9


def reader(x: NDArray[Any]) -> Callable[[], object]:
    """Return a function that reads every byte of a C-contiguous array, whole 8-byte words, on all cores."""
    return lambda: _core.read_pass(x)


def _copy(source: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    count = cores()
    pairs = zip(np.array_split(target, count), np.array_split(source, count), strict=True)
    _in_threads([functools.partial(np.copyto, to, origin) for to, origin in pairs])


def _in_threads(calls: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls[1:]]
    for thread in threads:
        thread.start()
    calls[0]()
    for thread in threads:
        thread.join()


def _median_seconds(call: Callable[[], object], rounds: int) -> float:
    call()  # warm: pages touched, threads started
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)
