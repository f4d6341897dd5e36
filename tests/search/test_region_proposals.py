"""Proposals of a region: the criterion, pending and excluded candidates, and calls in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
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
from zopo_fast.gp import reference


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("m", [2, 64, 65, 150])
def test_proposals_maximize_the_criterion_down_to_the_last_candidate(m: int, power: int) -> None:
    """Exclude each proposal in turn, which checks the criterion at every candidate."""
    X = problem(m)
    for seed, (one, K) in enumerate([of_points(X, zf.InfiniteNTK(2)), of_points(X, zf.InfiniteNTK(1))]):
        for region, off in ((one, POINTS_ERROR), (_core.RegionPosterior.of_gram(K, NUGGETS), GRAM_ERROR)):
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


@pytest.mark.parametrize("power", [1, 2])
def test_a_proposal_is_the_best_in_double_precision(power: int) -> None:
    """Candidates are ranked in single precision first; no error of that may show, at any incumbent."""
    m, rng = 700, np.random.default_rng(0)
    K = of_points(problem(m), zf.InfiniteNTK(2))[1]
    region = _core.RegionPosterior.of_gram(K, np.array([0.01]))
    for c in range(60):
        region.append(c, float(rng.normal()))
    mean, variance = region.posterior()
    for above in (-1e9, -30.0, -1.0, 0.0, 2.0, 4.0, 8.0, 20.0):
        values = reference.expected_improvement(mean, variance, 2.0 + above, power)
        for c in range(m):
            region.include(c)
        for _ in range(m):
            found = region.propose([], 2.0 + above, power)
            if values.max() > 1e-250:  # else the improvement underflows
                assert values[found] >= values.max() * (1 - 1e-6), above
            region.exclude(found)
            values[found] = 0.0


def test_proposals_do_not_depend_on_earlier_pending_sets() -> None:
    """The pending set grows, shrinks and changes; a new region must propose the same candidate."""
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
            at = int(rng.integers(len(told)))
            told[at] = told[at][0], float(rng.normal())
            region.revise(at, told[at][1])
        fresh = _core.RegionPosterior.of_gram(K, NUGGETS)
        twin = Twin(K)
        for c, y in told:
            fresh.append(c, y)
            twin.append(c, y)
        incumbent = max((y for _, y in told), default=0.0)
        found = region.propose(pending, incumbent, 1 + turn % 2)
        again = fresh.propose(pending, incumbent, 1 + turn % 2)
        left = [c for c in range(100) if c not in pending]
        for c in (found, again):
            assert_promising(c, twin, left, pending, incumbent, 1 + turn % 2, GRAM_ERROR)
        assert_same_posterior(region, twin, GRAM_ERROR)  # without pending candidates


def test_pending_duplicates_count_as_two_observations_of_one_candidate() -> None:
    X = problem(120, 8)
    X[60:] = X[:60]
    kernel = zf.InfiniteNTK(2)
    for seed in range(4):
        one, K = of_points(X, kernel)
        for region, off in ((one, POINTS_ERROR), (_core.RegionPosterior.of_gram(K, NUGGETS), GRAM_ERROR)):
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


def test_an_underflowing_improvement_still_ranks_the_candidates() -> None:
    """The proposal has the fewest standard deviations between its mean and the incumbent."""
    K = of_points(problem(90), zf.InfiniteNTK(2))[1]
    for incumbent in (1e3, 1e6, 1e150):
        region = _core.RegionPosterior.of_gram(K, NUGGETS)
        twin, free = filled(region, K, 30), list(range(90))
        for pending in ([], [4, 5, 6]):
            left = [c for c in free if c not in pending]
            for power in (1, 2):
                found = region.propose(pending, incumbent, power)
                assert_promising(found, twin, left, pending, incumbent, power, GRAM_ERROR)
    for c in range(90):
        region.exclude(c)
    assert region.propose([], 1e6) == -1


def test_ties_go_to_the_lowest_index() -> None:
    region = _core.RegionPosterior.of_gram(np.eye(70), NUGGETS)
    order = []
    while (c := region.propose([], 0.0)) >= 0:
        order.append(c)
        region.exclude(c)
    assert order == list(range(70))


def test_scores_of_excluded_candidates_still_inform_the_posterior() -> None:
    region, K = of_points(problem(70), zf.InfiniteNTK(2))
    for c in range(0, 70, 2):
        region.exclude(c)
    twin = filled(region, K, 30)
    assert_same_posterior(region, twin, POINTS_ERROR)
    region.revise(0, 0.0)
    assert region.propose([], 0.0) % 2 == 1


def test_proposals_stay_near_the_center_if_the_scores_are_noise() -> None:
    """Without a signal the region proposes only the free candidates nearest in kernel distance."""
    rng, X = np.random.default_rng(0), problem(150, 4)
    region, K = of_points(X, zf.InfiniteNTK(2))
    for c in range(100):
        region.append(c, float(rng.normal()))  # pure noise
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


def test_pending_candidates_do_not_count_among_the_nearest() -> None:
    rng, X = np.random.default_rng(0), problem(120, 4)
    region, K = of_points(X, zf.InfiniteNTK(2))
    for c in range(100):
        region.append(c, float(rng.normal()))
        region.exclude(c)
    near = sorted(range(100, 120), key=lambda c: K[c, c] - 2 * K[7, c])
    assert region.propose([], 3.0, 2, 7, 1) == near[0]
    assert region.propose([near[0]], 3.0, 2, 7, 1) == near[1]
    assert region.propose(near[:5], 1e6, 2, 7, 1) == near[5]


def test_of_equally_near_candidates_the_first_ones_compete() -> None:
    K, m = np.eye(130), 130
    K[50, 120:] = K[120:, 50] = 0.2
    region = _core.RegionPosterior.of_gram(K, np.array([3.0]))  # this noise counts as no signal
    for c, y in ((50, 9.0), (51, 0.0), (52, 1.0)):
        region.append(c, y)
        region.exclude(c)
    assert region.propose([], 9.0, 2, 100, m) == 120
    order = [100, *(c for c in range(m) if c not in (50, 51, 52, 100))]
    for k in (1, 2, 5, 64, 116, 117, 118, 126):
        found = region.propose([], 9.0, 2, 100, k)
        assert found in order[:k]
        assert (found == 120) == (120 in order[:k]), k


# ---- any order of calls ----------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Make the same calls on a region from each constructor and on the reference."""

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        m=st.sampled_from([3, 40, 64, 65, 90]),
        d=st.integers(1, 8),
        shape=st.sampled_from(["random", "duplicates", "collinear", "nearly equal", "grid", "one point"]),
        depth=st.integers(1, 4),
        parametrization=st.sampled_from(["ntk", "standard"]),
        bias=st.sampled_from([0.05, 1.0]),
        capacity=st.sampled_from([0, 2, 100]),
        levels=st.sampled_from([NUGGETS, np.array([0.01]), np.array([3.0, 0.02]), np.logspace(-2, 0.5, 7)]),
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

    def tolerances(self) -> list[float]:
        # A region of points has an error of 1e-4 in the kernel of coincident points, whose scores differ by
        # little more than the noise: the smallest level divides the error.
        return [3e-4 / float(self.twin.nuggets.min()), 10 * GRAM_ERROR]

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
    @rule(y=st.floats(-3, 3), noise=st.sampled_from([0.0, 0.0, 0.1, 5.0]), pick=st.integers(0, 10**6))
    def revise(self, y: float, noise: float, pick: int) -> None:
        i = pick % len(self.twin.y)
        for region in self.regions:
            region.revise(i, y, noise)
        self.twin.revise(i, y, noise)

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
        for region, off in zip(self.regions, self.tolerances(), strict=True):
            found = region.propose(waiting, incumbent, power)
            assert_promising(found, self.twin, left, waiting, incumbent, power, off)

    @invariant()
    def posteriors_agree(self) -> None:
        if hasattr(self, "twin"):
            for region, off in zip(self.regions, self.tolerances(), strict=True):
                assert_same_posterior(region, self.twin, off)


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAnyOrder = AnyOrder.TestCase
