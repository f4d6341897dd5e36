"""Posterior of a region of candidates, by both constructors, against the float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dispatch_tools import require, run
from region_tools import (
    GRAM_ERROR,
    NUGGETS,
    POINTS_ERROR,
    Twin,
    assert_promising,
    assert_same_posterior,
    filled,
    of_points,
    problem,
)

import zopo_fast as zf
from zopo_fast import _core

SIZES = [1, 2, 63, 64, 65, 128, 200]


@pytest.mark.parametrize(
    ("m", "depth", "parametrization"),
    [
        *((m, depth, kind) for m in SIZES if m != 65 for depth, kind in ((2, "ntk"), (3, "standard"))),
        *((65, depth, kind) for depth in (1, 2, 3, 4) for kind in ("ntk", "standard")),
    ],
)
def test_posterior_equals_the_reference(m: int, depth: int, parametrization: Any) -> None:
    for bias, d in ((0.2, 5), (0.0, 3), (1.0, 70)):
        kernel = zf.InfiniteNTK(depth, 2.0, bias, parametrization)
        region, K = of_points(problem(m, d), kernel)
        gram = _core.RegionPosterior.of_gram(K, NUGGETS)
        for one, off in ((region, POINTS_ERROR), (gram, GRAM_ERROR)):
            assert one.columns == m
            assert_same_posterior(one, Twin(K), off)  # prior
            assert_same_posterior(one, filled(one, K, m // 2, noisy=bias > 0), off)


def test_prior_variance_is_the_diagonal_of_the_kernel() -> None:
    for scale in (1e-6, 1.0, 1e6):
        X = problem(70) * np.sqrt(scale)
        region, K = of_points(X, zf.InfiniteNTK(2, bias_variance=0.0))
        mean, variance = region.posterior()
        assert not mean.any()
        np.testing.assert_allclose(variance, np.diag(K), rtol=1e-5)


@pytest.mark.parametrize("parametrization", ["ntk", "standard"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_kernel_rows_equal_the_closed_form(depth: int, parametrization: Any) -> None:
    """Read a row of the kernel from the posterior of a single score with large noise.

    That score moves the mean of every candidate in proportion to the kernel between the two. The points
    include coincident, opposite and collinear vectors, and zero.
    """
    X = problem(90, 6)
    X[1], X[2], X[3], X[4], X[5] = X[0], -X[0], 2 * X[0], 0.0, X[0] * (1 + 1e-7)
    for bias in (0.0, 0.3):
        for c in (0, 4, 6):
            region, K = of_points(X, zf.InfiniteNTK(depth, 1.7, bias, parametrization), np.array([1.0]))
            region.append(c, 1.0)
            row = region.propagate(0, np.array([1.0])) * (K[c, c] + 1.0)
            assert np.abs(row - K[c]).max() < 5e-4 * K.max()
            np.testing.assert_allclose(row[c], K[c, c], rtol=1e-5, atol=1e-30)
            far = np.arange(6, 90)
            assert np.abs(row - K[c])[far].max() < 3e-6 * K.max()


def test_shifting_and_scaling_the_scores_shifts_and_scales_the_posterior() -> None:
    """Large offsets and units of the scores must not cost digits."""
    K = of_points(problem(90), zf.InfiniteNTK(2))[1]
    for shift, unit in ((0.0, 2.0**300), (0.0, 2.0**-300), (2.0**20, 1.0), (-(2.0**30), 2.0**10)):
        plain, other = (_core.RegionPosterior.of_gram(K, NUGGETS) for _ in range(2))
        for region, a, b in ((plain, 0.0, 1.0), (other, shift, unit)):
            for c in range(20):
                region.append(3 * c, a + b * float(c % 7))
        mean, variance = plain.posterior()
        off_mean, off_variance = other.posterior()
        assert np.abs((off_mean - shift) / unit - mean).max() < 1e-6
        assert np.abs(off_variance / unit**2 - variance).max() < 1e-6
        np.testing.assert_allclose(other.shares()[0], plain.shares()[0], rtol=1e-6, atol=1e-9)
        for pending in ([], [1, 2]):
            assert other.propose(pending, shift + 6 * unit, 2) == plain.propose(pending, 6.0, 2)


def test_equal_scores_keep_the_prior_amplitude_of_every_level() -> None:
    K = of_points(problem(80), zf.InfiniteNTK(2))[1]
    for value in (0.0, 0.1, -3.3, 1e9, 1e-300):
        region, twin = _core.RegionPosterior.of_gram(K, NUGGETS), Twin(K)
        for c in range(12):
            region.append(c, value)
            twin.append(c, value)
        assert_same_posterior(region, twin, GRAM_ERROR)
        assert (region.shares()[1] == 1.0).all()
        # All means are equal, so that the uncertainty alone decides.
        off = GRAM_ERROR
        assert_promising(region.propose([], value, 2), twin, range(12, 80), [], value, 2, off)


def test_coincident_candidates_have_the_same_posterior() -> None:
    X = problem(80)
    X[40:] = X[:40]
    kernel = zf.InfiniteNTK(2)
    for one, K in (of_points(X, kernel), (None, kernel.gram(X) / kernel.diag(X).mean())):
        region = one or _core.RegionPosterior.of_gram(K, NUGGETS)
        off = GRAM_ERROR if one is None else POINTS_ERROR
        twin = Twin(K)
        for k in range(30):
            c, y = k // 3 + 40 * (k % 2), float(np.sin(k))
            region.append(c, y)
            twin.append(c, y)
        assert_same_posterior(region, twin, off)
        mean, variance = region.posterior()
        assert np.abs(mean[:40] - mean[40:]).max() < off
        assert np.abs(variance[:40] - variance[40:]).max() < off


def test_a_score_with_huge_noise_does_not_change_the_mean() -> None:
    """Centering ignores noise, so the noisy score is the mean of the others and leaves it unchanged."""
    K = of_points(problem(70), zf.InfiniteNTK(2))[1]
    with_, without = (_core.RegionPosterior.of_gram(K, np.array([0.1])) for _ in range(2))
    for c in range(11):
        with_.append(c, float(c))
        without.append(c, float(c))
    with_.append(50, 5.0, 1e12)
    for noise in (1e12, 1e300):
        with_.revise(11, 5.0, noise)
        assert np.abs(with_.posterior()[0] - without.posterior()[0]).max() < 1e-5


def test_the_noise_of_a_score_adds_to_the_nugget() -> None:
    K = of_points(problem(70), zf.InfiniteNTK(2))[1]
    split = _core.RegionPosterior.of_gram(K, np.array([0.25]))
    whole = _core.RegionPosterior.of_gram(K, np.array([1.0]))
    for c in range(20):
        split.append(c, float(np.sin(c)), 0.75)
        whole.append(c, float(np.sin(c)))
    for a, b in zip(split.posterior(), whole.posterior(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_capacity_does_not_limit_the_number_of_scores() -> None:
    K = of_points(problem(130), zf.InfiniteNTK(2))[1]
    for capacity in (0, 1, 3, 64, 1000):
        region = _core.RegionPosterior.of_gram(K, NUGGETS, capacity)
        twin = filled(region, K, 90)
        region.propose([c for c in range(130) if c not in twin.columns][:30], 1.0)
        assert_same_posterior(region, twin, GRAM_ERROR)


def test_propagate_multiplies_the_covariance_by_the_solved_residuals() -> None:
    """`propagate(level, r)` returns K A^-1 r of one level, from which Thompson sampling draws."""
    region, K = of_points(problem(100), zf.InfiniteNTK(3))
    twin = filled(region, K, 40, noisy=True)
    r, at = np.random.default_rng(1).normal(size=40), twin.columns
    for level, nugget in enumerate(NUGGETS):
        A = K[np.ix_(at, at)] + np.diag(nugget + np.array(twin.noise))
        expected = K[:, at] @ np.linalg.solve(A, r)
        found = region.propagate(level, r)
        assert np.abs(found - expected).max() < POINTS_ERROR * np.abs(expected).max()
    # The posterior mean is the mean score plus `propagate` of the centered scores.
    single, _ = of_points(problem(100), zf.InfiniteNTK(3), np.array([0.1]))
    y = np.sin(np.arange(30.0))
    for c in range(30):
        single.append(c, y[c])
    mean = y.mean() + single.propagate(0, y - y.mean())
    np.testing.assert_allclose(single.posterior()[0], mean, atol=1e-5)


# ---- instruction sets ------------------------------------------------------------------------------

COMPUTE = """
import numpy as np
import pytest
from zopo_fast import _core
import test_region_posterior as posterior
import test_region_proposals as proposals
for m in (1, 65):
    posterior.test_posterior_equals_the_reference(m, 2, "ntk")
    posterior.test_posterior_equals_the_reference(m, 4, "standard")
posterior.test_kernel_rows_equal_the_closed_form(3, "ntk")
for power in (1, 2):
    proposals.test_proposals_maximize_the_criterion_down_to_the_last_candidate(65, power)
proposals.test_an_underflowing_improvement_still_ranks_the_candidates()
posterior.test_propagate_multiplies_the_covariance_by_the_solved_residuals()
print(_core.isa())
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees_with_the_reference(isa: str) -> None:
    require(isa)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    script = f"import sys; sys.path[:0] = {folders!r}\n" + COMPUTE
    done = run(script, isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]
