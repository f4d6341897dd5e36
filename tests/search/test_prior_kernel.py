"""Prior of a search: its Gram matrix and gradient against the kernels of the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from property_tools import points

import zopo_fast as zf
from zopo_fast import _core

SHAPES = ["random", "duplicates", "collinear", "nearly equal", "grid", "one point"]


def native(kernel: Any) -> Any:
    if isinstance(kernel, zf.NTK):
        return kernel.network
    return kernel.depth, kernel.weight_variance, kernel.bias_variance, kernel.parametrization == "ntk"


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 30),
    d=st.integers(1, 20),
    shape=st.sampled_from(SHAPES),
    depth=st.integers(1, 4),
    parametrization=st.sampled_from(["ntk", "standard"]),
    bias=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_the_closed_form_equals_that_of_the_package(
    seed: int, n: int, d: int, shape: str, depth: int, parametrization: Any, bias: float
) -> None:
    assume(d > 1 or bias > 0)  # on a line through 0, each angle is 0 or pi up to rounding
    rng = np.random.default_rng(seed)
    kernel = zf.InfiniteNTK(depth, 1.7, bias, parametrization)
    X, alpha = points(rng, shape, n, d), rng.normal(size=n)
    prior = _core.PriorKernel([native(kernel)], 2.5)
    size = float(kernel.diag(X).max()) / 2.5
    assert np.abs(prior.gram(X) - kernel.gram(X) / 2.5).max() <= 1e-11 * size + 1e-300
    other = rng.normal(size=(3, d))
    assert np.abs(prior.gram(X, other) - kernel.gram(X, other) / 2.5).max() <= 1e-11 * size + 1e-300
    for x in (X[0].copy(), other[0]):
        G = kernel.gradient(x, X)
        found = prior.gradient_combination(x, X, alpha)
        assert np.abs(found - alpha @ G / 2.5).max() <= 1e-9 * np.abs(alpha) @ np.abs(G).max(axis=1) + 1e-300


def test_several_kernels_are_averaged() -> None:
    rng, d = np.random.default_rng(0), 12
    kernels = [zf.InfiniteNTK(2), zf.NTK.random(d, seed=1), zf.NTK.random(d, width=8, depth=3, seed=2)]
    X, Y, alpha = rng.normal(size=(40, d)), rng.normal(size=(9, d)), rng.normal(size=40)
    for some in (kernels[1:2], kernels[1:], kernels):
        prior = _core.PriorKernel([native(k) for k in some], 0.7)
        for of in ((X,), (X, Y)):
            expected = np.mean([k.gram(*of) for k in some], axis=0) / 0.7
            np.testing.assert_allclose(prior.gram(*of), expected, rtol=1e-9, atol=1e-10 * expected.max())
        for x in (X[3].copy(), Y[0].copy()):
            expected = np.mean([alpha @ k.gradient(x, X) for k in some], axis=0) / 0.7
            np.testing.assert_allclose(
                prior.gradient_combination(x, X, alpha), expected, rtol=1e-8, atol=1e-9
            )


def test_the_gradient_is_the_derivative_of_the_gram_matrix() -> None:
    rng, d, step = np.random.default_rng(1), 6, 1e-5
    prior = _core.PriorKernel([(3, 2.0, 0.3, True), zf.NTK.random(d, seed=1).network], 1.0)
    X, x, alpha = rng.normal(size=(20, d)), rng.normal(size=d), rng.normal(size=20)
    ends = x + step * np.concatenate([np.eye(d), -np.eye(d)])
    values = prior.gram(ends, X) @ alpha
    numeric = (values[:d] - values[d:]) / (2 * step)
    found = prior.gradient_combination(x, X, alpha)
    np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max())


def test_wrong_arguments_are_refused() -> None:
    network = zf.NTK.random(5).network
    for kernels, scale in (
        ([], 1.0),
        ([network], 0.0),
        ([(0, 1.0, 0.0, True)], 1.0),
        ([(1, 1.0, -1.0, True)], 1.0),
    ):
        with pytest.raises(zf.ArrayError):
            _core.PriorKernel(kernels, scale)
    prior = _core.PriorKernel([(2, 1.0, 0.0, True), network], 1.0)
    for call in (
        lambda: prior.gram(np.ones((3, 4))),
        lambda: prior.gradient_combination(np.ones(4), np.ones((3, 4)), np.ones(3)),
        lambda: prior.gradient_combination(np.ones(5), np.ones((3, 5)), np.ones(4)),
        lambda: _core.RegionPosterior.of_kernels(np.ones((3, 4)), [network], 1.0, np.ones(1)),
    ):
        with pytest.raises(zf.ArrayError):
            call()
