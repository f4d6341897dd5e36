"""Simulated pools on the level of examples, with components of variance as measured on real models.

score(prompt, example) ~ Bernoulli(sigma(mean + h + b)): h is the quality of the prompt, b the ease of the
example. An interaction inside sigma is left out: with one 0/1 score for each pair it only rescales h and b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from zopo_fast.errors import InputError

from .replay import Array, Landscape

# Midpoint quantiles of the normal law, because few Gauss-Hermite nodes miss where sigma is steep.
NODES = np.array([NormalDist().inv_cdf((k + 0.5) / 401) for k in range(401)])
FEW, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)  # for the prompts, which differ less
WEIGHTS = WEIGHTS / WEIGHTS.sum()
MAX_DEVIATION = 30.0  # of logits
DIMENSIONS = 32  # of the simulated embeddings
SMOOTH = 0.5  # share of the variance of prompt quality that follows the embeddings


@dataclass(frozen=True)
class Components:
    """Components of variance of a pool.

    The defaults are close to the medians of the 15 block pools of arXiv 2504.16005.

    Args:
        accuracy: mean score.
        spread: standard deviation of the prompts' means, in score units.
        residual: standard deviation of a block's score around prompt mean + block mean, relative to the
            binomial one; 1: examples do not differ.

    Raises:
        InputError: a value is out of range.
    """

    accuracy: float = 0.8
    spread: float = 0.03
    residual: float = 0.57

    def __post_init__(self) -> None:
        most = np.sqrt(self.accuracy * (1.0 - self.accuracy)) if 0.0 < self.accuracy < 1.0 else 0.0
        if not (0.0 < self.spread < most and 0.2 <= self.residual <= 1.0):
            raise InputError(
                f"simulation: expected 0 < accuracy < 1, 0 < spread < {most:.2f} and 0.2 <= residual <= 1, "
                f"got {self}"
            )

    @classmethod
    def estimate(cls, landscape: Landscape) -> Components:
        """Estimate the components from block means, by a two-way analysis of variance.

        Args:
            landscape: scores (m, blocks), whose `examples_a_call` is the number of examples of a block.
        """
        scores = landscape.scores
        (m, blocks), mean = scores.shape, float(scores.mean())
        residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + mean
        variance = float((residuals**2).sum()) / ((m - 1) * (blocks - 1))
        # The residual may also hide a real difference; half of the variance of the means is kept at least.
        of_means = float(scores.mean(axis=1).var(ddof=1))
        spread = np.sqrt(max(of_means - variance / blocks, 0.5 * of_means))
        binomial = mean * (1.0 - mean) / landscape.examples_a_call
        return cls(mean, float(spread), float(np.clip(np.sqrt(variance / binomial), 0.2, 1.0)))

    def logits(self) -> tuple[float, float, float]:
        """Return mean, and the standard deviations of prompts and of examples, in logits."""
        center, prompts, examples = 0.0, 0.1, 1.0
        for _ in range(25):  # each equation is monotone in its own variable
            center = _solve(lambda x: _mean(x, np.hypot(prompts, examples)) - self.accuracy, -30.0, 30.0)  # noqa: B023
            examples = _solve(lambda x: self.residual**2 - _within(center, prompts, x), 0.0, MAX_DEVIATION)  # noqa: B023
            prompts = _solve(lambda x: _spread(center, x, examples) - self.spread, 1e-4, MAX_DEVIATION)  # noqa: B023
        return center, prompts, examples


def simulate(components: Components, prompts: int, examples: int, seed: int, name: str) -> Landscape:
    """Draw a pool: embeddings (prompts, 32) float64 of unit norm, scores (prompts, examples) of 0 and 1."""
    rng = np.random.default_rng([seed, 6])
    center, deviation, difficulty = components.logits()
    families = rng.normal(size=(max(2, prompts // 8), DIMENSIONS))
    Z = families[rng.integers(len(families), size=prompts)] + 0.7 * rng.normal(size=(prompts, DIMENSIONS))
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    squared = np.maximum(2.0 - 2.0 * Z @ Z.T, 0.0)
    K = np.exp(-0.5 * squared / np.median(squared)) + 1e-9 * np.eye(prompts)
    smooth = np.linalg.cholesky(K) @ rng.normal(size=prompts)
    quality = np.sqrt(SMOOTH) * _standardised(smooth) + np.sqrt(1.0 - SMOOTH) * rng.normal(size=prompts)
    logit = center + deviation * _standardised(quality)[:, None] + difficulty * rng.normal(size=examples)
    scores = (rng.random(logit.shape) < _sigma(logit)).astype(np.float64)
    return Landscape(name, Z, scores)


def pools(measured: Sequence[Landscape] = (), *, alike: bool = False) -> list[Landscape]:
    """Return simulated pools of 60 to 200 prompts and 100 to 300 examples.

    Args:
        measured: block pools whose components are used, one simulated pool each; without them the default
            components, at the measured median and range of the residual.
        alike: whether all examples of a pool are equally difficult.
    """
    if measured:
        found = [(Components.estimate(one), one.name) for one in measured]
    else:
        found = [(Components(residual=r), f"residual {r}") for r in (0.36, 0.57, 0.75) for _ in range(2)]
    if alike:
        found = [(replace(components, residual=1.0), name) for components, name in found]
    sizes = [(60, 100), (120, 200), (200, 300)]
    return [
        simulate(components, *sizes[k % len(sizes)], seed=k, name=f"simulated {k}, {name}")
        for k, (components, name) in enumerate(found)
    ]


# ---- internals -----------------------------------------------------------------------------------------


def _sigma(x: Array) -> Array:
    found: Array = 1.0 / (1.0 + np.exp(-np.clip(x, -500.0, 500.0)))
    return found


def _mean(center: float, deviation: float) -> float:
    return float(_sigma(center + deviation * NODES).mean())


def _of_means(center: float, prompts: float, examples: float) -> tuple[float, float, float]:
    """Return the mean score, the variance of the prompts' means and that of the examples' means."""
    p = _sigma(center + prompts * FEW[:, None] + examples * NODES)
    by_prompt, by_example = p.mean(axis=1), WEIGHTS @ p
    mean = float(WEIGHTS @ by_prompt)
    return mean, float(by_prompt**2 @ WEIGHTS) - mean**2, float((by_example**2).mean()) - mean**2


def _within(center: float, prompts: float, examples: float) -> float:
    """Return the variance of a score around prompt mean + example mean, relative to the binomial one."""
    mean, of_prompts, of_examples = _of_means(center, prompts, examples)
    return 1.0 - (of_prompts + of_examples) / (mean * (1.0 - mean))


def _spread(center: float, prompts: float, examples: float) -> float:
    """Return the standard deviation of the prompts' means over the examples."""
    return float(np.sqrt(max(_of_means(center, prompts, examples)[1], 0.0)))


def _solve(function: object, low: float, high: float) -> float:
    """Return the root of an increasing function by bisection; the nearer end without a root."""
    assert callable(function)
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if function(middle) < 0.0 else (low, middle)
    return 0.5 * (low + high)


def _standardised(x: Array) -> Array:
    found: Array = (x - x.mean()) / (x.std() or 1.0)
    return found
