"""What a user would pick instead: one peer a file, each importing its library at its top.

A peer offers, under these names, what it has an equivalent of; values are by the label of the row:

    grams(kernel, X, Y)                -> {label: call}      the gram matrix; Y None: gram(X)
    processes(kernel, X, y, noise)     -> {label: Process}   a fitted Gaussian process
    searches(Z, kernel, scores, start) -> {label: Search}    the whole search, a step at a time

Inputs are handed over in the peer's own array type before the clock starts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

# By module: which libraries a row of this peer stands for.
TITLES = {
    "published": "the published algorithm in PyTorch",
    "torch_closed": "PyTorch closed form",
    "numpy_closed": "NumPy/SciPy closed form",
    "gpytorch_peer": "GPyTorch and BoTorch",
    "neural_tangents_peer": "neural-tangents (JAX)",
    "sklearn_peer": "scikit-learn",
}


class Process(Protocol):
    """A fitted Gaussian process. What a library has no equivalent of is left out of the class.

    predict(X): mean and variance of (q, d) points.
    posterior(x): mean, variance, gradient of the mean and, where there is one, the trace of the
        gradient's covariance, at one point (1, d).
    appended(x, y): what it is after one more observation, x (1, d); the process itself stays.
    removed(i): what it is without observation i.
    points(X): X in the peer's array type.
    """

    def points(self, X: Any) -> Any: ...
    def predict(self, X: Any) -> tuple[Any, Any]: ...


class Search(Protocol):
    """A whole search over a scored pool."""

    evaluated: list[int]

    def step(self) -> object: ...


def load(names: Iterable[str], skipped: dict[str, str]) -> dict[str, Any]:
    """Import the peers; those that cannot be are entered in `skipped` with the reason."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = importlib.import_module(f".{name}", __package__)
        except Exception as error:
            skipped[TITLES[name]] = reason(error)
    return found


def collect(modules: dict[str, Any], what: str, skipped: dict[str, str], *arguments: Any) -> dict[str, Any]:
    """What all peers offer under `what`; a peer that fails is entered in `skipped`."""
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
    """Those cases that can be called; compiles what compiles at its first call, off the clock.

    Args:
        values: takes what they return.
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
    """One line that says why."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
