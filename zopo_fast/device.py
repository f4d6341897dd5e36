"""Devices by name, and arrays that lie on one: taken and handed back without a copy.

A CUDA array is anything with `__dlpack__` on a CUDA device (torch, CuPy, JAX, this package's CudaArray)
or with `__cuda_array_interface__` (Numba). A call on such arrays runs on their device, on the caller's
current stream, and answers in kind: a torch tensor for torch tensors, a CuPy array for CuPy arrays, a
CudaArray otherwise. Neither torch nor CuPy is imported: an array of theirs means that they are.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast import _core
from zopo_fast.errors import ArrayError, ConfigError, DeviceError

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray

_LEGACY_STREAM = 1  # the default stream, as DLPack and the CUDA Array Interface number it
_CUDA, _CUDA_MANAGED = 2, 13  # DLPack's device types
ANYWHERE = -1  # for on_device(): wherever the arrays are

_users: set[int] = set()  # the process that has found a device: those forked from it cannot use one


def __getattr__(name: str) -> Any:
    # Missing from a build without the CUDA engine; such a build still has to import.
    if name == "CudaArray" and hasattr(_core, name):
        return _core.CudaArray
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def cuda_available() -> bool:
    """Whether device="cuda" can be used here; if not, `cuda_status` says why."""
    return _device_count() > 0


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


def to_device(array: Any, device: str = "cuda") -> CudaArray:
    """Copy a host array to a device; an array that is there already is taken as it is, without a copy.

    float16, float32 and float64 stay what they are, other real types become float64.

    Raises:
        ArrayError: no array of real numbers, or one on the device that is not C-contiguous.
        DeviceError: no such device, or an array on another one; DeviceMemoryError: no room there.
    """
    ordinal = parse_device(device)
    if ordinal is None:
        raise ConfigError(f"to_device copies to a CUDA device, got device={device!r}; numpy() copies back")
    if (there := _ordinal_of(array)) is not None:
        if there != ordinal:
            raise DeviceError(
                f"array: it is on cuda:{there}, not on cuda:{ordinal}; copy it by way of the host"
            )
        return _take("array", array, _stream_of(array, there))
    from zopo_fast.arrays import as_doubles

    if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        host = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    else:
        host = as_doubles(array, "array")
    return _core.cuda_from_numpy(host, ordinal)


class OnDevice(NamedTuple):
    """The CUDA arrays of one call: all on one device, in the order they were given."""

    arrays: list[CudaArray]
    ordinal: int
    stream: int
    finish: Callable[..., Any]  # results of the call -> the same in the caller's kind


def on_device(
    arguments: Mapping[str, Any], where: str = "the call", device: int | None = -1
) -> OnDevice | None:
    """The CUDA arrays among the arguments (by name), ready for a native call; None when all are the host's.

    `device` is where the object is that takes them, called `where` (None: the host).

    Raises:
        DeviceError: on different devices, or some on the host and some not, or not where the object is.
        ArrayError: not C-contiguous, or a dtype that is not taken.
    """
    ordinals = {name: _ordinal_of(value) for name, value in arguments.items()}
    found = {name: o for name, o in ordinals.items() if o is not None}
    if not found:
        return None
    first, ordinal = next(iter(found.items()))
    for name, other in ordinals.items():
        if other is None:
            raise DeviceError(
                f"mixed devices: {first} is on cuda:{ordinal}, {name} on the host; "
                f"zopo_fast.to_device({name}, 'cuda:{ordinal}') copies it there"
            )
        if other != ordinal:
            raise DeviceError(f"mixed devices: {first} is on cuda:{ordinal}, {name} on cuda:{other}")
    if device is None:
        raise DeviceError(
            f"{first} is on cuda:{ordinal}, {where} on the host (device='cpu'); copy it to the host"
        )
    if not cuda_available():
        raise DeviceError(f"{first} is on cuda:{ordinal}, but {cuda_status()}; copy it to the host")
    if device not in (ANYWHERE, ordinal):
        raise DeviceError(f"{first} is on cuda:{ordinal}, {where} on cuda:{device}; bring them to one device")
    leader = arguments[first]
    stream = _stream_of(leader, ordinal)
    taken = [_take(name, value, stream) for name, value in arguments.items()]
    return OnDevice(taken, ordinal, stream, _finisher(list(arguments.values()), ordinal, stream))


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


def _stream_of(value: Any, ordinal: int) -> int:
    """The caller's current stream: that of the array's library, or the one the array names."""
    if torch := _loaded("torch", "Tensor", value):
        stream = torch.cuda.current_stream(ordinal).cuda_stream
    elif cupy := _loaded("cupy", "ndarray", value):
        with cupy.cuda.Device(ordinal):
            stream = cupy.cuda.get_current_stream().ptr
    elif isinstance(value, _core.CudaArray):
        stream = value.stream
    else:
        interface = getattr(value, "__cuda_array_interface__", None) or {}
        stream = interface.get("stream")
    return int(stream or _LEGACY_STREAM)


def _take(name: str, value: Any, stream: int) -> CudaArray:
    if isinstance(value, _core.CudaArray):
        return value
    if not hasattr(value, "__dlpack__"):
        return _take_interface(name, value, stream)
    try:
        try:
            capsule = value.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # a library of before DLPack 1.0
            capsule = value.__dlpack__(stream=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArrayError(f"{name}: cannot be taken without a copy ({error})") from error
    return _core.cuda_from_dlpack(capsule, stream, name)


def _take_interface(name: str, value: Any, stream: int) -> CudaArray:
    interface = value.__cuda_array_interface__
    if not isinstance(interface, dict):
        raise ArrayError(f"{name}: __cuda_array_interface__ is not a dict but {type(interface).__name__}")
    if not hasattr(_core, "cuda_from_interface"):
        raise DeviceError(f"{name}: an array on a CUDA device, but {_core.cuda_status()}")
    return _core.cuda_from_interface(interface, value, stream, name)


def _library(value: Any) -> Any:
    return _loaded("torch", "Tensor", value) or _loaded("cupy", "ndarray", value)


def _finisher(values: list[Any], ordinal: int, stream: int) -> Callable[..., Any]:
    """How results are handed back to the caller of arrays whose first one says what kind is wanted."""
    library = _library(values[0])
    # The stream is that library's. The memory of any other may be given back, in an order we do not know, as
    # soon as we let go of it.
    wait = any(
        not isinstance(value, _core.CudaArray) and (library is None or _library(value) is not library)
        for value in values
    )

    def finish(*results: CudaArray) -> Any:
        if wait:
            _core.cuda_synchronize(ordinal, stream)
        given = results if library is None else tuple(map(library.from_dlpack, results))
        return given if len(given) > 1 else given[0]

    return finish
