"""Device arrays: import and export without a copy, refusals, and the reason where there is no device."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest
from device_tools import (
    PER_THREAD,
    FakeTensor,
    Foreign,
    Interface,
    address,
    fake_torch,
    run,
)

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp.cuda_arrays import device_call

A = np.arange(12.0).reshape(3, 4)


# ---- with and without a device


@pytest.mark.devices
def test_the_status_says_whether_there_is_a_device() -> None:
    assert isinstance(zf.cuda_available(), bool)
    assert zf.cuda_status() == _core.cuda_status()
    assert ("CUDA device(s)" in zf.cuda_status()) == zf.cuda_available()


@pytest.mark.skipif(zf.cuda_available(), reason="there is a device")
def test_a_device_array_is_refused_without_a_device() -> None:
    with pytest.raises(zf.DeviceError, match=zf.cuda_status().split(":")[0].replace("(", ".")):
        zf.to_device(A)
    with pytest.raises(zf.DeviceError, match="use device='cpu'"):
        zf.GaussianProcess(zf.NTK.random(4), device="cuda")

    class Tensor:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    with pytest.raises(zf.DeviceError, match=r"X is on cuda:0, but .*; copy it to the host"):
        zf.NTK.random(4).gram(Tensor())


@pytest.mark.emulated
def test_a_driver_without_devices() -> None:
    script = (
        "import zopo_fast as zf, numpy as np\n"
        "assert not zf.cuda_available()\n"
        "try: zf.to_device(np.ones(3))\n"
        "except zf.DeviceError as error: print(error)\n"
        "print(zf.cuda_status())\n"
        "class Tensor:\n"
        "    def __dlpack_device__(self): return 2, 0\n"
        "try: zf.NTK.random(4).gram(Tensor())\n"
        "except zf.DeviceError as error: print(error)\n"
    )
    lines = run(script, ZOPO_EMULATE_DEVICES="0").splitlines()
    assert "no CUDA-capable device is detected" in lines[1]
    assert lines[1] in lines[0]
    assert "use device='cpu'" in lines[0]
    assert lines[2] == f"X is on cuda:0, but {lines[1]}; copy it to the host"


@pytest.mark.parametrize("name", ["cpu", "gpu", "cuda:99"])
def test_unknown_device_names_are_refused(name: str) -> None:
    with pytest.raises((zf.ConfigError, zf.DeviceError), match=name):
        zf.to_device(A, name)


# ---- round trips


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 4), (3, 0), (5, 1, 3)])
def test_a_round_trip_keeps_the_values(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    host = rng.normal(size=shape).astype(dtype)
    there = zf.to_device(host)
    assert (there.shape, there.dtype, there.device) == (shape, host.dtype, "cuda:0")
    for back in (there.numpy(), np.asarray(there), np.array(there, dtype=dtype)):
        assert back.dtype == host.dtype
        np.testing.assert_array_equal(back, host)
    if shape:
        assert len(there) == shape[0]
    else:
        with pytest.raises(TypeError, match="without dimensions"):
            len(there)


@pytest.mark.cuda
def test_to_device_accepts_lists_and_device_arrays() -> None:
    for other in ([[0, 1], [2, 3]], np.array([[0, 1], [2, 3]]), np.array([[0, 2], [1, 3]], float).T):
        there = zf.to_device(other)
        assert there.dtype == np.float64
        np.testing.assert_array_equal(there.numpy(), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(zf.to_device(A.astype(">f4")).numpy(), A)
    assert zf.to_device(there) is there
    with pytest.raises(zf.ArrayError, match="array"):
        zf.to_device(["a"])


@pytest.mark.cuda
@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack_copies_nothing_and_keeps_the_memory_alive(versioned: bool) -> None:
    made = zf.to_device(A)
    where = address(made)
    producer = Foreign(made, versioned)
    taken = zf.to_device(producer)
    assert producer.asked == [1]
    del made, producer
    gc.collect()
    other = [zf.to_device(np.zeros(64)) for _ in range(8)]  # would reuse freed memory
    assert address(taken) == where
    np.testing.assert_array_equal(taken.numpy(), A)
    del other


@pytest.mark.cuda
@pytest.mark.parametrize("more", [{}, {"max_version": (1, 0)}, {"max_version": (0, 8)}])
def test_a_capsule_is_used_once(more: Any) -> None:
    array = zf.to_device(A)
    capsule = array.__dlpack__(**more)
    expected = "dltensor_versioned" if more == {"max_version": (1, 0)} else "dltensor"
    assert f'"{expected}"' in repr(capsule)
    first = _core.cuda_from_dlpack(capsule)
    with pytest.raises(zf.ArrayError, match="used before"):
        _core.cuda_from_dlpack(capsule)
    del capsule, array
    gc.collect()
    np.testing.assert_array_equal(first.numpy(), A)
    zf.to_device(A).__dlpack__(**more)  # an unused capsule releases its memory itself
    for no_capsule in (None, A):
        with pytest.raises(zf.ArrayError, match="expected a DLPack capsule"):
            _core.cuda_from_dlpack(no_capsule)


@pytest.mark.emulated
def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make hundreds of arrays, capsules and interfaces in memory for a few."""
    monkeypatch.setenv("ZOPO_EMULATE_MEMORY", str(64 << 20))
    host = np.zeros(1 << 20)
    for _ in range(40):
        array = zf.to_device(host)
        taken = zf.to_device(Foreign(array))
        again = zf.to_device(Interface(taken))
        array.__dlpack__(max_version=(1, 0))
        del array, taken
        gc.collect()
        _core.cuda_synchronize(0)
        del again


@pytest.mark.cuda
def test_an_interface_copies_nothing_and_keeps_its_owner_alive() -> None:
    made = zf.to_device(A)
    where = address(made)
    assert made.__cuda_array_interface__ == {
        "shape": (3, 4), "typestr": "<f8", "data": (where, False), "strides": None, "stream": 1, "version": 3,
    }  # fmt: skip
    taken = [
        zf.to_device(Interface(made, **entries))
        for entries in ({}, {"strides": (32, 8)}, {"stream": None}, {"stream": PER_THREAD}, {"version": 2})
    ]
    assert [t.stream for t in taken] == [1, 1, 1, PER_THREAD, 1]
    del made
    gc.collect()
    for array in taken:
        assert address(array) == where
        np.testing.assert_array_equal(array.numpy(), A)


@pytest.mark.cuda
def test_a_read_only_array_stays_read_only() -> None:
    array = zf.to_device(A)
    locked = zf.to_device(Interface(array, data=(address(array), True)))
    assert locked.__cuda_array_interface__["data"][1]
    with pytest.raises(BufferError, match="read-only"):
        locked.__dlpack__()
    again = _core.cuda_from_dlpack(locked.__dlpack__(max_version=(1, 0)))
    assert again.__cuda_array_interface__["data"][1]


@pytest.mark.cuda
def test_the_export_follows_the_standard() -> None:
    array = zf.to_device(A)
    assert array.__dlpack_device__() == (2, 0)
    for stream in (None, -1, 1, PER_THREAD):
        np.testing.assert_array_equal(_core.cuda_from_dlpack(array.__dlpack__(stream=stream)).numpy(), A)
    for stream in (0, -2):
        with pytest.raises(BufferError, match="stream"):
            array.__dlpack__(stream=stream)
    with pytest.raises(BufferError, match="on cuda:0"):
        array.__dlpack__(dl_device=(1, 0))
    copy = _core.cuda_from_dlpack(array.__dlpack__(copy=True, dl_device=(2, 0)))
    assert address(copy) != address(array)
    np.testing.assert_array_equal(copy.numpy(), A)
    assert address(_core.cuda_from_dlpack(array.__dlpack__(copy=False))) == address(array)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(array, copy=False)


# ---- refusals


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"strides": (8, 24)}, "not C-contiguous.*contiguous"),
        ({"strides": (64, 8)}, "not C-contiguous"),
        ({"strides": (8,)}, "one stride for each of 2 dimensions"),
        ({"typestr": "<i8"}, "float16, float32 or float64"),
        ({"typestr": "<c8"}, "float16, float32 or float64"),
        ({"typestr": ">f8"}, "float16, float32 or float64"),
        ({"typestr": "f"}, "float16, float32 or float64"),
        ({"mask": object()}, "masked"),
        ({"shape": None}, "expected shape, typestr and data as"),
        ({"data": None}, "expected shape, typestr and data as"),
        ({"data": (A.ctypes.data, False)}, "not in device memory"),
    ],
)
def test_invalid_interfaces_are_refused(entries: dict[str, Any], message: str) -> None:
    array = zf.to_device(A)
    with pytest.raises(zf.ArrayError, match=f"(?s)^name: .*{message}"):
        _core.cuda_from_interface(Interface(array, **entries).__cuda_array_interface__, array, name="name")


@pytest.mark.cuda
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 33, 1000, 40001])
def test_the_first_non_finite_entry_is_named(size: int, dtype: Any, value: float) -> None:
    host = np.full(size, np.finfo(dtype).max)
    _core.cuda_require_finite(zf.to_device(host.astype(dtype)))
    for first in {0, size // 2, size - 1}:
        bad = host.astype(dtype)
        bad[first] = value
        bad[size - 1] = np.nan
        with pytest.raises(zf.ArrayError, match=f"^X: NaN or infinity at flat index {first}$"):
            _core.cuda_require_finite(zf.to_device(bad), name="X")
        if first:  # not aligned to 16 bytes
            array = zf.to_device(bad)
            entries = {"shape": (size - 1,), "data": (address(array) + bad.itemsize, False)}
            with pytest.raises(zf.ArrayError, match=f"index {first - 1}$"):
                _core.cuda_require_finite(zf.to_device(Interface(array, **entries)), name="X")


@pytest.mark.cuda
def test_host_and_device_arrays_are_not_mixed() -> None:
    there = zf.to_device(A)
    assert device_call({"X": A, "Y": [1.0]}) is None
    with pytest.raises(zf.DeviceError, match=r"mixed devices: X is on cuda:0, y on the host"):
        device_call({"X": there, "y": A})
    with pytest.raises(zf.DeviceError, match=r"X is on cuda:0, the process on the host"):
        device_call({"X": there}, "the process", None)
    with pytest.raises(zf.DeviceError, match=r"X is on cuda:0, the process on cuda:1"):
        device_call({"X": there}, "the process", 1)
    with pytest.raises(zf.DeviceError, match=r"x: the array is on cuda:0, a host array is needed"):
        zf.NTK.random(4).gradient_prior_trace(there)


@pytest.mark.emulated
def test_arrays_of_two_devices_are_not_mixed() -> None:
    script = """
import numpy as np, zopo_fast as zf
from zopo_fast.gp.cuda_arrays import device_call
a, b = zf.to_device(np.ones(3), "cuda:0"), zf.to_device(np.full(3, 2.0), "cuda:1")
assert (a.device, b.device, b.__dlpack_device__()) == ("cuda:0", "cuda:1", (2, 1))
assert zf.to_device(b, "cuda:1") is b and b.numpy()[0] == 2.0
class Interface:
    __cuda_array_interface__ = b.__cuda_array_interface__
assert zf.to_device(Interface(), "cuda:1").device == "cuda:1"
for f in (lambda: device_call({"X": a, "Y": b}), lambda: zf.to_device(b), lambda: zf.to_device(a, "cuda:2")):
    try: f()
    except zf.DeviceError as error: print(error)
    else: print("taken")
"""
    lines = run(script, ZOPO_EMULATE_DEVICES="2").splitlines()
    assert lines[0] == "mixed devices: X is on cuda:0, Y on cuda:1"
    assert "on cuda:1, not on cuda:0" in lines[1]
    assert "'cuda:2' does not exist" in lines[2]


@pytest.mark.emulated
def test_no_room_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    small = zf.to_device(A)
    monkeypatch.setenv("ZOPO_EMULATE_MEMORY", "100000")
    with pytest.raises(zf.DeviceMemoryError, match="too little free memory") as caught:
        zf.to_device(np.zeros(1 << 16))
    assert isinstance(caught.value, MemoryError)
    np.testing.assert_array_equal(small.numpy(), A)
    with pytest.raises(zf.DeviceMemoryError):
        zf.to_device(np.zeros((300, 100))).__dlpack__(copy=True)
    assert zf.to_device(A).shape == A.shape


# ---- the caller's library and its stream


@pytest.mark.cuda
@pytest.mark.parametrize(("stream", "expected"), [(0, 1), (PER_THREAD, PER_THREAD)])
def test_the_current_stream_of_torch_is_used(
    stream: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(stream))
    tensor = FakeTensor(zf.to_device(A))
    call = device_call({"X": tensor})
    assert call is not None
    assert (call.stream, tensor.asked, call.arrays[0].stream) == (expected, [expected], expected)
    back = call.finish(call.arrays[0])
    assert isinstance(back, FakeTensor)
    assert address(back.array) == address(tensor.array)


@pytest.mark.cuda
def test_arrays_of_unknown_libraries_give_device_arrays() -> None:
    for given in (zf.to_device(A), Foreign(zf.to_device(A)), Interface(zf.to_device(A))):
        call = device_call({"X": given})
        assert call is not None
        assert isinstance(call.finish(call.arrays[0]), zf.CudaArray)
        assert len(call.finish(*call.arrays * 2)) == 2


@pytest.mark.cuda
def test_the_call_waits_for_streams_of_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library may reuse its memory as soon as the call releases it."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0))
    waited: list[Any] = []
    monkeypatch.setattr(_core, "cuda_synchronize", lambda *stream: waited.append(stream))
    ours, foreign = zf.to_device(A), Foreign(zf.to_device(A))
    tensor = FakeTensor(zf.to_device(A))
    for X, Y, waits in (
        (ours, ours, False), (ours, tensor, True), (ours, foreign, True), (foreign, ours, True),
        (tensor, tensor, False), (tensor, ours, False), (tensor, foreign, True), (foreign, foreign, True),
    ):  # fmt: skip
        waited.clear()
        call = device_call({"X": X, "Y": Y})
        assert call is not None
        call.finish(call.arrays[0])
        assert waited == [(0, 1)] * waits


@pytest.mark.cuda
def test_a_failing_export_of_a_library_is_an_array_error() -> None:
    class Stubborn(Foreign):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("use tensor.detach()")

    with pytest.raises(zf.ArrayError, match=r"X: cannot be taken without a copy \(use tensor.detach\(\)\)"):
        device_call({"X": Stubborn(zf.to_device(A))})


def test_torch_is_required_only_for_its_operators() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, zopo_fast as zf\n"
        "zf.NTK.random(4).gram(np.ones((2, 4)))\n"
        "try: import zopo_fast.torch\n"
        "except zf.MissingDependencyError as error: print(error)"
    )
    assert "zopo-fast[torch]" in run(script)
