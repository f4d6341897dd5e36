"""Timing on a GPU, and its ceilings, measured in the same run.

The host's clock runs from one wait for the whole device to the next, so that work on any stream counts.
Calls that only enqueue work are timed in bursts of tens of milliseconds, which makes the wait negligible.
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

BURST = 0.03  # seconds of a burst of calls that only enqueue work
MAX_CALLS = 200  # calls of one burst


@dataclass(frozen=True)
class Devices:
    """Device of our engine and of PyTorch: both "cuda", except in tests without a GPU."""

    ours: str = "cuda"
    torch: str = "cuda"

    def wait(self) -> None:
        """Wait for all work on the device, on every stream."""
        if self.torch != "cpu":
            torch.cuda.synchronize()

    def give(self, tensor: Any) -> Any:
        """Return a tensor as an array for our engine; on a GPU the tensor itself, without a copy."""
        if self.torch != "cpu":
            return tensor
        return tensor.numpy() if self.ours == "cpu" else zf.to_device(tensor.numpy(), self.ours)

    def take(self, array: Any) -> Any:
        """Return our result as a tensor on PyTorch's device."""
        if isinstance(array, torch.Tensor):
            return array
        return torch.as_tensor(array if isinstance(array, np.ndarray) else array.numpy())

    def generator(self, seed: int) -> Any:
        """Return random numbers on PyTorch's device."""
        return torch.Generator(device=self.torch).manual_seed(seed)


def throughput(
    cases: Mapping[str, Case], devices: Devices, seconds: float, least: int = 5, most: int = 100
) -> dict[str, Timing]:
    """Return seconds per call of every case, in interleaved bursts whose order rotates every round.

    Args:
        seconds: time for all cases together, beyond the `least` samples of each.
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
    """Return the number of calls that fill a burst, after a warm-up."""
    _burst(case, 2, devices)
    one = _burst(case, 2, devices)
    return max(1, min(MAX_CALLS, round(BURST / one)))


def _burst(case: Case, calls: int, devices: Devices) -> float:
    devices.wait()
    start = time.perf_counter()
    for _ in range(calls):
        case()
    devices.wait()
    return (time.perf_counter() - start) / calls


# ---- the device --------------------------------------------------------------------------------------


def describe(devices: Devices) -> dict[str, Any]:
    """Return the GPU, its driver and software versions as JSON values, without host, user or path."""
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


# ---- ceilings ---------------------------------------------------------------------------------------


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
    """Measure read and copy bandwidth over that many random float32 numbers."""
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
    """Measure PyTorch's n x n product in each arithmetic, into a preallocated matrix."""

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
    """Return half the interquartile range over the median; smaller differences are noise."""
    if len(timing.samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(timing.samples, n=4, method="inclusive")
    return (high - low) / 2 / timing.median
