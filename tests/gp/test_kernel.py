"""Native kernel against golden values and reference.py."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numeric_tools import assert_close, golden_names, load_golden, random_network

import zopo_fast as zf
from zopo_fast.gp import reference

# Depth 1 to 4; the widths differ between layers and are no multiples of a vector register.
NETWORKS = [
    (1, [1]),
    (5, [7]),
    (3, [4, 9]),
    (16, [32, 32]),
    (17, [33, 8, 21]),
    (12, [6, 15, 10, 5]),
    (100, [65, 3]),
]
RTOL = 1e-12


@pytest.fixture(params=NETWORKS, ids=str)
def network(
    request: pytest.FixtureRequest, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return random_network(rng, *request.param)


@pytest.mark.parametrize("name", golden_names("component") + golden_names("illconditioned"))
def test_golden_gram_and_diagonal(device: str, name: str) -> None:
    g = load_golden(name)
    kernel = zf.NTK(g.weights, g.biases)
    K, k_qq = g.data["K"], g.data["k_qq"]
    np.testing.assert_allclose(kernel.gram(g.data["X"], device=device), K, rtol=1e-9)
    np.testing.assert_allclose(kernel.gram(g.data["X"], g.data["X"], device=device), K, rtol=1e-9)
    np.testing.assert_allclose(kernel.diag(g.data["X"], device=device), K.diagonal(), rtol=1e-9)
    np.testing.assert_allclose(kernel.diag(g.data["q"], device=device), k_qq, rtol=1e-9)
    np.testing.assert_allclose(kernel.gram(g.data["q"], device=device).diagonal(), k_qq, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 33, 70])
def test_gram_of_one_set(
    device: str, network: tuple[list[np.ndarray], list[np.ndarray]], rng: np.random.Generator, n: int
) -> None:
    kernel, X = zf.NTK(*network), rng.normal(size=(n, network[0][0].shape[1]))
    K = kernel.gram(X, device=device)
    assert K.dtype == np.float64
    assert_close(K, reference.gram(*network, X), RTOL)
    np.testing.assert_array_equal(K, K.T)
    assert_close(kernel.diag(X, device=device), K.diagonal(), RTOL)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1), (5, 12), (40, 31)])
def test_gram_of_two_sets(
    device: str, network: tuple[list[np.ndarray], list[np.ndarray]], rng: np.random.Generator, n: int, m: int
) -> None:
    d = network[0][0].shape[1]
    X, Y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 3 + 1
    assert_close(zf.NTK(*network).gram(X, Y, device=device), reference.gram(*network, X, Y), RTOL)


def test_gradient(
    device: str, network: tuple[list[np.ndarray], list[np.ndarray]], rng: np.random.Generator
) -> None:
    d = network[0][0].shape[1]
    for n in (1, 2, 19):
        x, X = rng.normal(size=d), rng.normal(size=(n, d))
        X[-1] = x  # the derivative at the point itself, by the first argument
        assert_close(zf.NTK(*network).gradient(x, X, device=device), reference.gradient(*network, x, X), RTOL)


def test_gradient_prior_trace(
    device: str, network: tuple[list[np.ndarray], list[np.ndarray]], rng: np.random.Generator
) -> None:
    for _ in range(5):
        x = rng.normal(size=network[0][0].shape[1])
        trace = zf.NTK(*network).gradient_prior_trace(x, device=device)
        assert isinstance(trace, float)
        assert trace == pytest.approx(np.trace(reference.gradient_prior(*network, x)), rel=RTOL)


def test_empty_sets(device: str, rng: np.random.Generator) -> None:
    kernel = zf.NTK.random(4, width=5)
    X, nothing = rng.normal(size=(3, 4)), np.empty((0, 4))
    assert kernel.gram(nothing, device=device).shape == (0, 0)
    assert kernel.gram(X, nothing, device=device).shape == (3, 0)
    assert kernel.gram(nothing, X, device=device).shape == (0, 3)
    assert kernel.diag(nothing, device=device).shape == (0,)
    assert kernel.gradient(X[0], nothing, device=device).shape == (0, 4)


def test_inactive_units_and_units_at_the_kink(device: str) -> None:
    """relu'(0) = 0: a unit with a pre-activation of exactly 0 is inactive."""
    W, b = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0]])], [np.zeros(2), np.zeros(1)]
    X = np.array([[0.0, 0.0], [0.0, 2.0], [-1.0, -1.0], [1.0, 1.0]])
    kernel = zf.NTK(W, b)
    np.testing.assert_array_equal(kernel.gram(X, device=device), reference.gram(W, b, X))
    assert kernel.diag(X, device=device).tolist() == [1.0, 10.0, 1.0, 9.0]
    assert kernel.gradient_prior_trace(X[0], device=device) == 0.0
    # |D_0|^2 |I|^2 + |D_1|^2 |J_1|^2 = 1 * 2 + 1 * 1
    assert kernel.gradient_prior_trace(X[1], device=device) == 3.0


@pytest.mark.parametrize(
    "disguise",
    [
        lambda a: a.astype(np.float32),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(np.int64),
        lambda a: a.astype(np.int8),
        lambda a: a.astype(">f8"),
        lambda a: a.tolist(),
        lambda a: [list(row) for row in a] if a.ndim == 2 else tuple(a),
    ],
    ids=["float32", "Fortran", "strided", "reversed", "int64", "int8", "big-endian", "list", "nested"],
)
def test_the_dtype_of_exact_inputs_does_not_matter(rng: np.random.Generator, disguise: object) -> None:
    kernel = zf.NTK(*random_network(rng, 6, [5, 7]))
    X, Y = (rng.integers(-4, 5, size=(n, 6)).astype(float) for n in (8, 3))  # exact in every dtype
    f = disguise
    np.testing.assert_array_equal(kernel.gram(f(X)), kernel.gram(X))
    np.testing.assert_array_equal(kernel.gram(f(X), f(Y)), kernel.gram(X, Y))
    np.testing.assert_array_equal(kernel.diag(f(X)), kernel.diag(X))
    np.testing.assert_array_equal(kernel.gradient(f(Y[0]), f(X)), kernel.gradient(Y[0], X))
    assert kernel.gradient_prior_trace(f(Y[0])) == kernel.gradient_prior_trace(Y[0])


def test_inputs_are_neither_changed_nor_aliased(device: str, rng: np.random.Generator) -> None:
    W, b = random_network(rng, 4, [5, 3])
    X, Y = rng.normal(size=(6, 4)), rng.normal(size=(2, 4))
    arrays = [*W, *b, X, Y]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.setflags(write=False)
    kernel = zf.NTK(W, b)
    first = kernel.gram(X, Y, device=device)
    first[:] = 0  # the caller owns the result
    kernel.gram(X, device=device)
    kernel.diag(X, device=device)
    kernel.gradient(Y[0], X, device=device)
    kernel.gradient_prior_trace(Y[0], device=device)
    for a, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, kept)
    assert_close(kernel.gram(X, Y, device=device), reference.gram(W, b, X, Y), RTOL)


def test_later_changes_of_the_weights_do_not_matter(rng: np.random.Generator) -> None:
    W, b = random_network(rng, 4, [5, 3])
    X = rng.normal(size=(6, 4))
    kernel = zf.NTK(W, b)
    before = kernel.gram(X)
    W[0][:] = 7.0
    b[0][:] = 7.0
    np.testing.assert_array_equal(kernel.gram(X), before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(kernel)).gram(X), before)


def test_pickle_and_copy(device: str, rng: np.random.Generator) -> None:
    X = rng.normal(size=(5, 4))
    for kernel in (zf.NTK(*random_network(rng, 4, [5, 3])), zf.NTK.random(4, width=6, seed=3)):
        for twin in (pickle.loads(pickle.dumps(kernel)), copy.copy(kernel), copy.deepcopy(kernel)):
            np.testing.assert_array_equal(twin.gram(X, device=device), kernel.gram(X, device=device))


def test_random_depends_on_its_arguments_only() -> None:
    X = np.random.default_rng(0).normal(size=(5, 9))
    K = zf.NTK.random(9, width=8, depth=3, seed=4).gram(X)
    np.testing.assert_array_equal(zf.NTK.random(9, width=8, depth=3, seed=4).gram(X), K)
    assert not np.allclose(zf.NTK.random(9, width=8, depth=3, seed=5).gram(X), K)
    default = zf.NTK.random(9)
    assert [w.shape for w in default.weights] == [(32, 9), (32, 32), (1, 32)]
    assert [b.shape for b in default.biases] == [(32,), (32,), (1,)]


def test_the_kernel_is_not_rescaled() -> None:
    """Twice the last layer gives four times every term but that of the last layer."""
    rng = np.random.default_rng(3)
    W, b = random_network(rng, 3, [6])
    X = rng.normal(size=(4, 3))
    h = np.maximum(X @ W[0].T + b[0], 0)
    last = h @ h.T + 1
    K = zf.NTK(W, b).gram(X)
    doubled = zf.NTK([W[0], 2 * W[1]], b).gram(X)
    assert_close(doubled, last + 4 * (K - last), RTOL)
