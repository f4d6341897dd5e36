"""Import of CUDA arrays and export of results, both without a copy.

A CUDA array is any array with `__dlpack__` on a CUDA device (torch, CuPy, JAX, this package's CudaArray) or
with `__cuda_array_interface__` (Numba). A call on such arrays runs on their device and on the caller's
current stream. It returns torch tensors for torch tensors, CuPy arrays for CuPy arrays, else CudaArrays.
torch and CuPy are never imported here: an array of theirs proves that they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast import _core
from zopo_fast._utils.public import public
from zopo_fast.errors import ArrayError, ConfigError, DeviceError
from zopo_fast.gp.arrays import (
    LEGACY_STREAM,
    as_doubles,
    device_ordinal,
    import_cuda_interface,
    library_of,
)
from zopo_fast.gp.device import cuda_available, cuda_status, parse_device

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray

ANY_DEVICE = -1  # in device_call(): the device of the arrays


@public
def to_device(array: Any, device: str = "cuda") -> CudaArray:
    """Copy a host array to a CUDA device; an array that is already there is wrapped without a copy.

    Args:
        array: Array of real numbers, of any shape. float16, float32 and float64 keep their precision; other
            types become float64.
        device: "cuda" or "cuda:N".

    Raises:
        ArrayError: The value is not an array of real numbers, or a CUDA array is not C-contiguous.
        ConfigError: `device` is "cpu".
        DeviceError: The device is not available, or the array is on another CUDA device.
        DeviceMemoryError: The device is out of memory.
    """
    ordinal = parse_device(device)
    if ordinal is None:
        raise ConfigError(f"to_device copies to a CUDA device, got device={device!r}; numpy() copies back")
    if (current := device_ordinal(array)) is not None:
        if current != ordinal:
            raise DeviceError(
                f"array: it is on cuda:{current}, not on cuda:{ordinal}; copy it through the host"
            )
        return _import_array("array", array, _stream_of(array, current))
    if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        host = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    else:
        host = as_doubles(array, "array")
    return _core.cuda_from_numpy(host, ordinal)


class DeviceCall(NamedTuple):
    """CUDA arguments of one native call, all on one device.

    Attributes:
        arrays: The arguments, in the given order.
        ordinal: Number of the device.
        stream: CUDA stream of the caller.
        finish: Function that converts results to the caller's kind of array.
    """

    arrays: list[CudaArray]
    ordinal: int
    stream: int
    finish: Callable[..., Any]


def device_call(
    arguments: Mapping[str, Any], owner: str = "the call", device: int | None = ANY_DEVICE
) -> DeviceCall | None:
    """Prepare a native call on CUDA arrays; return None if all arguments are on the host.

    Args:
        arguments: Arrays by argument name.
        owner: The object that takes the arrays, in error messages.
        device: Device of that object; None for the host.

    Raises:
        DeviceError: The arguments are on different devices, or not on the device of the object.
        ArrayError: An array is not C-contiguous, or has an unsupported dtype.
    """
    ordinals = {name: device_ordinal(value) for name, value in arguments.items()}
    on_cuda = {name: ordinal for name, ordinal in ordinals.items() if ordinal is not None}
    if not on_cuda:
        return None
    first, ordinal = next(iter(on_cuda.items()))
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
            f"{first} is on cuda:{ordinal}, {owner} on the host (device='cpu'); copy it to the host"
        )
    if not cuda_available():
        raise DeviceError(f"{first} is on cuda:{ordinal}, but {cuda_status()}; copy it to the host")
    if device not in (ANY_DEVICE, ordinal):
        raise DeviceError(f"{first} is on cuda:{ordinal}, {owner} on cuda:{device}; bring them to one device")
    leader = arguments[first]
    stream = _stream_of(leader, ordinal)
    arrays = [_import_array(name, value, stream) for name, value in arguments.items()]
    return DeviceCall(arrays, ordinal, stream, _finisher(list(arguments.values()), ordinal, stream))


def _stream_of(value: Any, ordinal: int) -> int:
    """Return the current stream of the array's library, or the stream that the array names."""
    if torch := library_of(value, "torch", "Tensor"):
        stream = torch.cuda.current_stream(ordinal).cuda_stream
    elif cupy := library_of(value, "cupy", "ndarray"):
        with cupy.cuda.Device(ordinal):
            stream = cupy.cuda.get_current_stream().ptr
    elif isinstance(value, _core.CudaArray):
        stream = value.stream
    else:
        interface = getattr(value, "__cuda_array_interface__", None) or {}
        stream = interface.get("stream")
    return int(stream or LEGACY_STREAM)


def _import_array(name: str, value: Any, stream: int) -> CudaArray:
    if isinstance(value, _core.CudaArray):
        return value
    if not hasattr(value, "__dlpack__"):
        return import_cuda_interface(name, value, stream)
    try:
        try:
            capsule = value.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # a library that predates DLPack 1.0
            capsule = value.__dlpack__(stream=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArrayError(f"{name}: cannot be taken without a copy ({error})") from error
    return _core.cuda_from_dlpack(capsule, stream, name)


def _array_library(value: Any) -> Any:
    return library_of(value, "torch", "Tensor") or library_of(value, "cupy", "ndarray")


def _finisher(values: list[Any], ordinal: int, stream: int) -> Callable[..., Any]:
    """Return the function that converts results to the kind of the first array."""
    library = _array_library(values[0])
    # The stream belongs to that library, which frees its memory in stream order. Another library may reuse
    # the memory of an argument as soon as we drop our reference, so wait for the stream first.
    must_wait = any(
        not isinstance(value, _core.CudaArray) and (library is None or _array_library(value) is not library)
        for value in values
    )

    def finish(*results: CudaArray) -> Any:
        if must_wait:
            _core.cuda_synchronize(ordinal, stream)
        converted = results if library is None else tuple(map(library.from_dlpack, results))
        return converted if len(converted) > 1 else converted[0]

    return finish
