"""Golden files, random networks and a comparison within a tolerance."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


class Golden(NamedTuple):
    """Content of a golden file: arrays by name, and a network."""

    data: dict[str, Any]
    weights: list[np.ndarray]
    biases: list[np.ndarray]


def load_golden(name: str) -> Golden:
    """Read tests/golden/NAME.npz; the arrays W0.., b0.. make the network."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    layers = sum(key[0] == "W" for key in data)
    return Golden(data, [data[f"W{i}"] for i in range(layers)], [data[f"b{i}"] for i in range(layers)])


def golden_names(kind: str) -> list[str]:
    """List the golden files of a kind; fail if there are none, so that no test vanishes silently."""
    names = sorted(path.stem for path in GOLDEN.glob(f"{kind}_*.npz"))
    assert names, f"no golden files {kind}_*.npz in {GOLDEN}"
    return names


def random_network(
    rng: np.random.Generator, dim: int, widths: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw weights ~ N(0, 2 / fan_in) and biases ~ N(0, 0.25) for hidden layers of these widths."""
    sizes = [dim, *widths, 1]
    weights = [rng.normal(size=(o, i)) * np.sqrt(2.0 / i) for i, o in pairwise(sizes)]
    return weights, [0.5 * rng.normal(size=o) for o in sizes[1:]]


def assert_close(actual: Any, expected: Any, rtol: float, scale: float | None = None) -> None:
    """Check the shape, and that no entry differs by more than rtol * `scale` (default: max |expected|)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    if expected.size == 0:
        return
    unit = np.abs(expected).max() if scale is None else scale
    worst = np.abs(actual - expected).max()
    assert worst <= rtol * unit, f"off by {worst:.3g}, {worst / (unit or 1):.3g} of {unit:.3g}"
