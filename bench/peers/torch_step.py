"""One posterior and one append at the same point in PyTorch: eager, compiled, and as a CUDA graph.

The comparison favours the peer: posterior and append share the kernel row and the triangular solve. A
caller that chooses the appended point from the posterior cannot share them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .torch_closed import Features, Network, contract, derivative

Step = Callable[[Tensor], Tensor]


class Fitted:
    """GP of n points: features, the Cholesky factor C (n, n) of K + noise, and C^-1 y."""

    def __init__(self, net: Network, X: Tensor, y: Tensor, noise: float) -> None:
        self.net, self.noise = net, noise
        self.points: Features = net.features(X)
        A = contract(self.points, self.points) + noise * torch.eye(len(X), dtype=X.dtype, device=X.device)
        self.C = torch.linalg.cholesky(A)
        self.b = torch.linalg.solve_triangular(self.C, y[:, None], upper=False)[:, 0]

    def step(self, x: Tensor) -> Tensor:
        """Compute the posterior at x (1, d) and the append of x with score 0.

        Returns:
            mean, variance, trace of the gradient's covariance, the gradient (d,), the factor's new row
            (n + 1,) and the new entry of C^-1 y; one tensor.
        """
        own = self.net.features(x)
        k = contract(self.points, own)
        G, prior = derivative(self.net, x, self.points)
        half = torch.linalg.solve_triangular(self.C, torch.cat([k, G], 1), upper=False)
        row, slopes = half[:, 0], half[:, 1:]
        mean, gradient = row @ self.b, self.b @ slopes
        variance = self.net.diag(x)[0] - row @ row
        pivot = torch.sqrt(variance + self.noise)
        uncertainty = prior - (slopes * slopes).sum()
        numbers = torch.stack([mean, variance, uncertainty, pivot, -mean / pivot])
        return torch.cat([numbers[:3], gradient, row, numbers[3:]])


def steps(
    kernel: Any, X: Any, y: Any, noise: float, device: str, compile_too: bool = True
) -> dict[str, Callable[[], Step]]:
    """Return factories of the step by label; each may compile for seconds or fail here.

    A step takes x (1, d) on the device and returns the result on the host.
    """
    net = Network(kernel, device)
    fitted = Fitted(net, torch.tensor(X, device=device), torch.tensor(y, device=device), noise)

    def on_host(step: Step) -> Step:
        return lambda x: step(x).cpu()

    makers: dict[str, Callable[[], Step]] = {"PyTorch closed form, eager": lambda: on_host(fitted.step)}
    if compile_too:
        makers["PyTorch closed form, compiled"] = lambda: on_host(torch.compile(fitted.step, dynamic=False))
    if device != "cpu":
        makers["PyTorch closed form, CUDA graph"] = lambda: on_host(graphed(fitted.step, len(X[0])))
    return makers


def graphed(step: Step, dim: int) -> Step:
    """Return the step as a captured graph: a call copies x in and replays it."""
    x = torch.zeros(1, dim, dtype=torch.float64, device="cuda").normal_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # library initialisation cannot be captured
            step(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(x)

    def replay(given: Tensor) -> Tensor:
        x.copy_(given)
        graph.replay()
        return out

    return replay
