"""Kernel and Gaussian process on device arrays, against the same on the host."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from device_tools import FakeTensor, fake_torch, run
from numeric_tools import assert_close

import zopo_fast as zf


def twin(array: Any) -> Any:
    return zf.to_device(np.asarray(array))


@pytest.fixture(params=[1, 2, 3], ids="depth{}".format)
def kernel(request: pytest.FixtureRequest) -> zf.NTK:
    return zf.NTK.random(5, width=9, depth=request.param, seed=request.param)


@pytest.mark.cuda
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 3), (33, 65), (0, 4), (4, 0)])
def test_the_kernel_of_device_arrays_equals_the_host(
    kernel: zf.NTK, n: int, m: int, rng: np.random.Generator
) -> None:
    X, Y, weight = rng.normal(size=(n, 5)), rng.normal(size=(m, 5)), rng.normal(size=(n, m))
    x = rng.normal(size=5)
    for actual, expected in (
        (kernel.gram(twin(X), twin(Y)), kernel.gram(X, Y)),
        (kernel.gram(twin(X)), kernel.gram(X)),
        (kernel.gram(twin(X), device="cuda:0"), kernel.gram(X)),
        (kernel.diag(twin(X)), kernel.diag(X)),
        (kernel.gradient(twin(x), twin(X)), kernel.gradient(x, X)),
        (kernel.gram_gradient(twin(X), twin(Y), twin(weight)), kernel.gram_gradient(X, Y, weight)),
    ):
        assert isinstance(actual, zf.CudaArray)
        assert (actual.shape, actual.dtype) == (expected.shape, np.float64)
        assert_close(actual.numpy(), expected, 1e-13)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_gram_matrix_takes_narrow_dtypes(kernel: zf.NTK, dtype: Any, rng: np.random.Generator) -> None:
    X, Y = rng.normal(size=(7, 5)).astype(dtype), rng.normal(size=(4, 5))
    assert_close(kernel.gram(twin(X), twin(Y)).numpy(), kernel.gram(X, Y), 1e-13)
    narrow = kernel.gram(twin(X), twin(Y), precision="float32")
    assert narrow.dtype == np.float32
    assert_close(narrow.numpy(), kernel.gram(X, Y), 1e-5)
    for call in (lambda: kernel.diag(twin(X)), lambda: kernel.gradient(twin(Y[0]), twin(X))):
        with pytest.raises(zf.ArrayError, match="X: expected float64 on the device, got float"):
            call()


@pytest.mark.cuda
def test_the_kernel_refuses_invalid_arrays(kernel: zf.NTK, rng: np.random.Generator) -> None:
    X = rng.normal(size=(4, 5))
    bad = X.copy()
    bad[2, 3] = np.nan
    for call, message in (
        (lambda: kernel.gram(twin(X[:, :4])), "X: expected 2 dimension.s. with 5 in the last, got shape"),
        (lambda: kernel.gram(twin(X), twin(X[0])), "Y: expected 2 dimension"),
        (lambda: kernel.gram(twin(bad)), "X: NaN or infinity at flat index 13"),
        (lambda: kernel.gram(twin(X), twin(bad)), "Y: NaN or infinity at flat index 13"),
        (lambda: kernel.diag(twin(bad)), "X: NaN"),
        (lambda: kernel.gradient(twin(X[:1]), twin(X)), "x: expected 1 dimension"),
        (lambda: kernel.gradient(twin(bad[2]), twin(X)), "x: NaN or infinity at flat index 3"),
        (lambda: kernel.gram_gradient(twin(X), twin(X), twin(X)), "weight: expected 2 dimension"),
        (lambda: kernel.gram_gradient(twin(X), twin(X), twin(np.ones((3, 4)))), "weight: expected 4 rows"),
    ):
        with pytest.raises(zf.ArrayError, match=message):
            call()
    for call, message in (
        (lambda: kernel.gram(twin(X), X), "mixed devices"),
        (lambda: kernel.gradient(X[0], twin(X)), "mixed devices"),
        (lambda: kernel.gram(twin(X), device="cpu"), "the call .device='cpu'. on the host"),
    ):
        with pytest.raises(zf.DeviceError, match=message):
            call()


@pytest.mark.cuda
def test_a_process_of_device_arrays_equals_the_host(kernel: zf.NTK, rng: np.random.Generator) -> None:
    X, y, noise = rng.normal(size=(40, 5)), rng.normal(size=40), rng.uniform(0.1, 0.2, size=40)
    host = zf.GaussianProcess(kernel, noise=0.1)
    there = zf.GaussianProcess(kernel, noise=0.1, device="cuda")
    for a, b in ((0, 1), (1, 4), (4, 40)):
        host.append(X[a:b], y[a:b], noise[a:b])
        there.append(twin(X[a:b]), twin(y[a:b]), twin(noise[a:b]))
    for number in (0.5, np.float64(0.5), twin(0.5), twin([0.5])):
        host.append(X[0] + 1, 0.5)
        there.append(twin(X[0] + 1), number)
    host.append(X[:2] + 2, y[:2], 0.3)
    there.append(twin(X[:2] + 2), twin(y[:2]), 0.3)
    assert len(host) == len(there) == 46
    for q in (0, 1, 3, 20):
        x = rng.normal(size=(q, 5))
        for actual, expected in (
            (there.posterior(twin(x)), host.posterior(x)),
            (there.predict(twin(x)), host.predict(x)),
            (there.derivatives(twin(x)), host.derivatives(x)),
            (there.derivatives(x), host.derivatives(x)),
        ):
            assert len(actual) == len(expected)
            for a, b in zip(actual, expected, strict=True):
                assert_close(np.asarray(a), b, 1e-9)
    one, expected_one = there.posterior(twin(X[0])), host.posterior(X[0])
    assert [part.shape for part in one] == [(), (), (5,), ()]
    for a, b in zip(one, expected_one, strict=True):
        assert isinstance(a, zf.CudaArray)
        assert_close(a.numpy(), b, 1e-9)


@pytest.mark.cuda
def test_variance_gradient_of_an_empty_process(kernel: zf.NTK, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 5))
    expected = zf.GaussianProcess(kernel).derivatives(x)
    actual = zf.GaussianProcess(kernel, device="cuda").derivatives(twin(x))
    for a, b in zip(actual, expected, strict=True):
        assert_close(a.numpy(), b, 1e-12)


@pytest.mark.cuda
def test_a_process_refuses_invalid_arrays(kernel: zf.NTK, rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(4, 5)), rng.normal(size=4)
    gp = zf.GaussianProcess(kernel, noise=0.1, device="cuda")
    gp.append(twin(X), twin(y))
    bad = X.copy()
    bad[2, 3] = np.inf
    for call, message in (
        (lambda: gp.append(twin(bad), twin(y)), "X: NaN or infinity at flat index 13"),
        (lambda: gp.append(twin(X), twin(bad[:, 3])), "y: NaN or infinity at flat index 2"),
        (lambda: gp.append(twin(X), twin(y[:3])), "y: expected 4 rows"),
        (lambda: gp.append(twin(X[:, :2]), twin(y)), "X: expected 2 dimension"),
        (lambda: gp.append(twin(X.astype(np.float32)), twin(y)), "X: expected float64"),
        (lambda: gp.append(twin(X), twin(y), twin([0.1, 0.1, 0.1])), "noise: expected 4 entries"),
        (lambda: gp.append(twin(X), twin(y), -1.0), "noise: a variance cannot be negative"),
        (lambda: gp.posterior(twin(bad)), "x: NaN"),
        (lambda: gp.posterior(twin(X[:, :2])), "x: expected 2 dimension"),
    ):
        with pytest.raises(zf.ArrayError, match=message):
            call()
    on_cpu = zf.GaussianProcess(kernel, noise=0.1)
    for call, message in (
        (lambda: gp.append(twin(X), y), "mixed devices: X is on cuda:0, y on the host"),
        (lambda: gp.append(X, twin(y)), "mixed devices: y is on cuda:0, X on the host"),
        (lambda: gp.append(twin(X), twin(y), np.full(4, 0.1)), "mixed devices"),
        (lambda: on_cpu.append(twin(X), twin(y)), "X is on cuda:0, the process on the host"),
        (lambda: on_cpu.posterior(twin(X)), "x is on cuda:0, the process on the host"),
    ):
        with pytest.raises(zf.DeviceError, match=message):
            call()
    assert len(gp) == 4
    assert_close(gp.posterior(twin(X)).mean.numpy(), gp.posterior(X).mean, 1e-12)


@pytest.mark.cuda
def test_auto_selects_the_device_of_the_arrays(kernel: zf.NTK, rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(4, 5)), rng.normal(size=4)
    gp = zf.GaussianProcess(kernel, noise=0.1, device="auto")
    gp.append(X, y)
    gp.append(twin(X + 1), twin(y))
    assert len(gp) == 8
    assert isinstance(gp.posterior(twin(X)).mean, zf.CudaArray)


@pytest.mark.emulated
def test_no_room_for_an_observation(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    kernel = zf.NTK.random(5, width=9)
    X, y = rng.normal(size=(600, 5)), rng.normal(size=600)
    gp = zf.GaussianProcess(kernel, noise=0.1, device="cuda")
    gp.append(twin(X[:8]), twin(y[:8]))
    before = gp.posterior(X[:9])
    there, targets = twin(X), twin(y)
    monkeypatch.setenv("ZOPO_EMULATE_MEMORY", "1000000")
    for call in (lambda: gp.append(there, targets), lambda: kernel.gram(there)):
        with pytest.raises(zf.DeviceMemoryError, match="too little free memory"):
            call()
    assert len(gp) == 8
    monkeypatch.delenv("ZOPO_EMULATE_MEMORY")
    for a, b in zip(gp.posterior(X[:9]), before, strict=True):
        np.testing.assert_array_equal(a, b)
    gp.append(there, targets)
    assert len(gp) == 608


@pytest.mark.cuda
def test_a_torch_user_gets_tensors(kernel: zf.NTK, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0))
    X = FakeTensor(zf.to_device(np.ones((3, 5))))
    assert isinstance(kernel.gram(X), FakeTensor)
    gp = zf.GaussianProcess(kernel, device="cuda")
    assert all(isinstance(part, FakeTensor) for part in gp.posterior(X))


@pytest.mark.emulated
def test_a_process_on_the_second_device() -> None:
    script = """
import numpy as np, zopo_fast as zf
kernel, X = zf.NTK.random(3, width=4), np.arange(6.0).reshape(2, 3)
gp = zf.GaussianProcess(kernel, noise=0.1, device="cuda:1")
one, two = zf.to_device(X, "cuda:0"), zf.to_device(X, "cuda:1")
gp.append(two, zf.to_device([1.0, 2.0], "cuda:1"))
assert gp.posterior(two).mean.device == "cuda:1"
assert np.allclose(gp.posterior(two).mean.numpy(), gp.posterior(X).mean)
y = zf.to_device([1.0, 2.0])
for f in (lambda: gp.posterior(one), lambda: gp.append(two, y), lambda: kernel.gram(one, two)):
    try: f()
    except zf.DeviceError as error: print(error)
"""
    lines = run(script, ZOPO_EMULATE_DEVICES="2").splitlines()
    assert lines[0].startswith("x is on cuda:0, the process on cuda:1")
    assert lines[1:] == [
        "mixed devices: X is on cuda:1, y on cuda:0",
        "mixed devices: X is on cuda:0, Y on cuda:1",
    ]
