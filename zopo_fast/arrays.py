"""Arrays cross the boundary to the native layer once: converted here, checked there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast.device import refuse_cuda
from zopo_fast.errors import ArrayError

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def as_host_array(value: Any, name: str) -> NDArray[Any]:
    """Return `value` as a NumPy array of its own dtype; a CPU torch tensor or other host array is not copied.

    Raises:
        ArrayError: it cannot be read as an array; names the argument.
        DeviceError: it lies on a CUDA device.
    """
    refuse_cuda(value, name)
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray and np.ma.is_masked(value):
        raise ArrayError(f"{name}: a masked array, some of whose entries are missing")
    try:
        return np.asarray(value)
    # RuntimeError: torch, for a tensor that needs grad. MemoryError: a list of too many numbers.
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise ArrayError(f"{name}: cannot be read as an array of real numbers ({error})") from error


def as_doubles(value: Any, name: str) -> Array:
    """Return `value` as a C-contiguous float64 array on the host; raises as as_host_array does."""
    array = as_host_array(value, name)
    if array.dtype.kind not in "fiub":
        raise ArrayError(f"{name}: cannot be read as an array of real numbers (dtype {array.dtype})")
    if array.dtype.itemsize > 8:  # long double: what overflows is infinite, and refused as that
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)


def as_floats(value: Any, name: str) -> NDArray[Any]:
    """As as_doubles, but float16 and float32 stay what they are."""
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32):
        return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    return as_doubles(value, name)


def as_points(value: Any, name: str, dim: int) -> tuple[Array, bool]:
    """Return (q, dim) points and whether a single (dim,) point was given."""
    array = as_doubles(value, name)
    if array.ndim not in (1, 2) or array.shape[-1] != dim:
        raise ArrayError(f"{name}: expected shape ({dim},) or (q, {dim}), got {array.shape}")
    return (array[None], True) if array.ndim == 1 else (array, False)
