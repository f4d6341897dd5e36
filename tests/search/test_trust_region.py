"""Trust regions of the default search: growth, shrinking, moves, large pools."""

from __future__ import annotations

import numpy as np
import pytest
from region_tools import landscape, made, search_of
from search_tools import play

import zopo_fast as zf
from zopo_fast.search.strategy import Observations
from zopo_fast.search.trust_region import TrustRegion

REGIONS = {"whole": 1024, "trust region": 16}
SEARCHES = ["improvement", "thompson"]


def told(region: TrustRegion, seen: Observations, index: int, value: float, inside: list[int]) -> bool:
    seen.record(index, value, None)
    return region.update(seen, index, lambda: inside)


def test_trust_region_grows_shrinks_and_moves() -> None:
    region, seen = TrustRegion(64, 3), Observations()
    assert region.size == 64
    assert told(region, seen, 0, 1.0, [])  # the first prompt is the center
    assert region.center == 0
    sizes = []
    for k in range(1, 10):
        assert not told(region, seen, k, 0.5, [0])
        sizes.append(region.size)
    assert sizes == [64, 64, 32, 32, 32, 16, 16, 16, 8]
    assert told(region, seen, 10, 2.0, [])
    assert (region.center, region.size) == (10, 16)
    assert not told(region, seen, 11, 2.0, [])  # an equal score is no improvement
    assert not told(region, seen, 12, 1.9, [])
    assert told(region, seen, 13, 2.1, [])  # a success resets the failures
    assert (region.center, region.size) == (13, 32)
    for k, value in ((14, 3.0), (15, 4.0), (16, 5.0)):
        assert told(region, seen, k, value, [])
    assert region.size == 64


def test_an_abandoned_trust_region_restarts_at_another_local_optimum() -> None:
    region, seen = TrustRegion(8, 1), Observations()
    told(region, seen, 0, 5.0, [])
    seen.record(50, 3.0, None)
    seen.record(60, 4.0, None)
    moved = [told(region, seen, k, 1.0, [0, 1, 2, 3]) for k in (1,)]
    assert moved == [True]  # smaller than the minimum: moves to the best prompt outside
    assert (region.center, region.size) == (60, 8)
    assert told(region, seen, 2, 0.9, [60])
    assert region.center == 50
    # All regions are closed: restart from the best prompt.
    region._closed.update(seen.indices)
    told(region, seen, 3, 0.1, [50, 3])
    assert region.center == 0
    assert region.size == 8
    assert not region._closed


def test_without_patience_a_trust_region_never_shrinks() -> None:
    region, seen = TrustRegion(64, 0), Observations()
    told(region, seen, 0, 5.0, [])
    for k in range(1, 100):
        assert not told(region, seen, k, 1.0, [0])
    assert (region.center, region.size) == (0, 64)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("region", [1, 2, 7, 50, 199])
def test_every_prompt_is_offered_once(region: int, search: str) -> None:
    """Regions are exhausted one after another, until the pool is."""
    m = 80 if region <= 7 else 200  # a small region is built again at every step
    order = play(made(m=m, budget=m, region=region, search=search, patience=3))
    assert sorted(order) == list(range(m))


def test_several_regions_are_searched() -> None:
    """The run has many local optima, and the region moves between them."""
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(6, 8)) * 6
    label = np.arange(600) % 6
    Z = middle[label] + 0.5 * rng.normal(size=(600, 8))
    f = label + 0.3 * rng.normal(size=600)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=300, initial=12, region=40, patience=3))
    centers, sizes = [], []
    while not opt.done:
        i = opt.ask()
        opt.tell(i, float(f[i]))
        trust = search_of(opt)._trust
        centers.append(trust.center)
        sizes.append(trust.size)
    assert len(set(centers)) >= 3
    assert len(set(label[[c for c in centers if c >= 0]])) >= 2
    assert max(sizes) == 40
    assert min(sizes) < 40
    assert opt.best[1] >= np.sort(f)[-10]


def test_a_pool_of_a_hundred_thousand() -> None:
    """The search finds a far better prompt than chance does."""
    Z, f = landscape(100_000, 32, 0)
    found = []
    for seed in range(3):
        opt = zf.Zopo(Z, zf.ZopoConfig(budget=100, initial=20, seed=seed))
        order = play(opt, lambda i: float(f[i]))
        assert len(set(order)) == 100
        found.append(int((f > opt.best[1]).sum()))
    # The best of 100 random prompts has 1000 better ones on average, and at most 30 in 1 run of 33.
    assert max(found) <= 30, found


def test_thompson_in_a_pool_of_a_hundred_thousand() -> None:
    """Thompson sampling factorises the prior after each move of the region."""
    Z, f = landscape(100_000, 32, 0)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=100, initial=20, region=256, search="thompson"))
    while not opt.done:
        i = opt.ask()
        opt.tell(i, float(f[i]))
    assert int((f > opt.best[1]).sum()) <= 30
