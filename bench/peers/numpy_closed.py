"""Closed form in NumPy and SciPy, float64: our formulas, vectorised over points."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray

from .local import LocalSearchPeer

Array = NDArray[np.float64]
Features = tuple[list[Array], list[Array]]
LABEL = "NumPy/SciPy closed form"


def features(kernel: Any, X: Array) -> Features:
    """Return h_0..h_L (n, width_l) and D_0..D_L, D_l (n, width_{l+1})."""
    h = [X]
    for W, b in zip(kernel.weights[:-1], kernel.biases[:-1], strict=True):
        a = h[-1] @ W.T
        a += b
        h.append(np.maximum(a, 0.0, out=a))
    D = [np.ones((len(X), 1))]
    for W, active in zip(kernel.weights[:0:-1], h[:0:-1], strict=True):
        D.insert(0, (D[0] @ W) * (active > 0))
    return h, D


def contract(p: Features, q: Features) -> Array:
    """Return k = sum_l (h_l.h_l' + 1) (D_l.D_l'), (n, m), in place where possible."""
    total: Any = None
    for h, g, D, E in zip(p[0], q[0], p[1], q[1], strict=True):
        K = h @ g.T
        K += 1.0
        K *= D @ E.T
        total = K if total is None else np.add(total, K, out=total)
    return total


def diag(p: Features) -> Array:
    """Return k(X_i, X_i), (n,)."""
    terms = [(np.einsum("ij,ij->i", h, h) + 1) * np.einsum("ij,ij->i", D, D) for h, D in zip(*p, strict=True)]
    return np.sum(terms, axis=0)


def derivative(kernel: Any, x: Array, p: Features) -> tuple[Array, float]:
    """Return dk(x, X)/dx (n, d) and tr d2k at x; x (1, d), p the features of X."""
    h, D = features(kernel, x)
    gamma = [E @ c[0] for c, E in zip(D, p[1], strict=True)]
    G = gamma[0][:, None] * p[0][0]
    prior = np.vdot(D[0], D[0]) * x.shape[1]
    J: Array | None = None
    for W, active, g, c, hidden in zip(kernel.weights[:-1], h[1:], gamma[1:], D[1:], p[0][1:], strict=True):
        J = (active[0] > 0)[:, None] * (W if J is None else W @ J)
        G += (g[:, None] * hidden) @ J
        prior += np.vdot(c, c) * np.vdot(J, J)
    return G, float(prior)


class ClosedProcess:
    """Exact GP by a Cholesky factor; K is kept, and the factor is recomputed when the data change."""

    def __init__(self, kernel: Any, X: Array, y: Array, noise: float, K: Array | None = None) -> None:
        self.kernel, self.X, self.y, self.noise = kernel, X, y, noise
        p = None
        if K is None:
            p = features(kernel, X)
            K = contract(p, p)
        self.K = K
        A = K.copy()
        A.flat[:: len(X) + 1] += noise
        self.C = sl.cholesky(A, lower=True, overwrite_a=True, check_finite=False)
        self._fit: tuple[Features, Array] | None = None

    def points(self, X: Any) -> Array:
        return np.ascontiguousarray(X, dtype=np.float64)

    def fitted(self) -> tuple[Features, Array]:
        """Compute the features of X and A^-1 y."""
        if self._fit is None:
            alpha = sl.cho_solve((self.C, True), self.y, check_finite=False)
            self._fit = features(self.kernel, self.X), alpha
        return self._fit

    def half(self, B: Array) -> Array:
        """Return C^-1 B."""
        return sl.solve_triangular(self.C, B, lower=True, check_finite=False)  # type: ignore[no-any-return]

    def predict(self, X: Array) -> tuple[Array, Array]:
        p, alpha = self.fitted()
        q = features(self.kernel, X)
        k = contract(p, q)
        half = self.half(k)
        return alpha @ k, diag(q) - np.einsum("ij,ij->j", half, half)

    def posterior(self, x: Array) -> tuple[Any, ...]:
        p, alpha = self.fitted()
        mean, variance = self.predict(x)
        G, prior = derivative(self.kernel, x, p)
        half = self.half(G)
        return mean, variance, alpha @ G, prior - np.vdot(half, half)

    def appended(self, x: Array, y: float) -> ClosedProcess:
        n = len(self.X)
        p, q = self.fitted()[0], features(self.kernel, x)
        K = np.empty((n + 1, n + 1))
        K[:n, :n] = self.K
        K[n, :n] = K[:n, n] = contract(q, p)[0]
        K[n, n] = diag(q)[0]
        return ClosedProcess(self.kernel, np.vstack([self.X, x]), np.append(self.y, y), self.noise, K)

    def removed(self, i: int) -> ClosedProcess:
        kept = np.delete(np.arange(len(self.X)), i)
        K = self.K[np.ix_(kept, kept)]
        return ClosedProcess(self.kernel, self.X[kept], self.y[kept], self.noise, K)


def grams(kernel: Any, X: Any, Y: Any | None) -> dict[str, Any]:
    """Sum one product per layer in place."""

    def gram() -> Array:
        p = features(kernel, X)
        return contract(p, p if Y is None else features(kernel, Y))

    return {LABEL: gram}


def processes(kernel: Any, X: Any, y: Any, noise: float) -> dict[str, Any]:
    """Return the process above."""
    return {LABEL: ClosedProcess(kernel, X, y, noise)}


class _Engine:
    """Model and pool of a search; see local.py."""

    def __init__(self, Z: Any, kernel: Any) -> None:
        self.Z, self._kernel = np.ascontiguousarray(Z), kernel
        self._squares = np.einsum("ij,ij->i", self.Z, self.Z)
        self._taken = np.zeros(len(Z), dtype=bool)

    def scale(self) -> float:
        return float(diag(features(self._kernel, self.Z)).mean())

    def gram(self, indices: list[int]) -> Array:
        p = features(self._kernel, self.Z[indices])
        return contract(p, p)

    def take(self, i: int) -> None:
        self._taken[i] = True

    def fit(self, indices: list[int], scores: Array, noise: float) -> None:
        self._process = ClosedProcess(self._kernel, self.Z[indices], scores - scores.mean(), noise)

    def append(self, i: int, scores: Array) -> None:
        grown = self._process.appended(self.Z[i : i + 1], 0.0)
        grown.y = scores - scores.mean()
        self._process = grown

    def slope(self, center: int) -> tuple[Array, float]:
        """Return the gradient of the mean at a candidate and its relative uncertainty."""
        p, alpha = self._process.fitted()
        G, prior = derivative(self._kernel, self.Z[center : center + 1], p)
        half = self._process.half(G)
        return alpha @ G, 1.0 - float(np.vdot(half, half)) / prior

    def _distances(self, x: Array) -> Array:
        """Return squared distances minus |x|^2, by one product over the pool."""
        return self._squares - 2.0 * (self.Z @ x)

    def moved(self, center: int, gradient: Array, length: float) -> int:
        """Return the free candidate nearest to the center shifted along the gradient."""
        target = self.Z[center] + (length / np.linalg.norm(gradient)) * gradient
        distances = self._distances(target)
        distances[self._taken] = np.inf
        return int(distances.argmin())

    def radius(self, center: int, neighbors: int) -> float:
        """Return the distance to the k-th nearest other candidate."""
        square = np.partition(self._distances(self.Z[center]), neighbors)[neighbors]
        return float(np.sqrt(max(0.0, square + self._squares[center])))

    def neighbors(self, center: int, k: int) -> list[int]:
        """Return the nearest free candidates, nearest first."""
        distances = self._distances(self.Z[center])
        distances[self._taken] = np.inf
        near = np.argpartition(distances, k)[:k]
        return [int(i) for i in near[np.argsort(distances[near], kind="stable")]]


def searches(Z: Any, kernel: Any, scores: Any, start: list[int]) -> dict[str, Any]:
    """Return our gradient search with this engine."""
    return {LABEL: LocalSearchPeer(_Engine, Z, kernel, scores, start)}
