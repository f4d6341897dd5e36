"""Start of a search: prompts spread over the pool."""

from __future__ import annotations

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.search.design import MAX_SAMPLE, SIZE, size_of_start, spread_start
from zopo_fast.search.problem import DEFAULT_KERNEL


def start(Z: np.ndarray, count: int, seed: int = 0, known: tuple[int, ...] = ()) -> list[int]:
    return spread_start(Z, [DEFAULT_KERNEL], count, np.random.default_rng(seed), known)


def first(Z: np.ndarray, count: int, **settings: object) -> list[int]:
    opt = zf.Zopo(Z, zf.ZopoConfig(**settings))  # type: ignore[arg-type]
    return [opt.ask() for _ in range(count)]


def clusters(seed: int = 0) -> np.ndarray:
    """Make 5 groups of 12 prompts, 60 in all, far from each other."""
    rng = np.random.default_rng(seed)
    centers = 10.0 * np.linalg.qr(rng.normal(size=(8, 8)))[0][:5]
    return np.repeat(centers, 12, axis=0) + 0.1 * rng.normal(size=(60, 8))


def test_every_group_has_a_prompt() -> None:
    for seed in range(10):
        assert sorted(i // 12 for i in start(clusters(), 5, seed)) == [0, 1, 2, 3, 4]


def test_known_prompts_are_covered() -> None:
    chosen = start(clusters(), 3, known=(0, 13))
    assert sorted(i // 12 for i in chosen) == [2, 3, 4]


def test_a_default_search_starts_with_it() -> None:
    Z = clusters()
    asked = first(Z, 5, budget=50)
    assert sorted(i // 12 for i in asked) == [0, 1, 2, 3, 4]
    assert asked == first(Z, 5, budget=50)
    assert first(Z.astype(np.float32), 5, budget=50) == asked
    assert zf.ZopoBatch([Z], zf.ZopoConfig(budget=50))[0].ask(5) == asked


@pytest.mark.parametrize(("budget", "size"), [(1, 1), (3, 1), (8, 2), (20, SIZE), (165, SIZE)])
def test_the_start_takes_a_fourth_of_the_budget_at_most(budget: int, size: int) -> None:
    assert size_of_start(budget) == size


def test_pools_without_structure() -> None:
    for m in (1, 2, 3):
        assert len(set(start(np.zeros((m, 4)), 5))) == m
    twins = np.repeat(np.eye(4), 2, axis=0)
    assert len(set(start(twins, 8))) == 8
    assert start(np.eye(3), 2, known=(0, 1, 2)) == []
    assert sorted(first(np.ones((30, 4)), 30, budget=30)) == list(range(30))


def test_a_large_pool_is_sampled() -> None:
    Z = np.random.default_rng(0).normal(size=(4 * MAX_SAMPLE, 8)).astype(np.float16)
    asked = first(Z, SIZE, budget=50)
    assert len(set(asked)) == SIZE


def test_a_number_is_random_as_before() -> None:
    Z = clusters()
    assert first(Z, 7, budget=50, initial=7, seed=3) == [
        int(i) for i in np.random.default_rng(3).permutation(60)[:7]
    ]
    assert zf.ZopoConfig.official().initial == 40
