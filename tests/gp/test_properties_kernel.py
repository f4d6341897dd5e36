"""Native kernel against reference.py on random and degenerate problems, entry by entry."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from property_tools import EPS, Problem, Rounding, assert_within, problems

import zopo_fast as zf
from zopo_fast.gp import reference


@given(problems())
def test_gram_of_one_set(device: str, p: Problem) -> None:
    K = zf.NTK(p.W, p.b).gram(p.X, device=device)
    np.testing.assert_array_equal(K, K.T)
    assert_within(K, reference.gram(p.W, p.b, p.X), Rounding(p.W, p.b).gram(p.X, p.X))


@given(problems())
def test_gram_is_positive_semidefinite(device: str, p: Problem) -> None:
    """Rounding changes an eigenvalue by at most the norm of the rounding errors."""
    K, rounding = zf.NTK(p.W, p.b).gram(p.X, device=device), Rounding(p.W, p.b).gram(p.X, p.X)
    solver = 4.0 * len(K) * EPS * np.linalg.norm(K)
    assert np.linalg.eigvalsh(K)[0] >= -np.linalg.norm(rounding) - solver


@given(problems())
def test_gram_of_two_sets(device: str, p: Problem) -> None:
    kernel = zf.NTK(p.W, p.b)
    K = kernel.gram(p.X, p.Q, device=device)
    assert_within(K, reference.gram(p.W, p.b, p.X, p.Q), Rounding(p.W, p.b).gram(p.X, p.Q))
    assert_within(kernel.gram(p.Q, p.X, device=device), K.T, Rounding(p.W, p.b).gram(p.Q, p.X))


@given(problems())
def test_a_row_does_not_depend_on_the_rows_around_it(p: Problem) -> None:
    kernel = zf.NTK(p.W, p.b)
    K = kernel.gram(p.X, p.Q)
    for i in range(len(p.X)):
        np.testing.assert_array_equal(kernel.gram(p.X[i : i + 1], p.Q)[0], K[i])


@given(problems())
def test_diagonal(device: str, p: Problem) -> None:
    expected = np.diag(reference.gram(p.W, p.b, p.X))
    assert_within(
        zf.NTK(p.W, p.b).diag(p.X, device=device), expected, np.diag(Rounding(p.W, p.b).gram(p.X, p.X))
    )


@given(problems())
def test_gradient(device: str, p: Problem) -> None:
    kernel, rounding = zf.NTK(p.W, p.b), Rounding(p.W, p.b)
    for x in p.Q:
        expected = reference.gradient(p.W, p.b, x, p.X)
        assert_within(kernel.gradient(x, p.X, device=device), expected, rounding.gradient(x, p.X))


@given(problems())
def test_gradient_prior_trace(device: str, p: Problem) -> None:
    kernel, rounding = zf.NTK(p.W, p.b), Rounding(p.W, p.b)
    for x in p.Q:
        expected = np.trace(reference.gradient_prior(p.W, p.b, x))
        assert_within(kernel.gradient_prior_trace(x, device=device), expected, rounding.prior_trace(x))
