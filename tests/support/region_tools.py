"""A region's posterior beside its twin in reference.py, and searches of regions, for the tests of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from search_tools import pool

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import reference
from zopo_fast.search.improvement import ImprovementSearch

NUGGETS = np.logspace(-2, 0.5, 4)


def of_points(
    X: np.ndarray, kernel: zf.InfiniteNTK, nuggets: np.ndarray = NUGGETS, capacity: int = 0
) -> tuple[_core.RegionPosterior, np.ndarray]:
    """The region of coordinates (m, d), and the Gram matrix that it should have, of mean diagonal 1."""
    scale = float(kernel.diag(X).mean())
    region = _core.RegionPosterior(
        X,
        kernel.depth,
        kernel.weight_variance,
        kernel.bias_variance,
        kernel.parametrization == "ntk",
        scale,
        nuggets,
        capacity,
    )
    return region, kernel.gram(X) / scale


class Twin:
    """The observations of a region, whose posterior reference.py computes anew each time."""

    def __init__(self, K: np.ndarray, nuggets: np.ndarray = NUGGETS) -> None:
        self.K, self.nuggets = K, nuggets
        self.columns: list[int] = []
        self.y: list[float] = []
        self.noise: list[float] = []

    def append(self, column: int, y: float, noise: float = 0.0) -> None:
        self.columns.append(column)
        self.y.append(y)
        self.noise.append(noise)

    def truncate(self, n: int) -> None:
        del self.columns[n:], self.y[n:], self.noise[n:]

    def levels(self, pending: Sequence[int] = ()) -> list[reference.RegionLevel]:
        y, noise = np.array(self.y, dtype=float), np.array(self.noise, dtype=float)
        return reference.region_levels(self.K, self.columns, y, noise, self.nuggets, pending)

    @property
    def unit(self) -> float:
        """What errors of a score are measured in: the prior's standard deviation at its amplitude."""
        y = np.array(self.y)
        spread = float(y.std()) if len(y) and y.std() > 1e-12 * abs(y.mean()) else 1.0
        return spread * max(1.0, *(level.amplitude**0.5 for level in self.levels()))


def assert_same_posterior(region: _core.RegionPosterior, twin: Twin, off: float) -> None:
    """Means, variances and shares are off by at most `off` of the prior's units."""
    levels, unit = twin.levels(), twin.unit
    assert len(region) == len(twin.columns)
    mean, variance = region.posterior()
    expected_mean, expected_variance = reference.region_posterior(levels)
    assert np.abs(mean - expected_mean).max() <= off * unit
    assert np.abs(variance - expected_variance).max() <= off * unit**2
    assert (variance >= 0).all()
    weight, amplitude = region.shares()
    assert np.abs(weight - [level.weight for level in levels]).max() <= 10 * off
    np.testing.assert_allclose(amplitude, [level.amplitude for level in levels], rtol=100 * off)


def assert_promising(
    proposed: int,
    twin: Twin,
    free: Sequence[int],
    pending: Sequence[int],
    incumbent: float,
    power: int,
    off: float,
) -> None:
    """No free candidate is more promising than the proposed one, beyond what an error of `off` can do.

    The criterion rises with mean and variance: as many errors for the proposed one, and against the rest.
    """
    unit, levels = twin.unit, twin.levels(pending)
    if not free:
        assert proposed == -1
        return
    assert proposed in free

    def shifted(by: float) -> np.ndarray:
        moved = [
            level._replace(
                mean=level.mean + by * unit,
                fantasised=np.maximum(level.fantasised + by * unit**2, 1e-12 * unit**2),
            )
            for level in levels
        ]
        return reference.region_criterion(moved, incumbent, power)

    high, low = shifted(off), shifted(-off)
    assert high[proposed] * (1 + 1e-6) >= low[free].max(), (high[proposed], low[free].max())


def made(m: int = 120, kernel: Any = None, **settings: Any) -> zf.Zopo:
    return zf.Zopo(pool(m), zf.ZopoConfig(**{"budget": 60, "initial": 8, "seed": 2, **settings}), kernel)


def search_of(opt: zf.Zopo) -> ImprovementSearch:
    assert isinstance(opt._search, ImprovementSearch)
    return opt._search


def landscape(m: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function of float16 embeddings, standardised."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(m, d)).astype(np.float32) @ (
        rng.normal(size=(d, d)) * np.linspace(2, 0.2, d)
    ).astype(np.float32)
    Z /= Z.std()
    peaks = Z[rng.integers(m, size=5)]
    height = np.linspace(0.5, 1.0, 5)
    square = ((Z**2).sum(1)[:, None] - 2 * Z @ peaks.T + (peaks**2).sum(1)).astype(np.float64)
    f = (height * np.exp(-square / (1.5 * d))).max(axis=1)
    return Z.astype(np.float16), (f - f.mean()) / f.std()


def problem(m: int, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(m, d))
