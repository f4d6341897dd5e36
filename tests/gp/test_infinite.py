"""Infinite-width kernel against neural-tangents, wide random networks and closed forms."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numeric_tools import assert_close, load_golden

import zopo_fast as zf
from zopo_fast.gp import infinite_ntk

GOLDEN = load_golden("infinite_ntk").data
CASES = sorted(name[2:] for name in GOLDEN if name.startswith("K_"))
KERNELS = [
    zf.InfiniteNTK(depth, w, b, parametrization)
    for parametrization in ("standard", "ntk")
    for depth, w, b in ((1, 2.0, 0.01), (2, 2.0, 0.01), (4, 1.5, 0.7), (3, 2.0, 0.0))
]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def kernel_of(case: str) -> zf.InfiniteNTK:
    parametrization, depth, w, b = case.split("_")
    return zf.InfiniteNTK(int(depth), float(w), float(b), parametrization)  # type: ignore[arg-type]


def central_differences(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float) -> np.ndarray:
    """Return df/dx (n, d) of f: (d,) -> (n,)."""
    rows = [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x))]
    return np.stack(rows, axis=-1)


@pytest.mark.parametrize("case", CASES)
def test_golden_gram_matrices(case: str) -> None:
    kernel, X, Y = kernel_of(case), GOLDEN["X"], GOLDEN["Y"]
    np.testing.assert_allclose(kernel.gram(X, Y), GOLDEN[f"K_{case}"], rtol=1e-12)
    assert_close(kernel.gradient(X[0], Y), GOLDEN[f"G_{case}"], 1e-12)


def test_golden_covers_both_parametrizations_and_no_bias() -> None:
    assert {case.split("_")[0] for case in CASES} == {"standard", "ntk"}
    assert {case.split("_")[3] for case in CASES} == {"0.01", "0.7", "0.0"}


@every_kernel
def test_neural_tangents(kernel: zf.InfiniteNTK, rng: np.random.Generator) -> None:
    """Compare with neural-tangents, the source of the golden values, on other points.

    In its standard parametrization the terms of the hidden layers are proportional to the width, the others
    are not: the difference of the kernels of two widths is the limit of k / width.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn about each other at import and while tracing
        try:
            jax = pytest.importorskip("jax")
            stax = pytest.importorskip("neural_tangents.stax")
        except Exception as error:  # installed, but cannot be loaded
            pytest.skip(f"neural_tangents cannot be imported: {error}")
        jax.config.update("jax_enable_x64", True)
        X, Y = rng.normal(size=(6, 5)), 0.3 + 2 * rng.normal(size=(4, 5))

        def at_width(width: int) -> Any:
            def dense(n: int) -> Any:
                stds = math.sqrt(kernel.weight_variance), math.sqrt(kernel.bias_variance)
                return stax.Dense(n, *stds, parameterization=kernel.parametrization)

            layers = [layer for _ in range(kernel.depth) for layer in (dense(width), stax.Relu())]
            return stax.serial(*layers, dense(1))[2]

        def theirs(x: Any) -> Any:
            if kernel.parametrization == "ntk":
                return at_width(1)(x, Y, "ntk")
            return at_width(2)(x, Y, "ntk") - at_width(1)(x, Y, "ntk")

        np.testing.assert_allclose(kernel.gram(X, Y), np.asarray(theirs(X)), rtol=1e-12)
        derivative = jax.jacobian(lambda x: theirs(x[None])[0])(X[0])
    assert_close(kernel.gradient(X[0], Y), np.asarray(derivative), 1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_kernel_is_the_limit_of_random_networks(depth: int, rng: np.random.Generator) -> None:
    """k / width of NTK.random differs by sampling error and a term of order 1 / width."""
    X = rng.normal(size=(4, 6))
    limit = zf.InfiniteNTK(depth).gram(X)
    off = []
    for width, seeds in ((64, 100), (256, 60), (1024, 30)):
        drawn = np.array([zf.NTK.random(6, width, depth, seed=s).gram(X) / width for s in range(seeds)])
        error = np.abs(drawn.mean(axis=0) - limit)
        chance = drawn.std(axis=0) / math.sqrt(seeds)
        assert (error <= 4 * chance + 20 / width).all()
        off.append(float(error.mean() / limit.mean()))
    assert off[0] > 2 * off[-1]
    assert off[-1] < 0.04


def test_depth_one_equals_the_formula() -> None:
    """For orthogonal inputs, d = 2 and no biases S_1 = I: Q_1 = 1 / 2 pi, and 1/2 on the diagonal."""
    X = np.eye(2)
    half, off = 0.5, 1 / (2 * math.pi)
    standard, ntk = (zf.InfiniteNTK(1, 2.0, 0.0, p) for p in ("standard", "ntk"))
    assert_close(standard.gram(X), np.array([[half, off], [off, half]]), 1e-15)
    assert_close(ntk.gram(X), 2 * np.array([[1, off], [off, 1]]), 1e-15)


@every_kernel
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 300), (300, 1), (2, 7), (259, 270)])
def test_the_gram_matrix_equals_its_entries(
    kernel: zf.InfiniteNTK, n: int, m: int, rng: np.random.Generator
) -> None:
    """The sizes cross the edges of the tiles, for one set and for two."""
    X, Y = rng.normal(size=(n, 5)), rng.normal(size=(m, 5))
    K = kernel.gram(X, Y)
    assert K.shape == (n, m)
    assert K.dtype == np.float64
    for i, j in ((0, 0), (n - 1, m - 1), (n // 2, m // 3)):
        assert_close(kernel.gram(X[i : i + 1], Y[j : j + 1])[0, 0], K[i, j], 1e-13)
    assert_close(kernel.gram(Y, X), K.T, 1e-13)
    own = kernel.gram(X)
    np.testing.assert_array_equal(own, own.T)
    assert_close(own, kernel.gram(X, X), 1e-13)
    np.testing.assert_allclose(kernel.diag(X), own.diagonal(), rtol=1e-14)


@every_kernel
def test_the_gram_matrix_is_positive_semi_definite(kernel: zf.InfiniteNTK, rng: np.random.Generator) -> None:
    X = rng.normal(size=(60, 4))
    points = np.vstack([X, X + 1e-9 * rng.normal(size=X.shape), X[:5], 3 * X[:5], -X[:5], np.zeros((2, 4))])
    eigenvalues = np.linalg.eigvalsh(kernel.gram(points))
    assert eigenvalues.min() >= -1e-13 * eigenvalues.max()


@pytest.mark.parametrize("shift", [0.0, 30.0], ids=["around zero", "all one way"])
@pytest.mark.parametrize("parametrization", ["standard", "ntk"])
def test_near_duplicates_lose_no_digits(
    parametrization: infinite_ntk.Parametrization, shift: float, rng: np.random.Generator
) -> None:
    """Compare with 50 decimal digits: from its cosine an angle of 1e-8 would be pure rounding."""
    mp = pytest.importorskip("mpmath")
    kernel = zf.InfiniteNTK(3, 2.0, 0.01, parametrization)
    x = rng.normal(size=7) + shift
    distances = np.array([0.0, 1e-12, 1e-8, 1e-6, 1e-4, 1e-2, 1e-1, 1.0])
    Y = x + distances[:, None] * rng.normal(size=7)

    def exact(u: list[Any], v: list[Any]) -> Any:
        w, b = mp.mpf(kernel.weight_variance), mp.mpf(kernel.bias_variance)
        p, q, c = (w * mp.fdot(s, t) / len(u) + b for s, t in ((u, u), (v, v), (u, v)))
        ntk = parametrization == "ntk"
        T = c if ntk else mp.mpf(0)
        for _ in range(kernel.depth):
            angle = mp.acos(min(c / mp.sqrt(p * q), 1))
            Q = mp.sqrt(p * q) * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle)) / (2 * mp.pi)
            p, q, c = w * p / 2 + b, w * q / 2 + b, w * Q + b
            T = (c if ntk else Q) + w * (mp.pi - angle) / (2 * mp.pi) * T
        return T

    with mp.workdps(50):
        at, others = [mp.mpf(v) for v in x.tolist()], [[mp.mpf(v) for v in y] for y in Y.tolist()]
        K = np.array([float(exact(at, y)) for y in others])
        # The difference from the diagonal is all that distinguishes near duplicates.
        step, slopes = mp.mpf(10) ** -20, []
        for y in others[1:]:
            moved = [[*at[:1], at[1] + s * step, *at[2:]] for s in (1, -1)]
            slopes.append(float((exact(moved[0], y) - exact(moved[1], y)) / (2 * step)))
    np.testing.assert_allclose(kernel.gram(x[None], Y)[0], K, rtol=1e-14)
    np.testing.assert_allclose(kernel.gram(np.vstack([Y, x]))[-1, :-1], K, rtol=1e-14)
    np.testing.assert_allclose(kernel.gradient(x, Y)[1:, 1], slopes, rtol=1e-10)


def test_nearly_parallel_points_are_distinguished_by_products(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """At angles of 1e-4 products are precise enough, and the slow difference of each pair is not needed."""
    kernel, X = zf.InfiniteNTK(), rng.normal(size=(40, 6)) + 1e4
    K = kernel.gram(X)
    monkeypatch.setattr(infinite_ntk, "_NEAR", 10.0)  # every pair by difference
    np.testing.assert_allclose(K, kernel.gram(X), rtol=3e-15)
    monkeypatch.setattr(infinite_ntk, "_NEAR", 0.0)  # only a point with itself
    K_products = kernel.gram(X)
    off = ~np.eye(len(X), dtype=bool)
    np.testing.assert_allclose(K_products[off], K[off], rtol=3e-15)


@every_kernel
def test_the_gradient_equals_central_differences(kernel: zf.InfiniteNTK, rng: np.random.Generator) -> None:
    x, X = rng.normal(size=6), 1 + 2 * rng.normal(size=(9, 6))
    differences = central_differences(lambda at: kernel.gram(at[None], X)[0], x, 1e-5)
    assert_close(kernel.gradient(x, X), differences, 1e-7)


@every_kernel
def test_the_gradient_at_coincident_points_is_the_mean_of_both_sides(
    kernel: zf.InfiniteNTK, rng: np.random.Generator
) -> None:
    """That mean is half the derivative of the diagonal."""
    x = rng.normal(size=6)
    G = kernel.gradient(x, np.vstack([x, x]))
    along = central_differences(lambda at: kernel.diag(at[None]), x, 1e-6)[0]
    assert_close(G, np.stack([along, along]) / 2, 1e-8)
    assert_close(G[:1], central_differences(lambda at: kernel.gram(at[None], x[None])[0], x, 1e-7), 1e-6)


def test_the_kernel_has_a_cusp_at_coincident_points() -> None:
    """The one-sided slopes differ, except for "standard" of depth 1, which is differentiable there."""
    x, e, step = np.array([1.0, 2.0, -1.0]), np.array([2.0, -1.0, 0.0]), 1e-6
    for kernel in KERNELS:
        ahead, here, behind = kernel.gram(x + step * e * np.array([[1.0], [0.0], [-1.0]]), x[None])[:, 0]
        bend = (ahead - 2 * here + behind) / (step * here)
        smooth = kernel.parametrization == "standard" and kernel.depth == 1
        assert (abs(bend) < 1e-4) if smooth else (bend < -1e-2)
        assert kernel.gradient_prior_trace(x) == (1.0 if smooth else math.inf)


def test_gradient_prior_trace_without_a_cusp_is_the_mixed_second_derivative() -> None:
    kernel, x, step = zf.InfiniteNTK(1, 1.5, 0.3), np.array([0.7, -0.4]), 1e-5
    trace = sum(
        central_differences(lambda at, i=i: kernel.gradient(x, at[None])[:, i], x, step)[0, i] for i in (0, 1)
    )
    assert kernel.gradient_prior_trace(x) == pytest.approx(trace, rel=1e-4)


@every_kernel
def test_gram_gradient_is_the_weighted_sum(kernel: zf.InfiniteNTK, rng: np.random.Generator) -> None:
    X, Y, weight = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 4))
    rows = [weight[i] @ kernel.gradient(X[i], Y) for i in range(5)]
    assert_close(kernel.gram_gradient(X, Y, weight), rows, 1e-14)


@pytest.mark.parametrize("parametrization", ["standard", "ntk"])
def test_zero_and_opposite_vectors_without_biases(parametrization: infinite_ntk.Parametrization) -> None:
    """k is 0 with the zero vector; at an angle of pi only the upper layers contribute."""
    kernel = zf.InfiniteNTK(2, 2.0, 0.0, parametrization)
    x = np.array([1.0, -2.0, 0.5])
    points = np.stack([np.zeros(3), x, -x, 2 * x])
    K = kernel.gram(points)
    assert np.isfinite(K).all()
    np.testing.assert_array_equal(K[0], 0.0)
    np.testing.assert_allclose(K[1, 3], 2 * K[1, 1], rtol=1e-15)
    np.testing.assert_array_equal(kernel.diag(points)[:1], 0.0)
    np.testing.assert_array_equal(kernel.gradient(np.zeros(3), points), 0.0)
    G = kernel.gradient(x, points)
    assert np.isfinite(G).all()
    np.testing.assert_array_equal(G[0], 0.0)
    # Along the ray the kernel is linear: x . dk/dx = k (Euler)
    np.testing.assert_allclose(G @ x, K[1], atol=1e-14)


@every_kernel
def test_zero_vectors_with_biases_agree_with_their_neighbours(kernel: zf.InfiniteNTK) -> None:
    X = np.array([[0.0, 0.0], [1e-9, 0.0], [1.0, 2.0]])
    K = kernel.gram(X)
    assert_close(K[0], K[1], 1e-7, scale=K.max())


def test_empty_sets_and_one_dimension(rng: np.random.Generator) -> None:
    kernel, X, nothing = zf.InfiniteNTK(), rng.normal(size=(3, 4)), np.empty((0, 4))
    assert kernel.gram(nothing).shape == (0, 0)
    assert kernel.gram(X, nothing).shape == (3, 0)
    assert kernel.gram(nothing, X).shape == (0, 3)
    assert kernel.diag(nothing).shape == (0,)
    assert kernel.gradient(X[0], nothing).shape == (0, 4)
    assert kernel.gram_gradient(X, nothing, np.empty((3, 0))).tolist() == [[0.0] * 4] * 3
    assert kernel.gram(X[:, :1]).shape == (3, 3)


def test_inputs_of_any_dtype_are_not_changed(rng: np.random.Generator) -> None:
    kernel, X = zf.InfiniteNTK(), rng.integers(-4, 5, size=(6, 3)).astype(float)
    kept = X.copy()
    X.setflags(write=False)
    K = kernel.gram(X)
    for other in (X.astype(np.float16), X.astype(np.int8), np.asfortranarray(X), X.tolist()):
        np.testing.assert_array_equal(kernel.gram(other), K)
    kernel.gradient(X[0], X)
    np.testing.assert_array_equal(X, kept)


@every_kernel
def test_pickle_copy_and_equality(kernel: zf.InfiniteNTK, rng: np.random.Generator) -> None:
    X = rng.normal(size=(5, 4))
    for twin in (pickle.loads(pickle.dumps(kernel)), copy.deepcopy(kernel)):
        assert twin == kernel
        np.testing.assert_array_equal(twin.gram(X), kernel.gram(X))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be an integer from 1 to 1000, got 0"),
        ({"depth": 2.5}, "depth must be an integer"),
        ({"weight_variance": 0.0}, "weight_variance must be a finite number above 0, got 0.0"),
        ({"weight_variance": math.nan}, "weight_variance must be a finite number above 0, got nan"),
        ({"weight_variance": "wide"}, "weight_variance must be a number"),
        ({"bias_variance": -0.1}, "bias_variance must be a finite number of at least 0, got -0.1"),
        ({"bias_variance": math.inf}, "bias_variance must be a finite number of at least 0, got inf"),
        ({"parametrization": "mup"}, "parametrization must be one of standard, ntk, got 'mup'"),
    ],
)
def test_invalid_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(zf.ConfigError, match=message):
        zf.InfiniteNTK(**arguments)


GOOD = np.ones((3, 4))
CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "gram X": ("X", lambda a: zf.InfiniteNTK().gram(a)),
    "gram Y": ("Y", lambda a: zf.InfiniteNTK().gram(GOOD, a)),
    "diag": ("X", lambda a: zf.InfiniteNTK().diag(a)),
    "gradient X": ("X", lambda a: zf.InfiniteNTK().gradient(GOOD[0], a)),
    "gram_gradient Y": ("Y", lambda a: zf.InfiniteNTK().gram_gradient(GOOD, a, np.ones((3, 3)))),
}
FAULTS: dict[str, Any] = {
    "one axis": GOOD[0],
    "three axes": GOOD[None],
    "no columns": np.empty((3, 0)),
    "NaN": np.full((3, 4), np.nan),
    "infinity": np.full((3, 4), np.inf),
    "complex": GOOD + 0j,
    "text": [["a"] * 4] * 3,
    "too large to square": GOOD * 1e200,
    "too large": GOOD * 1.7e308,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_invalid_arrays_are_refused(call: str, fault: str) -> None:
    name, f = CALLS[call]
    f(GOOD)
    with pytest.raises(zf.ArrayError, match=f"^{name}: "):
        f(FAULTS[fault])


def test_arrays_of_different_dimensions_are_refused() -> None:
    kernel = zf.InfiniteNTK()
    with pytest.raises(zf.ArrayError, match=r"^Y: expected shape \(n, d\) with d = 4, got \(3, 5\)"):
        kernel.gram(GOOD, np.ones((3, 5)))
    with pytest.raises(zf.ArrayError, match=r"^X: expected shape \(n, d\) with d = 5"):
        kernel.gradient(np.ones(5), GOOD)
    with pytest.raises(zf.ArrayError, match=r"^x: expected shape \(d,\)"):
        kernel.gradient(GOOD, GOOD)
    with pytest.raises(zf.ArrayError, match=r"^x: expected shape \(d,\)"):
        kernel.gradient_prior_trace(GOOD)
    with pytest.raises(zf.ArrayError, match=r"^weight: expected \(3, 3\)"):
        kernel.gram_gradient(GOOD, GOOD, np.ones((3, 2)))


def test_methods_that_need_a_network_refuse_the_infinite_kernel() -> None:
    kernel: Any = zf.InfiniteNTK(2)
    Z = np.eye(4)
    for make in (
        lambda: zf.GaussianProcess(kernel),
        lambda: zf.Zopo(Z, zf.ZopoConfig(budget=3, initial=2, search="gradient"), kernel=kernel),
        lambda: zf.Zopo(Z, zf.ZopoConfig.official(budget=3, initial=2), kernel=kernel),
        lambda: zf.ZopoBatch([Z], zf.ZopoConfig(budget=3, initial=2, search="gradient"), kernels=[kernel]),
        lambda: zf.ZopoBatch([Z], zf.ZopoConfig(budget=3, initial=2, search="gradient"), kernels=kernel),
    ):
        with pytest.raises(zf.ConfigError, match=r"kernels?.*expected an? NTK.*InfiniteNTK"):
            make()
