"""CUDA devices: names and availability."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from zopo_fast import _core
from zopo_fast._utils.public import public
from zopo_fast.errors import DeviceError

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray as CudaArray  # noqa: PLC0414 - a re-export
elif hasattr(_core, "CudaArray"):  # missing from a build without CUDA
    CudaArray = public(_core.CudaArray)

_users: set[int] = set()  # ids of the process that has initialized CUDA; a forked child of it cannot use CUDA


@public
def cuda_available() -> bool:
    """Return True if `device="cuda"` is usable; if not, `cuda_status()` tells why."""
    return _device_count() > 0


@public
def cuda_status() -> str:
    """Describe in one line the CUDA devices found, or the reason why none is usable."""
    if _users - {os.getpid()}:
        return "CUDA was in use when this process was forked, and cannot be used here; start it with 'spawn'"
    return _core.cuda_status()


def _device_count() -> int:
    if _users - {os.getpid()}:
        return 0
    count = _core.cuda_device_count()
    if count:
        _users.add(os.getpid())
    return count


def parse_device(name: str | None) -> int | None:
    """Convert a device name to a CUDA ordinal.

    Args:
        name: "cpu", "cuda" (the first CUDA device) or "cuda:N".

    Returns:
        The ordinal; None for "cpu" and None.

    Raises:
        DeviceError: The name is invalid, or the device does not exist or is unusable.
    """
    if name is None or name == "cpu":
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,9}))?", name, re.ASCII) if isinstance(name, str) else None
    if match is None:
        raise DeviceError(f"device {name!r}: expected 'cpu', 'cuda' or 'cuda:N' with N the device's number")
    ordinal = int(match[1] or 0)
    count = _device_count()
    if count == 0:
        raise DeviceError(f"device {name!r}: {cuda_status()}; use device='cpu'")
    if ordinal >= count:
        raise DeviceError(f"device {name!r} does not exist; there are {cuda_status()}")
    return ordinal
