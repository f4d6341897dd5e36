"""Gaussian process against reference.py, within bounds from the condition of each problem."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, strategies as st
from property_tools import Problem, Rounding, assert_within, problems, tolerance, tolerance_in_parts

import zopo_fast as zf
from zopo_fast.gp import reference


def assert_agrees(gp: zf.GaussianProcess, p: Problem, updates: int = 1) -> None:
    """Check posterior and likelihood against the reference, within the bounds."""
    assert len(gp) == len(p.X)
    assert gp.jitter == 0.0
    together = gp.posterior(p.Q)
    for i, x in enumerate(p.Q):
        expected, allowed = reference.posterior(p.W, p.b, p.X, p.y, p.noise, x), tolerance(p, x, updates)
        trace = np.trace(expected.gradient_covariance)
        assert_within(together.mean[i], expected.mean, allowed.mean, "mean")
        assert_within(together.variance[i], expected.variance, allowed.variance, "variance")
        assert_within(together.gradient[i], expected.gradient, allowed.gradient, "gradient")
        uncertainty = allowed.uncertainty + tolerance_in_parts(p, x)
        assert_within(together.gradient_uncertainty[i], trace, uncertainty, "uncertainty")
        full = gp.gradient_covariance(x)
        assert_within(full, expected.gradient_covariance, allowed.uncertainty, "covariance")
    likelihood = reference.log_marginal_likelihood(p.W, p.b, p.X, p.y, p.noise)
    assert_within(gp.log_marginal_likelihood(), likelihood, allowed.likelihood, "likelihood")


def filled(p: Problem, device: str) -> zf.GaussianProcess:
    gp = zf.GaussianProcess(zf.NTK(p.W, p.b), device=device)
    gp.append(p.X, p.y, p.noise)
    return gp


@given(problems())
def test_observations_appended_at_once(device: str, p: Problem) -> None:
    assert_agrees(filled(p, device), p)


@given(problems())
def test_observations_appended_one_by_one(device: str, p: Problem) -> None:
    gp = zf.GaussianProcess(zf.NTK(p.W, p.b), device=device)
    for x, y, noise in zip(p.X, p.y, p.noise, strict=True):
        gp.append(x, float(y), float(noise))
    assert_agrees(gp, p)


@given(problems(), st.data())
def test_observations_appended_in_blocks(device: str, p: Problem, data: st.DataObject) -> None:
    gp, start = zf.GaussianProcess(zf.NTK(p.W, p.b), device=device), 0
    while start < len(p.X):
        end = data.draw(st.integers(start + 1, len(p.X)), label="end of the block")
        gp.append(p.X[start:end], p.y[start:end], p.noise[start:end])
        start = end
    assert_agrees(gp, p)


@given(problems(), st.data())
def test_a_popped_observation_leaves_no_trace(device: str, p: Problem, data: st.DataObject) -> None:
    """A pop does no arithmetic: the result equals, bit for bit, that without the append."""
    keep = data.draw(st.integers(0, len(p.X)), label="keep")
    popped, never = (zf.GaussianProcess(zf.NTK(p.W, p.b), device=device) for _ in range(2))
    for i in range(len(p.X)):
        for gp in (popped, never) if i < keep else (popped,):
            gp.append(p.X[i], float(p.y[i]), float(p.noise[i]))
    for _ in range(len(p.X) - keep):
        popped.pop()
    for after, fresh in zip(popped.posterior(p.Q), never.posterior(p.Q), strict=True):
        np.testing.assert_array_equal(after, fresh)
    assert popped.log_marginal_likelihood() == never.log_marginal_likelihood()


@given(problems(), st.data())
def test_a_removed_observation_leaves_the_others(device: str, p: Problem, data: st.DataObject) -> None:
    """A removal is a positive rank-one update, backward stable like an append."""
    gp, rest = filled(p, device), list(range(len(p.X)))
    removals = data.draw(st.integers(0, len(p.X) - 1), label="removals")
    for _ in range(removals):
        i = data.draw(st.integers(0, len(rest) - 1), label="removed")
        gp.remove(i)
        del rest[i]
    # The bound of the whole problem holds: removing rows does not increase the norm of A.
    assert_agrees(gp, p._replace(X=p.X[rest], y=p.y[rest], noise=p.noise[rest]), updates=1 + removals)


@given(problems())
def test_scores_can_be_replaced_by_others(device: str, p: Problem) -> None:
    gp = zf.GaussianProcess(zf.NTK(p.W, p.b), device=device)
    gp.append(p.X, np.zeros(len(p.X)), p.noise)
    gp._gp.set_targets(p.y)
    assert_agrees(gp, p)


@given(problems(), st.permutations(range(24)))
def test_the_order_of_the_observations_does_not_matter(device: str, p: Problem, order: list[int]) -> None:
    at = [i for i in order if i < len(p.X)]
    shuffled = zf.GaussianProcess(zf.NTK(p.W, p.b), device=device)
    shuffled.append(p.X[at], p.y[at], p.noise[at])
    assert_agrees(shuffled, p)


@given(problems(min_noise=-3.0))
def test_the_tolerances_are_small(p: Problem) -> None:
    """The bounds are far below the quantities, so that a wrong answer fails the tests above."""
    rounding = Rounding(p.W, p.b)
    for x in p.Q:
        allowed, prior = tolerance(p, x), rounding.gram(x[None], x[None])[0, 0] / rounding.unit
        assert allowed.variance <= 1e-7 * prior
        uncertainty = allowed.uncertainty + tolerance_in_parts(p, x)
        assert uncertainty <= 1e-5 * rounding.prior_trace(x) / rounding.unit
        assert allowed.mean <= 1e-7 * np.linalg.norm(p.y) * np.sqrt(prior / p.noise.min())


@pytest.mark.parametrize("change", [lambda v: v * (1 + 1e-5), lambda v: v + 1e-5 * np.abs(v).max()])
def test_the_comparison_sees_an_error_of_a_hundred_thousandth(
    device: str,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    rng = np.random.default_rng(0)
    W, b = [rng.normal(size=(6, 4)), rng.normal(size=(1, 6))], [rng.normal(size=6), rng.normal(size=1)]
    X, y = rng.normal(size=(9, 4)), rng.normal(size=9)
    p = Problem(W, b, X, y, np.full(9, 0.1), rng.normal(size=(2, 4)))
    assert_agrees(filled(p, device), p)
    for wrong in (p._replace(X=change(X)), p._replace(y=change(y))):
        with pytest.raises(AssertionError, match="allowed"):
            assert_agrees(filled(wrong, device), p)
