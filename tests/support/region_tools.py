"""Regions beside a reference that recomputes their posterior, and searches of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from search_tools import pool

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import reference

REGIONS = {"whole": 1024, "trust region": 16}
"""Sizes of a region: larger than every pool here, and a trust region."""
SEARCHES = ["improvement", "thompson"]
NUGGETS = np.logspace(-2, 0.5, 4)
GRAM_ERROR = 2e-5
"""Tolerance of a region of a Gram matrix, in units of the prior: single precision at the usual noise."""
POINTS_ERROR = 1e-3
"""Tolerance of a region of points: the kernel loses half the digits of the angle between near points."""


def of_points(
    X: np.ndarray, kernel: zf.InfiniteNTK, nuggets: np.ndarray = NUGGETS, capacity: int = 0
) -> tuple[_core.RegionPosterior, np.ndarray]:
    """Make the region of coordinates (m, d), and its Gram matrix with a mean diagonal of 1."""
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
    """Reference of a region: keeps its observations, and recomputes the posterior on each call."""

    def __init__(self, K: np.ndarray, nuggets: np.ndarray = NUGGETS) -> None:
        self.K, self.nuggets = K, nuggets
        self.columns: list[int] = []
        self.y: list[float] = []
        self.noise: list[float] = []

    def append(self, column: int, y: float, noise: float = 0.0) -> None:
        self.columns.append(column)
        self.y.append(y)
        self.noise.append(noise)

    def revise(self, i: int, y: float, noise: float = 0.0) -> None:
        self.y[i], self.noise[i] = y, noise

    def levels(self, pending: Sequence[int] = ()) -> list[reference.RegionLevel]:
        y, noise = np.array(self.y, dtype=float), np.array(self.noise, dtype=float)
        return reference.region_levels(self.K, self.columns, y, noise, self.nuggets, pending)

    @property
    def unit(self) -> float:
        """Unit of errors: the standard deviation of the prior at its amplitude."""
        y = np.array(self.y)
        spread = float(y.std()) if len(y) and y.std() > 1e-12 * abs(y.mean()) else 1.0
        return spread * max(1.0, *(level.amplitude**0.5 for level in self.levels()))


def filled(
    region: _core.RegionPosterior, K: np.ndarray, n: int, seed: int = 0, noisy: bool = False, first: int = 0
) -> Twin:
    """Append random scores of n distinct candidates; return the reference with the same ones."""
    rng, twin = np.random.default_rng(seed), Twin(K)
    for c in rng.permutation(np.arange(first, len(K)))[:n].tolist():
        y, noise = float(rng.normal()), float(rng.uniform(0, 2)) if noisy else 0.0
        region.append(c, y, noise)
        twin.append(c, y, noise)
    return twin


def assert_same_posterior(region: _core.RegionPosterior, twin: Twin, off: float) -> None:
    """Check means, variances and shares to within `off` units of the prior."""
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
    """Check that no free candidate is more promising than the proposed one, within errors of `off` units.

    The criterion rises with mean and variance: it is taken with the errors in favour of the proposed
    candidate, and against the others.
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
                fantasized=np.maximum(level.fantasized + by * unit**2, 1e-12 * unit**2),
            )
            for level in levels
        ]
        return reference.region_criterion(moved, incumbent, power)

    high, low = shifted(off), shifted(-off)
    assert high[proposed] * (1 + 1e-6) >= low[free].max(), (high[proposed], low[free].max())


def settings(**changed: Any) -> zf.ZopoConfig:
    return zf.ZopoConfig(**{"budget": 60, "initial": 8, "seed": 2, **changed})


def made(m: int = 120, kernel: Any = None, **changed: Any) -> zf.Zopo:
    return zf.Zopo(pool(m), settings(**changed), kernel)


class Region(NamedTuple):
    """Model of an improvement search: members (k,), mean and variance (k,), and the trust region."""

    members: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    center: int
    size: int


def region_of(opt: zf.Zopo) -> Region:
    """Return what the model of a search believes."""
    region = opt._native.region(opt._number)
    assert region is not None, "no model yet"
    return Region(*region[:5])


def landscape(m: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make float16 embeddings (m, d) and a smooth, standardised function of them (m,)."""
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


def model_of(opt: zf.Zopo) -> dict[int, tuple[float, float]]:
    """Return mean and variance of each member."""
    region = region_of(opt)
    assert (region.variance >= 0).all()
    return dict(zip(region.members.tolist(), zip(region.mean, region.variance, strict=True), strict=True))


def assert_same_model(a: dict[int, tuple[float, float]], b: dict[int, tuple[float, float]]) -> None:
    """Check that two results of `model_of` agree to within single precision."""
    assert a.keys() == b.keys()
    for i, known in a.items():
        assert known == pytest.approx(b[i], abs=1e-4)
