"""Candidates of a region that change: replaced, added, excluded and included again; and threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from property_tools import points
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

KERNEL = zf.InfiniteNTK(2, bias_variance=0.2)
CLOSED = (2, 2.0, 0.2, False)


def arc_cosine(kernel: zf.InfiniteNTK) -> tuple[int, float, float, bool]:
    return kernel.depth, kernel.weight_variance, kernel.bias_variance, kernel.parametrization == "ntk"


def mixed(d: int) -> tuple[list[Any], list[Any]]:
    """Return kernels of both kinds, and how the native module takes them."""
    network = zf.NTK.random(d, width=16, depth=2, seed=1)
    kernels = [KERNEL, network, zf.InfiniteNTK(3, 1.5, 0.1, "ntk")]
    return kernels, [CLOSED, network.network, arc_cosine(kernels[2])]


class Candidates:
    """A replaceable region beside its coordinates, which are those of the reference."""

    def __init__(self, X: np.ndarray, several: bool, capacity: int = 0) -> None:
        d = X.shape[1]
        self.kernels, native = mixed(d) if several else ([KERNEL], [CLOSED])
        self.X, self.scale = X.copy(), 1.0
        self.scale = float(np.diag(self.gram()).mean())
        self.region = _core.RegionPosterior.of_kernels(X, native, self.scale, NUGGETS, capacity, True)
        self.off = GRAM_ERROR if several else POINTS_ERROR
        self.twin = Twin(self.gram())

    def gram(self) -> np.ndarray:
        return np.asarray(np.mean([k.gram(self.X) for k in self.kernels], axis=0) / self.scale)

    def append(self, column: int, y: float, noise: float) -> None:
        self.region.append(column, y, noise)
        self.twin.append(column, y, noise)

    def replace(self, columns: list[int], X: np.ndarray) -> None:
        self.region.replace(columns, X)
        self.X[columns] = X
        self.twin.K = self.gram()

    def extend(self, X: np.ndarray) -> None:
        self.X = np.concatenate([self.X, X])
        self.region.extend(self.X)
        self.twin.K = self.gram()

    def check(self) -> None:
        m = len(self.X)
        assert self.region.columns == m
        assert self.region.observed() == self.twin.columns
        off = np.abs(self.region.gram() - self.twin.K).max() / np.abs(self.twin.K).max()
        assert off < (5e-4 if len(self.kernels) == 1 else 1e-6)
        assert_same_posterior(self.region, self.twin, self.off)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([20, 63, 64, 100]),
    shape=st.sampled_from(["random", "duplicates", "grid"]),
    several=st.booleans(),
    n=st.integers(0, 19),
    noise=st.sampled_from([0.0, 1e-4, 0.5]),
    moves=st.lists(
        st.sampled_from(["replace", "extend", "append", "revise", "rescore", "propose"]), max_size=6
    ),
)
def test_changed_candidates_equal_the_reference(
    seed: int, m: int, shape: str, several: bool, n: int, noise: float, moves: list[str]
) -> None:
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 7))
    here = Candidates(points(rng, shape, m, d), several)
    for k in range(n):
        here.append(k, float(rng.normal()), noise)
    pending: list[int] = []
    for move in moves:
        columns, size = here.twin.columns, len(here.X)
        if move == "replace":
            free = [c for c in range(size) if c not in columns and c not in pending]
            some = rng.permutation(free)[: int(rng.integers(1, 70))].tolist()
            here.replace(some, points(rng, shape, len(some), d))
        elif move == "extend":
            here.extend(points(rng, shape, int(rng.integers(1, 70)), d))
        elif move == "append":
            for _ in range(10):
                here.append(int(rng.integers(size)), float(rng.normal()), noise)
        elif move == "revise" and columns:
            i, y = int(rng.integers(len(columns))), float(rng.normal())
            here.region.revise(i, y, noise + 0.1)
            here.twin.revise(i, y, noise + 0.1)
        elif move == "rescore":
            y = rng.normal(size=len(columns))
            here.region.rescore(y)
            here.twin.y = y.tolist()
        else:
            pending = [int(c) for c in rng.permutation(size)[:2]]
            found = here.region.propose(pending, 1.0, 2)
            left = [c for c in range(size) if c not in pending]
            assert_promising(found, here.twin, left, pending, 1.0, 2, here.off)
            continue
        pending = []
        here.check()
    here.check()


@pytest.mark.parametrize("m", [40, 64, 100, 129])
@pytest.mark.parametrize("several", [False, True])
def test_an_extended_region_equals_one_built_at_once(m: int, several: bool) -> None:
    """The Gram matrix of an extended region has the same bits, wherever its old blocks end."""
    X = problem(300, 6)
    native = mixed(6)[1] if several else [CLOSED]
    grown = _core.RegionPosterior.of_kernels(X[:m], native, 1.0, NUGGETS)
    whole = _core.RegionPosterior.of_kernels(X, native, 1.0, NUGGETS)
    for region in (grown, whole):
        for c in range(30):
            region.append(c, float(np.sin(c)))
    for size in (m + 1, 200, 300):
        grown.extend(X[:size])
    if several:  # a matrix product may sum in another order
        np.testing.assert_allclose(grown.gram(), whole.gram(), rtol=1e-6)
    else:
        np.testing.assert_array_equal(grown.gram(), whole.gram())
    np.testing.assert_array_equal(grown.gram(), grown.gram().T)
    for a, b in zip(grown.posterior(), whole.posterior(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_extension_beyond_the_largest_gram_matrix_keeps_the_posterior() -> None:
    X = problem(2100, 4)
    region, whole = (_core.RegionPosterior.of_kernels(part, [CLOSED], 1.0, NUGGETS) for part in (X[:2000], X))
    for one in (region, whole):
        for c in range(0, 120, 2):
            one.append(c, float(np.sin(c)))
    region.extend(X)
    for one in (region, whole):
        for c in (2099, 1, 3):
            one.append(c, 0.5)
        one.revise(4, 0.1, 0.3)
    for a, b in zip(region.posterior(), whole.posterior(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert region.propose([7, 9], 1.0, 2) == whole.propose([7, 9], 1.0, 2)


def test_replaced_and_included_candidates_are_free() -> None:
    here = Candidates(problem(80), several=False)
    for c in range(70):
        here.append(c, float(np.sin(c)), 0.0)
    for c in range(80):
        here.region.exclude(c)
    assert here.region.propose([], 1.0) == -1
    here.region.include(75)
    assert here.region.propose([], 1.0) == 75
    here.replace([77, 71], problem(2, seed=5))
    assert [c for c in range(80) if not here.region.excluded(c)] == [71, 75, 77]
    here.extend(problem(1, seed=6))
    assert not here.region.excluded(80)


def test_candidates_in_use_are_not_replaced() -> None:
    for several in (False, True):
        here = Candidates(problem(80), several)
        for c in range(10):
            here.append(c, float(np.sin(c)), 0.0)
        here.region.propose([11, 12], 1.0)
        X = problem(1, seed=2)
        for taken in (3, 11, 12):
            with pytest.raises(zf.ArrayError, match=f"candidate {taken} is observed"):
                here.region.replace([40, taken], np.concatenate([X, X]))
        with pytest.raises(zf.ArrayError, match="candidate 40"):
            here.region.replace([40, 40], np.concatenate([X, X]))
        with pytest.raises(zf.ArrayError, match="row 1"):
            here.region.replace([40, 41], np.concatenate([X, X * 1e200]))
        with pytest.raises(zf.ArrayError, match="dimension"):
            here.region.replace([40], X[:, :2].copy())
        with pytest.raises(zf.ArrayError, match="2 rows"):
            here.region.replace([40, 41], X)
        with pytest.raises(zf.ArrayError, match="at least the 80"):
            here.region.extend(problem(79))
        with pytest.raises(zf.ArrayError, match="row 80"):
            here.region.extend(np.concatenate([here.X, X * 1e200]))
        with pytest.raises(IndexError):
            here.region.replace([80], X)
        here.region.propose([], 1.0)
        here.check()
    region, K = of_points(problem(20), KERNEL)
    with pytest.raises(zf.ArrayError, match="replaceable"):
        region.replace([3], problem(1))
    gram = _core.RegionPosterior.of_gram(K, NUGGETS)
    for change in (lambda: gram.replace([3], np.zeros((1, 1))), lambda: gram.extend(np.zeros((30, 1)))):
        with pytest.raises(zf.ArrayError):
            change()


def test_alpha_solves_for_the_centered_scores() -> None:
    region, K = of_points(problem(100), zf.InfiniteNTK(3))
    assert region.alpha(0).shape == (0,)
    twin = filled(region, K, 45, noisy=True)
    region.propose([99, 98], 1.0)
    y, at = np.array(twin.y), twin.columns
    for level, nugget in enumerate(NUGGETS):
        A = K[np.ix_(at, at)] + np.diag(nugget + np.array(twin.noise))
        expected = np.linalg.solve(A, y - y.mean())
        np.testing.assert_allclose(region.alpha(level), expected, atol=1e-3 * np.abs(expected).max())


@pytest.fixture
def _all_threads() -> Iterator[None]:
    yield
    zf.set_num_threads(0)


@pytest.mark.usefixtures("_all_threads")
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    """Sizes are those from which each part of the work is split."""

    def compute(threads: int) -> list[np.ndarray]:
        zf.set_num_threads(threads)
        d = 50
        X = problem(45_000, d)
        region = _core.RegionPosterior.of_kernels(X, [CLOSED], 1.0, NUGGETS, 0, True)
        out, proposed = [], []
        for c in range(30):
            region.append(1000 * c, float(np.sin(c)))
        proposed.append(region.propose([], 1.0, 2))
        proposed.append(region.propose([5, 6], 1.0, 1))
        region.revise(3, 0.1, 0.2)
        out += region.posterior()
        region.replace([c for c in range(1, 8009) if c % 1000], problem(8000, d, seed=1))
        out += region.posterior()
        for c in range(45_000):  # one free candidate in each panel, all of which are proposed in turn
            (region.exclude if c % 64 else region.include)(c)
        for _ in range(700):
            proposed.append(region.propose([], 1.0, 2))
            region.exclude(proposed[-1])
        assert len(set(proposed[-700:])) == 700
        whole = _core.RegionPosterior.of_kernels(X[:700], [CLOSED], 1.0, NUGGETS)
        several = _core.RegionPosterior.of_kernels(X[:700], mixed(d)[1], 1.0, NUGGETS)
        return [*out, np.array(proposed), whole.gram(), several.gram()]

    alone = compute(1)
    for threads in (2, 5):
        for a, b in zip(alone, compute(threads), strict=True):
            np.testing.assert_array_equal(a, b)
