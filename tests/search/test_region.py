"""The posterior over a region of candidates against its float64 twin, by both of its constructors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dispatch_tools import require, run
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from property_tools import points
from region_tools import NUGGETS, Twin, assert_promising, assert_same_posterior, of_points, problem

import zopo_fast as zf
from zopo_fast import _core

GRAM = 2e-5  # error of single precision in a posterior's units, at the noise that is searched with
POINTS = 1e-3  # with the kernel's own, near coincident points: half the digits of an angle there

SIZES = [1, 2, 63, 64, 65, 128, 200]


def filled(
    region: _core.RegionPosterior, K: np.ndarray, n: int, seed: int = 0, noisy: bool = False, first: int = 0
) -> Twin:
    """Observe n distinct candidates; the twin of that."""
    rng, twin = np.random.default_rng(seed), Twin(K)
    for c in rng.permutation(np.arange(first, len(K)))[:n].tolist():
        y, noise = float(rng.normal()), float(rng.uniform(0, 2)) if noisy else 0.0
        region.append(c, y, noise)
        twin.append(c, y, noise)
    return twin


# ---- the posterior ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrization", ["ntk", "standard"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("m", SIZES)
def test_posterior_is_the_twins(m: int, depth: int, parametrization: Any) -> None:
    for bias, d in ((0.2, 5), (0.0, 3), (1.0, 70)):
        kernel = zf.InfiniteNTK(depth, 2.0, bias, parametrization)
        region, K = of_points(problem(m, d), kernel)
        gram = _core.RegionPosterior.of_gram(K, NUGGETS)
        for one, off in ((region, POINTS), (gram, GRAM)):
            assert one.columns == m
            assert_same_posterior(one, Twin(K), off)  # the prior
            assert_same_posterior(one, filled(one, K, m // 2, noisy=bias > 0), off)


def test_prior_variance_is_the_kernels_diagonal() -> None:
    for scale in (1e-6, 1.0, 1e6):
        X = problem(70) * np.sqrt(scale)
        region, K = of_points(X, zf.InfiniteNTK(2, bias_variance=0.0))
        mean, variance = region.posterior()
        assert not mean.any()
        np.testing.assert_allclose(variance, np.diag(K), rtol=1e-5)


@pytest.mark.parametrize("parametrization", ["ntk", "standard"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_kernel_rows_are_the_closed_form(depth: int, parametrization: Any) -> None:
    """One score of much noise moves every mean by its covariance: the kernel's row itself is seen.

    Coincident, opposite, collinear and zero points too.
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


def test_scores_in_any_unit() -> None:
    """A large common part or a large unit costs no digits."""
    K = of_points(problem(90), zf.InfiniteNTK(2))[1]
    plain = _core.RegionPosterior.of_gram(K, NUGGETS)
    for shift, unit in ((0.0, 2.0**300), (0.0, 2.0**-300), (2.0**20, 1.0), (-(2.0**30), 2.0**10)):
        other = _core.RegionPosterior.of_gram(K, NUGGETS)
        for region, a, b in ((plain, 0.0, 1.0), (other, shift, unit)):
            region.truncate(0)
            for c in range(20):
                region.append(3 * c, a + b * float(c % 7))
        mean, variance = plain.posterior()
        off_mean, off_variance = other.posterior()
        assert np.abs((off_mean - shift) / unit - mean).max() < 1e-6
        assert np.abs(off_variance / unit**2 - variance).max() < 1e-6
        np.testing.assert_allclose(other.shares()[0], plain.shares()[0], rtol=1e-6, atol=1e-9)
        for pending in ([], [1, 2]):
            assert other.propose(pending, shift + 6 * unit, 2) == plain.propose(pending, 6.0, 2)


def test_equal_scores_leave_the_levels_prior_amplitude() -> None:
    K = of_points(problem(80), zf.InfiniteNTK(2))[1]
    for value in (0.0, 0.1, -3.3, 1e9, 1e-300):
        region, twin = _core.RegionPosterior.of_gram(K, NUGGETS), Twin(K)
        for c in range(12):
            region.append(c, value)
            twin.append(c, value)
        assert_same_posterior(region, twin, GRAM)
        assert (region.shares()[1] == 1.0).all()
        # Nothing but uncertainty tells candidates apart.
        off = GRAM
        assert_promising(region.propose([], value, 2), twin, range(12, 80), [], value, 2, off)


def test_duplicates_are_one_candidate_with_more_scores() -> None:
    X = problem(80)
    X[40:] = X[:40]
    kernel = zf.InfiniteNTK(2)
    for one, K in (of_points(X, kernel), (None, kernel.gram(X) / kernel.diag(X).mean())):
        region = one or _core.RegionPosterior.of_gram(K, NUGGETS)
        off = GRAM if one is None else POINTS
        twin = Twin(K)
        for k in range(30):
            c, y = k // 3 + 40 * (k % 2), float(np.sin(k))
            region.append(c, y)
            twin.append(c, y)
        assert_same_posterior(region, twin, off)
        mean, variance = region.posterior()
        assert np.abs(mean[:40] - mean[40:]).max() < off
        assert np.abs(variance[:40] - variance[40:]).max() < off


def test_much_noise_is_no_observation() -> None:
    """Where it leaves the scores' mean as it is, which all scores count for alike."""
    K = of_points(problem(70), zf.InfiniteNTK(2))[1]
    with_, without = (_core.RegionPosterior.of_gram(K, np.array([0.1])) for _ in range(2))
    for c in range(11):
        with_.append(c, float(c))
        without.append(c, float(c))
    for noise in (1e12, 1e300):
        with_.append(50, 5.0, noise)
        assert np.abs(with_.posterior()[0] - without.posterior()[0]).max() < 1e-5
        with_.truncate(11)
        np.testing.assert_array_equal(with_.posterior()[0], without.posterior()[0])


def test_noise_is_in_the_kernels_units_beside_the_nugget() -> None:
    K = of_points(problem(70), zf.InfiniteNTK(2))[1]
    split = _core.RegionPosterior.of_gram(K, np.array([0.25]))
    whole = _core.RegionPosterior.of_gram(K, np.array([1.0]))
    for c in range(20):
        split.append(c, float(np.sin(c)), 0.75)
        whole.append(c, float(np.sin(c)))
    for a, b in zip(split.posterior(), whole.posterior(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_capacity_is_no_limit() -> None:
    K = of_points(problem(130), zf.InfiniteNTK(2))[1]
    for capacity in (0, 1, 3, 64, 1000):
        region = _core.RegionPosterior.of_gram(K, NUGGETS, capacity)
        twin = filled(region, K, 90)
        region.propose([c for c in range(130) if c not in twin.columns][:30], 1.0)
        assert_same_posterior(region, twin, GRAM)


def test_propagate_is_the_covariance_times_the_solved_residuals() -> None:
    """K A^-1 r of each level, which is how Thompson samples are drawn."""
    region, K = of_points(problem(100), zf.InfiniteNTK(3))
    twin = filled(region, K, 40, noisy=True)
    r, at = np.random.default_rng(1).normal(size=40), twin.columns
    for level, nugget in enumerate(NUGGETS):
        A = K[np.ix_(at, at)] + np.diag(nugget + np.array(twin.noise))
        expected = K[:, at] @ np.linalg.solve(A, r)
        found = region.propagate(level, r)
        assert np.abs(found - expected).max() < POINTS * np.abs(expected).max()
    # With the scores as residuals it is the mean.
    single, _ = of_points(problem(100), zf.InfiniteNTK(3), np.array([0.1]))
    y = np.sin(np.arange(30.0))
    for c in range(30):
        single.append(c, y[c])
    mean = y.mean() + single.propagate(0, y - y.mean())
    np.testing.assert_allclose(single.posterior()[0], mean, atol=1e-12)


# ---- proposals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("m", [2, 64, 65, 150])
def test_the_whole_order_of_proposals(m: int, power: int) -> None:
    """Each excluded in turn: the criterion is right at every candidate, and its ties go to the lowest."""
    X = problem(m)
    for seed, (one, K) in enumerate([of_points(X, zf.InfiniteNTK(2)), of_points(X, zf.InfiniteNTK(1))]):
        for region, off in ((one, POINTS), (_core.RegionPosterior.of_gram(K, NUGGETS), GRAM)):
            twin = filled(region, K, m // 3, seed, noisy=bool(seed))
            incumbent = max(twin.y, default=0.0)
            free = list(range(m))
            pending = free[m // 2 : m // 2 + 3]
            while True:
                left = [c for c in free if c not in pending]
                c = region.propose(pending, incumbent, power)
                assert_promising(c, twin, left, pending, incumbent, power, off)
                if c < 0:
                    break
                region.exclude(c)
                free.remove(c)
            assert all(region.propose([], incumbent, power) in (*pending, -1) for _ in range(2))


def test_pending_sets_that_grow_shrink_and_change() -> None:
    """Whatever was asked before, the answer is that of a region asked for the first time."""
    rng = np.random.default_rng(3)
    K = of_points(problem(100), zf.InfiniteNTK(2))[1]
    region = _core.RegionPosterior.of_gram(K, NUGGETS)
    columns = rng.permutation(100)[:30].tolist()
    told: list[tuple[int, float]] = []
    pending: list[int] = []
    for turn in range(120):
        what = rng.integers(6)
        if what <= 1:
            pending = [*pending, *(int(c) for c in rng.integers(100, size=2) if int(c) not in pending)][:12]
        elif what == 2:
            pending = pending[: len(pending) // 2]
        elif what == 3:
            pending = pending[len(pending) // 2 :]
        elif what == 4:
            pending = [int(c) for c in rng.permutation(100)[:4]]
        elif len(told) < len(columns):
            told.append((columns[len(told)], float(rng.normal())))
            region.append(*told[-1])
        elif told:
            told = told[: len(told) // 2]
            region.truncate(len(told))
        fresh = _core.RegionPosterior.of_gram(K, NUGGETS)
        twin = Twin(K)
        for c, y in told:
            fresh.append(c, y)
            twin.append(c, y)
        incumbent = max((y for _, y in told), default=0.0)
        found = region.propose(pending, incumbent, 1 + turn % 2)
        assert found == fresh.propose(pending, incumbent, 1 + turn % 2)
        left = [c for c in range(100) if c not in pending]
        assert_promising(found, twin, left, pending, incumbent, 1 + turn % 2, GRAM)
        assert_same_posterior(region, twin, GRAM)  # what is pending leaves the mean and the variance


def test_pending_duplicates_cost_the_others_no_certainty() -> None:
    """Two pending candidates in one place are one, scored twice."""
    X = problem(120, 8)
    X[60:] = X[:60]
    kernel = zf.InfiniteNTK(2)
    for seed in range(4):
        one, K = of_points(X, kernel)
        for region, off in ((one, POINTS), (_core.RegionPosterior.of_gram(K, NUGGETS), GRAM)):
            twin = filled(region, K, 10, seed, first=20)
            once = [0, 1, 2, 3, 4]
            twice = [c for a in once for c in (a, a + 60)]
            incumbent = max(twin.y)
            left = [c for c in range(120) if c not in twice]
            for _ in range(40):
                c = region.propose(twice, incumbent, 2)
                assert_promising(c, twin, left, twice, incumbent, 2, off)
                region.exclude(c)
                left.remove(c)


def test_no_improvement_that_a_number_could_hold() -> None:
    """The least hopeless candidate by standard deviations, not the first."""
    K = of_points(problem(90), zf.InfiniteNTK(2))[1]
    for incumbent in (1e3, 1e6, 1e150):
        region = _core.RegionPosterior.of_gram(K, NUGGETS)
        twin, free = filled(region, K, 30), list(range(90))
        for pending in ([], [4, 5, 6]):
            left = [c for c in free if c not in pending]
            for power in (1, 2):
                found = region.propose(pending, incumbent, power)
                assert_promising(found, twin, left, pending, incumbent, power, GRAM)
    for c in range(90):
        region.exclude(c)
    assert region.propose([], 1e6) == -1


def test_ties_go_to_the_lowest() -> None:
    region = _core.RegionPosterior.of_gram(np.eye(70), NUGGETS)
    order = []
    while (c := region.propose([], 0.0)) >= 0:
        order.append(c)
        region.exclude(c)
    assert order == list(range(70))


def test_excluded_ones_are_data_all_the_same() -> None:
    region, K = of_points(problem(70), zf.InfiniteNTK(2))
    for c in range(0, 70, 2):
        region.exclude(c)
    twin = filled(region, K, 30)
    assert_same_posterior(region, twin, POINTS)
    region.truncate(0)
    assert region.propose([], 0.0) % 2 == 1  # exclusion lasts


def test_only_the_nearest_where_scores_are_noise_to_the_model() -> None:
    """By the kernel's distance from the center, the free ones counted; everywhere where they are not."""
    rng, X = np.random.default_rng(0), problem(150, 4)
    region, K = of_points(X, zf.InfiniteNTK(2))
    for c in range(100):
        region.append(c, float(rng.normal()))  # nothing to learn
        region.exclude(c)
    assert region.shares()[0][NUGGETS > 0.3].sum() > 0.9
    distance = np.diag(K) - 2 * K[7]
    free, seen = list(range(100, 150)), []
    while free:
        near = sorted(free, key=distance.__getitem__)
        c = region.propose([], 3.0, 2, 7, 5)
        assert distance[c] <= distance[near[min(4, len(near) - 1)]] + 1e-4
        region.exclude(c)
        free.remove(c)
        seen.append(c)
    assert region.propose([], 3.0, 2, 7, 5) == -1

    smooth, _ = of_points(X, zf.InfiniteNTK(2))
    for c in range(100):
        smooth.append(c, float(X[c] @ np.ones(4)))
        smooth.exclude(c)
    assert smooth.shares()[0][NUGGETS > 0.3].sum() < 0.1
    best = smooth.propose([], 3.0, 2)
    assert all(smooth.propose([], 3.0, 2, c, 1) == best for c in range(0, 100, 10))


def test_pending_are_not_among_the_nearest() -> None:
    rng, X = np.random.default_rng(0), problem(120, 4)
    region, K = of_points(X, zf.InfiniteNTK(2))
    for c in range(100):
        region.append(c, float(rng.normal()))
        region.exclude(c)
    near = sorted(range(100, 120), key=lambda c: K[c, c] - 2 * K[7, c])
    assert region.propose([], 3.0, 2, 7, 1) == near[0]
    assert region.propose([near[0]], 3.0, 2, 7, 1) == near[1]
    assert region.propose(near[:5], 1e6, 2, 7, 1) == near[5]


# ---- any order of calls ----------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Both constructors and the twin go through the same calls."""

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        m=st.sampled_from([3, 40, 64, 65, 90]),
        d=st.integers(1, 8),
        shape=st.sampled_from(["random", "duplicates", "collinear", "nearly equal", "grid", "one point"]),
        depth=st.integers(1, 4),
        parametrization=st.sampled_from(["ntk", "standard"]),
        bias=st.sampled_from([0.05, 1.0]),
        capacity=st.sampled_from([0, 2, 100]),
        levels=st.sampled_from([NUGGETS, np.array([0.01]), np.array([3.0, 0.02])]),
    )
    def start(
        self, seed: int, m: int, d: int, shape: str, depth: int, parametrization: Any, bias: float,
        capacity: int, levels: np.ndarray,
    ) -> None:  # fmt: skip
        self.rng, self.m = np.random.default_rng(seed), m
        kernel = zf.InfiniteNTK(depth, 2.0, bias, parametrization)
        region, K = of_points(points(self.rng, shape, m, d), kernel, levels, capacity)
        self.regions = [region, _core.RegionPosterior.of_gram(K, levels, capacity)]
        self.twin, self.free = Twin(K, levels), set(range(m))

    def offs(self) -> list[float]:
        return [10 * POINTS, 10 * GRAM]

    @rule(y=st.floats(-3, 3), noise=st.sampled_from([0.0, 0.0, 0.1, 5.0]), pick=st.integers(0, 10**6))
    def append(self, y: float, noise: float, pick: int) -> None:
        for region in self.regions:
            region.append(pick % self.m, y, noise)
        self.twin.append(pick % self.m, y, noise)

    @rule(count=st.integers(1, 6))
    def append_several(self, count: int) -> None:
        for _ in range(count):
            self.append(float(self.rng.normal()), 0.0, int(self.rng.integers(self.m)))

    @precondition(lambda self: self.twin.y)
    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        n = int(share * len(self.twin.y))
        for region in self.regions:
            region.truncate(n)
        self.twin.truncate(n)

    @rule(equal=st.booleans())
    def rescore(self, equal: bool) -> None:
        n = len(self.twin.y)
        y = np.full(n, 0.3) if equal else self.rng.normal(size=n)
        for region in self.regions:
            region.rescore(y)
        self.twin.y = y.tolist()

    @rule(pick=st.integers(0, 10**6))
    def exclude(self, pick: int) -> None:
        for region in self.regions:
            region.exclude(pick % self.m)
        self.free.discard(pick % self.m)

    @rule(
        pending=st.lists(st.integers(0, 10**6), max_size=5),
        power=st.sampled_from([1, 2]),
        above=st.sampled_from([-1.0, 0.0, 0.5]),
    )
    def propose(self, pending: list[int], power: int, above: float) -> None:
        waiting = list(dict.fromkeys(c % self.m for c in pending))
        incumbent = max(self.twin.y, default=0.0) + above
        left = sorted(self.free - set(waiting))
        for region, off in zip(self.regions, self.offs(), strict=True):
            found = region.propose(waiting, incumbent, power)
            assert_promising(found, self.twin, left, waiting, incumbent, power, off)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "twin"):
            for region, off in zip(self.regions, self.offs(), strict=True):
                assert_same_posterior(region, self.twin, off)


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# ---- instruction sets ------------------------------------------------------------------------------

COMPUTE = """
import numpy as np
import pytest
from zopo_fast import _core
import test_region as t
for m in (1, 65):
    t.test_posterior_is_the_twins(m, 2, "ntk")
    t.test_posterior_is_the_twins(m, 4, "standard")
t.test_kernel_rows_are_the_closed_form(3, "ntk")
for power in (1, 2):
    t.test_the_whole_order_of_proposals(65, power)
t.test_no_improvement_that_a_number_could_hold()
t.test_propagate_is_the_covariance_times_the_solved_residuals()
print(_core.isa())
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    require(isa)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    script = f"import sys; sys.path[:0] = {folders!r}\n" + COMPUTE
    done = run(script, isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]
