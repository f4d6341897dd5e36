"""Arrays on a device as other libraries hand them in, for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import pytest
from emulation_tools import EMULATED

import zopo_fast as zf

needs_cuda = pytest.mark.skipif(not zf.cuda_available(), reason=zf.cuda_status())
needs_emulation = pytest.mark.skipif(not EMULATED, reason="sets what the emulated devices have")
PER_THREAD = 2  # the per-thread default stream: a stream that exists everywhere and is not the default one


class Foreign:
    """Another library's array: what it exports is one of ours; counts the exports and keeps the streams."""

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
    """An array known by its __cuda_array_interface__ alone, some entries replaced."""

    def __init__(self, array: Any, **entries: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | entries


def address(array: Any) -> int:
    return array.__cuda_array_interface__["data"][0]


def run(script: str, **environment: str) -> str:
    """Run a script in a process of its own, with other emulated devices."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class FakeTensor(Foreign):
    """Stands for torch.Tensor."""


def fake_torch(stream: int) -> Any:
    torch = types.ModuleType("torch")
    torch.Tensor = FakeTensor  # type: ignore[attr-defined]
    torch.from_dlpack = lambda array: FakeTensor(zf.to_device(Foreign(array)))  # type: ignore[attr-defined]
    current = types.SimpleNamespace(cuda_stream=stream)
    torch.cuda = types.SimpleNamespace(current_stream=lambda ordinal: current)  # type: ignore[attr-defined]
    return torch
