"""Conversion of array arguments: each array is converted once here, and the native layer checks the rest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast import _core
from zopo_fast.errors import ArrayError, DeviceError

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

LEGACY_STREAM = 1  # the default stream's number in DLPack and in the CUDA Array Interface
_CUDA, _CUDA_MANAGED = 2, 13  # DLPack device types


def as_host_array(value: Any, name: str) -> NDArray[Any]:
    """Return `value` as a NumPy array of its own dtype; host arrays such as CPU torch tensors are not copied.

    Args:
        value: Array, or anything that `numpy.asarray` accepts.
        name: Name of the argument in error messages.

    Raises:
        ArrayError: The value is not an array, or is a masked array with masked entries.
        DeviceError: The array is on a CUDA device.
    """
    refuse_cuda(value, name)
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray and np.ma.is_masked(value):
        raise ArrayError(f"{name}: a masked array with masked entries")
    try:
        return np.asarray(value)
    # RuntimeError: a torch tensor that requires grad. MemoryError: a list of too many numbers.
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise ArrayError(f"{name}: cannot be read as an array of real numbers ({error})") from error


def as_doubles(value: Any, name: str) -> Array:
    """Return `value` as a C-contiguous float64 array on the host.

    Args:
        value: Array, or anything that `numpy.asarray` accepts.
        name: Name of the argument in error messages.

    Raises:
        ArrayError: The value is not an array of real numbers.
        DeviceError: The array is on a CUDA device.
    """
    array = as_host_array(value, name)
    if array.dtype.kind not in "fiub":
        raise ArrayError(f"{name}: cannot be read as an array of real numbers (dtype {array.dtype})")
    if array.dtype.itemsize > 8:  # long double: an overflow gives infinity, which the native layer rejects
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)


def as_floats(value: Any, name: str) -> NDArray[Any]:
    """Return `value` as `as_doubles` does, but keep the precision of float16 and float32 arrays."""
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32):
        return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    return as_doubles(value, name)


def as_points(value: Any, name: str, dim: int) -> tuple[Array, bool]:
    """Return points of shape (q, dim), and True if a single point of shape (dim,) was given."""
    array = as_doubles(value, name)
    if array.ndim not in (1, 2) or array.shape[-1] != dim:
        raise ArrayError(f"{name}: expected shape ({dim},) or (q, {dim}), got {array.shape}")
    return (array[None], True) if array.ndim == 1 else (array, False)


def refuse_cuda(value: Any, name: str) -> None:
    """Reject a CUDA array where a host array is needed: only the caller copies between devices.

    Raises:
        DeviceError: The array is on a CUDA device.
    """
    ordinal = device_ordinal(value)
    if ordinal is not None:
        raise DeviceError(
            f"{name}: the array is on cuda:{ordinal}, a host array is needed; copy it to the host"
        )


def device_ordinal(value: Any) -> int | None:
    """Return the number of the CUDA device that holds an array; None for anything else."""
    if isinstance(value, (np.ndarray, np.generic, float, int, list, tuple)) or value is None:
        return None
    if isinstance(value, type):
        return None
    if hasattr(value, "__dlpack_device__"):
        kind, ordinal = value.__dlpack_device__()
        return int(ordinal) if kind in (_CUDA, _CUDA_MANAGED) else None
    if library_of(value, "torch", "Tensor") or not hasattr(value, "__cuda_array_interface__"):
        return None
    return import_cuda_interface("array", value, LEGACY_STREAM).__dlpack_device__()[1]


def library_of(value: Any, module: str, class_name: str) -> Any:
    """Return a module if it is already imported and the value is an instance of its class; otherwise None."""
    library = sys.modules.get(module)
    kind = getattr(library, class_name, None)
    return library if isinstance(kind, type) and isinstance(value, kind) else None


def import_cuda_interface(name: str, value: Any, stream: int) -> CudaArray:
    """Wrap an array with `__cuda_array_interface__`, without a copy."""
    interface = value.__cuda_array_interface__
    if not isinstance(interface, dict):
        raise ArrayError(f"{name}: __cuda_array_interface__ is not a dict but {type(interface).__name__}")
    if not hasattr(_core, "cuda_from_interface"):
        raise DeviceError(f"{name}: an array on a CUDA device, but {_core.cuda_status()}")
    return _core.cuda_from_interface(interface, value, stream, name)
