"""Gaussian process on degenerate data, after failures, and on unusual but valid arrays."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import pytest
from numeric_tools import assert_close, load_golden, random_network

import zopo_fast as zf

D = 6


@pytest.fixture
def kernel() -> zf.NTK:
    return zf.NTK(*random_network(np.random.default_rng(0), D, [9, 7]))


def snapshot(gp: zf.GaussianProcess, Q: np.ndarray) -> list[Any]:
    p = gp.posterior(Q)
    return [len(gp), gp.log_marginal_likelihood(), *(np.array(v).tolist() for v in p)]


def test_variance_is_clamped_at_zero(device: str, kernel: zf.NTK, rng: np.random.Generator) -> None:
    """Without noise the exact variance at observed points is 0; rounding must not make it negative."""
    X, y = rng.normal(size=(30, D)), rng.normal(size=30)
    gp = zf.GaussianProcess(kernel, noise=0.0, device=device)
    gp.append(X, y)
    p = gp.posterior(X)
    assert (p.variance >= 0).all()
    assert (p.variance <= 1e-9 * kernel.diag(X)).all()
    assert (p.gradient_uncertainty >= 0).all()
    np.testing.assert_allclose(p.mean, y, atol=1e-6)


def test_the_trace_of_the_gradient_covariance_is_the_uncertainty(
    device: str, kernel: zf.NTK, rng: np.random.Generator
) -> None:
    gp = zf.GaussianProcess(kernel, noise=1e-3, device=device)
    gp.append(rng.normal(size=(40, D)), rng.normal(size=40))
    Q = rng.normal(size=(6, D))
    for q, uncertainty in zip(Q, gp.posterior(Q).gradient_uncertainty, strict=True):
        S, prior = gp.gradient_covariance(q), kernel.gradient_prior_trace(q)
        assert_close(S, S.T, 1e-13)
        assert np.linalg.eigvalsh(S).min() >= -1e-10 * prior
        assert_close(np.trace(S), uncertainty, 1e-10, prior)


@pytest.mark.parametrize("y", [(1.0, 1.0), (1.0, -1.0)], ids=["same score", "other score"])
def test_duplicates_without_noise_are_refused_or_reported(
    device: str, kernel: zf.NTK, rng: np.random.Generator, y: tuple[float, float]
) -> None:
    """Either a typed error changes nothing, or jitter is added with a warning, and the posterior is right."""
    x, Q = rng.normal(size=D), rng.normal(size=(4, D))
    gp = zf.GaussianProcess(kernel, noise=0.0, device=device)
    gp.append(x, y[0])
    before = snapshot(gp, Q)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gp.append(x, y[1])
        except zf.NotPositiveDefiniteError:
            assert snapshot(gp, Q) == before
            return
    assert len(gp) == 2
    assert caught, "jitter was added without a warning"
    p = gp.posterior(np.concatenate([Q, x[None]]))
    assert all(np.isfinite(v).all() for v in p)
    assert p.mean[-1] == pytest.approx(sum(y) / 2, abs=1e-3)
    assert p.variance[-1] <= 1e-6 * kernel.diag(x[None])[0]


def test_many_duplicates_without_noise(device: str, kernel: zf.NTK, rng: np.random.Generator) -> None:
    X = np.repeat(rng.normal(size=(4, D)), 5, axis=0)
    y = np.repeat([1.0, -1.0, 0.5, 2.0], 5)
    gp = zf.GaussianProcess(kernel, noise=0.0, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            gp.append(X, y)
        except zf.NotPositiveDefiniteError:
            assert len(gp) == 0
            return
    p = gp.posterior(X)
    np.testing.assert_allclose(p.mean, y, atol=1e-3)
    assert np.isfinite(p.gradient).all()
    assert (p.variance <= 1e-6 * kernel.diag(X)).all()


def test_the_process_grows_and_shrinks_after_jitter(
    device: str, kernel: zf.NTK, rng: np.random.Generator
) -> None:
    x, others, Q = rng.normal(size=D), rng.normal(size=(5, D)), rng.normal(size=(3, D))
    gp = zf.GaussianProcess(kernel, noise=0.0, device=device)
    gp.append(others[:3], np.arange(3.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(zf.NotPositiveDefiniteError):
            gp.append(np.stack([x, x]), np.array([1.0, 1.0]))
            gp.remove(3)
            gp.remove(3)
    assert len(gp) == 3
    gp.append(others[3:], np.arange(2.0))
    fresh = zf.GaussianProcess(kernel, noise=0.0, device=device)
    fresh.append(others, np.array([0.0, 1.0, 2.0, 0.0, 1.0]))
    assert_close(gp.posterior(Q).mean, fresh.posterior(Q).mean, 1e-4)


def test_duplicates_with_noise_average_their_scores(
    device: str, kernel: zf.NTK, rng: np.random.Generator
) -> None:
    x = rng.normal(size=D)
    gp = zf.GaussianProcess(kernel, noise=0.5, device=device)
    gp.append(np.stack([x] * 10), np.arange(10.0))
    k = float(kernel.diag(x[None])[0])
    p = gp.posterior(x)
    assert p.mean == pytest.approx(4.5 * k / (k + 0.05), rel=1e-9)  # ten scores have a tenth of the noise
    assert p.variance == pytest.approx(k - k * k / (k + 0.05), rel=1e-6)


BAD = {
    "NaN in X": (np.full((2, D), np.nan), np.zeros(2), None),
    "infinity in X": (np.full((2, D), np.inf), np.zeros(2), None),
    "columns": (np.zeros((2, D + 1)), np.zeros(2), None),
    "too few scores": (np.zeros((2, D)), np.zeros(1), None),
    "NaN score": (np.ones((2, D)), np.array([0.0, np.nan]), None),
    "negative noise in the last row": (np.eye(D)[:2], np.zeros(2), np.array([0.1, -0.1])),
    "NaN noise": (np.eye(D)[:2], np.zeros(2), np.array([0.1, np.nan])),
    "noise of another length": (np.eye(D)[:2], np.zeros(2), np.zeros(3)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_refused_append_changes_nothing(
    device: str, kernel: zf.NTK, rng: np.random.Generator, case: str
) -> None:
    gp, Q = zf.GaussianProcess(kernel, noise=0.1, device=device), rng.normal(size=(3, D))
    gp.append(rng.normal(size=(6, D)), rng.normal(size=6))
    before = snapshot(gp, Q)
    with pytest.raises(zf.ArrayError):
        gp.append(*BAD[case])
    assert snapshot(gp, Q) == before


def test_an_indefinite_row_in_the_middle_changes_nothing(device: str) -> None:
    """The kernel overflows on large inputs, and no jitter makes it positive definite."""
    kernel = zf.NTK([np.full((3, 2), 1e200), np.full((1, 3), 1e200)], [np.zeros(3), np.zeros(1)])
    gp = zf.GaussianProcess(kernel, noise=1.0, device=device)
    X = np.array([[-1.0, -1.0], [1.0, 1.0], [-2.0, -1.0]])  # no unit is active at the first and last: k = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((zf.NotPositiveDefiniteError, zf.ArrayError)):
            gp.append(X, np.ones(3))
    assert len(gp) == 0
    gp.append(X[[0]], np.ones(1))
    assert gp.posterior(X[0]).mean == pytest.approx(0.5)


def test_indices_out_of_range_are_refused(device: str, kernel: zf.NTK, rng: np.random.Generator) -> None:
    gp = zf.GaussianProcess(kernel, device=device)
    for call in (gp.pop, lambda: gp.remove(0), lambda: gp.remove(-1)):
        with pytest.raises(zf.UnknownIndexError):
            call()
    gp.append(rng.normal(size=(3, D)), np.zeros(3))
    for i in (3, -4, 10**9, -(10**9)):
        with pytest.raises(zf.UnknownIndexError):
            gp.remove(i)
    assert len(gp) == 3


@pytest.mark.parametrize("noise", [-1e-9, np.nan, np.inf, -np.inf, "much", None, [0.1, 0.2]])
def test_an_invalid_default_noise_is_refused(kernel: zf.NTK, noise: Any) -> None:
    with pytest.raises(zf.InputError, match="noise"):
        zf.GaussianProcess(kernel, noise=noise)


@pytest.mark.parametrize("device_", ["tpu", "", "CPU ", "cuda:99", None])
def test_an_unknown_device_is_refused(kernel: zf.NTK, device_: Any) -> None:
    with pytest.raises(zf.DeviceError):
        zf.GaussianProcess(kernel, device=device_)


@pytest.mark.parametrize(
    "disguise",
    [
        lambda a: a.astype(np.float32),
        lambda a: a.astype(np.float16),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(np.int32),
        lambda a: a.tolist(),
    ],
    ids=["float32", "float16", "Fortran", "strided", "reversed", "int32", "list"],
)
def test_the_dtype_of_exact_inputs_does_not_matter(
    device: str, kernel: zf.NTK, rng: np.random.Generator, disguise: Any
) -> None:
    X, y = rng.integers(-4, 5, size=(9, D)).astype(float), rng.integers(-4, 5, size=9).astype(float)
    noise, Q = np.arange(1.0, 10.0), rng.integers(-4, 5, size=(3, D)).astype(float)
    plain, odd = (zf.GaussianProcess(kernel, device=device) for _ in range(2))
    plain.append(X, y, noise)
    odd.append(disguise(X), disguise(y), disguise(noise))
    for a, b in zip(plain.posterior(Q), odd.posterior(disguise(Q)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(plain.gradient_covariance(Q[0]), odd.gradient_covariance(disguise(Q[0])))


def test_inputs_are_never_changed(device: str, kernel: zf.NTK, rng: np.random.Generator) -> None:
    X, y, noise, Q = rng.normal(size=(9, D)), rng.normal(size=9), np.full(9, 0.1), rng.normal(size=(3, D))
    kept = [a.copy() for a in (X, y, noise, Q)]
    for a in (X, y, noise, Q):
        a.setflags(write=False)
    gp = zf.GaussianProcess(kernel, device=device)
    gp.append(X, y, noise)
    gp.remove(3)
    gp.posterior(Q), gp.gradient_covariance(Q[0])
    for a, copy in zip((X, y, noise, Q), kept, strict=True):
        np.testing.assert_array_equal(a, copy)


def test_later_changes_of_the_inputs_do_not_matter(
    device: str, kernel: zf.NTK, rng: np.random.Generator
) -> None:
    X, y, Q = rng.normal(size=(9, D)), rng.normal(size=9), rng.normal(size=(3, D))
    gp = zf.GaussianProcess(kernel, device=device)
    gp.append(X, y)
    before = snapshot(gp, Q)
    X[:], y[:] = 0.0, 0.0
    assert snapshot(gp, Q) == before


def test_the_variance_is_right_at_the_published_scale_of_the_kernel(device: str) -> None:
    """With |k| near 1e4 and sigma^2 = 1e-4 the variance at an observed point is the noise, not rounding."""
    g = load_golden("component_d384_depth2_w32")
    gp = zf.GaussianProcess(zf.NTK(g.weights, g.biases), noise=1e-4, device=device)
    gp.append(g.data["X"], g.data["y"])
    assert g.data["K"].max() > 5e3
    np.testing.assert_allclose(gp.posterior(g.data["X"]).variance, 1e-4, rtol=1e-3)
