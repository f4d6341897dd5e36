"""Start of a search: medoids of the pool in the metric of the kernel."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from search_tools import CONFIGS, play, pool

import zopo_fast as zf
from zopo_fast.search import design
from zopo_fast.search.design import MAX_SAMPLE, size_of_start, spread_start
from zopo_fast.search.problem import SearchProblem

SPREAD = {name: config for name, config in CONFIGS.items() if name != "official"}


def distances(gram: np.ndarray) -> np.ndarray:
    n = len(gram)
    return np.array([[gram[i, i] + gram[j, j] - 2 * gram[i, j] for j in range(n)] for i in range(n)])


def blobs(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 5) in tight clusters of these sizes, shuffled, and the cluster of each."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return 10.0 * np.eye(5)[label] + 0.1 * rng.normal(size=(len(label), 5)), label


@pytest.mark.parametrize("known", [(), (4,), (4, 9)])
def test_the_medoids_are_nearly_the_best_of_all_subsets(known: tuple[int, ...]) -> None:
    others = [i for i in range(14) if i not in known]
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(14, 3))
        D = distances(X @ X.T)
        chosen = spread_start(X @ X.T, 3, rng, known)
        assert len(set(chosen) - set(known)) == 3
        costs = [D[:, [*known, *some]].min(axis=1).sum() for some in itertools.combinations(others, 3)]
        ratios.append(D[:, [*known, *chosen]].min(axis=1).sum() / min(costs))
    assert min(ratios) > 1 - 1e-9
    assert np.mean(ratios) < 1.15  # alternating updates end in local optima


def test_a_single_prompt_is_the_medoid_of_the_pool() -> None:
    X = pool(40)
    assert spread_start(X @ X.T, 1, np.random.default_rng(0)) == [distances(X @ X.T).sum(axis=1).argmin()]


@pytest.mark.parametrize("seed", range(10))
def test_every_cluster_gets_a_prompt_and_the_largest_is_first(seed: int) -> None:
    X, label = blobs((4, 11, 7), seed)
    chosen = spread_start(X @ X.T, 3, np.random.default_rng(seed))
    assert label[chosen].tolist() == [1, 2, 0]


@pytest.mark.parametrize("known", [[], [3]])
def test_every_seed_is_far_from_those_before(known: list[int]) -> None:
    X, label = blobs((9, 9, 9, 9))
    D = distances(X @ X.T)
    for seed in range(20):
        chosen = design._seeded(D, known, 4 - len(known), np.random.default_rng(seed))
        assert {*label[chosen]} == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(10))
def test_known_prompts_cover_their_cluster(seed: int) -> None:
    X, label = blobs((4, 11, 7), seed)
    known = int(np.flatnonzero(label == 1)[0])
    chosen = spread_start(X @ X.T, 2, np.random.default_rng(seed), [known])
    assert sorted(label[chosen].tolist()) == [0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_a_known_prompt_at_the_edge_stays_a_medoid(seed: int) -> None:
    x = np.arange(13.0)
    D = distances(np.outer(x, x))
    chosen = spread_start(np.outer(x, x), 1, np.random.default_rng(seed), [0])
    assert chosen == [np.minimum(D, D[0]).sum(axis=1).argmin()] == [8]  # 9 or 10 if the other could move


def test_prompts_that_coincide_are_distinct_in_the_start() -> None:
    for X in (np.ones((7, 2)), np.zeros((7, 2)), np.repeat([[0.0, 1.0], [1.0, 0.0]], [5, 2], axis=0)):
        chosen = spread_start(X @ X.T, 4, np.random.default_rng(0))
        assert len(set(chosen)) == 4
        assert set(chosen) <= set(range(7))
    x = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    assert 4 in spread_start(np.outer(x, x), 2, np.random.default_rng(0))
    assert sorted(spread_start(np.eye(3), 9, np.random.default_rng(0))) == [0, 1, 2]
    assert spread_start(np.eye(3), 9, np.random.default_rng(0), [0, 1, 2]) == []


def test_a_gram_matrix_that_overflows_gives_some_prompts() -> None:
    gram = np.full((5, 5), 1e308)
    gram[2] = gram[:, 2] = np.inf
    assert len(set(spread_start(gram, 3, np.random.default_rng(0)))) == 3


def test_a_start_takes_at_most_a_fourth_of_the_budget() -> None:
    assert [size_of_start(budget) for budget in (1, 3, 4, 7, 8, 12, 20, 50, 10**6)] == [
        1, 1, 1, 1, 2, 3, 5, 5, 5,
    ]  # fmt: skip
    assert [size_of_start(budget, is_local=True) for budget in (1, 20, 28, 50)] == [1, 5, 7, 8]


@pytest.mark.parametrize("name", SPREAD)
def test_a_search_begins_with_the_start(name: str) -> None:
    Z = pool(200)
    problem = SearchProblem(Z, SPREAD[name](budget=50), None)
    count = 8 if name in ("trust region", "gradient") else 5
    assert len(set(problem.initial)) == count
    opt = zf.Zopo(Z, SPREAD[name](budget=50))
    assert opt.ask(count) == problem.initial
    others = [SearchProblem(Z, SPREAD[name](budget=50, seed=seed), None).initial for seed in range(6)]
    assert others[0] == problem.initial
    assert len(set(map(tuple, others))) > 1


@pytest.mark.parametrize("name", SPREAD)
def test_precision_and_batch_do_not_change_the_start(name: str) -> None:
    exact = pool(300).astype(np.float16)
    exact[::2] = exact[1::2]  # twins, between which rounding must not choose
    asked = {dtype: play(zf.Zopo(exact.astype(dtype), SPREAD[name](budget=16))) for dtype in "efd"}
    assert asked["e"] == asked["f"] == asked["d"]
    batch = zf.ZopoBatch([exact, exact.astype("d")], SPREAD[name](budget=16))
    assert [play(opt) for opt in batch] == [asked["e"]] * 2


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_tiny_pools_and_equal_prompts(name: str, m: int) -> None:
    for Z in (pool(m), np.ones((m, 4)), np.zeros((m, 4))):
        assert sorted(play(zf.Zopo(Z, SPREAD[name](budget=m)))) == list(range(m))


def test_a_large_pool_is_sampled_by_the_seed() -> None:
    X, label = blobs((20 * MAX_SAMPLE, 30 * MAX_SAMPLE))
    starts = [SearchProblem(X.astype(np.float32), zf.ZopoConfig(seed=s), None).initial for s in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]
    assert all({*label[start]} == {0, 1} for start in starts)


def test_known_prompts_outside_the_sample_are_covered() -> None:
    X, label = blobs((2 * MAX_SAMPLE, 3 * MAX_SAMPLE))
    problem = SearchProblem(X, zf.ZopoConfig(initial=1), None)
    for cluster in (0, 1):
        for known in np.flatnonzero(label == cluster)[-20:].tolist():
            assert label[problem.start(1, [known])].tolist() == [1 - cluster]
    assert problem.start(0, [3]) == []


@pytest.mark.parametrize("seed", range(20))
def test_rounding_does_not_choose_between_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.repeat(rng.normal(size=(15, 4)), 3, axis=0)
    noise = 1e-14 * rng.normal(size=(45, 45))
    starts = [spread_start(K, 4, np.random.default_rng(seed)) for K in (X @ X.T, X @ X.T + noise + noise.T)]
    assert starts[0] == starts[1]


def test_a_state_continues_from_the_start_it_had() -> None:
    Z = pool(200)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=30, seed=4))
    for _ in range(3):
        opt.tell(i := opt.ask(), float(i % 7))
    state: dict[str, Any] = opt.state_dict()
    assert state["config"]["initial"] is None
    again = zf.Zopo.from_state(Z, state)
    assert play(again) == play(opt)


def test_the_official_settings_begin_with_random_prompts() -> None:
    settings = zf.ZopoConfig.official().official_settings
    unstated = SearchProblem(pool(), zf.ZopoConfig(seed=2, budget=50, official_settings=settings), None)
    assert unstated.initial == SearchProblem(pool(), zf.ZopoConfig.official(50, seed=2), None).initial
    assert len(unstated.initial) == 40


def test_a_number_means_random_prompts() -> None:
    drawn = np.random.default_rng(3).permutation(60)[:7].tolist()
    assert zf.Zopo(pool(), zf.ZopoConfig(budget=50, initial=7, seed=3)).ask(7) == drawn
    assert zf.ZopoConfig.official().initial == 40
