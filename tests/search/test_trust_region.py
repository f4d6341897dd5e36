"""Trust regions of the default search: growth, shrinking, moves, large pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from region_tools import landscape, made, problem, region_of
from search_tools import play

import zopo_fast as zf

REGIONS = {"whole": 1024, "trust region": 16}
SEARCHES = ["improvement", "thompson"]


def told(opt: zf.Zopo, index: int, value: float) -> bool:
    """Tell a score as prior data; return whether the center moved."""
    center = region_of(opt).center
    opt.tell(index, value)
    return region_of(opt).center != center


def started(Z: np.ndarray, first: float, **settings: Any) -> zf.Zopo:
    """Make a search whose only initial prompt, 0, has a score."""
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=[0], **settings))
    opt.tell(opt.ask(), first)
    return opt


def test_trust_region_grows_shrinks_and_moves() -> None:
    opt = started(problem(64), 1.0, region=64, patience=3)
    assert region_of(opt)[3:] == (0, 64)  # the first prompt is the center
    sizes = []
    for k in range(1, 10):
        assert not told(opt, k, 0.5)
        sizes.append(region_of(opt).size)
    assert sizes == [64, 64, 32, 32, 32, 16, 16, 16, 8]
    assert told(opt, 10, 2.0)
    assert region_of(opt)[3:] == (10, 16)
    assert not told(opt, 11, 2.0)  # an equal score is no improvement
    assert not told(opt, 12, 1.9)
    assert told(opt, 13, 2.1)  # a success resets the failures
    assert region_of(opt)[3:] == (13, 32)
    for k, value in ((14, 3.0), (15, 4.0), (16, 5.0)):
        assert told(opt, k, value)
    assert region_of(opt).size == 64


def test_partial_scores_do_not_change_the_trust_region() -> None:
    opt = started(problem(64), 1.0, region=64, patience=1)
    i = opt.ask()
    for value in (0.5, 9.0, 0.1):
        opt.tell(i, value, final=False)
    assert region_of(opt)[3:] == (0, 64)
    opt.tell(i, 0.2)
    assert region_of(opt)[3:] == (0, 32)


def test_an_abandoned_trust_region_restarts_at_another_local_optimum() -> None:
    """Prompts 0 to 19, 20 to 39 and 40 to 59 are clusters, so that each region is inside one of them."""
    Z = 0.1 * problem(60) + 10.0 * np.repeat(np.eye(5)[:3], 20, axis=0)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=[0], region=8, patience=1, step=0.0))
    opt.tell(25, 3.0)
    opt.tell(45, 4.0)
    opt.tell(opt.ask(), 5.0)
    assert region_of(opt)[3:] == (0, 8)
    near = np.argsort(np.linalg.norm(Z - Z[0], axis=1))
    assert told(opt, int(near[1]), 1.0)  # smaller than the minimum: moves to the best prompt outside
    assert region_of(opt)[3:] == (45, 8)
    assert told(opt, int(np.argsort(np.linalg.norm(Z - Z[45], axis=1))[1]), 0.9)
    assert region_of(opt).center == 25
    # All regions are closed: restart from the best prompt.
    assert told(opt, int(np.argsort(np.linalg.norm(Z - Z[25], axis=1))[1]), 0.1)
    assert region_of(opt)[3:] == (0, 8)
    assert told(opt, int(near[2]), 0.1)  # and all but its region are open again
    assert region_of(opt)[3:] == (45, 8)


def test_a_whole_pool_is_never_abandoned_for_a_worse_prompt() -> None:
    opt = started(problem(40), 5.0, region=64, patience=1)
    sizes = []
    for k in range(1, 10):
        assert not told(opt, k, 1.0)
        sizes.append(region_of(opt).size)
    assert sizes == [20, 10, 40, 20, 10, 40, 20, 10, 40]


def test_without_patience_a_trust_region_never_shrinks() -> None:
    opt = started(problem(120), 5.0, region=64, patience=0)
    for k in range(1, 100):
        assert not told(opt, k, 1.0)
    assert region_of(opt)[3:] == (0, 64)


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
        centers.append(region_of(opt).center)
        sizes.append(region_of(opt).size)
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
