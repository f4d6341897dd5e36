"""Torch operators: values, gradients, the checks of torch, and torch.compile."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf

torch = pytest.importorskip("torch", reason="torch is not installed: its operators are not tested")

import zopo_fast.torch as zt  # noqa: E402

D = 4
OPS = torch.ops.zopo_fast


@pytest.fixture(params=[1, 2, 3], ids="depth{}".format)
def kernel(request: pytest.FixtureRequest) -> zf.NTK:
    return zf.NTK.random(D, width=8, depth=request.param, seed=request.param)


@pytest.fixture
def process(kernel: zf.NTK, rng: np.random.Generator, device: str) -> zf.GaussianProcess:
    gp = zf.GaussianProcess(kernel, noise=0.1, device=device)
    gp.append(rng.normal(size=(6, D)), rng.normal(size=6))
    return gp


def points(n: int, seed: int = 0, grad: bool = True, dtype: Any = torch.float64) -> Any:
    made = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype).requires_grad_(grad)


# ---- values


def test_gram_equals_the_kernel(kernel: zf.NTK) -> None:
    X, Y = points(5), points(3, 1)
    np.testing.assert_array_equal(zt.ntk_gram(kernel, X, Y).detach(), kernel.gram(X.detach(), Y.detach()))
    np.testing.assert_array_equal(zt.ntk_gram(kernel, X).detach(), kernel.gram(X.detach()))
    for n, m in ((0, 3), (5, 0), (0, 0)):
        assert zt.ntk_gram(kernel, points(n), points(m)).shape == (n, m)


def test_narrow_points_are_widened(
    kernel: zf.NTK, process: zf.GaussianProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device only gram() takes narrower dtypes than float64."""
    asked: list[Any] = []

    def watch(kind: Any, name: str) -> None:
        original = getattr(kind, name)

        def asking(self: Any, *given: Any) -> Any:
            asked.extend(each.dtype for each in given)
            return original(self, *given)

        monkeypatch.setattr(kind, name, asking)

    watch(zf.NTK, "gram_gradient")
    watch(zf.GaussianProcess, "derivatives")
    watch(zf.GaussianProcess, "predict")
    for dtype in (torch.float32, torch.float16):
        x = points(3, dtype=dtype)
        zt.ntk_gram(kernel, x, points(2, 1, dtype=dtype)).sum().backward()
        zt.posterior(process, x)[0].sum().backward()
        zt.posterior(process, x.detach())
        assert x.grad.dtype == dtype
    assert len(asked) == 16
    assert set(asked) == {torch.float64}


def test_posterior_equals_the_process(process: zf.GaussianProcess) -> None:
    x = points(6)
    expected = process.posterior(x.detach())
    for given in (x, x.detach()):
        mean, variance = zt.posterior(process, given)
        np.testing.assert_allclose(mean.detach(), expected.mean, rtol=1e-12)
        np.testing.assert_allclose(variance.detach(), expected.variance, rtol=1e-9)
    mean, variance = zt.posterior(process, x.reshape(2, 3, D))
    np.testing.assert_allclose(mean.detach(), expected.mean.reshape(2, 3), rtol=1e-12)
    mean, variance = zt.posterior(process, x[0])
    assert mean.shape == variance.shape == ()
    assert zt.posterior(process, points(0))[0].shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_any_dtype_and_strides_are_accepted(dtype: Any) -> None:
    kernel = zf.NTK.random(D, width=8)
    X = points(5, grad=False).mul(4).to(dtype)
    expected = kernel.gram(X.to(torch.float64))
    np.testing.assert_array_equal(zt.ntk_gram(kernel, X), expected)
    np.testing.assert_array_equal(zt.ntk_gram(kernel, X.T.contiguous().T), expected)
    if dtype.is_floating_point:
        X.requires_grad_()
        zt.ntk_gram(kernel, X).sum().backward()
        assert X.grad.dtype == dtype


def test_cpu_tensors_are_accepted_wherever_arrays_are(rng: np.random.Generator) -> None:
    embeddings, y = rng.normal(size=(9, D)), rng.normal(size=9)
    tensor = torch.tensor(embeddings, dtype=torch.float32)
    kernel = zf.NTK([torch.ones(5, D), torch.ones(1, 5)], [torch.zeros(5), torch.zeros(1)])
    assert kernel.dim == D
    gp = zf.GaussianProcess(kernel)
    gp.append(tensor, torch.tensor(y), torch.full((9,), 0.1))
    gp.append(tensor[0], torch.tensor(1.0), torch.tensor(0.1))
    assert len(gp) == 10
    assert gp.posterior(tensor).mean.shape == (9,)
    assert zf.Zopo(tensor, zf.ZopoConfig(budget=5, initial=2)).ask() in range(9)
    grad = tensor.clone().requires_grad_()
    for name, call in (("X", gp.kernel.gram), ("x", gp.posterior), ("X", lambda x: gp.append(x, y))):
        with pytest.raises(zf.ArrayError, match=f"^{name}: .*detach"):
            call(grad)
    with pytest.raises(zf.ArrayError, match="detach"):
        zf.Zopo(grad, zf.ZopoConfig(budget=5, initial=2))


# ---- checks of torch


def test_opcheck_gram(kernel: zf.NTK) -> None:
    for X, Y in ((points(5), points(3, 1)), (points(5), None), (points(5, grad=False), points(3, 1))):
        torch.library.opcheck(OPS.ntk_gram.default, (X, Y, kernel.number))
    weight = torch.ones(5, 3, dtype=torch.float64)
    plain = (points(5, grad=False), points(3, 1, grad=False))
    torch.library.opcheck(OPS.ntk_gram_gradient.default, (weight, *plain, kernel.number))


def test_opcheck_posterior(process: zf.GaussianProcess) -> None:
    for x, gradients in ((points(5), True), (points(5, grad=False), True), (points(5, grad=False), False)):
        torch.library.opcheck(OPS.gp_posterior.default, (x, process.number, gradients))


def test_gradcheck(kernel: zf.NTK, process: zf.GaussianProcess) -> None:
    X, Y = points(5), points(3, 1)
    assert torch.autograd.gradcheck(lambda a, b: zt.ntk_gram(kernel, a, b), (X, Y))
    assert torch.autograd.gradcheck(lambda a: zt.ntk_gram(kernel, a), (X,))
    assert torch.autograd.gradcheck(lambda a: zt.posterior(process, a), (X,))


def test_gram_gradient_is_the_sum_of_gradients(kernel: zf.NTK, rng: np.random.Generator) -> None:
    X, Y, weight = rng.normal(size=(5, D)), rng.normal(size=(7, D)), rng.normal(size=(5, 7))
    expected = np.stack([weight[i] @ kernel.gradient(X[i], Y) for i in range(5)])
    np.testing.assert_allclose(kernel.gram_gradient(X, Y, weight), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(zf.ArrayError, match=r"^weight"):
        kernel.gram_gradient(X, Y, weight.T)
    with pytest.raises(zf.ArrayError, match=r"^weight: expected a row"):
        kernel.gram_gradient(X, Y, weight[:4])


def test_gradients_belong_to_the_process_at_the_forward_pass(process: zf.GaussianProcess) -> None:
    expected, x = points(3), points(3)
    sum(zt.posterior(process, expected)).sum().backward()
    values = sum(zt.posterior(process, x)).sum()
    process.append(np.ones(D), 5.0)
    values.backward()
    np.testing.assert_array_equal(x.grad, expected.grad)


def test_second_derivatives_raise(process: zf.GaussianProcess) -> None:
    x = points(3)
    for value in (zt.ntk_gram(process.kernel, x), zt.posterior(process, x)[1]):
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        with pytest.raises((RuntimeError, NotImplementedError)):
            slope.sum().backward()


# ---- torch.compile and its parts


def value(gp: Any) -> Callable[[Any], Any]:
    def of(x: Any) -> Any:
        mean, variance = zt.posterior(gp, x.sin())
        return (mean + variance.sqrt()).sum() + zt.ntk_gram(gp.kernel, x.cos(), x).sum()

    return of


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_posterior_can_be_compiled(backend: str) -> None:
    rng = np.random.default_rng(0)
    torch._dynamo.reset()
    compiled: Any = None
    for seed in range(2):  # the second process must not use the graph of the first
        gp = zf.GaussianProcess(zf.NTK.random(D, width=8, seed=seed), noise=0.1)
        gp.append(rng.normal(size=(6, D)), rng.normal(size=6))
        compiled = compiled or torch.compile(lambda gp, x: value(gp)(x), backend=backend, fullgraph=True)
        for n in (5, 3, 8):
            x, y = points(n, n), points(n, n)
            value(gp)(x).backward()
            compiled(gp, y).backward()
            torch.testing.assert_close(y.grad, x.grad, rtol=1e-12, atol=1e-12)


def test_shapes_are_inferred_without_values(process: zf.GaussianProcess) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(5, D)
        assert zt.ntk_gram(process.kernel, x).shape == (5, 5)
        assert [t.dtype for t in zt.posterior(process, x)] == [torch.float64] * 2


# ---- refusals


def test_invalid_tensors_are_refused(process: zf.GaussianProcess) -> None:
    kernel, x = process.kernel, points(3, grad=False)
    bad = x.clone()
    bad[1, 2] = torch.nan
    for call, message in (
        (lambda: zt.ntk_gram(kernel, x[0]), r"^X: expected shape \(n, 4\), got \(4,\)"),
        (lambda: zt.ntk_gram(kernel, x, x[:, :2]), r"^Y: expected shape"),
        (lambda: zt.ntk_gram(kernel, bad), "^X: NaN or infinity at flat index 6"),
        (lambda: zt.ntk_gram(kernel, x, bad), "^Y: NaN"),
        (lambda: zt.posterior(process, x[:, :3]), r"^x: expected shape \(..., 4\)"),
        (lambda: zt.posterior(process, torch.tensor(1.0)), "^x: expected shape"),
        (lambda: zt.posterior(process, bad), "^x: NaN"),
    ):
        with pytest.raises(zf.ArrayError, match=message):
            call()
    with pytest.raises(zf.DeviceError, match="mixed devices: X is on cpu, Y on meta"):
        zt.ntk_gram(kernel, x, x.to("meta"))
    grad = points(3)
    mean, *_ = OPS.gp_posterior(grad, process.number, False)
    with pytest.raises(NotImplementedError, match="gradients=False"):
        mean.sum().backward()


def test_handles_name_living_objects_only(kernel: zf.NTK) -> None:
    other = zf.NTK.random(D)
    x, number = points(3), other.number
    assert (
        len({kernel.number, number, copy.deepcopy(other).number, pickle.loads(pickle.dumps(other)).number})
        == 4
    )
    loss = zt.ntk_gram(other, x).sum()
    del other
    gc.collect()
    loss.backward()  # the graph keeps its objects alive
    assert x.grad is not None
    del loss
    gc.collect()
    for bad in (number, 0, -1, zf.GaussianProcess(kernel).number):
        with pytest.raises(zf.ConfigError, match=f"number {bad}: no NTK"):
            OPS.ntk_gram(x.detach(), None, bad)
