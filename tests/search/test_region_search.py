"""Search in a region: partial scores, noise, prior data, discards, batches and restored states."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from reference_search import Followed, ReferenceSearch
from region_tools import (
    REGIONS,
    SEARCHES,
    assert_same_model,
    landscape,
    made,
    model_of,
    region_of,
    settings,
)
from search_tools import can_offer, is_scored, pool, score
from time_tools import time_limit

import zopo_fast as zf
from zopo_fast.gp import reference


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_the_model_holds_the_current_scores_only(search: str, region: int) -> None:
    """Replaced partial scores leave no trace in the model, whatever other calls come between."""
    rng, config = np.random.default_rng(0), settings(search=search, region=region)
    opt = zf.Zopo(pool(120), config)
    both = Followed(opt, ReferenceSearch(pool(120), config))
    while not opt.done:
        while len(opt.pending) < 4 and can_offer(opt):
            both.ask()
        i = opt.pending[int(rng.integers(len(opt.pending)))]
        what = rng.random()
        if what < 0.5:
            n = int(rng.integers(1, 20))
            both.tell(i, score(i) + float(rng.normal()) / n, noise=1.0 / n, final=False)
        elif what < 0.6 and not is_scored(opt, i):
            both.discard(i)
        elif what < 0.7:
            j = int(rng.integers(120))
            if j not in opt.pending and not is_scored(opt, j):
                both.tell(j, score(j))
        else:
            both.tell(i, score(i), noise=0.1 if what < 0.8 else None)
    assert both.compared > 100


def test_a_final_score_replaces_partial_scores() -> None:
    models = []
    for partial in (True, False):
        opt = made()
        for k in range(20):
            i = opt.ask()
            if partial:
                opt.tell(i, 5.0, noise=4.0, final=False)
                opt.tell(i, score(i) + 0.1, noise=0.1, final=False)
            opt.tell(i, score(i))
            if k == 7:  # later asks may depend on the partial scores
                models.append(model_of(opt))
                break
    assert_same_model(*models)


def test_a_replaced_score_leaves_the_model_at_once() -> None:
    """The next rescaling, which replaces all scores and would hide an old one, is some scores away."""
    config = settings(initial=30)
    both = Followed(zf.Zopo(pool(120), config), ReferenceSearch(pool(120), config))
    out = [both.ask() for _ in range(30)]
    for i in out[2:]:
        both.tell(i, score(i))
    for i in out[:2]:
        both.tell(i, 1.0, final=False)
    both.ask()
    assert both.ref.search.refresh_at > 30
    compared = both.compared
    both.tell(out[0], -1.0, final=False)
    both.tell(out[1], 0.5)
    assert both.compared == compared + 2


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings of two tight clusters of 100 prompts each, and the cluster of each prompt."""
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    return rng.normal(size=(200, 6)) * 0.5 + 3.0 * label[:, None], label


@pytest.mark.parametrize("region", [1024, 64])
def test_a_score_with_large_noise_has_little_weight(region: int) -> None:
    """Give one prompt the best score, with no, small or large noise."""
    Z, label = clusters()
    inside = {}
    for noise in (None, 0.01, 100.0):
        opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=[0, 2, 4, 6, 1, 3, 5, 7], region=region))
        for i in opt.ask(8):
            good = 0.5 + 0.02 * (i % 5) if label[i] == 0 else 0.3 + 0.02 * (i % 5)
            opt.tell(i, good)
        opt.tell(9, 1.0, noise=noise)
        inside[noise] = label[opt.ask(6)].sum()
        if noise is None:
            sure = model_of(opt)
        elif noise == 100.0:
            doubtful = model_of(opt)
        else:
            nearly = model_of(opt)
    assert sure[9][0] > doubtful[9][0] + 0.2 * (sure[9][0] - min(v[0] for v in sure.values()))
    assert abs(nearly[9][0] - sure[9][0]) < abs(doubtful[9][0] - sure[9][0])
    assert inside[None] >= inside[100.0]


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_the_run_does_not_depend_on_the_units_of_score_and_noise(search: str, region: int) -> None:
    runs = []
    for unit in (1.0, 2.0**10, 2.0**-300, 2.0**300):
        opt, order = made(search=search, region=region), []
        while not opt.done:
            order.append(i := opt.ask())
            opt.tell(i, unit * (score(i) + 0.2), noise=0.3 * unit**2, final=False)
            opt.tell(i, unit * score(i), noise=0.1 * unit**2 if i % 3 == 0 else None)
        runs.append(order)
    assert runs[0] == runs[1] == runs[2] == runs[3]


@pytest.mark.parametrize("when", ["before the first ask", "with initial points in flight", "during the run"])
def test_prior_data_outside_the_trust_region_moves_it(when: str) -> None:
    """A prompt far from all asked prompts has the best score; the search asks its neighbors next."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(3000, 8))
    Z[:200] += 8.0
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=list(range(500, 510)), region=100, seed=1))

    def play_some(n: int) -> None:
        for _ in range(n):
            i = opt.ask()
            opt.tell(i, 0.1 * float(Z[i, 0]))

    if when == "before the first ask":
        opt.tell(7, 5.0)
        play_some(10)
    elif when == "with initial points in flight":
        out = opt.ask(10)
        opt.tell(7, 5.0)
        for i in out:
            opt.tell(i, 0.1 * float(Z[i, 0]))
    else:
        play_some(25)
        opt.tell(7, 5.0)
    following = []
    for _ in range(10):
        following.append(i := opt.ask())
        opt.tell(i, 0.1 * float(Z[i, 0]))
    assert sum(i < 200 for i in following) >= 8
    assert opt.best == (7, 5.0)
    assert region_of(opt).center == 7


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_discarded_prompt_is_neither_pending_nor_offered(search: str, region: int) -> None:
    opt = made(m=60, search=search, region=region)
    given_up = []
    asked = []
    with time_limit():
        while len(asked) < 59 and not opt.done:
            i = opt.ask()
            if len(given_up) < 5 and len(asked) % 7 == 3 and i not in given_up:
                given_up.append(i)
                opt.discard(i)
                assert i not in opt.pending
                continue
            asked.append(i)
            opt.tell(i, score(i))
    assert len(given_up) == 5
    assert set(asked[:55]).isdisjoint(given_up)
    assert len(set(asked)) == len(asked)
    opt.tell(given_up[-1], 9.0)  # a late score of a discarded prompt counts
    assert opt.best == (given_up[-1], 9.0)


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_batch_equals_single_asks(search: str, region: int) -> None:
    one, many = (made(search=search, region=region) for _ in range(2))
    for n in (3, 8, 5, 1, 7):
        batch = many.ask(n)
        assert [one.ask() for _ in range(n)] == batch
        assert len(set(batch)) == n
        for i in batch[: n // 2]:
            one.tell(i, score(i))
            many.tell(i, score(i))
    assert one.pending == many.pending


def test_pending_prompts_spread_a_batch() -> None:
    """The best candidates of one posterior lie close together; fantasized scores spread a batch."""
    Z, _ = clusters()
    f = Z @ np.linspace(1, 2, 6)
    spread = []
    for excluded in (False, True):
        config = zf.ZopoConfig(budget=60, initial=10, seed=0)
        opt, ref = zf.Zopo(Z, config), ReferenceSearch(Z, config)
        out = opt.ask(10)
        for i in out:
            ref.ask(i)
        for i in out:
            opt.tell(i, float(f[i]))
            ref.tell(i, float(f[i]))
        picks = (_without_fantasies(ref, 9) if excluded else opt.ask(9))[1:]
        X = Z[picks]
        spread.append(float(np.linalg.norm(X[:, None] - X[None, :], axis=2).mean()))
    assert spread[0] > spread[1]


def _without_fantasies(ref: ReferenceSearch, n: int) -> list[int]:
    """Return the n most promising free prompts under one posterior."""
    criterion = reference.region_criterion(ref.search.levels(), ref.search.incumbent, 2)
    return sorted(ref.book.free, key=lambda i: -criterion[i])[:n]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_restored_search_continues_identically(search: str) -> None:
    """Restore a search of a large pool from JSON, after the region has moved and with prompts pending."""
    Z, f = landscape(3000, 8, 1)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=120, initial=10, region=64, patience=2, search=search, seed=3))
    rng = np.random.default_rng(0)

    def turn(o: zf.Zopo, picks: np.random.Generator) -> tuple[Any, ...]:
        while len(o.pending) < 5 and can_offer(o):
            o.ask()
        i = o.pending[int(picks.integers(len(o.pending)))]
        what = picks.random()
        if what < 0.3:
            o.tell(i, float(f[i]) + 0.1, noise=0.2, final=False)
        elif what < 0.35 and not is_scored(o, i):
            o.discard(i)
        else:
            o.tell(i, float(f[i]))
        return (*o.pending, i)

    for _ in range(70):
        turn(opt, rng)
    state = json.loads(json.dumps(opt.state_dict()))
    assert len(state["pending"]) >= 4
    again = zf.Zopo.from_state(Z, state)
    twin = np.random.default_rng(0)
    twin.bit_generator.state = rng.bit_generator.state
    for _ in range(40):
        assert turn(opt, rng) == turn(again, twin)
    for a, b in zip(region_of(opt), region_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
