"""Random problems for property tests, and bounds of their rounding errors.

The tolerances are first-order bounds, not chosen. The error of a sum of products is at most its number of
roundings times eps times the same sum over absolute values. The reference computes that sum on the absolute
values of weights, biases and points, with all units active.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import assume, strategies as st
from numeric_tools import random_network

from zopo_fast.gp import reference

EPS = float(np.finfo(np.float64).eps)
SHAPES = ["random", "duplicates", "one point", "collinear", "nearly equal", "grid", "tiny", "huge"]
SCORES = ["random", "all equal", "one differs", "huge", "tiny"]


class Problem(NamedTuple):
    """Network, observations with their noise variances, and query points."""

    W: list[np.ndarray]
    b: list[np.ndarray]
    X: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    Q: np.ndarray


def points(rng: np.random.Generator, shape: str, n: int, d: int) -> np.ndarray:
    """Make points (n, d) in a general or degenerate position."""
    X = rng.normal(size=(n, d))
    if shape == "duplicates":
        return X[rng.integers(0, max(1, n // 3), size=n)]
    if shape == "one point":
        return np.repeat(X[:1], n, axis=0)
    if shape == "collinear":
        return X[:1] + rng.normal(size=(n, 1)) * rng.normal(size=d)
    if shape == "nearly equal":
        return X[:1] + 1e-9 * X
    if shape == "grid":
        return np.round(X)
    return X * {"random": 1.0, "tiny": 1e-8, "huge": 1e5}[shape]


def scores(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """Make scores (n,), in units from 1e-9 to 1e9."""
    y = rng.normal(size=n)
    if kind == "all equal":
        return np.full(n, y[0])
    if kind == "one differs":
        return np.where(np.arange(n) == n // 2, 1.0, 0.0)
    return y * {"random": 1.0, "huge": 1e9, "tiny": 1e-9}[kind]


@st.composite
def problems(draw: st.DrawFn, most: int = 24, min_noise: float = -6.0) -> Problem:
    """Draw a problem of any size; noise is 10^min_noise to 10 times the mean diagonal of the kernel."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    n, d = draw(st.integers(1, most), label="n"), draw(st.integers(1, 12), label="d")
    widths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4), label="widths")
    W, b = random_network(rng, d, widths)
    X = points(rng, draw(st.sampled_from(SHAPES), label="points"), n, d)
    y = scores(rng, draw(st.sampled_from(SCORES), label="scores"), n)
    level = draw(st.floats(min_noise, 1.0), label="log10 noise")
    spread = draw(st.sampled_from([0.0, 0.5]), label="spread of the noise")
    unit = np.mean([reference.kernel(p, p) for p in (reference.features(W, b, x) for x in X)])
    noise = unit * 10.0 ** (level + spread * rng.random(n))
    near = X[rng.integers(n, size=2)]
    Q = np.concatenate([near[:1], near[1:] + rng.normal(size=d) * np.abs(X).max()])
    assume(away_from_kinks(W, b, X) and away_from_kinks(W, b, Q))
    return Problem(W, b, X, y, noise, Q)


def away_from_kinks(W: list[np.ndarray], b: list[np.ndarray], X: np.ndarray) -> bool:
    """Return whether rounding cannot switch a unit on or off, where the kernel is discontinuous."""
    h, size = X, np.abs(X)
    for weight, bias in zip(W[:-1], b[:-1], strict=True):
        a, size = h @ weight.T + bias, size @ np.abs(weight).T + np.abs(bias)
        if (np.abs(a) <= 1e-13 * size).any():
            return False
        h = np.maximum(a, 0.0)
    return True


class Rounding:
    """Bound of the difference of two float64 evaluations of a kernel, entry by entry."""

    def __init__(self, W: list[np.ndarray], b: list[np.ndarray]) -> None:
        self._network = [np.abs(w) for w in W], [np.abs(v) for v in b]
        # Additions from both points through all layers to the sum, for either evaluation.
        longest = W[0].shape[1] + sum(len(v) + 4 for v in b)
        self.unit = 4.0 * longest * EPS

    def gram(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Return the bounds of k(X_i, Y_j), (n, m)."""
        return self.unit * reference.gram(*self._network, np.abs(X), np.abs(Y))

    def gradient(self, x: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Return the bounds of dk(x, X_i)/dx, (n, d)."""
        return self.unit * reference.gradient(*self._network, np.abs(x), np.abs(X))

    def prior_trace(self, x: np.ndarray) -> float:
        """Return the bound of the trace of d2k at x."""
        return self.unit * float(np.trace(reference.gradient_prior(*self._network, np.abs(x))))


class Tolerance(NamedTuple):
    """First-order bounds at one point x."""

    mean: float
    variance: float
    gradient: np.ndarray
    uncertainty: float
    likelihood: float


def tolerance(p: Problem, x: np.ndarray, updates: int = 1) -> Tolerance:
    """Bound the errors by a backward stable factor, which is exact for A + E.

    |E| <= rounding of K + 4 (n + 2) eps tr A for each of the updates (Higham 2002, theorem 10.3, with
    |C| |C^T| <= tr A). With a = A^-1 y, u = A^-1 k, U = A^-1 G, an error E in A and e in k and G is
    |u| |a| |E| + |e| |a| in the mean, |u|^2 |E| + 2 |e| |u| in the variance, and so on.
    """
    rounding, n = Rounding(p.W, p.b), len(p.X)
    A = reference.gram(p.W, p.b, p.X) + np.diag(p.noise)
    k, G = reference.gram(p.W, p.b, p.X, x[None])[:, 0], reference.gradient(p.W, p.b, x, p.X)
    inverse = np.linalg.inv(A)
    a, u, U = inverse @ p.y, inverse @ k, np.linalg.norm(inverse @ G, axis=0)
    solve = 4.0 * (n + 2) * EPS
    E = np.linalg.norm(rounding.gram(p.X, p.X)) + solve * updates * np.trace(A)
    e_k = np.linalg.norm(rounding.gram(p.X, x[None])) + solve * np.linalg.norm(k)
    e_G = np.linalg.norm(rounding.gradient(x, p.X), axis=0) + solve * np.linalg.norm(G, axis=0)
    size_a, size_u = np.linalg.norm(a), np.linalg.norm(u)
    return Tolerance(
        mean=float((size_u * E + e_k) * size_a),
        variance=float(size_u**2 * E + 2 * e_k * size_u + rounding.gram(x[None], x[None])[0, 0]),
        gradient=(U * E + e_G) * size_a,
        uncertainty=float((U**2 * E + 2 * e_G * U).sum() + rounding.prior_trace(x)),
        likelihood=float(
            size_a**2 * E + np.linalg.norm(inverse) * E + solve * (abs(p.y @ a) + n * np.log(np.trace(A) + 3))
        ),
    )


def tolerance_in_parts(p: Problem, x: np.ndarray) -> float:
    """Bound the additional error of the uncertainty of the gradient when it is summed over the parts of G.

    tr G^T A^-1 G with G = diag(c) X + P W_0 and A^-1 itself: where the parts cancel, the sum's rounding is
    (n + 2) eps tr A^-1 |parts|^2.
    """
    rounding, n = Rounding(p.W, p.b), len(p.X)
    parts = np.linalg.norm(rounding.gradient(x, p.X)) / rounding.unit
    inverse = np.linalg.inv(reference.gram(p.W, p.b, p.X) + np.diag(p.noise))
    return float(4.0 * (n + 2) * EPS * np.trace(inverse) * parts**2)


def assert_within(actual: object, expected: object, bound: object, what: str = "") -> None:
    """Check that the error of every entry is within its bound."""
    actual, expected, bound = np.asarray(actual), np.asarray(expected), np.asarray(bound)
    assert actual.shape == expected.shape, what
    off = np.abs(actual - expected)
    assert np.isfinite(bound).all(), what
    assert (off <= bound).all(), (
        f"{what}: off by {(off / np.maximum(bound, 1e-300)).max():.3g} of what is allowed"
    )
