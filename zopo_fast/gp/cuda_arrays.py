"""Arrays on a CUDA device: imported and returned without a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast import _core
from zopo_fast._utils.public import public
from zopo_fast.errors import ArrayError, ConfigError, DeviceError
from zopo_fast.gp.arrays import _LEGACY_STREAM, _loaded, _ordinal_of, _take_interface, as_doubles
from zopo_fast.gp.device import cuda_available, cuda_status, parse_device

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray


ANYWHERE = -1  # for on_device(): wherever the arrays are


@public
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
