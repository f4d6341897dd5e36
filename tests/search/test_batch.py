"""Batch of searches: each proposes what a single search would, on every device."""

from __future__ import annotations

import json
import logging
import pickle
from typing import Any

import numpy as np
import pytest
from reference_search import ReferenceSearch

import zopo_fast as zf


def landscape(rng: np.random.Generator, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Make embeddings, some of them nearly equal, and scores that depend on them."""
    Z = rng.normal(size=(m, d))
    Z[m // 2 :: 7] = Z[: len(Z[m // 2 :: 7])] + 1e-3 * rng.normal(size=(len(Z[m // 2 :: 7]), d))
    scores = np.tanh(Z @ rng.normal(size=d) / np.sqrt(d)) + 0.05 * rng.normal(size=m)
    return Z, np.round(scores, 2)


def alone(pool: np.ndarray, scores: np.ndarray, config: zf.ZopoConfig, kernel: Any = None) -> list[int]:
    opt, order = zf.Zopo(pool, config, kernel), []
    while not opt.done:
        order.append(opt.ask())
        opt.tell(order[-1], float(scores[order[-1]]))
    return order


def together(batch: zf.ZopoBatch, scores: list[np.ndarray]) -> list[list[int]]:
    orders: list[list[int]] = [[] for _ in scores]
    while not batch.done.all():
        indices = batch.ask()
        values = np.zeros(len(scores))
        for b, i in enumerate(indices):
            if i >= 0:
                orders[b].append(int(i))
                values[b] = scores[b][i]
        batch.tell(indices, values)
    return orders


CONFIGS = [
    zf.ZopoConfig(search="gradient", budget=30, initial=8, seed=3),
    zf.ZopoConfig(
        search="gradient", budget=25, initial=[4, 2, 9], seed=1, exploration=2, exploration_quantile=0.5
    ),
    zf.ZopoConfig(search="gradient", budget=40, initial=10, seed=2, noise=0.1),
    zf.ZopoConfig(search="gradient", budget=12, initial=12, seed=5),
    zf.ZopoConfig(search="gradient", budget=9, initial=1, seed=6, neighbors=3, step=1.0),
    zf.ZopoConfig(search="gradient", budget=20, initial=4, seed=7, exploration=0),
]


@pytest.fixture
def problems(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    sizes = [(60, 12), (40, 7), (45, 16), (30, 9), (10, 3), (20, 33)]
    types = [np.float16, np.float32, np.float64, np.float16, np.float64, np.float32]
    pools, scores = [], []
    for (m, d), dtype in zip(sizes, types, strict=True):
        Z, y = landscape(rng, m, d)
        pools.append(Z.astype(dtype))
        scores.append(y)
    return pools, scores


def test_each_search_asks_what_it_would_alone(device: str, problems: Any) -> None:
    """The searches differ in size, precision and settings, and end at different times."""
    pools, scores = problems
    batch = zf.ZopoBatch(pools, CONFIGS, device)
    assert together(batch, scores) == [alone(*each) for each in zip(pools, scores, CONFIGS, strict=True)]
    best, value = batch.best
    for b, y in enumerate(scores):
        assert value[b] == y[best[b]]
    assert (batch.ask() == -1).all()


@pytest.mark.parametrize("widths", [(5, 1), (8, 3)])
def test_other_kernels(device: str, problems: Any, widths: tuple[int, int]) -> None:
    pools, scores = problems
    kernels = [
        zf.NTK.random(Z.shape[1], width=widths[0] + b, depth=widths[1], seed=b) for b, Z in enumerate(pools)
    ]
    batch = zf.ZopoBatch(pools, CONFIGS, device, kernels)
    each = zip(pools, scores, CONFIGS, kernels, strict=True)
    assert together(batch, scores) == [alone(*one) for one in each]


def test_duplicates_and_equal_scores(device: str, rng: np.random.Generator) -> None:
    """Repeated rows give pivots of rounding noise and equal distances."""
    Z = np.repeat(rng.normal(size=(12, 6)), 4, axis=0)
    scores = [np.repeat(rng.normal(size=12), 4), np.zeros(48), np.full(48, 1e200)]
    config = zf.ZopoConfig(search="gradient", budget=40, initial=12, seed=4)
    batch = zf.ZopoBatch([Z] * 3, config, device)
    assert together(batch, scores) == [alone(Z, y, config) for y in scores]


def test_pools_may_share_one_array(device: str, rng: np.random.Generator) -> None:
    """The pools start at the same address and have different lengths."""
    Z, y = landscape(rng, 60, 12)
    config = zf.ZopoConfig(search="gradient", budget=16, initial=5, seed=2)
    pools = [Z[:20], Z, Z[:40], Z]
    expected = [alone(pool, y, config) for pool in pools]
    assert together(zf.ZopoBatch(pools, config, device), [y] * 4) == expected


def test_the_capacity_grows(device: str, problems: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search gets more observations than its initial capacity."""
    pools, scores = problems
    monkeypatch.setattr("zopo_fast.search.problem.MAX_PREALLOCATED", 8)
    batch = zf.ZopoBatch(pools, CONFIGS, device)
    assert together(batch, scores) == [alone(*each) for each in zip(pools, scores, CONFIGS, strict=True)]


def test_gradient_uncertainty(device: str, problems: Any) -> None:
    """The uncertainty equals, at each step, that of a single search and of the reference."""
    pools, scores = problems
    batch = zf.ZopoBatch(pools, CONFIGS, device)
    assert np.isnan(batch.gradient_uncertainty).all()
    models = [zf.Zopo(Z, config) for Z, config in zip(pools, CONFIGS, strict=True)]
    references = [ReferenceSearch(Z, config) for Z, config in zip(pools, CONFIGS, strict=True)]
    compared = 0
    while not batch.done.all():
        asked = batch.ask()
        for b, i in enumerate(asked):
            if i >= 0:
                assert models[b].ask() == i
                models[b].tell(int(i), float(scores[b][i]))
                references[b].ask(int(i))
                references[b].tell(int(i), float(scores[b][i]))
        batch.tell(asked, [y[i] if i >= 0 else 0.0 for y, i in zip(scores, asked, strict=True)])
        for b, uncertainty in enumerate(batch.gradient_uncertainty):
            if np.isfinite(uncertainty):
                alone = models[b]._native.gradient_uncertainty()[0]
                assert uncertainty == pytest.approx(alone, rel=1e-9, abs=1e-12)
                assert uncertainty == pytest.approx(references[b].search.uncertainty(), rel=1e-6, abs=1e-9)
                compared += 1
    assert compared > 80


def test_one_search_may_wait(device: str, problems: Any) -> None:
    """A late score delays its own search only."""
    pools, scores = problems
    expected = [alone(*each) for each in zip(pools, scores, CONFIGS, strict=True)]
    batch = zf.ZopoBatch(pools, CONFIGS, device)
    orders: list[list[int]] = [[] for _ in pools]
    free = list(range(len(pools)))
    turn = 0
    while not batch.done.all():
        asked = batch.ask(free)
        turn += 1
        for b in free:
            if asked[b] >= 0:
                orders[b].append(int(asked[b]))
        waiting = batch.pending
        told = waiting.copy()
        if turn % 3:
            told[turn % len(told)] = -1  # this score is late
        values = np.array([y[i] if i >= 0 else np.nan for y, i in zip(scores, told, strict=True)])
        if (told >= 0).any() or (waiting < 0).all():
            batch.tell(told, np.nan_to_num(values))
        free = [b for b in range(len(pools)) if batch.pending[b] < 0]
    assert orders == expected


def test_a_restored_batch_continues_identically(device: str, problems: Any) -> None:
    pools, scores = problems
    expected = [alone(*each) for each in zip(pools, scores, CONFIGS, strict=True)]
    batch = zf.ZopoBatch(pools, CONFIGS, device)
    orders: list[list[int]] = [[] for _ in pools]

    def moves(batch: zf.ZopoBatch, asked: Any) -> None:
        for b, i in enumerate(asked):
            if i >= 0:
                orders[b].append(int(i))
        batch.tell(asked, [y[i] if i >= 0 else 0.0 for y, i in zip(scores, asked, strict=True)])

    for _ in range(11):
        moves(batch, batch.ask())
    asked = batch.ask()
    state = json.loads(json.dumps(batch.state_dict()))
    again = zf.ZopoBatch.from_state(pools, state, device)
    assert (again.pending == asked).all()
    again = pickle.loads(pickle.dumps(again))
    moves(again, asked)
    while not again.done.all():
        moves(again, again.ask())
    assert orders == expected

    with pytest.raises(zf.EmbeddingMismatchError):
        zf.ZopoBatch.from_state([*pools[1:], pools[0]], state, device)
    with pytest.raises(zf.EmbeddingMismatchError, match="6 pools"):
        zf.ZopoBatch.from_state(pools[1:], state, device)
    state["studies"][2]["log"][0][2][0] += 1
    # The prompt that the log names is never told, so that others are asked while it is pending.
    refused = {"cpu": (zf.InputError, r"search 2: .*does not lead to the pending prompts")}
    error, message = refused.get(device, (zf.DeviceError, "study 2: .* while prompts are pending"))
    with pytest.raises(error, match=message):
        zf.ZopoBatch.from_state(pools, state, device)
    with pytest.raises(zf.InputError, match="version"):
        zf.ZopoBatch.from_state(pools, {"version": 9}, device)


def test_invalid_scores_are_refused(device: str, problems: Any) -> None:
    pools, scores = problems
    batch = zf.ZopoBatch(pools, CONFIGS, device)
    asked = batch.ask()
    values = np.array([y[i] for y, i in zip(scores, asked, strict=True)])
    with pytest.raises(zf.UnknownIndexError, match="study 0 waits for the score of prompt"):
        batch.ask()
    wrong = asked.copy()
    wrong[3] = (asked[3] + 1) % len(pools[3])
    with pytest.raises(zf.UnknownIndexError, match="study 3"):
        batch.tell(wrong, values)
    bad = values.copy()
    bad[4] = np.nan
    with pytest.raises(zf.ArrayError, match="study 4"):
        batch.tell(asked, bad)
    with pytest.raises(zf.ArrayError, match="scores"):
        batch.tell(asked, values[1:])
    with pytest.raises(zf.ArrayError, match="indices"):
        batch.tell(asked[1:], values)
    with pytest.raises(zf.ArrayError, match="indices"):
        batch.tell(asked.astype(float), values)
    assert (batch.pending == asked).all(), "a refused call recorded scores"
    batch.tell(asked, values)
    assert (batch.pending == -1).all()
    with pytest.raises(zf.UnknownIndexError, match="waits for none"):
        batch.tell(asked, values)
    for studies, word in (([6], "6"), ([-1], "-1"), ([0, 0], "twice")):
        with pytest.raises(zf.UnknownIndexError, match=word):
            batch.ask(studies)
    assert (batch.ask([]) == -1).all()


def test_invalid_pools_and_configs_are_refused(problems: Any) -> None:
    pools, _ = problems
    with pytest.raises(zf.ConfigError, match="at least one"):
        zf.ZopoBatch([])
    with pytest.raises(zf.ConfigError, match="configs: expected one for all or one for each of 6"):
        zf.ZopoBatch(pools, CONFIGS[1:])
    with pytest.raises(zf.ConfigError, match=r"configs\[2\]: the published loop runs in a Zopo of its own"):
        zf.ZopoBatch(pools, [*CONFIGS[:2], zf.ZopoConfig.official(budget=5, initial=2), *CONFIGS[3:]])
    with pytest.raises(zf.ConfigError, match=r"configs\[1\]: initial"):
        zf.ZopoBatch(pools, zf.ZopoConfig(search="gradient", budget=10, initial=[45]))
    with pytest.raises(zf.ArrayError, match=r"pools\[5\]"):
        zf.ZopoBatch([*pools[:5], np.full((30, 2), np.nan)], CONFIGS)
    with pytest.raises(zf.ArrayError, match=r"pools\[0\]: kernel"):
        zf.ZopoBatch(pools, CONFIGS, kernels=zf.NTK.random(99))
    with pytest.raises(zf.DeviceError):
        zf.ZopoBatch(pools, CONFIGS, device="tpu")


def test_a_batch_with_other_asks_keeps_its_scores(problems: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A log of another version is repeated, and a line says so for each search."""
    pools, scores = problems
    batch = zf.ZopoBatch(pools, CONFIGS)
    for _ in range(9):
        asked = batch.ask()
        batch.tell(asked, [y[i] for y, i in zip(scores, asked, strict=True)])
    state = batch.state_dict()
    for b in (0, 2):
        log = state["studies"][b]["log"]
        told = {entry[1] for entry in log if entry[0] == "tell"}
        other = next(i for i in range(len(pools[b])) if i not in told)
        assert log[-2][0] == "ask"
        log[-2][2], log[-1][1], log[-1][2] = [other], other, 9.0
    with caplog.at_level(logging.WARNING, logger="zopo_fast"):
        again = zf.ZopoBatch.from_state(pools, state)
    assert [record.getMessage() for record in caplog.records] == [
        "state: this version would have asked for 1 other prompts; its scores are kept"
    ] * 2
    index, score = again.best
    for b, (before, now) in enumerate(zip(state["studies"], again.state_dict()["studies"], strict=True)):
        assert now == before
        assert (index[b], score[b]) == again[b].best
        assert (score[b] == 9.0) == (b in (0, 2))
    assert (again.ask() >= 0).sum() == 5  # the search of budget 9 is done


def test_a_search_of_a_batch_is_a_search(problems: Any) -> None:
    """It shares its state with the batch; its copy does not."""
    pools, _ = problems
    batch = zf.ZopoBatch(pools, CONFIGS)
    search = batch[-2]
    assert search.config == CONFIGS[4]
    i = search.ask()
    assert batch.pending.tolist() == [-1, -1, -1, -1, i, -1]
    twin = pickle.loads(pickle.dumps(search))
    assert isinstance(twin, zf.Zopo)
    twin.tell(i, 1.0)
    assert search.pending == [i]
    batch.tell([-1, -1, -1, -1, i, -1], np.full(6, 1.0))
    assert search.best == twin.best == (i, 1.0)
    assert [s.pending for s in batch] == [[]] * 6
    assert batch[4].add(pools[4][:2] + 0.5) == [10, 11]
    assert search.state_dict()["embeddings"]["shape"] == [12, 3]
    for number in (6, -7):
        with pytest.raises(IndexError):
            _ = batch[number]


@pytest.mark.parametrize("search", ["improvement", "thompson"])
def test_the_searches_of_each_device(device: str, search: Any, problems: Any) -> None:
    pools, scores = problems
    other = zf.ZopoConfig(search=search, budget=20, initial=5)
    configs = [*CONFIGS[:2], other, *CONFIGS[3:]]
    if device == "cpu":
        batch = zf.ZopoBatch(pools, configs, device)
        assert together(batch, scores) == [alone(*each) for each in zip(pools, scores, configs, strict=True)]
    else:
        with pytest.raises(zf.ConfigError, match=r"configs\[2\].*search='gradient'"):
            zf.ZopoBatch(pools, configs, device)


def test_a_budget_beyond_the_pool_is_clipped(device: str, rng: np.random.Generator) -> None:
    Z, y = landscape(rng, 20, 5)
    config = zf.ZopoConfig(search="gradient", budget=50, initial=5)
    with pytest.warns(UserWarning, match="clipped to 20"):
        batch = zf.ZopoBatch([Z, Z], config, device)
    with pytest.warns(UserWarning, match="clipped to 20"):
        expected = alone(Z, y, config)
    assert together(batch, [y, y]) == [expected] * 2


def test_a_state_keeps_every_kernel_of_a_search(rng: np.random.Generator) -> None:
    Z, y = landscape(rng, 40, 6)
    config = zf.ZopoConfig(budget=12, initial=4, seed=1)
    kernels = [[zf.InfiniteNTK(1), zf.InfiniteNTK(3)], [zf.NTK.random(6, seed=s) for s in range(3)]]
    expected = [alone(Z, y, config, kernel) for kernel in kernels]
    assert expected[0] != alone(Z, y, config, kernels[0][0])
    batch = zf.ZopoBatch([Z, Z], config, kernels=kernels)
    for _ in range(4):
        asked = batch.ask()
        batch.tell(asked, y[asked])
    restored = zf.ZopoBatch.from_state([Z, Z], json.loads(json.dumps(batch.state_dict())))
    orders = together(restored, [y, y])
    assert [one[4:] for one in expected] == orders
