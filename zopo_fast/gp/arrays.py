"""Arrays cross the boundary to the native layer once: converted here, checked there."""

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


_LEGACY_STREAM = 1  # the default stream, as DLPack and the CUDA Array Interface number it

_CUDA, _CUDA_MANAGED = 2, 13  # DLPack's device types


def refuse_cuda(value: Any, name: str) -> None:
    """DeviceError for a CUDA array where only the host's are taken: nothing is copied without being told."""
    ordinal = _ordinal_of(value)
    if ordinal is not None:
        raise DeviceError(
            f"{name}: the array is on cuda:{ordinal}, a host array is needed; copy it to the host"
        )


def _ordinal_of(value: Any) -> int | None:
    """Number of the CUDA device an array lies on; None for the host's and for what is no array."""
    if isinstance(value, (np.ndarray, np.generic, float, int, list, tuple)) or value is None:
        return None
    if isinstance(value, type):
        return None
    if hasattr(value, "__dlpack_device__"):
        kind, ordinal = value.__dlpack_device__()
        return int(ordinal) if kind in (_CUDA, _CUDA_MANAGED) else None
    if _loaded("torch", "Tensor", value) or not hasattr(value, "__cuda_array_interface__"):
        return None
    return _take_interface("array", value, _LEGACY_STREAM).__dlpack_device__()[1]


def _loaded(module: str, cls: str, value: Any) -> Any:
    """The module, when it has been imported and the value is of that class of it."""
    library = sys.modules.get(module)
    kind = getattr(library, cls, None)
    return library if isinstance(kind, type) and isinstance(value, kind) else None


def _take_interface(name: str, value: Any, stream: int) -> CudaArray:
    interface = value.__cuda_array_interface__
    if not isinstance(interface, dict):
        raise ArrayError(f"{name}: __cuda_array_interface__ is not a dict but {type(interface).__name__}")
    if not hasattr(_core, "cuda_from_interface"):
        raise DeviceError(f"{name}: an array on a CUDA device, but {_core.cuda_status()}")
    return _core.cuda_from_interface(interface, value, stream, name)
