"""Timing on a GPU, and what it can do at most, measured in the same run.

Everything is timed by the host's clock from one wait for the whole device to the next, so that work on
any stream counts; calls that only enqueue work are timed in bursts of some tens of milliseconds, next to
which the wait is nothing.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import zopo_fast as zf
from zopo_fast import _core

from ..common.harness import Case, Timing

BURST = 0.03  # seconds: a sample of calls that only enqueue work
MOST_CALLS = 200  # in one sample


@dataclass(frozen=True)
class Devices:
    """Where ours runs, and where PyTorch does: both "cuda", but for tests without a GPU."""

    ours: str = "cuda"
    torch: str = "cuda"

    def wait(self) -> None:
        """Until everything on the device is done, on whatever stream."""
        if self.torch != "cpu":
            torch.cuda.synchronize()

    def give(self, tensor: Any) -> Any:
        """A tensor as an array for ours, where ours runs: the tensor itself on a GPU, without a copy."""
        if self.torch != "cpu":
            return tensor
        return tensor.numpy() if self.ours == "cpu" else zf.to_device(tensor.numpy(), self.ours)

    def take(self, array: Any) -> Any:
        """What ours answers, as a tensor where PyTorch runs."""
        if isinstance(array, torch.Tensor):
            return array
        return torch.as_tensor(array if isinstance(array, np.ndarray) else array.numpy())

    def generator(self, seed: int) -> Any:
        """Random numbers made where PyTorch runs."""
        return torch.Generator(device=self.torch).manual_seed(seed)


def throughput(
    cases: Mapping[str, Case], devices: Devices, seconds: float, least: int = 5, most: int = 100
) -> dict[str, Timing]:
    """Seconds a call of every case, in bursts of calls, interleaved in an order that rotates each round.

    Args:
        seconds: for all cases together, beyond the `least` samples of each.
    """
    calls = {name: _calls(case, devices) for name, case in cases.items()}
    samples: dict[str, list[float]] = {name: [] for name in cases}
    names, end, rounds = list(cases), time.monotonic() + seconds, 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        while rounds < least or (time.monotonic() < end and rounds < most):
            for name in names:
                samples[name].append(_burst(cases[name], calls[name], devices))
            names.append(names.pop(0))
            gc.collect(0)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def _calls(case: Case, devices: Devices) -> int:
    """How many calls fill a burst; warms up."""
    _burst(case, 2, devices)
    one = _burst(case, 2, devices)
    return max(1, min(MOST_CALLS, round(BURST / one)))


def _burst(case: Case, calls: int, devices: Devices) -> float:
    devices.wait()
    start = time.perf_counter()
    for _ in range(calls):
        case()
    devices.wait()
    return (time.perf_counter() - start) / calls


# ---- the device --------------------------------------------------------------------------------------


def describe(devices: Devices) -> dict[str, Any]:
    """The GPU, its driver, and the software that drives it, as JSON values; no host, user or path."""
    about: dict[str, Any] = {
        "engine": _core.cuda_status(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "driver": _first_line(
            "nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.max.sm", "--format=csv,noheader"
        ),
        "nvcc": _last_line("nvcc", "--version"),
    }
    if devices.torch != "cpu":
        properties = torch.cuda.get_device_properties(0)
        about["name"] = properties.name
        about["compute_capability"] = f"{properties.major}.{properties.minor}"
        about["multiprocessors"] = properties.multi_processor_count
        about["memory_bytes"] = properties.total_memory
        about["l2_bytes"] = getattr(properties, "L2_cache_size", None)
    return about


def _output(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _first_line(*command: str) -> str | None:
    return next(iter(_output(*command)), None)


def _last_line(*command: str) -> str | None:
    return next(iter(_output(*command)[::-1]), None)


# ---- what it can do ----------------------------------------------------------------------------------


def ceilings(devices: Devices, quick: bool) -> dict[str, Any]:
    """Measure the ceilings.

    Returns:
        copy_gb_s: bytes read plus bytes written; read_gb_s: the best of PyTorch's reductions; over
        `bandwidth_bytes`, beyond any cache. float64_tflops, float32_tflops, tf32_tflops: PyTorch's matrix
        product of `matmul_size`, random entries. GB = 1e9 bytes.
    """
    found = _bandwidth((1 << 20) if quick else (1 << 30), devices, quick)
    n = 64 if quick else 8192
    found["matmul_size"] = n
    for name, product in products(n, devices).items():
        timing = throughput({name: product}, devices, 0.0 if quick else 1.0)[name]
        found[f"{name}_tflops"] = 2.0 * n**3 / timing.median / 1e12
    return found


def _bandwidth(count: int, devices: Devices, quick: bool) -> dict[str, Any]:
    """Over so many random float32 numbers."""
    x = torch.randn(count, device=devices.torch, generator=devices.generator(0))
    half = count // 2
    target = torch.empty(half, device=devices.torch)
    reductions: dict[str, Case] = {"sum": x.sum, "max": x.amax, "norm": x.norm}
    cases: dict[str, Case] = {"copy": lambda: target.copy_(x[:half]), **reductions}
    timings = throughput(cases, devices, 0.0 if quick else 2.0)
    return {
        "bandwidth_bytes": 4 * count,
        "copy_gb_s": 4 * count / timings["copy"].median / 1e9,
        "read_gb_s": 4 * count / min(timings[name].median for name in reductions) / 1e9,
    }


def products(n: int, devices: Devices) -> dict[str, Callable[[], object]]:
    """PyTorch's n x n product in each arithmetic, written to a matrix that is there."""

    def product(dtype: torch.dtype, tf32: bool) -> Callable[[], object]:
        generator = devices.generator(n)
        A, B = (torch.randn(n, n, dtype=dtype, device=devices.torch, generator=generator) for _ in range(2))
        C = torch.empty_like(A)

        def call() -> None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.matmul(A, B, out=C)
            torch.set_float32_matmul_precision(before)

        return call

    return {
        "float64": product(torch.float64, False),
        "float32": product(torch.float32, False),
        "tf32": product(torch.float32, True),
    }


def spread(timing: Timing) -> float:
    """Half the distance of the quartiles, as a share of the median: differences below it are noise."""
    if len(timing.samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(timing.samples, n=4, method="inclusive")
    return (high - low) / 2 / timing.median
