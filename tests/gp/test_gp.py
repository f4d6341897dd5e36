"""Incremental Gaussian process against golden values, reference.py and a new factor."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from emulation_tools import EMULATED
from hypothesis import given, settings, strategies as st
from numeric_tools import assert_close, golden_names, load_golden, random_network

import zopo_fast as zf
from zopo_fast.gp import reference

D = 6
NETWORKS = [(1, [1]), (5, [7]), (D, [4, 9]), (17, [33, 8, 21]), (12, [6, 15, 10, 5])]


def make_kernel() -> zf.NTK:
    return zf.NTK(*random_network(np.random.default_rng(0), D, [9, 7]))


def assert_posterior_is_exact(
    gp: zf.GaussianProcess, X: np.ndarray, y: np.ndarray, noise: Any, Q: np.ndarray, rtol: float = 1e-9
) -> None:
    """Check the posterior of a batch and of single points against the reference."""
    W, b = gp.kernel.weights, gp.kernel.biases
    exact = [reference.posterior(W, b, X, y, noise, q) for q in Q]
    prior = reference.gram(W, b, Q).diagonal()
    traces = np.array([np.trace(reference.gradient_prior(W, b, q)) for q in Q])
    covariances = np.array([e.gradient_covariance for e in exact])
    mean, gradient = np.array([e.mean for e in exact]), np.array([e.gradient for e in exact])

    p = gp.posterior(Q)
    assert_close(p.mean, mean, rtol, np.abs(mean).max() + np.abs(y).max(initial=0))
    assert_close(p.variance, np.maximum([e.variance for e in exact], 0), rtol, prior.max())
    assert_close(p.gradient, gradient, rtol, max(np.abs(gradient).max(), 1.0))
    assert_close(
        p.gradient_uncertainty, np.maximum(covariances.trace(axis1=1, axis2=2), 0), rtol, traces.max()
    )
    for i, q in enumerate(Q):
        single = gp.posterior(q)
        assert_close(single.mean, p.mean[i], 1e-12, np.abs(p.mean).max())
        assert_close(single.gradient, p.gradient[i], 1e-12, np.abs(p.gradient).max())
        assert_close(single.variance, p.variance[i], 1e-12, prior.max())
        assert_close(single.gradient_uncertainty, p.gradient_uncertainty[i], 1e-12, traces.max())
        assert_close(gp.gradient_covariance(q), covariances[i], rtol, traces.max())
    if len(X):
        lml = reference.log_marginal_likelihood(W, b, X, y, noise)
        assert gp.log_marginal_likelihood() == pytest.approx(lml, rel=rtol, abs=rtol)


@pytest.mark.parametrize("name", golden_names("component") + golden_names("illconditioned"))
def test_golden_posterior(device: str, name: str) -> None:
    g, rtol = load_golden(name), 1e-6 if name.startswith("ill") else 1e-9
    data = g.data
    gp = zf.GaussianProcess(zf.NTK(g.weights, g.biases), noise=float(data["sigma"]) ** 2, device=device)
    gp.append(data["X"], data["y"])
    one_by_one = zf.GaussianProcess(gp.kernel, noise=float(data["sigma"]) ** 2, device=device)
    for x, y in zip(data["X"], data["y"], strict=True):
        one_by_one.append(x, y)
    for p in (gp.posterior(data["q"]), one_by_one.posterior(data["q"])):
        np.testing.assert_allclose(p.mean, data["mean"], rtol=rtol)
        np.testing.assert_allclose(p.variance, data["var"], rtol=rtol)
        np.testing.assert_allclose(p.gradient_uncertainty, data["grad_cov_trace"], rtol=rtol)
        for gradient, exact in zip(p.gradient, data["grad"], strict=True):
            assert_close(gradient, exact, rtol)
    if "grad_cov_spectral" in data:
        for q, largest in zip(data["q"], data["grad_cov_spectral"], strict=True):
            assert np.linalg.eigvalsh(gp.gradient_covariance(q))[-1] == pytest.approx(largest, rel=rtol)
    if "grad_cov" in data:
        for q, covariance in zip(data["q"], data["grad_cov"], strict=True):
            assert_close(gp.gradient_covariance(q), covariance, rtol)


@pytest.mark.parametrize("shape", NETWORKS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 9, 60])
def test_posterior_equals_the_reference(
    device: str, rng: np.random.Generator, shape: tuple[int, list[int]], n: int
) -> None:
    d = shape[0]
    X, y, noise = rng.normal(size=(n, d)), rng.normal(size=n), rng.uniform(0.01, 0.2, size=n)
    Q = np.concatenate([rng.normal(size=(3, d)), X[:1]])  # the last one is observed
    gp = zf.GaussianProcess(zf.NTK(*random_network(rng, *shape)), device=device)
    gp.append(X, y, noise)
    assert len(gp) == n
    assert_posterior_is_exact(gp, X, y, noise, Q)


def test_shapes_and_types(device: str, rng: np.random.Generator) -> None:
    gp = zf.GaussianProcess(make_kernel(), device=device)
    for n in (0, 5):
        gp.append(rng.normal(size=(n, D)), rng.normal(size=n))
        single = gp.posterior(rng.normal(size=D))
        assert all(isinstance(v, float) for v in (single.mean, single.variance, single.gradient_uncertainty))
        assert single.gradient.shape == (D,)
        for q in (0, 1, 3, 40):
            p = gp.posterior(rng.normal(size=(q, D)))
            shapes = [np.shape(v) for v in (p.mean, p.variance, p.gradient, p.gradient_uncertainty)]
            assert shapes == [(q,), (q,), (q, D), (q,)]
        assert gp.gradient_covariance(rng.normal(size=D)).shape == (D, D)
        assert isinstance(gp.log_marginal_likelihood(), float)


def test_an_empty_process_is_the_prior(device: str, rng: np.random.Generator) -> None:
    gp = zf.GaussianProcess(make_kernel(), device=device)
    assert len(gp) == 0
    Q, W, b = rng.normal(size=(4, D)), gp.kernel.weights, gp.kernel.biases
    p = gp.posterior(Q)
    assert p.mean.tolist() == [0.0] * 4
    assert not p.gradient.any()
    assert_close(p.variance, reference.gram(W, b, Q).diagonal(), 1e-12)
    prior = [reference.gradient_prior(W, b, q) for q in Q]
    assert_close(p.gradient_uncertainty, np.trace(prior, axis1=1, axis2=2), 1e-12)
    assert_close(gp.gradient_covariance(Q[0]), prior[0], 1e-12)
    assert gp.log_marginal_likelihood() == 0.0
    gp.append(Q[0], 1.0)
    gp.pop()
    assert len(gp) == 0
    assert_close(gp.posterior(Q).variance, p.variance, 1e-12)


def test_noise_is_a_default_a_scalar_or_an_array(device: str, rng: np.random.Generator) -> None:
    X, y, Q = rng.normal(size=(8, D)), rng.normal(size=8), rng.normal(size=(2, D))
    gp = zf.GaussianProcess(make_kernel(), noise=0.25, device=device)
    gp.append(X[0], y[0])
    gp.append(X[1:3], y[1:3])
    gp.append(X[3], y[3], noise=0.5)
    gp.append(X[4:6], y[4:6], noise=0.75)
    gp.append(X[6:], y[6:], noise=np.array([1.0, 2.0]))
    noise = np.array([0.25, 0.25, 0.25, 0.5, 0.75, 0.75, 1.0, 2.0])
    assert_posterior_is_exact(gp, X, y, noise, Q)
    gp.remove(4)  # the noise is removed with its row
    keep = np.arange(8) != 4
    assert_posterior_is_exact(gp, X[keep], y[keep], noise[keep], Q)


def test_noise_is_in_units_of_the_kernel(device: str) -> None:
    """At an observed point the variance is k - k^2 / (k + noise)."""
    x = np.full(D, 0.5)
    gp = zf.GaussianProcess(make_kernel(), noise=3.0, device=device)
    k = float(gp.kernel.diag(x[None])[0])
    gp.append(x, 2.0)
    p = gp.posterior(x)
    assert p.variance == pytest.approx(k - k * k / (k + 3.0), rel=1e-12)
    assert p.mean == pytest.approx(2.0 * k / (k + 3.0), rel=1e-12)


@pytest.mark.parametrize("at", [0, 1, 5, 10, 11])
def test_any_observation_can_be_removed(device: str, rng: np.random.Generator, at: int) -> None:
    X, y, Q = rng.normal(size=(12, D)), rng.normal(size=12), rng.normal(size=(3, D))
    gp = zf.GaussianProcess(make_kernel(), noise=0.01, device=device)
    gp.append(X, y)
    gp.remove(at)
    keep = np.arange(12) != at
    assert len(gp) == 11
    assert_posterior_is_exact(gp, X[keep], y[keep], 0.01, Q)


def test_all_observations_can_be_removed(device: str, rng: np.random.Generator) -> None:
    X, y, Q = rng.normal(size=(9, D)), rng.normal(size=9), rng.normal(size=(2, D))
    gp = zf.GaussianProcess(make_kernel(), noise=0.01, device=device)
    gp.append(X, y)
    left = list(range(9))
    while left:
        i = int(rng.integers(len(left)))
        gp.remove(i)
        del left[i]
        assert_posterior_is_exact(gp, X[left], y[left], 0.01, Q)


OPERATION = st.tuples(
    st.sampled_from(["append", "append", "many", "pop", "remove", "fantasise"]), st.integers(0, 2**16)
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(OPERATION, max_size=25))
def test_any_sequence_equals_a_fresh_factor(device: str, operations: list[tuple[str, int]]) -> None:
    gp, Q = (
        zf.GaussianProcess(make_kernel(), noise=0.05, device=device),
        np.random.default_rng(1).normal(size=(2, D)),
    )
    rows: list[tuple[np.ndarray, float, float]] = []
    for kind, seed in operations:
        rng = np.random.default_rng(seed)
        if kind in ("append", "fantasise"):
            row = (rng.normal(size=D), float(rng.normal()), float(rng.uniform(0.01, 0.5)))
            gp.append(*row)
            if kind == "fantasise":  # a pending point: append, read, remove
                gp.posterior(Q)
                gp.pop()
            else:
                rows.append(row)
        elif kind == "many":
            X, y = rng.normal(size=(3, D)), rng.normal(size=3)
            gp.append(X, y)
            rows.extend((x, v, 0.05) for x, v in zip(X, y, strict=True))
        elif not rows:
            with pytest.raises(zf.UnknownIndexError):
                gp.pop() if kind == "pop" else gp.remove(0)
        else:
            i = len(rows) - 1 if kind == "pop" else seed % len(rows)
            gp.pop() if kind == "pop" else gp.remove(i)
            del rows[i]
        assert len(gp) == len(rows)
    X = np.array([r[0] for r in rows]).reshape(-1, D)
    y, noise = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    assert_posterior_is_exact(gp, X, y, noise, Q)


def test_two_thousand_operations_do_not_drift(device: str, rng: np.random.Generator) -> None:
    kernel, Q = make_kernel(), rng.normal(size=(5, D))
    gp = zf.GaussianProcess(kernel, noise=1e-2, device=device)
    rows: list[tuple[np.ndarray, float]] = []
    for step in range(400 if EMULATED and device == "cuda" else 2000):  # an emulated launch takes 5 ms
        if len(rows) < 5 or (len(rows) < 60 and rng.random() < 0.5):
            rows.append((rng.normal(size=D), float(rng.normal())))
            gp.append(*rows[-1])
        elif rng.random() < 0.2:
            gp.pop()
            rows.pop()
        else:
            i = int(rng.integers(len(rows)))
            gp.remove(i)
            del rows[i]
        if step % 200 == 199:
            gp.posterior(Q)
    fresh = zf.GaussianProcess(kernel, noise=1e-2, device=device)
    fresh.append(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))
    p, exact = gp.posterior(Q), fresh.posterior(Q)
    for name in ("mean", "variance", "gradient", "gradient_uncertainty"):
        assert_close(getattr(p, name), getattr(exact, name), 1e-8)
    assert gp.log_marginal_likelihood() == pytest.approx(fresh.log_marginal_likelihood(), rel=1e-8)


def test_pickle(device: str, rng: np.random.Generator) -> None:
    gp = zf.GaussianProcess(make_kernel(), noise=0.1, device=device)
    assert len(pickle.loads(pickle.dumps(gp))) == 0
    X, y, Q = rng.normal(size=(7, D)), rng.normal(size=7), rng.normal(size=(2, D))
    gp.append(X, y, rng.uniform(0.1, 1, size=7))
    twin = pickle.loads(pickle.dumps(gp))
    gp.append(Q[0], 1.0)
    twin.append(Q[0], 1.0)  # with the same default noise
    assert_close(twin.posterior(Q).mean, gp.posterior(Q).mean, 1e-12)
    assert_close(twin.posterior(Q).variance, gp.posterior(Q).variance, 1e-12)
