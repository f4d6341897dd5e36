"""reference.py, the oracle of the other tests, against finite differences and numpy.linalg.

Within one activation cell the network is linear in each parameter, and k(x, x') is linear in x and bilinear
in (x, x'). Central differences then have no truncation error, only rounding, so the step is large.
"""

from __future__ import annotations

import numpy as np
import pytest
from numeric_tools import assert_close, random_network

from zopo_fast.gp import reference

NETWORKS = [(3, [5]), (4, [6, 3]), (5, [3, 7, 4]), (3, [4, 6, 5, 3])]
STEP = 1e-4
Network = tuple[list[np.ndarray], list[np.ndarray]]


def pattern(W: list[np.ndarray], b: list[np.ndarray], x: np.ndarray) -> tuple[bool, ...]:
    """Return the active units; all points of one cell have the same."""
    active: list[bool] = []
    h = x
    for weight, bias in zip(W[:-1], b[:-1], strict=True):
        a = weight @ h + bias
        active.extend(a > 0)
        h = a * (a > 0)
    return tuple(active)


def inner_points(rng: np.random.Generator, W: list[np.ndarray], b: list[np.ndarray], n: int) -> np.ndarray:
    """Draw points that stay in their cell if any coordinate or parameter changes by STEP."""
    points: list[np.ndarray] = []
    while len(points) < n:
        x = rng.normal(size=W[0].shape[1])
        margin, h = np.inf, x
        for weight, bias in zip(W[:-1], b[:-1], strict=True):
            a = weight @ h + bias
            margin = min(margin, float(np.abs(a).min()))
            h = np.maximum(a, 0)
        if margin > 500 * STEP and any(pattern(W, b, x)):
            points.append(x)
    return np.array(points)


def parameter_gradient(W: list[np.ndarray], b: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return df/d(every weight and bias), by central differences of reference.network."""
    cell = pattern(W, b, x)
    derivatives = []
    for parameters in (*W, *b):
        for at in np.ndindex(parameters.shape):
            values = []
            kept = parameters[at]
            for sign in (1, -1):
                parameters[at] = kept + sign * STEP
                assert pattern(W, b, x) == cell
                values.append(reference.network(W, b, x))
            parameters[at] = kept
            derivatives.append((values[0] - values[1]) / (2 * STEP))
    return np.array(derivatives)


@pytest.fixture(params=NETWORKS, ids=str)
def network(request: pytest.FixtureRequest, rng: np.random.Generator) -> Network:
    return random_network(rng, *request.param)


def test_the_network_equals_the_formula() -> None:
    W = [np.array([[1.0, -2.0], [0.5, 1.0]]), np.array([[3.0, -1.0]])]
    b = [np.array([0.25, -5.0]), np.array([0.5])]
    # a = (2 - 2 + 0.25, 1 + 1 - 5) = (0.25, -3); relu = (0.25, 0); f = 0.75 + 0.5
    assert reference.network(W, b, np.array([2.0, 1.0])) == 1.25


def test_kernel_is_the_inner_product_of_parameter_gradients(
    network: Network, rng: np.random.Generator
) -> None:
    X = inner_points(rng, *network, 4)
    J = np.array([parameter_gradient(*network, x) for x in X])
    assert_close(reference.gram(*network, X), J @ J.T, 1e-9)
    assert_close(reference.gram(*network, X[:1], X[1:]), J[:1] @ J[1:].T, 1e-9, np.abs(J @ J.T).max())


def test_the_gradient_is_the_derivative_of_the_kernel(network: Network, rng: np.random.Generator) -> None:
    X = inner_points(rng, *network, 5)
    x, cell = X[0], pattern(*network, X[0])
    numeric = np.empty_like(X)
    for j in range(len(x)):
        shift = STEP * np.eye(len(x))[j]
        assert pattern(*network, x + shift) == pattern(*network, x - shift) == cell
        up, down = (reference.gram(*network, (x + s)[None], X)[0] for s in (shift, -shift))
        numeric[:, j] = (up - down) / (2 * STEP)
    assert_close(reference.gradient(*network, x, X), numeric, 1e-9)


def test_gradient_prior_is_the_mixed_second_derivative(network: Network, rng: np.random.Generator) -> None:
    x = inner_points(rng, *network, 1)[0]
    step = 100 * STEP  # bilinear: a larger step reduces the rounding
    shifted = np.concatenate([x + step * np.eye(len(x)), x - step * np.eye(len(x))])
    assert {pattern(*network, s) for s in shifted} == {pattern(*network, x)}
    K = reference.gram(*network, shifted)
    d = len(x)
    numeric = (K[:d, :d] - K[:d, d:] - K[d:, :d] + K[d:, d:]) / (4 * step**2)
    assert_close(reference.gradient_prior(*network, x), numeric, 1e-9)


@pytest.mark.parametrize("noise", [0.3, "each"], ids=["one noise", "a noise each"])
def test_the_posterior_equals_the_textbook_formula(
    network: Network, rng: np.random.Generator, noise: object
) -> None:
    X, y = rng.normal(size=(7, network[0][0].shape[1])), rng.normal(size=7)
    x = rng.normal(size=X.shape[1])
    r = rng.uniform(0.1, 1.0, size=7) if noise == "each" else np.full(7, noise, dtype=float)
    inverse = np.linalg.inv(reference.gram(*network, X) + np.diag(r))
    k, G = reference.gram(*network, X, x[None])[:, 0], reference.gradient(*network, x, X)
    p = reference.posterior(*network, X, y, r if noise == "each" else 0.3, x)
    prior = reference.gram(*network, x[None])[0, 0]
    assert p.mean == pytest.approx(k @ inverse @ y, rel=1e-9, abs=1e-9)
    assert p.variance == pytest.approx(prior - k @ inverse @ k, rel=1e-9, abs=1e-9 * prior)
    assert_close(p.gradient, G.T @ inverse @ y, 1e-9)
    d2k = reference.gradient_prior(*network, x)
    assert_close(p.gradient_covariance, d2k - G.T @ inverse @ G, 1e-9, np.abs(d2k).max())


def test_the_posterior_of_no_data_is_the_prior(network: Network, rng: np.random.Generator) -> None:
    d = network[0][0].shape[1]
    x = rng.normal(size=d)
    p = reference.posterior(*network, np.empty((0, d)), np.empty(0), 0.1, x)
    assert p.mean == 0.0
    assert p.variance == reference.gram(*network, x[None])[0, 0]
    assert_close(p.gradient, np.zeros(d), 0.0)
    assert_close(p.gradient_covariance, reference.gradient_prior(*network, x), 0.0)


def test_log_marginal_likelihood_is_the_normal_density(network: Network, rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(6, network[0][0].shape[1])), rng.normal(size=6)
    values, U = np.linalg.eigh(reference.gram(*network, X) + 0.4 * np.eye(6))
    t = U.T @ y
    expected = -0.5 * np.sum(t**2 / values + np.log(2 * np.pi * values))
    assert reference.log_marginal_likelihood(*network, X, y, 0.4) == pytest.approx(expected, rel=1e-10)


def test_k_nearest_orders_by_distance_then_index(rng: np.random.Generator) -> None:
    E = rng.integers(-2, 3, size=(40, 3)).astype(float)
    x = np.zeros(3)
    by_hand = sorted(range(40), key=lambda i: (sum(v * v for v in E[i]), i))
    assert reference.k_nearest(E, x, 7).tolist() == by_hand[:7]
    available = rng.random(40) < 0.5
    left = [i for i in by_hand if available[i]]
    assert reference.k_nearest(E, x, 100, available).tolist() == left


def test_standardize_is_the_z_score(rng: np.random.Generator) -> None:
    Z = rng.normal(3.0, 2.0, size=(50, 4)).astype(np.float16)
    wide = Z.astype(np.float64)
    E = reference.standardize(Z, wide.mean(axis=0), wide.std(axis=0))
    assert E.dtype == np.float64
    assert_close(E.mean(axis=0), np.zeros(4), 1e-12, 1.0)
    assert_close(E.std(axis=0), np.ones(4), 1e-12)
