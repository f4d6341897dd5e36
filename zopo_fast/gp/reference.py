"""NumPy reference of every native operation in float64: the oracle of the tests.

Each function is one formula, without caching or blocking. Shapes: x (d,), X (n, d), W[l] (width_{l+1},
width_l) with the last one (1, width_L), b[l] (width_{l+1},).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Features(NamedTuple):
    """Features of one point: activations h_0..h_L, backward vectors D_0..D_L, Jacobians J_l = dh_l/dx."""

    h: list[Array]
    D: list[Array]
    J: list[Array]


def network(W: Sequence[Array], b: Sequence[Array], x: Array) -> float:
    """Evaluate f(x) = W_L h_L + b_L with h_l = relu(W_{l-1} h_{l-1} + b_{l-1})."""
    h = x
    for weight, bias in zip(W[:-1], b[:-1], strict=True):
        h = np.maximum(weight @ h + bias, 0.0)
    return float((W[-1] @ h + b[-1])[0])


def features(W: Sequence[Array], b: Sequence[Array], x: Array) -> Features:
    """Compute the activations, backward vectors and input Jacobians of one point."""
    h, J = [x], [np.eye(len(x))]
    for weight, bias in zip(W[:-1], b[:-1], strict=True):
        a = weight @ h[-1] + bias
        h.append(np.maximum(a, 0.0))
        J.append((a > 0)[:, None] * (weight @ J[-1]))
    D = [np.ones(1)]  # D_L = 1; D_l = (D_{l+1} W_{l+1}) o 1[a_{l+1} > 0]
    for weight, active in zip(W[:0:-1], h[:0:-1], strict=True):
        D.insert(0, (D[0] @ weight) * (active > 0))
    return Features(h, D, J)


def kernel(p: Features, q: Features) -> float:
    """Compute k(x, x') = sum_l (h_l(x).h_l(x') + 1) (D_l(x).D_l(x'))."""
    return float(sum((hp @ hq + 1) * (Dp @ Dq) for hp, hq, Dp, Dq in zip(p.h, q.h, p.D, q.D, strict=True)))


def gram(W: Sequence[Array], b: Sequence[Array], X: Array, Y: Array | None = None) -> Array:
    """Compute K_ij = k(X_i, Y_j), (n, m)."""
    P = [features(W, b, x) for x in X]
    Q = P if Y is None else [features(W, b, y) for y in Y]
    return np.array([[kernel(p, q) for q in Q] for p in P]).reshape(len(P), len(Q))


def gradient(W: Sequence[Array], b: Sequence[Array], x: Array, X: Array) -> Array:
    """Compute dk(x, X_i)/dx = sum_l (D_l(x).D_l(X_i)) J_l(x)^T h_l(X_i), (n, d)."""
    p = features(W, b, x)
    rows = []
    for y in X:
        q = features(W, b, y)
        rows.append(sum((Dp @ Dq) * (J.T @ h) for Dp, Dq, J, h in zip(p.D, q.D, p.J, q.h, strict=True)))
    return np.array(rows).reshape(len(X), len(x))


def gradient_prior(W: Sequence[Array], b: Sequence[Array], x: Array) -> Array:
    """Compute d^2 k(x, x')/dx dx' at x' = x: sum_l |D_l|^2 J_l^T J_l, (d, d)."""
    p = features(W, b, x)
    total = np.zeros((len(x), len(x)))
    for D, J in zip(p.D, p.J, strict=True):
        total += (D @ D) * (J.T @ J)
    return total


class PointPosterior(NamedTuple):
    """Exact posterior at one point."""

    mean: float
    variance: float
    gradient: Array
    gradient_covariance: Array


def posterior(
    W: Sequence[Array], b: Sequence[Array], X: Array, y: Array, noise: Array | float, x: Array
) -> PointPosterior:
    """Compute mean k^T a, variance k(x,x) - k^T A^-1 k, gradient G^T a, covariance d2k - G^T A^-1 G."""
    A = gram(W, b, X) + np.diag(np.broadcast_to(noise, len(X)))
    k = gram(W, b, x[None], X)[0]
    G = gradient(W, b, x, X)
    prior = gram(W, b, x[None])[0, 0]
    if len(X) == 0:
        return PointPosterior(0.0, prior, np.zeros(len(x)), gradient_prior(W, b, x))
    C = np.linalg.cholesky(A)
    half = np.linalg.solve(C, np.column_stack([y, k, G]))
    z, v, V = half[:, 0], half[:, 1], half[:, 2:]
    return PointPosterior(float(v @ z), float(prior - v @ v), V.T @ z, gradient_prior(W, b, x) - V.T @ V)


def log_marginal_likelihood(
    W: Sequence[Array], b: Sequence[Array], X: Array, y: Array, noise: Array | float
) -> float:
    """Compute -1/2 (y^T A^-1 y + log det A + n log 2 pi)."""
    A = gram(W, b, X) + np.diag(np.broadcast_to(noise, len(X)))
    return float(-0.5 * (y @ np.linalg.solve(A, y) + np.linalg.slogdet(A)[1] + len(X) * np.log(2 * np.pi)))


def standardize(Z: Array, mean: Array, scale: Array) -> Array:
    """Compute the standardized coordinates (Z - mean) / scale in float64."""
    return (Z.astype(np.float64) - mean) * (1.0 / scale)


def k_nearest(E: Array, x: Array, k: int, available: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return the indices of the k rows of E nearest to x, nearest first, ties by lowest index."""
    distance = ((E - x) ** 2).sum(axis=1)
    order = np.lexsort((np.arange(len(E)), distance))
    if available is not None:
        order = order[available[order]]
    return order[:k].astype(np.int64)


def profile_log_likelihood(K: Array, y: Array, noise: float) -> float:
    """Compute the log likelihood of y ~ N(0, a (K + noise I)) at its best amplitude a, up to a constant.

    With K + noise I = U diag(l) U^T and t = U^T y: a = mean(t^2 / l), and the log likelihood is
    -n/2 log a - 1/2 sum log l (Rasmussen & Williams 2006, eq. 5.8). K (n, n), y (n,).
    """
    eigenvalues, U = np.linalg.eigh(K + noise * np.eye(len(y)))
    amplitude = np.mean((U.T @ y) ** 2 / eigenvalues)
    return float(-0.5 * (len(y) * np.log(amplitude) + np.log(eigenvalues).sum()))


class RegionLevel(NamedTuple):
    """Posterior at all candidates under one nugget, in units of the scores.

    Attributes:
        weight: Weight of the nugget, by marginal likelihood.
        amplitude: Signal variance divided by the variance of the scores.
        mean: (m,) posterior mean.
        variance: (m,) posterior variance.
        fantasized: (m,) posterior variance with the pending candidates added at their expected scores.
    """

    weight: float
    amplitude: float
    mean: Array
    variance: Array
    fantasized: Array


def region_levels(
    K: Array,
    observed: Sequence[int],
    y: Array,
    noise: Array,
    nuggets: Sequence[float],
    pending: Sequence[int] = (),
) -> list[RegionLevel]:
    """Fit Gaussian processes with A_g = a_g (K + diag(nugget_g + noise)), each at its best amplitude a_g.

    K (m, m) over the candidates, or several, (kernels, m, m), each with every nugget; observed, y and noise
    (n,), noise in units of K. Scores are centered.
    """
    n, at, waiting = len(observed), list(observed), list(pending)
    mean = y.mean() if n else 0.0
    spread = y.std() if n and y.std() > 1e-12 * abs(mean) else 0.0
    levels, log_likelihoods = [], []
    for prior, nugget in itertools.product(K if K.ndim == 3 else [K], nuggets):
        A = prior[np.ix_(at, at)] + np.diag(nugget + noise)
        k = prior[at]
        solved = np.linalg.solve(A, y - mean)
        a = max(float((y - mean) @ solved) / (n * spread**2), 1e-6) if spread else 1.0
        log_likelihoods.append(-0.5 * (n * np.log(a) + np.linalg.slogdet(A)[1]))
        # A pending candidate is an observation with no noise but the nugget; the mean stays as it is.
        both = at + waiting
        B = prior[np.ix_(both, both)] + np.diag(
            nugget + np.concatenate([noise, np.full(len(waiting), 1e-12)])
        )
        left = [np.diag(prior) - np.einsum("ij,ij->j", k, np.linalg.solve(A, k))]
        left += [np.diag(prior) - np.einsum("ij,ij->j", prior[both], np.linalg.solve(B, prior[both]))]
        variance, fantasized = (a * (spread or 1.0) ** 2 * np.maximum(v, 1e-12) for v in left)
        levels.append(RegionLevel(0.0, a, mean + k.T @ solved, variance, fantasized))
    weights = np.exp(np.array(log_likelihoods) - max(log_likelihoods))
    return [level._replace(weight=float(w)) for level, w in zip(levels, weights / weights.sum(), strict=True)]


def region_posterior(levels: Sequence[RegionLevel]) -> tuple[Array, Array]:
    """Compute mean and variance of the mixture of levels: E m and E (v + (m - E m)^2), (m,) each."""
    mean = sum((level.weight * level.mean for level in levels), np.zeros(1))
    spread = (level.weight * (level.variance + (level.mean - mean) ** 2) for level in levels)
    return mean, sum(spread, np.zeros(1))


def expected_improvement(mean: Array, variance: Array, incumbent: float, power: int) -> Array:
    """Compute E max(0, f - incumbent)^p, f ~ N(mean, variance), p = 1 or 2 (Schonlau, Welch & Jones 1998).

    With u = (mean - incumbent) / s: s (u Phi(u) + phi(u)), and s^2 ((u^2 + 1) Phi(u) + u phi(u)).
    """
    s = np.sqrt(variance)
    u = (mean - incumbent) / s
    density = np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
    share = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in u.tolist()])
    if power == 1:
        return np.asarray(s * (u * share + density))
    return np.asarray(variance * ((u**2 + 1) * share + u * density))


def region_criterion(levels: Sequence[RegionLevel], incumbent: float, power: int) -> Array:
    """Compute the expected improvement under the mixture, (m,); the next candidate maximizes it.

    Levels of weight below 1e-4 are omitted. If the expected improvement is 0 everywhere, return the standard
    deviations from the incumbent under the likeliest level.
    """
    total = np.zeros(len(levels[0].mean))
    for level in levels:
        if level.weight > 1e-4:
            total += level.weight * expected_improvement(level.mean, level.fantasized, incumbent, power)
    if total.max() > 0:
        return total
    likeliest = max(levels, key=lambda level: level.weight)
    return np.asarray((likeliest.mean - incumbent) / np.sqrt(likeliest.fantasized))


def normals(seed: int, stream: int, n: int) -> Array:
    """Compute n standard normal numbers of a stream by the Box-Muller transform, (n,).

    Words 2j and 2j + 1 of Philox4x64-10 (Salmon et al. 2011), as uniforms u and v of 53 bits, give numbers 2j
    and 2j + 1: sqrt(-2 log(1 - u)) (cos 2 pi v, sin 2 pi v). The seed has 128 bits, the stream 64.
    """
    words = np.random.Philox(key=seed, counter=stream << 64).random_raw(n + n % 2)
    u, v = (words >> 11).reshape(-1, 2).T * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log1p(-u)), 2 * np.pi * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:n]
