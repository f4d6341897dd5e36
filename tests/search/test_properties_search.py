"""Gradient at a center and scan of a pool against reference.py, on random and degenerate problems."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st
from pool_tools import make_pool
from property_tools import (
    EPS,
    SHAPES,
    Problem,
    assert_within,
    points,
    problems,
    tolerance,
    tolerance_in_parts,
)

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import reference


def made(p: Problem) -> tuple[_core.LocalGradient, np.ndarray]:
    """Make a pool of observations and query points, and the gradient on it."""
    E, d = np.concatenate([p.X, p.Q]), p.X.shape[1]
    pool = _core.Pool(E, np.zeros(d), np.ones(d))
    return _core.LocalGradient(zf.NTK(p.W, p.b).network, pool), E


def assert_gradient(local: _core.LocalGradient, p: Problem, x: np.ndarray) -> None:
    """Check the gradient of the posterior mean at x and its relative uncertainty."""
    y = p.y - p.y.mean()
    expected, allowed = reference.posterior(p.W, p.b, p.X, y, p.noise, x), tolerance(p, x)
    if np.ptp(p.y) == 0.0:
        assert not local.gradient().any()
    else:
        assert_within(local.gradient(), expected.gradient, allowed.gradient, "gradient")
    share = local.relative_uncertainty([], 1.0)
    prior = np.trace(reference.gradient_prior(p.W, p.b, x))
    left = max(0.0, np.trace(expected.gradient_covariance))
    assert_within(share * prior, left, allowed.uncertainty + tolerance_in_parts(p, x), "uncertainty")


@given(problems(), st.data())
def test_gradient_at_a_center(p: Problem, data: st.DataObject) -> None:
    """The center is set before or after the observations, and moved in between."""
    local, E = made(p)
    for i in range(len(p.X)):
        local.center(data.draw(st.integers(0, len(E) - 1), label="center"))
        local.append(i, float(p.y[i]), float(p.noise[i]))
    for at in (len(p.X), len(p.X) + 1, 0):
        local.center(at)
        assert_gradient(local, p, E[at])


@given(problems())
def test_the_center_may_stay(p: Problem) -> None:
    local, E = made(p)
    local.center(len(p.X))
    for i in range(len(p.X)):
        local.append(i, float(p.y[i]), float(p.noise[i]))
    assert_gradient(local, p, E[len(p.X)])


@given(problems(), st.data())
def test_pending_candidates_count_as_observed(p: Problem, data: st.DataObject) -> None:
    """They affect the uncertainty, which does not depend on scores, of that call only."""
    local, E = made(p)
    seen = data.draw(st.integers(0, len(p.X)), label="observed")
    noise = float(p.noise[-1])
    known = p._replace(noise=np.full(len(p.X), noise))
    local.center(len(p.X) + 1)
    for i in range(seen):
        local.append(i, float(p.y[i]), noise)
    before = local.gradient(), local.relative_uncertainty([], noise)
    share = local.relative_uncertainty(list(range(seen, len(p.X))), noise)
    assert (len(local), local.relative_uncertainty([], noise)) == (seen, before[1])
    np.testing.assert_array_equal(local.gradient(), before[0])
    full, _ = made(known)
    full.center(len(p.X) + 1)
    for i in range(len(p.X)):
        full.append(i, float(p.y[i]), noise)
    assert full.relative_uncertainty([], noise) == share  # equal bit for bit
    assert_gradient(full, known, E[len(p.X) + 1])


# ---- pool ------------------------------------------------------------------------------------------


@st.composite
def scans(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Draw embeddings of any precision with many copies, mean, scale, a query and k."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    m, d = draw(st.integers(1, 300), label="m"), draw(st.integers(1, 40), label="d")
    Z = points(rng, draw(st.sampled_from(SHAPES), label="points"), m, d)
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]), label="dtype")
    Z = np.clip(Z, -6e4, 6e4).astype(dtype)
    if draw(st.booleans(), label="standardised"):
        mean, scale = _core.column_moments(Z)
        scale[scale == 0.0] = 1.0
    else:
        mean, scale = np.zeros(d), np.ones(d)
    E = reference.standardize(Z, mean, scale)
    near, away = E[rng.integers(m)], draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]), label="distance")
    x = near + away * rng.normal(size=d)
    return Z, mean, scale, x, draw(st.integers(0, m + 1), label="k")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)  # the fixture does not change
@given(scans(), st.integers(0, 2**32 - 1))
def test_the_scan_equals_brute_force(
    device: str, scan: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], seed: int
) -> None:
    """Candidates are ordered by their float64 distances, then by index."""
    Z, mean, scale, x, k = scan
    pool, E = make_pool(device, Z, mean, scale), reference.standardize(Z, mean, scale)
    free = np.random.default_rng(seed).random(len(Z)) < 0.7
    for i in np.flatnonzero(~free).tolist():
        pool.take(i)
    distances = pool.distances(x)
    exact = ((E - x) ** 2).sum(axis=1)
    assert_within(distances, exact, 2 * (Z.shape[1] + 4) * EPS * exact, "distance")
    order = np.lexsort((np.arange(len(Z)), distances))
    assert pool.k_nearest(x, k).tolist() == order[:k].tolist()
    assert pool.k_nearest(x, k, available_only=True).tolist() == order[free[order]][:k].tolist()
    assert pool.nearest(x) == (order[free[order]].tolist() or [-1])[0]
