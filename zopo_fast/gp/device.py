"""Devices by name, and arrays that lie on one: taken and handed back without a copy.

A CUDA array is anything with `__dlpack__` on a CUDA device (torch, CuPy, JAX, this package's CudaArray)
or with `__cuda_array_interface__` (Numba). A call on such arrays runs on their device, on the caller's
current stream, and answers in kind: a torch tensor for torch tensors, a CuPy array for CuPy arrays, a
CudaArray otherwise. Neither torch nor CuPy is imported: an array of theirs means that they are.
"""

from __future__ import annotations

import os
import re

from zopo_fast import _core
from zopo_fast._utils.public import public
from zopo_fast.errors import DeviceError

_users: set[int] = set()  # the process that has found a device: those forked from it cannot use one


if hasattr(_core, "CudaArray"):  # missing from a build without CUDA
    CudaArray = public(_core.CudaArray)


@public
def cuda_available() -> bool:
    """Whether device="cuda" can be used here; if not, `cuda_status` says why."""
    return _device_count() > 0


@public
def cuda_status() -> str:
    """One line: the CUDA devices that were found, or why none can be used."""
    if _users - {os.getpid()}:
        return "CUDA was in use when this process was forked, and cannot be used here; start it with 'spawn'"
    return _core.cuda_status()


def _device_count() -> int:
    """Devices; none in a child of a process that has used them, where the driver only fails."""
    if _users - {os.getpid()}:
        return 0
    count = _core.cuda_device_count()
    if count:
        _users.add(os.getpid())
    return count


def parse_device(name: str | None) -> int | None:
    """Ordinal of the CUDA device that "cuda" (the first one) or "cuda:N" names; None for "cpu" or None.

    Raises:
        DeviceError: another name, or a device that is not there or cannot be used, with the reason.
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
