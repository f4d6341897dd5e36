"""Closed form in PyTorch: our formulas, eager and compiled, float64 unless stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .local import LocalSearchPeer

# Compilation takes tens of seconds, untimed; a quick run skips it.
compile_too = True


class Network:
    """Weights as tensors, and the features of points."""

    def __init__(self, kernel: Any, device: str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        self.W = [torch.tensor(w, device=device, dtype=dtype) for w in kernel.weights]
        self.b = [torch.tensor(b, device=device, dtype=dtype) for b in kernel.biases]

    def features(self, X: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return h_0..h_L (n, width_l) and D_0..D_L, D_l (n, width_{l+1})."""
        h = [X]
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            h.append(torch.relu(torch.addmm(b, h[-1], W.T)))
        D = [X.new_ones(len(X), 1)]
        for W, active in zip(self.W[:0:-1], h[:0:-1], strict=True):
            D.insert(0, (D[0] @ W) * (active > 0))
        return h, D

    def gram(self, X: Tensor, Y: Tensor | None = None) -> Tensor:
        """Return k(X_i, Y_j) = sum_l (h_l.h_l' + 1) (D_l.D_l'), (n, m)."""
        p = self.features(X)
        return contract(p, p if Y is None else self.features(Y))

    def diag(self, X: Tensor) -> Tensor:
        """Return k(X_i, X_i), (n,)."""
        h, D = self.features(X)
        return sum(((a * a).sum(1) + 1) * (c * c).sum(1) for a, c in zip(h, D, strict=True))  # type: ignore[return-value]

    def input_jacobians(self, h: list[Tensor]) -> list[Tensor]:
        """Return J_1..J_L at one point, (width_l, d); J_0 is the identity."""
        J: list[Tensor] = []
        for W, active in zip(self.W[:-1], h[1:], strict=True):
            J.append((active[0] > 0)[:, None] * (W @ J[-1] if J else W))
        return J


Features = tuple[list[Tensor], list[Tensor]]


def contract(p: Features, q: Features) -> Tensor:
    """Return the kernel between two sets of points, from their features."""
    K = torch.addmm(p[0][0].new_ones(()), p[0][0], q[0][0].T) * (p[1][0] @ q[1][0].T)
    for h, g, D, E in zip(p[0][1:], q[0][1:], p[1][1:], q[1][1:], strict=True):
        K = K + (h @ g.T + 1) * (D @ E.T)
    return K


def derivative(net: Network, x: Tensor, p: Features) -> tuple[Tensor, Tensor]:
    """Return dk(x, X)/dx (n, d) and tr d2k at x; x (1, d), p the features of X."""
    h, D = net.features(x)
    gamma = [E @ c[0] for c, E in zip(D, p[1], strict=True)]  # D_l(X_i).D_l(x)
    G = gamma[0][:, None] * p[0][0]
    prior = (D[0] * D[0]).sum() * x.shape[1]
    for J, g, c, hidden in zip(net.input_jacobians(h), gamma[1:], D[1:], p[0][1:], strict=True):
        G = torch.addmm(G, g[:, None] * hidden, J)
        prior = prior + (c * c).sum() * (J * J).sum()
    return G, prior


class ClosedProcess:
    """Exact GP by a Cholesky factor; K is kept, and the factor is recomputed when the data change."""

    def __init__(self, net: Network, X: Tensor, y: Tensor, noise: float, K: Tensor | None = None) -> None:
        self.net, self.X, self.y, self.noise = net, X, y, noise
        self.K = net.gram(X) if K is None else K
        self.C = torch.linalg.cholesky(self.K + noise * torch.eye(len(X), dtype=X.dtype, device=X.device))
        self._fit: tuple[Features, Tensor] | None = None

    def points(self, X: Any) -> Tensor:
        return torch.tensor(np.asarray(X, dtype=np.float64), device=self.X.device)

    def _fitted(self) -> tuple[Features, Tensor]:
        """Compute the features of X and A^-1 y."""
        if self._fit is None:
            alpha = torch.cholesky_solve(self.y[:, None], self.C)[:, 0]
            self._fit = self.net.features(self.X), alpha
        return self._fit

    def predict(self, X: Tensor) -> tuple[Tensor, Tensor]:
        p, alpha = self._fitted()
        k = contract(p, self.net.features(X))
        half = torch.linalg.solve_triangular(self.C, k, upper=False)
        return alpha @ k, self.net.diag(X) - (half * half).sum(0)

    def posterior(self, x: Tensor) -> tuple[Tensor, ...]:
        p, alpha = self._fitted()
        mean, variance = self.predict(x)
        G, prior = derivative(self.net, x, p)
        half = torch.linalg.solve_triangular(self.C, G, upper=False)
        return mean, variance, alpha @ G, prior - (half * half).sum()

    def appended(self, x: Tensor, y: float) -> ClosedProcess:
        n = len(self.X)
        K = self.K.new_empty(n + 1, n + 1)
        K[:n, :n] = self.K
        K[n, :n] = K[:n, n] = contract(self.net.features(x), self._fitted()[0])[0]
        K[n, n] = self.net.diag(x)[0]
        X, targets = torch.cat([self.X, x]), torch.cat([self.y, self.y.new_tensor([y])])
        return ClosedProcess(self.net, X, targets, self.noise, K)

    def removed(self, i: int) -> ClosedProcess:
        kept = torch.arange(len(self.X), device=self.X.device) != i
        return ClosedProcess(self.net, self.X[kept], self.y[kept], self.noise, self.K[kept][:, kept])


class Compiled(ClosedProcess):
    """The same process with compiled prediction and posterior."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._fitted()
        self._predict = torch.compile(super().predict, dynamic=False)
        self._posterior = torch.compile(super().posterior, dynamic=False)

    def predict(self, X: Tensor) -> tuple[Tensor, Tensor]:
        return self._predict(X)  # type: ignore[no-any-return]

    def posterior(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._posterior(x)  # type: ignore[no-any-return]


def grams(kernel: Any, X: Any, Y: Any | None) -> dict[str, Any]:
    """Return an eager and a compiled version."""
    net, A = Network(kernel), torch.tensor(X)
    B = None if Y is None else torch.tensor(Y)
    cases = {"PyTorch closed form": lambda: net.gram(A, B)}
    if compile_too:
        compiled = torch.compile(net.gram, dynamic=False)
        cases["PyTorch closed form, compiled"] = lambda: compiled(A, B)
    return cases


def processes(kernel: Any, X: Any, y: Any, noise: float) -> dict[str, Any]:
    """Return an eager and a compiled version."""
    net, A, targets = Network(kernel), torch.tensor(X), torch.tensor(y)
    found: dict[str, Any] = {"PyTorch closed form": ClosedProcess(net, A, targets, noise)}
    if compile_too:
        found["PyTorch closed form, compiled"] = Compiled(net, A, targets, noise)
    return found


class _Engine:
    """Model and pool of a search; see local.py."""

    def __init__(self, Z: Any, kernel: Any) -> None:
        self.Z, self._net = torch.tensor(Z), Network(kernel)
        self._free = torch.ones(len(Z), dtype=torch.bool)
        self._squares = (self.Z * self.Z).sum(1)

    def scale(self) -> float:
        return self._net.diag(self.Z).mean().item()

    def gram(self, indices: list[int]) -> Any:
        return self._net.gram(self.Z[indices]).numpy()

    def take(self, i: int) -> None:
        self._free[i] = False

    def fit(self, indices: list[int], scores: Any, noise: float) -> None:
        y = torch.tensor(scores)
        self._process = ClosedProcess(self._net, self.Z[indices], y - y.mean(), noise)

    def append(self, i: int, scores: Any) -> None:
        grown = self._process.appended(self.Z[i : i + 1], 0.0)
        y = torch.tensor(scores)
        grown.y = y - y.mean()
        self._process = grown

    def slope(self, center: int) -> tuple[Tensor, float]:
        """Return the gradient of the mean at a candidate and its relative uncertainty."""
        process = self._process
        p, alpha = process._fitted()
        G, prior = derivative(self._net, self.Z[center : center + 1], p)
        half = torch.linalg.solve_triangular(process.C, G, upper=False)
        return alpha @ G, 1.0 - ((half * half).sum() / prior).item()

    def _distances(self, x: Tensor) -> Tensor:
        """Return squared distances minus |x|^2, by one product over the pool."""
        return torch.addmv(self._squares, self.Z, x, alpha=-2.0)

    def moved(self, center: int, gradient: Tensor, length: float) -> int:
        """Return the free candidate nearest to the center shifted along the gradient."""
        target = self.Z[center] + (length / torch.linalg.vector_norm(gradient)) * gradient
        return self._distances(target).masked_fill_(~self._free, torch.inf).argmin().item()  # type: ignore[return-value]

    def radius(self, center: int, neighbors: int) -> float:
        """Return the distance to the k-th nearest other candidate."""
        square = self._distances(self.Z[center]).topk(neighbors + 1, largest=False).values[-1]
        return (square + self._squares[center]).clamp_min_(0.0).sqrt_().item()

    def neighbors(self, center: int, k: int) -> list[int]:
        """Return the nearest free candidates, nearest first."""
        distances = self._distances(self.Z[center]).masked_fill_(~self._free, torch.inf)
        return distances.topk(k, largest=False).indices.tolist()  # type: ignore[no-any-return]


def searches(Z: Any, kernel: Any, scores: Any, start: list[int]) -> dict[str, Any]:
    """Return our gradient search with this engine."""
    return {"PyTorch closed form": LocalSearchPeer(_Engine, Z, kernel, scores, start)}
