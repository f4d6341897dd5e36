"""The published loop in float32, Jacobians in closed form: the same rounding, without functorch and autograd.

Its exploration follows rounding noise, so it is not enough to compute the same kernel: products and sums are
taken in the order that vmap(jacrev) and autograd take them in (peers/published.py). With the same library and
threads the two then agree bit for bit. Of a run only the time differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .peers.published import EmpiricalNTK, PublishedZopo, Surrogate


class ClosedFormNTK(EmpiricalNTK):
    """df(x)/dW_l = D_l h_l^T and df(x)/db_l = D_l; the sum over parameters is not brought into closed form."""

    def __init__(self, kernel: Any, dtype: torch.dtype, device: str = "cpu") -> None:
        super().__init__(kernel, dtype, device)
        linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        self.layers = [(layer.weight.detach(), layer.bias.detach()) for layer in linear]

    def signals(self, X: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h_l and D_l, (n, width) each, of every layer."""
        h = [X]
        for W, b in self.layers[:-1]:
            h.append((h[-1] @ W.T + b).relu_())  # not addmm, which rounds once less
        D = [X.new_ones(len(X), 1)]
        for (W, _), above in zip(self.layers[:0:-1], h[:0:-1], strict=True):
            D.append((D[-1] @ W).mul_(above > 0))
        return h, D[::-1]

    def outer(self, h: list[Tensor], D: list[Tensor]) -> list[Tensor]:
        """Their products: the Jacobian, in the order of the network's parameters."""
        found = []
        for a, b in zip(D, h, strict=True):
            found += [(a[:, :, None] * b[:, None, :]).flatten(1), a]
        return found

    def jacobian(self, X: Tensor) -> list[Tensor]:
        return self.outer(*self.signals(X))


class ClosedFormSurrogate(Surrogate):
    """The same process; the gradient by its chain rule written out."""

    _ntk: ClosedFormNTK

    def descent(self, x: Tensor) -> tuple[Tensor, float]:
        ntk = self._ntk
        h, D = ntk.signals(self._scaled(x)[None])
        J = ntk.outer(h, D)
        k = ntk.contract(J, self._jacobian)
        variance = ntk.contract(J, J) - k @ self._inverse @ k.T
        back = x.new_zeros(())  # d(-mean)/d(pre-activation of the layer above), through h alone
        for at in reversed(range(len(h))):
            W, _ = ntk.layers[at]
            through = (-self._weights[None] @ self._jacobian[2 * at]).view(W.shape)
            dh = D[at] @ through
            if at + 1 < len(h):
                dh = dh + back @ W
            back = dh * (h[at] > 0)
        return (dh / self._span)[0], abs(variance.item())


class ClosedFormZopo(PublishedZopo):
    """The whole loop; candidates looked up by index, all distances at once."""

    def __init__(self, Z: Any, kernel: Any, *arguments: Any, **keywords: Any) -> None:
        keywords["lookup"] = "index"
        super().__init__(Z, kernel, *arguments, **keywords)
        self._ntk: ClosedFormNTK = ClosedFormNTK(kernel, self._pool.dtype, str(self._pool.device))

    @torch.no_grad()
    def step(self) -> int:
        return super().step()

    def _fit(self, current: Tensor) -> Surrogate:
        X = self._pool[self.evaluated]
        y = torch.tensor(self._scores[self.evaluated], dtype=X.dtype, device=X.device)
        return ClosedFormSurrogate(self._ntk, X, y, current, self.settings)

    def _project(self, x: Tensor) -> int:
        distance = torch.linalg.vector_norm(self._pool - x, dim=1)
        distance[self.evaluated] = torch.inf
        nearest = int(distance.argmin())
        return nearest if distance[nearest] < torch.inf else -1
