"""Published loop in float32 with closed-form Jacobians, bit-identical to functorch and autograd.

The loop's exploration follows rounding noise, so products and sums must run in the order of vmap(jacrev)
and autograd (peers/published.py). With the same library and threads both agree bit for bit; only the time
differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zopo_fast.search.config import OfficialSettings

from ..peers.published import EmpiricalNTK, PublishedZopo, Surrogate


class ClosedFormNTK(EmpiricalNTK):
    """Jacobians df(x)/dW_l = D_l h_l^T and df(x)/db_l = D_l; the sum over parameters is the published one."""

    def __init__(self, kernel: Any, dtype: torch.dtype, device: str = "cpu") -> None:
        arrays = zip(kernel.weights, kernel.biases, strict=True)
        self.layers = [tuple(torch.tensor(a).to(device, dtype) for a in pair) for pair in arrays]

    def signals(self, X: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return h_l and D_l of every layer, (n, width) each."""
        h = [X]
        for W, b in self.layers[:-1]:
            h.append((h[-1] @ W.T + b).relu_())  # addmm would round once less
        D = [X.new_ones(len(X), 1)]
        for (W, _), above in zip(self.layers[:0:-1], h[:0:-1], strict=True):
            D.append((D[-1] @ W).mul_(above > 0))
        return h, D[::-1]

    def outer(self, h: list[Tensor], D: list[Tensor]) -> list[Tensor]:
        """Return their products, the Jacobian, in the order of the network's parameters."""
        found = []
        for a, b in zip(D, h, strict=True):
            found += [(a[:, :, None] * b[:, None, :]).flatten(1), a]
        return found

    def jacobian(self, X: Tensor) -> list[Tensor]:
        return self.outer(*self.signals(X))


class ClosedFormSurrogate(Surrogate):
    """The published process with its gradient by the explicit chain rule."""

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


class Adam:
    """torch.optim.Adam for one vector, operation by operation."""

    def __init__(self, held: nn.Parameter, lr: float) -> None:
        self._held, self._lr, self._count = held, lr, 0
        self._first, self._second = torch.zeros_like(held), torch.zeros_like(held)

    def step(self) -> None:
        gradient = self._held.grad
        assert gradient is not None
        self._count += 1
        self._first.lerp_(gradient, 1 - 0.9)
        self._second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        scale = (self._second.sqrt() / (1 - 0.999**self._count) ** 0.5).add_(1e-8)
        self._held.addcdiv_(self._first, scale, value=-self._lr / (1 - 0.9**self._count))


class ClosedFormZopo(PublishedZopo):
    """The whole loop on the CPU; candidates by index, all distances at once."""

    kernel_type = ClosedFormNTK
    surrogate_type = ClosedFormSurrogate
    _adam: Adam  # type: ignore[assignment]

    def __init__(
        self,
        Z: Any,
        kernel: Any,
        scores: Any,
        initial: list[int],
        budget: int = 165,
        settings: OfficialSettings | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(Z, kernel, scores, initial, budget, settings, dtype, "index")
        self._rows = self._pool.numpy()  # the same memory; NumPy gathers rows faster
        self._noted = self._scores.astype(self._rows.dtype)

    @torch.inference_mode()
    def step(self) -> int:
        """Run one ask on one thread: more threads would add in another order."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().step()
        finally:
            torch.set_num_threads(threads)

    def _fresh_adam(self) -> None:
        self._adam = Adam(self._held, self.settings.lr)

    def _fit(self, current: Tensor) -> Surrogate:
        X, y = torch.from_numpy(self._rows[self.evaluated]), torch.from_numpy(self._noted[self.evaluated])
        return self.surrogate_type(self._ntk, X, y, current, self.settings)

    def _project(self, x: Tensor) -> int:
        distance = torch.linalg.vector_norm(self._pool - x, dim=1).numpy()
        distance[self.evaluated] = np.inf
        nearest = int(distance.argmin())
        return nearest if distance[nearest] < np.inf else -1
