"""Published ZOPO loop in PyTorch, written from its description (arXiv 2403.02993).

Each fit is a new Gaussian process on the scored points nearest to the current one. Its kernel is the
empirical NTK, contracted from per-sample Jacobians (vmap(jacrev)) and inverted in float32. Autograd through
that kernel gives the gradient of the mean. Adam takes the step, and a Python loop projects it onto the
nearest unscored candidate. In float64 the loop reproduces recorded runs evaluation by evaluation.

The described state is a list of (embedding, score). Looking a candidate up by its embedding takes n
comparisons per candidate and most of a step. Lookup by index costs a tenth; both are timed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from zopo_fast import NTK
from zopo_fast.search.config import OfficialSettings

Lookup = Literal["embedding", "index"]


def network(kernel: Any, dtype: torch.dtype, device: str = "cpu") -> nn.Sequential:
    """Return Linear and ReLU layers with these weights."""
    layers: list[nn.Module] = []
    sizes = [kernel.dim, *(len(b) for b in kernel.biases)]
    for (fan_in, fan_out), W, b in zip(pairwise(sizes), kernel.weights, kernel.biases, strict=True):
        linear = nn.Linear(fan_in, fan_out, dtype=dtype, device=device)
        linear.load_state_dict({"weight": torch.tensor(W), "bias": torch.tensor(b)})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class EmpiricalNTK:
    """Kernel k(x, x') = <df(x)/dtheta, df(x')/dtheta> from Jacobians over all parameters."""

    def __init__(self, kernel: Any, dtype: torch.dtype, device: str = "cpu") -> None:
        self.net = network(kernel, dtype, device)
        self.parameters = {name: p.detach() for name, p in self.net.named_parameters()}
        self._jacobian = vmap(jacrev(self._output), (None, 0))

    def _output(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.net, parameters, (x,)).squeeze(-1)

    def jacobian(self, X: Tensor) -> list[Tensor]:
        """Return df(X_i)/dtheta, one (n, parameters) matrix per weight or bias."""
        return [J.flatten(1) for J in self._jacobian(self.parameters, X).values()]

    def contract(self, J: list[Tensor], K: list[Tensor]) -> Tensor:
        """Return the sum over all parameters of products of two sets of Jacobians, (n, m)."""
        return sum((a @ b.T for a, b in zip(J, K, strict=True)), J[0].new_zeros(()))

    def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
        return self.contract(self.jacobian(X), self.jacobian(Y))


class Surrogate:
    """GP on the scored points nearest to `center`, with inputs scaled to [0, 1] over them."""

    def __init__(
        self, ntk: EmpiricalNTK, X: Tensor, y: Tensor, center: Tensor, settings: OfficialSettings
    ) -> None:
        near = torch.argsort(torch.linalg.vector_norm(X - center, dim=1), stable=True)
        X, y = X[near[: settings.gp_queries]], y[near[: settings.gp_queries]]
        low, high = X.min(dim=0).values, X.max(dim=0).values
        constant = low == high
        self._low = torch.where(constant, torch.zeros_like(low), low)
        self._span = torch.where(constant, torch.ones_like(high), high) - self._low
        self._ntk = ntk
        X = self._scaled(X)
        self._jacobian = ntk.jacobian(X)
        K = ntk.contract(self._jacobian, self._jacobian)
        noise = settings.sigma**2 * torch.eye(len(X), dtype=X.dtype, device=X.device)
        self._inverse = torch.linalg.inv(K + noise)
        self._weights = self._inverse @ y

    def _scaled(self, X: Tensor) -> Tensor:
        return (X - self._low) / self._span

    def descent(self, x: Tensor) -> tuple[Tensor, float]:
        """Return the gradient of -mean with respect to raw x (d,) by autograd, and |variance|."""
        x = x.detach().clone().requires_grad_()
        J = self._ntk.jacobian(self._scaled(x)[None])
        k = self._ntk.contract(J, self._jacobian)
        (gradient,) = torch.autograd.grad(-(k @ self._weights).sum(), x)
        with torch.no_grad():
            variance = self._ntk.contract(J, J) - k @ self._inverse @ k.T
        return gradient, abs(variance.item())


class PublishedZopo:
    """Whole loop on a pool with known scores.

    Args:
        Z: (m, d) embeddings, used raw.
        kernel: weights and biases of the network.
        scores: (m,), higher is better; known in advance, so that a step is the optimiser's work alone.
        initial: indices scored first.
        budget: total evaluations.
        dtype: float32 as published; float64 to compare.
        lookup: lookup of a candidate among the scored ones; see above.
        device: PyTorch's name of the device.
    """

    kernel_type: type[EmpiricalNTK] = EmpiricalNTK
    surrogate_type: type[Surrogate] = Surrogate

    def __init__(
        self,
        Z: Any,
        kernel: Any,
        scores: Any,
        initial: list[int],
        budget: int = 165,
        settings: OfficialSettings | None = None,
        dtype: torch.dtype = torch.float32,
        lookup: Lookup = "embedding",
        device: str = "cpu",
    ) -> None:
        self.settings = settings or OfficialSettings()
        self._pool = torch.tensor(np.asarray(Z, dtype=np.float64)).to(device, dtype)
        self._scores, self._budget = np.asarray(scores, dtype=np.float64), budget
        self._ntk = self.kernel_type(kernel, dtype, device)
        self.evaluated: list[int] = []
        self.explored: list[int] = []
        self.asked: list[int] = []
        self.uncertainty: list[float] = []  # |variance| in order of evaluation
        self._lookup, self._seen, self._taken = lookup, list[Tensor](), set[int]()
        for i in initial:
            self._score(i)
        self._count = len(initial)
        self._best = float(self._scores[initial].max())
        self._stale = self._uncertain = 0
        self._held = nn.Parameter(torch.zeros_like(self._pool[0]))  # the parameter of Adam
        self._fresh_adam()

    @property
    def done(self) -> bool:
        """True when the budget is spent."""
        return self._count >= self._budget

    def step(self) -> int:
        """Run one ask with its evaluation and exploration rounds; return its index, -1 for none left."""
        self._count += 1
        current = self._current()
        surrogate, x, answer, steps = self._fit(current), current, -1, 0
        s, exhausted = self.settings, False
        while True:
            descent, variance = surrogate.descent(x)
            self.uncertainty.append(variance)
            if steps == 0:
                self._note(variance)
            flat = bool(descent.sum() == 0)
            if flat or (self._explores() and not exhausted):
                self._stale = self._uncertain = 0
                exhausted = not self._explore(current)
                if exhausted and flat:  # the published loop never returns here
                    answer = self._project(x)
                    break
                surrogate = self._fit(current)
                continue
            if steps >= s.max_steps or not (variance < s.uncertainty_threshold or steps == 0):
                break
            if steps == 0:
                self._held.data.copy_(x)
                self._held.grad = descent
            self._adam.step()  # a second pass repeats the first point and gradient
            x = self._pool[answer := self._project(self._held.data if steps == 0 else x)]
            steps += 1
            if variance >= s.uncertainty_threshold:
                break
        if answer < 0:  # exploration rounds scored the last candidates
            self._count -= 1
            return answer
        self._score(answer)
        self.asked.append(answer)
        return answer

    def _score(self, index: int) -> None:
        self.evaluated.append(index)
        self._taken.add(index)
        self._seen.append(self._pool[index])

    def _fresh_adam(self) -> None:
        self._adam = torch.optim.Adam([self._held], lr=self.settings.lr)

    def _current(self) -> Tensor:
        """Return the start of this ask: first the best point, then the last one, the best after a stall."""
        seen = self._scores[self.evaluated]
        at = len(seen) - 1 if self.asked else int(np.argmax(seen))
        if seen[at] > self._best:
            self._best, self._stale = float(seen[at]), 0
        else:
            self._stale += 1
        if self._stale > self.settings.tolerance:
            at, self._stale = int(np.argmax(seen)), 0
            self._fresh_adam()
        return self._pool[self.evaluated[at]]

    def _fit(self, current: Tensor) -> Surrogate:
        X = self._pool[self.evaluated]
        y = torch.tensor(self._scores[self.evaluated], dtype=X.dtype, device=X.device)
        return self.surrogate_type(self._ntk, X, y, current, self.settings)

    def _note(self, variance: float) -> None:
        if variance > self.settings.uncertainty_threshold:
            self._uncertain += 1
        elif variance < self.settings.uncertainty_threshold:
            self._uncertain = 0

    def _explores(self) -> bool:
        s = self.settings
        return self._uncertain >= s.uncertainty_count and self._count <= self._budget - s.neighbors

    def _project(self, x: Tensor) -> int:
        """Return the nearest unscored candidate, ties to the first."""
        nearest, least = -1, float("inf")
        for i, candidate in enumerate(self._pool):
            if self._is_scored(i, candidate):
                continue
            distance = torch.linalg.vector_norm(candidate - x).item()
            if distance < least:
                nearest, least = i, distance
        return nearest

    def _is_scored(self, i: int, candidate: Tensor) -> bool:
        if self._lookup == "index":
            return i in self._taken
        return any(torch.equal(candidate, x) for x in self._seen)

    def _explore(self, current: Tensor) -> bool:
        """Score the unscored neighbours; return False without any."""
        k = self.settings.neighbors
        distance = torch.linalg.vector_norm(self._pool - current, dim=1).cpu().numpy()
        near = np.argpartition(distance, k)[:k] if k < len(distance) else np.arange(len(distance))
        free = [int(i) for i in near if int(i) not in self._taken]
        for i in free:
            self._score(i)
        self.explored += free
        self._count += len(free)
        return bool(free)


def grams(kernel: Any, X: Any, Y: Any | None) -> dict[str, Any]:
    """Return the kernel matrix from Jacobians of both sides, float32 as published."""
    ntk = EmpiricalNTK(kernel, torch.float32)
    A = torch.tensor(X, dtype=torch.float32)
    B = A if Y is None else torch.tensor(Y, dtype=torch.float32)
    return {"published (vmap(jacrev), float32)": lambda: ntk(A, B)}


def searches(Z: Any, kernel: Any, scores: Any, start: list[int]) -> dict[str, Any]:
    """Return the published loop with its script's settings, in float32, with N(0, 1) weights."""
    kernel = NTK.random(kernel.dim, initialization="normal")
    endless = len(start) + 10**6  # the benchmark stops the loop
    return {
        "published": PublishedZopo(Z, kernel, scores, start, endless),
        "published, lookup by index": PublishedZopo(Z, kernel, scores, start, endless, lookup="index"),
    }
