"""Incremental gradient at a center, against a Gaussian process that computes it from scratch."""

from __future__ import annotations

import numpy as np
import pytest
from numeric_tools import assert_close

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import reference


def made(dim: int, width: int, depth: int, m: int = 120) -> tuple[_core.LocalGradient, zf.NTK, np.ndarray]:
    Z = np.random.default_rng(dim).normal(size=(m, dim)).astype(np.float32)
    kernel = zf.NTK.random(dim, width=width, depth=depth, seed=3, initialization="normal")
    pool = _core.Pool(Z, *_core.column_moments(Z))
    return _core.LocalGradient(kernel.network, pool), kernel, pool.rows(np.arange(m))


@pytest.mark.parametrize(("dim", "width", "depth"), [(384, 32, 2), (16, 24, 3), (5, 100, 1), (9, 7, 4)])
def test_the_gradient_follows_changes_of_observations_and_center(dim: int, width: int, depth: int) -> None:
    local, kernel, E = made(dim, width, depth)
    rng = np.random.default_rng(1)
    noise = 0.01 * kernel.diag(E).mean()
    gp = zf.GaussianProcess(kernel)
    y = rng.normal(size=70)
    local.center(100)  # before the first observation
    for n in range(70):
        local.append(n, y[n], noise * (1 + n % 3))
        gp.append(E[n], y[n], noise * (1 + n % 3))
        center = (3, 40, 100)[n // 6 % 3]
        local.center(center)
        gp._gp.set_targets(y[: n + 1] - y[: n + 1].mean())
        expected = gp.posterior(E[center])
        prior = kernel.gradient_prior_trace(E[center])
        assert local.relative_uncertainty([], 0.0) == pytest.approx(
            expected.gradient_uncertainty / prior, rel=1e-9, abs=1e-11
        )
        if n > 0:
            assert_close(local.gradient(), expected.gradient, 1e-9)


def test_pending_points_lower_the_uncertainty_temporarily() -> None:
    local, kernel, E = made(16, 24, 2)
    noise = 0.01 * kernel.diag(E).mean()
    gp = zf.GaussianProcess(kernel)
    for n in range(20):
        local.append(n, float(n % 5), noise)
        gp.append(E[n], 0.0, noise)
    local.center(2)
    before = (local.relative_uncertainty([], noise), local.gradient().tolist(), local.step(1.0))
    gp.append(E[[50, 51]], [0.0, 0.0], noise)
    expected = gp.posterior(E[2]).gradient_uncertainty / kernel.gradient_prior_trace(E[2])
    assert local.relative_uncertainty([50, 51], noise) == pytest.approx(expected, rel=1e-9)
    assert expected < before[0]
    assert (local.relative_uncertainty([], noise), local.gradient().tolist(), local.step(1.0)) == before
    assert len(local) == 20


def test_equal_scores_give_no_gradient_and_no_step() -> None:
    local, kernel, E = made(16, 24, 2)
    for n in range(10):
        local.append(n, 0.7, 0.01 * kernel.diag(E).mean())
    local.center(30)
    assert not local.gradient().any()
    assert local.step(100.0) == 30


def test_a_step_goes_to_the_free_candidate_nearest_to_the_moved_center() -> None:
    Z = np.random.default_rng(0).normal(size=(200, 8))
    kernel = zf.NTK.random(8, seed=1)
    pool = _core.Pool(Z, np.zeros(8), np.ones(8))
    local = _core.LocalGradient(kernel.network, pool)
    for n in range(30):
        local.append(n, float(Z[n, 0]), 0.1)
        pool.take(n)
    local.center(4)
    g = local.gradient()
    target = Z[4] + 2.0 * g / np.linalg.norm(g)
    distances = ((Z[30:] - target) ** 2).sum(axis=1)
    assert local.step(2.0) == 30 + int(np.argmin(distances))
    assert g[0] > 0  # the scores increase with the first coordinate


def test_a_duplicate_without_noise_is_refused_and_changes_nothing() -> None:
    local, _, _ = made(16, 24, 2)
    local.center(1)
    for n in range(5):
        local.append(n, float(n), 1e-3)
    local.append(7, 0.0, 0.0)
    before = (len(local), local.gradient().tolist(), local.relative_uncertainty([], 0.0))
    with pytest.raises(zf.NotPositiveDefiniteError):
        local.append(7, 1.0, 0.0)
    assert (len(local), local.gradient().tolist(), local.relative_uncertainty([], 0.0)) == before


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda g: g.append(500, 0.0, 1.0), "candidate"),
        (lambda g: g.append(0, float("nan"), 1.0), "y"),
        (lambda g: g.append(0, 0.0, -1.0), "noise"),
        (lambda g: g.center(-1), "candidate"),
        (lambda g: g.relative_uncertainty([500], 1.0), "pending"),
    ],
)
def test_invalid_arguments_are_named(call: object, word: str) -> None:
    local, _, _ = made(16, 24, 2)
    with pytest.raises(zf.InputError if word in ("y", "noise") else zf.UnknownIndexError, match=word):
        call(local)  # type: ignore[operator]


def test_different_dimensions_are_refused() -> None:
    Z = np.zeros((3, 5))
    pool = _core.Pool(Z, np.zeros(5), np.ones(5))
    with pytest.raises(zf.ArrayError, match="dimension 5"):
        _core.LocalGradient(zf.NTK.random(4).network, pool)


def test_a_gradient_needs_a_center() -> None:
    local, _, _ = made(16, 24, 2)
    local.append(0, 1.0, 0.1)
    for ask in (local.gradient, lambda: local.step(1.0), lambda: local.relative_uncertainty([], 0.1)):
        with pytest.raises(zf.UnknownIndexError, match="center"):
            ask()
    local.center(3)
    local.append(1, 2.0, 0.1)
    local.clear()
    with pytest.raises(zf.UnknownIndexError, match="center"):
        local.gradient()


def test_a_cleared_object_is_like_a_new_one() -> None:
    local, _, _ = made(16, 24, 2)
    fresh, _, _ = made(16, 24, 2)
    local.center(3)
    for n in range(70):
        local.append(n, float(n), 0.5)
    local.clear()
    for n in range(5, 15):
        local.append(n, float(n % 3), 0.1)
        fresh.append(n, float(n % 3), 0.1)
    local.center(40)
    fresh.center(40)
    assert_close(local.gradient(), fresh.gradient(), 1e-12)
    assert local.relative_uncertainty([], 0.1) == pytest.approx(
        fresh.relative_uncertainty([], 0.1), rel=1e-12
    )


def test_a_pending_duplicate_does_not_hide_the_pending_points_after_it() -> None:
    local, _, _ = made(16, 24, 2)
    for n in range(5):
        local.append(n, float(n), 0.0)
    local.center(2)
    assert local.relative_uncertainty([3, 50], 0.0) == local.relative_uncertainty([50], 0.0)


def filled(n: int) -> tuple[_core.LocalGradient, zf.NTK, np.ndarray, np.ndarray, float]:
    """Append n observations to made(16, 24, 2); return their scores and a matching noise as well."""
    local, kernel, E = made(16, 24, 2)
    y, noise = np.random.default_rng(n).normal(size=n), 0.1 * float(kernel.diag(E).mean())
    for i in range(n):
        local.append(i, float(y[i]), noise)
    return local, kernel, E, y, noise


@pytest.mark.parametrize("n", [1, 2, 5, 8, 40, 61])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 10.0])
def test_the_likelihood_of_a_noise_equals_the_reference(n: int, noise: float) -> None:
    local, kernel, E, y, _ = filled(n)
    scaled = noise * float(kernel.diag(E).mean())
    expected = reference.profile_log_likelihood(kernel.gram(E[:n]), y, scaled)
    assert local.log_likelihood(y, scaled) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_likelihood_of_a_singular_matrix_is_refused() -> None:
    local, _, _, _, _ = filled(5)
    for _ in range(3):
        local.append(2, 0.0, 1e3)  # the same point many times
    assert local.log_likelihood(np.zeros(8), 0.0) == -np.inf


@pytest.mark.parametrize("change", ["scores", "noise", "both", "nothing"])
def test_a_refit_equals_a_new_object(change: str) -> None:
    local, _, _, y, noise = filled(33)
    noises = np.full(33, noise)
    if change in ("scores", "both"):
        y = y[::-1].copy()
    if change in ("noise", "both"):
        noises = noise * (1.0 + np.arange(33) % 5)
    local.center(50)
    local.refit(y, noises)
    fresh, _, _ = made(16, 24, 2)
    for i in range(33):
        fresh.append(i, float(y[i]), float(noises[i]))
    for model in (local, fresh):
        model.append(40, 0.5, noise)
        model.center(50)
    np.testing.assert_allclose(local.gradient(), fresh.gradient(), rtol=1e-10, atol=0)
    assert local.relative_uncertainty([], noise) == pytest.approx(
        fresh.relative_uncertainty([], noise), rel=1e-12
    )


def test_a_failed_refit_changes_nothing() -> None:
    local, _, _, y, noise = filled(20)
    local.append(3, 1.0, noise)  # a duplicate, which this noise permits
    noises = np.full(21, noise)
    noises[[3, 20]] = 0.0
    with pytest.raises(zf.NotPositiveDefiniteError, match="observation 20"):
        local.refit(np.append(y, 1.0), noises)
    assert len(local) == 20
    local.append(25, 0.0, noise)
    local.center(30)
    assert np.isfinite(local.gradient()).all()


def test_a_refit_refuses_another_number_of_scores() -> None:
    local, _, _, y, noise = filled(4)
    for scores, noises in ((y[:3], np.full(3, noise)), (y, np.full(3, noise)), (y, np.full(4, -1.0))):
        with pytest.raises(zf.ArrayError):
            local.refit(scores, noises)
    assert len(local) == 4


def test_the_capacity_grows_with_the_observations() -> None:
    """More observations than the requested capacity lose nothing."""
    Z = np.random.default_rng(0).normal(size=(90, 5))
    kernel = zf.NTK.random(5, seed=1)
    pools = [_core.Pool(Z, np.zeros(5), np.ones(5)) for _ in range(2)]
    small, large = (
        _core.LocalGradient(kernel.network, pool, c) for pool, c in zip(pools, (1, 90), strict=True)
    )
    for model in (small, large):
        model.center(80)
        for i in range(80):
            model.append(i, float(Z[i, 0]), 0.1)
    np.testing.assert_array_equal(small.gradient(), large.gradient())
    assert small.relative_uncertainty([81], 0.1) == large.relative_uncertainty([81], 0.1)
