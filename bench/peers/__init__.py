"""Peers: implementations that a user would choose instead, one per file.

A file imports its library at its top and offers the functions it has an equivalent of. Keys are row labels:

    grams(kernel, X, Y)                -> {label: call}      the gram matrix; Y None: gram(X)
    processes(kernel, X, y, noise)     -> {label: Process}   a fitted Gaussian process
    searches(Z, kernel, scores, start) -> {label: Search}    the whole search, a step at a time

Inputs are converted to the peer's array type before timing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

# Libraries of each peer, by module.
TITLES = {
    "published": "the published algorithm in PyTorch",
    "torch_closed": "PyTorch closed form",
    "numpy_closed": "NumPy/SciPy closed form",
    "gpytorch_peer": "GPyTorch and BoTorch",
    "neural_tangents_peer": "neural-tangents (JAX)",
    "sklearn_peer": "scikit-learn",
}


class Process(Protocol):
    """Fitted Gaussian process. A class lacks the methods for which its library has no equivalent.

    predict(X): mean and variance of (q, d) points.
    posterior(x): mean, variance, gradient of the mean and, where there is one, the trace of the
        gradient's covariance, at one point (1, d).
    appended(x, y): a process with one more observation, x (1, d); the process itself stays unchanged.
    removed(i): a process without observation i.
    points(X): X in the peer's array type.
    """

    def points(self, X: Any) -> Any: ...
    def predict(self, X: Any) -> tuple[Any, Any]: ...


class Search(Protocol):
    """Whole search over a scored pool."""

    evaluated: list[int]

    def step(self) -> object: ...


def load(names: Iterable[str], skipped: dict[str, str]) -> dict[str, Any]:
    """Import the peers; add those that fail to `skipped` with the reason."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = importlib.import_module(f".{name}", __package__)
        except Exception as error:
            skipped[TITLES[name]] = reason(error)
    return found


def collect(modules: dict[str, Any], what: str, skipped: dict[str, str], *arguments: Any) -> dict[str, Any]:
    """Return what all peers offer under `what`; add failing peers to `skipped`."""
    found: dict[str, Any] = {}
    for name, module in modules.items():
        try:
            found.update(getattr(module, what)(*arguments))
        except Exception as error:
            skipped[f"{TITLES[name]}: {what}"] = reason(error)
    return found


def working(
    cases: dict[str, Callable[[], object]], skipped: dict[str, str], values: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the cases that work, after one untimed call each, which also compiles.

    Args:
        values: receives the results.
    """
    found = {}
    for label, case in cases.items():
        try:
            value = case()
        except Exception as error:
            skipped[label] = reason(error)
        else:
            found[label] = case
            if values is not None:
                values[label] = value
    return found


def reason(error: Exception) -> str:
    """Return the reason on one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
