"""Device arrays of other libraries, by stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

from time_tools import HANG

import zopo_fast as zf

PER_THREAD = 2  # the per-thread default stream: exists on every device, and is not the default stream


class Foreign:
    """Array of another library that exports one of ours by DLPack; records the streams of the exports."""

    def __init__(self, array: Any, versioned: bool = True) -> None:
        self.array, self.versioned = array, versioned
        self.asked: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream: Any = None, **more: Any) -> Any:
        if more and not self.versioned:
            raise TypeError("unexpected keyword argument")
        self.asked.append(stream)
        return self.array.__dlpack__(stream=stream, **more)


class Interface:
    """Array with a __cuda_array_interface__ only, some of its entries replaced."""

    def __init__(self, array: Any, **entries: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | entries


def address(array: Any) -> int:
    return array.__cuda_array_interface__["data"][0]


def run(script: str, **environment: str) -> str:
    """Run a script in a new process with other emulated devices; return its stdout."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | environment, capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class FakeTensor(Foreign):
    """Stand-in for torch.Tensor."""


def fake_torch(stream: int) -> Any:
    """Make a module with the parts of torch that the package uses, and a current stream."""
    torch = types.ModuleType("torch")
    torch.Tensor = FakeTensor  # type: ignore[attr-defined]
    torch.from_dlpack = lambda array: FakeTensor(zf.to_device(Foreign(array)))  # type: ignore[attr-defined]
    current = types.SimpleNamespace(cuda_stream=stream)
    torch.cuda = types.SimpleNamespace(current_stream=lambda ordinal: current)  # type: ignore[attr-defined]
    return torch
