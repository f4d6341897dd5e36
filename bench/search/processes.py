"""Methods with a model of the whole pool's scores: Gaussian processes and NeuralUCB."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf

from .replay import Array, Method, Problem, Search, in_full

Indices = NDArray[np.intp]
# Mean and covariance of the latent scores of `free`, given standardised scores of `scored`.
Posterior = Callable[[Indices, Array, Indices], tuple[Array, Array]]
# Mean (q,) and covariance (q, q) of the latent scores of the free candidates, the best score so far.
Acquisition = Callable[[Array, Array, float, np.random.Generator], Array]
NOISE_GRID = np.logspace(-3, 1, 17)  # noise variance relative to the signal's
REFIT = 10  # scores between two fits of scikit-learn's hyperparameters
LENGTHS = np.geomspace(0.5, 2.0, 4)  # of the RBF kernel, in median distances of the pool
MIN_SIGNAL = 1e-2  # variance of the signal, of standardised scores
JITTER = 1e-9


# ---- acquisition -------------------------------------------------------------------------------------


def expected_improvement(mean: Array, covariance: Array, best: float, _: np.random.Generator) -> Array:
    """Return E max(f - best, 0)."""
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-t / math.sqrt(2.0)) for t in z])
    improvement: Array = deviation * (z * below + density)
    return improvement


def thompson(mean: Array, covariance: Array, _: float, rng: np.random.Generator) -> Array:
    """Return one joint sample of the posterior."""
    jitter = 1e-6 * np.diag(covariance).max() + JITTER
    root = np.linalg.cholesky(covariance + jitter * np.eye(len(mean)))
    sample: Array = mean + root @ rng.standard_normal(len(mean))
    return sample


def upper_confidence(mean: Array, covariance: Array, _: float, __: np.random.Generator) -> Array:
    """Return the mean plus one standard deviation: NeuralUCB's nu = 1."""
    bound: Array = mean + np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return bound


# ---- common loop ------------------------------------------------------------------------------------


class Process(Method):
    """Loop that scores the initial points, then always the free candidate of highest acquisition."""

    def __init__(self, name: str, acquire: Acquisition) -> None:
        self.name, self.acquire = name, acquire

    @abstractmethod
    def posterior(self, problem: Problem) -> Posterior:
        """Return a function (scored, standardised scores, free) -> mean and covariance."""

    def search(self, problem: Problem) -> Search:
        posterior = self.posterior(problem)
        scored: list[int] = []
        scores: list[float] = []
        while len(scored) < problem.prompts:
            if len(scored) < len(problem.initial):
                index = problem.initial[len(scored)]
            else:
                y = np.array(scores)
                y = (y - y.mean()) / (y.std() or 1.0)
                free = np.setdiff1d(np.arange(len(problem.Z)), scored)
                mean, covariance = posterior(np.array(scored), y, free)
                index = int(free[np.argmax(self.acquire(mean, covariance, float(y.max()), problem.rng))])
            score = yield from in_full(problem, index)
            scored.append(index)
            scores.append(score)


class RbfProcess(Process):
    """RBF kernel on unit-norm embeddings; scikit-learn fits signal, length and noise by marginal likelihood.

    The fit is repeated after every REFIT scores. In between the process adds the scores one by one.
    """

    needs = ("sklearn",)

    def posterior(self, problem: Problem) -> Posterior:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        U, S, _ = np.linalg.svd(unit_norm(problem.Z), full_matrices=False)
        X = U * S  # rotate into as few dimensions as there are prompts: same distances, less work
        found: Any = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(0.5, (1e-2, 1e1)) + WhiteKernel(0.1, (1e-3, 1e1))
        K, noise = np.empty((0, 0)), 0.0

        def call(scored: Indices, y: Array, free: Indices) -> tuple[Array, Array]:
            nonlocal found, K, noise
            if (len(scored) - len(problem.initial)) % REFIT == 0:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # the optimum lies at a bound
                    found = GaussianProcessRegressor(found).fit(X[scored], y).kernel_
                K, noise = found.k1(X), found.k2.noise_level
            inverse = np.linalg.inv(K[np.ix_(scored, scored)] + noise * np.eye(len(scored)))
            k = K[np.ix_(free, scored)]
            return k @ (inverse @ y), K[np.ix_(free, free)] - k @ inverse @ k.T

        return call


class GramProcess(Process):
    """Process whose kernel over the pool is computed once, with noise by marginal likelihood on a grid."""

    @abstractmethod
    def gram(self, problem: Problem) -> Array:
        """Return K over the pool, (m, m)."""

    def posterior(self, problem: Problem) -> Posterior:
        K = self.gram(problem)
        K = K / np.diag(K).mean()

        def call(scored: Indices, y: Array, free: Indices) -> tuple[Array, Array]:
            values, U = np.linalg.eigh(K[np.ix_(scored, scored)])
            evidence, damped, signal = spectral_evidence(values, U.T @ y)
            at = int(np.argmax(evidence))
            inverse = (U / damped[:, at]) @ U.T
            k = K[np.ix_(free, scored)]
            # EI and UCB need the diagonal only; the pools are small enough for the full matrix.
            return k @ (inverse @ y), signal[at] * (K[np.ix_(free, free)] - k @ inverse @ k.T)

        return call


class GridProcess(Process):
    """Textbook process: RBF kernel on unit-norm embeddings, length and noise averaged by their evidence.

    The grid holds LENGTHS, in median distances of the pool, and NOISE_GRID; each point has its own signal by
    maximum likelihood. Mean and variance are those of the mixture, weighted by marginal likelihood.
    """

    def posterior(self, problem: Problem) -> Posterior:
        X = unit_norm(problem.Z)
        squared = np.maximum((X**2).sum(axis=1)[:, None] + (X**2).sum(axis=1) - 2.0 * X @ X.T, 0.0)
        median = float(np.median(squared[np.triu_indices(len(X), 1)])) or 1.0
        grams = [np.exp(-0.5 * squared / (length**2 * median)) for length in LENGTHS]

        def call(scored: Indices, y: Array, free: Indices) -> tuple[Array, Array]:
            weights, means, variances = [], [], []
            for K in grams:
                values, U = np.linalg.eigh(K[np.ix_(scored, scored)])
                evidence, damped, signal = spectral_evidence(values, U.T @ y)
                k = K[np.ix_(free, scored)] @ U
                means.append(k @ ((U.T @ y)[:, None] / damped))
                variances.append(signal * np.maximum(1.0 - k**2 @ (1.0 / damped), 0.0))
                weights.append(evidence)
            mean, variance = np.concatenate(means, axis=1), np.concatenate(variances, axis=1)
            weight = np.exp(np.concatenate(weights) - np.max(weights))
            weight /= weight.sum()
            mixed = mean @ weight
            return mixed, np.diag((variance + mean**2) @ weight - mixed**2)

        return call


def spectral_evidence(values: Array, projected: Array) -> tuple[Array, Array, Array]:
    """Return log evidence, damped spectrum and signal variance at every noise of NOISE_GRID.

    Args:
        values: (n,) eigenvalues of a kernel matrix of unit signal.
        projected: (n,) standardised scores in the basis of its eigenvectors.

    Returns:
        The log evidence but for constants, (noises,); eigenvalues plus noise, (n, noises); the signal's
        maximum-likelihood variance, (noises,).
    """
    damped = np.maximum(values, 0.0)[:, None] + NOISE_GRID + JITTER
    # The floor keeps the order by uncertainty where all scores are equal.
    signal = np.maximum(projected**2 @ (1.0 / damped) / len(values), MIN_SIGNAL)
    return -0.5 * (len(values) * np.log(signal) + np.log(damped).sum(axis=0)), damped, signal


class NeuralUCB(GramProcess):
    """NeuralUCB as in INSTINCT (arXiv 2310.02905), in closed form.

    INSTINCT trains a small network on the scores and adds the uncertainty of its NTK features. Here the
    prediction is the linear regime of such a network of width 100: regression on the features of its
    gradient at initialisation. Marginal likelihood chooses the ridge. The uncertainty is the same, without
    training noise.
    """

    def __init__(self) -> None:
        super().__init__("NeuralUCB, INSTINCT", upper_confidence)

    def gram(self, problem: Problem) -> Array:
        X = unit_norm(problem.Z)
        K: Array = zf.NTK.random(X.shape[1], width=100, depth=1, seed=problem.seed).gram(X)
        return K


class InfiniteNTK(GramProcess):
    """Expected improvement under the infinite-width NTK (two hidden layers) on z-scored embeddings."""

    def __init__(self) -> None:
        super().__init__("GP-EI, infinite NTK", expected_improvement)

    def gram(self, problem: Problem) -> Array:
        X = problem.Z.astype(np.float64)
        deviation = X.std(axis=0)
        X = (X - X.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        kernel = zf.InfiniteNTK(2, weight_variance=2.0, bias_variance=0.0, parametrization="ntk")
        return kernel.gram(X)


def unit_norm(Z: Any) -> Array:
    """Scale rows to unit length; a zero row stays zero."""
    X = np.asarray(Z, dtype=np.float64)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    unit: Array = X / np.where(norms > 0, norms, 1.0)
    return unit
