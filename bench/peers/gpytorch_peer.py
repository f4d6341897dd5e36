"""GPyTorch's exact GP and BoTorch's model on top of it, in float64, with their RBF kernel and our NTK.

Hyperparameters are given; nothing is fitted to the likelihood. Autograd computes the gradient of the mean;
there is no gradient uncertainty. An append is `condition_on_observations` (BoTorch) or `get_fantasy_model`
(GPyTorch), which update their caches by a low-rank step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch import settings
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.models import ExactGP
from torch import Tensor

from .local import LocalSearchPeer
from .torch_closed import Network, _Engine as TorchEngine

BLOCK = 256  # points per call; larger blocks cost more per point because of their joint covariance


class NTKKernel(Kernel):
    """Our kernel as a GPyTorch kernel, in closed form."""

    has_lengthscale = False

    def __init__(self, net: Network) -> None:
        super().__init__()
        self._net = net

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """Return K (..., n, m) of (..., n, d) and (..., m, d), or its diagonal (..., n)."""
        if x1.dim() > 2:  # flatten leading dimensions: one kernel per slice
            shape = x1.shape[:-2]
            rows = zip(x1.flatten(0, -3), x2.expand(*shape, *x2.shape[-2:]).flatten(0, -3), strict=True)
            return torch.stack([self.forward(a, b, diag) for a, b in rows]).unflatten(0, shape)
        return self._net.diag(x1) if diag else self._net.gram(x1, x2)


def rbf(X: Any) -> Kernel:
    """GPyTorch's own kernel for standardised data: length scale sqrt(d), scale 1."""
    kernel = ScaleKernel(RBFKernel()).double()
    kernel.outputscale = 1.0
    kernel.base_kernel.lengthscale = X.shape[1] ** 0.5
    return kernel


class _Exact(ExactGP):
    def __init__(self, X: Tensor, y: Tensor, noise: float, kernel: Kernel) -> None:
        super().__init__(X, y, FixedNoiseGaussianLikelihood(torch.full_like(y, noise)))
        self.mean_module, self.covar_module = ZeroMean(), kernel

    def forward(self, X: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(X), self.covar_module(X))


class Process:
    """A GPyTorch model in evaluation mode, its caches filled."""

    def __init__(self, model: Any, noise: float) -> None:
        self._model, self._noise = model.eval(), noise
        model.likelihood.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.predict(model.train_inputs[0][:1])

    def points(self, X: Any) -> Tensor:
        return torch.tensor(np.asarray(X, dtype=np.float64))

    def predict(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Predict by blocks, because a call computes the joint covariance of all its points."""
        parts = [self.joint(block) for block in X.split(BLOCK)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([variance for _, variance in parts])

    def joint(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance in one call."""
        with torch.no_grad(), settings.fast_pred_var():
            posterior = self._model(X)
            return posterior.mean, posterior.variance

    def posterior(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().clone().requires_grad_()
        with settings.fast_pred_var():
            posterior = self._model(x)
            mean, variance = posterior.mean, posterior.variance
        (gradient,) = torch.autograd.grad(mean.sum(), x)
        return mean.detach(), variance.detach(), gradient[0]

    def appended(self, x: Tensor, y: float) -> Any:
        """Return the model with one more observation and updated caches."""
        targets = x.new_tensor([y])
        return self._model.get_fantasy_model(x, targets, noise=torch.full_like(targets, self._noise))


class Joint:
    """The same process with all points in one call, as users first write it."""

    def __init__(self, process: Process) -> None:
        self.points, self.predict = process.points, process.joint


class BoTorchProcess(Process):
    """The same process through BoTorch's model."""

    def appended(self, x: Tensor, y: float) -> Any:
        targets = x.new_tensor([[y]])
        return self._model.condition_on_observations(x, targets, noise=torch.full_like(targets, self._noise))


def _botorch(X: Tensor, y: Tensor, noise: float, kernel: Kernel) -> SingleTaskGP:
    targets = y[:, None]
    return SingleTaskGP(
        X,
        targets,
        torch.full_like(targets, noise),
        covar_module=kernel,
        mean_module=ZeroMean(),
        outcome_transform=None,
    )


def processes(kernel: Any, X: Any, y: Any, noise: float) -> dict[str, Any]:
    """Return GPyTorch with its RBF and with our NTK, and BoTorch's model with the RBF."""
    A, targets, net = torch.tensor(X), torch.tensor(y), Network(kernel)
    plain = Process(_Exact(A, targets, noise, rbf(X)), noise)
    return {
        "GPyTorch, RBF": plain,
        "GPyTorch, RBF, one joint call": Joint(plain),
        "GPyTorch, NTK": Process(_Exact(A, targets, noise, NTKKernel(net)), noise),
        "BoTorch, RBF": BoTorchProcess(_botorch(A, targets, noise, rbf(X)), noise),
    }


class _Engine(TorchEngine):
    """BoTorch's model rebuilt each step without hyperparameter search; the pool as in torch_closed."""

    def fit(self, indices: list[int], scores: Any, noise: float) -> None:
        self._indices, self._noise = list(indices), noise
        self._remodel(scores)

    def append(self, i: int, scores: Any) -> None:
        self._indices.append(i)
        self._remodel(scores)

    def _remodel(self, scores: Any) -> None:
        y = torch.tensor(scores)
        model = _botorch(self.Z[self._indices], y - y.mean(), self._noise, NTKKernel(self._net))
        self._process = Process(model, self._noise)  # type: ignore[assignment]

    def slope(self, center: int) -> tuple[Tensor, float]:
        """Return the gradient of the mean at a candidate; BoTorch has no gradient uncertainty."""
        return self._process.posterior(self.Z[center : center + 1])[2], 0.0


def searches(Z: Any, kernel: Any, scores: Any, start: list[int]) -> dict[str, Any]:
    """Return our gradient search over BoTorch's model with our NTK, without exploration."""
    return {"BoTorch, NTK": LocalSearchPeer(_Engine, Z, kernel, scores, start)}
