"""The name of a device, as every `device=` argument takes it."""

from __future__ import annotations

import re

from . import _core
from .errors import DeviceError


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
    count = _core.cuda_device_count()
    if count == 0:
        raise DeviceError(f"device {name!r}: {_core.cuda_status()}; use device='cpu'")
    if ordinal >= count:
        raise DeviceError(f"device {name!r} does not exist; there are {_core.cuda_status()}")
    return ordinal
