"""Preset `official`: the published run, evaluation by evaluation, and the cases where that one hangs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numeric_tools import Golden, golden_names, load_golden
from time_tools import time_limit

import zopo_fast as zf

SETTINGS = (
    "lr", "uncertainty_threshold", "uncertainty_count", "neighbors", "gp_queries", "tolerance", "max_steps",
    "sigma",
)  # fmt: skip


def replay(g: Golden, embeddings: np.ndarray) -> zf.Zopo:
    stored = json.loads(str(g.data["settings"]))
    config = zf.ZopoConfig.official(
        budget=int(g.data["budget"]),
        initial=g.data["init"].tolist(),
        **{name: stored[name] for name in SETTINGS},
    )
    return zf.Zopo(embeddings, config, kernel=zf.NTK(g.weights, g.biases))


@pytest.mark.parametrize("name", golden_names("trace"))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_golden_order_of_evaluation(name: str, dtype: str) -> None:
    """The order is `evaluated`: the initial points, then `explored` and `asked`."""
    g = load_golden(name)
    opt = replay(g, g.data["Z"].astype(dtype))
    order = []
    with time_limit():
        while not opt.done:
            order.append(i := opt.ask())
            opt.tell(i, float(g.data["f"][i]))
    assert order == g.data["evaluated"].tolist()
    n0, explored = len(g.data["init"]), set(g.data.get("explored", np.array([])).tolist())
    assert order[:n0] == g.data["init"].tolist()
    assert [i for i in order[n0:] if i not in explored] == g.data["asked"].tolist()
    assert sorted(set(order) - set(g.data["asked"].tolist()) - set(order[:n0])) == sorted(explored)
    assert len(order) == int(g.data["budget"])
    index, score = opt.best
    assert score == g.data["f"][order].max() == g.data["f"][index]


@pytest.mark.parametrize("name", golden_names("trace"))
def test_golden_order_with_all_initial_points_in_flight(name: str) -> None:
    """The scores of the initial points arrive in any order; later asks are one by one."""
    g = load_golden(name)
    opt, order = replay(g, g.data["Z"]), []
    first = opt.ask(len(g.data["init"]))
    for i in first:
        opt.tell(i, float(g.data["f"][i]))
    while not opt.done:
        order.append(i := opt.ask())
        opt.tell(i, float(g.data["f"][i]))
    assert first + order == g.data["evaluated"].tolist()


def test_defaults_are_those_of_the_published_script() -> None:
    stored = json.loads(str(load_golden("trace_m500_d384").data["settings"]))
    explicit = zf.ZopoConfig.official(**{name: stored[name] for name in SETTINGS})
    assert explicit == zf.ZopoConfig.official()
    assert zf.ZopoConfig.official().budget == 165
    assert zf.ZopoConfig.official().initial == 40
    Z = np.random.default_rng(0).normal(size=(500, 6))
    assert len(zf.Zopo(Z, zf.ZopoConfig.official()).ask(100)) == 100


@pytest.mark.parametrize("setting", ["learning_rate", "noise", "budgets"])
def test_an_unknown_setting_is_refused(setting: str) -> None:
    with pytest.raises(zf.ConfigError, match=setting):
        zf.ZopoConfig.official(**{setting: 1})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lr", np.nan), ("lr", -1.0), ("uncertainty_threshold", np.nan), ("sigma", -0.1), ("sigma", np.inf),
        ("uncertainty_count", 0), ("neighbors", 0), ("gp_queries", 0), ("max_steps", 0), ("tolerance", -1),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused(setting: str, value: float) -> None:
    with pytest.raises(zf.ConfigError, match=setting):
        zf.ZopoConfig.official(**{setting: value})


# ---- termination and budget ------------------------------------------------------------------------------

SCORES: dict[str, Callable[[int], float]] = {
    "zero": lambda i: 0.0,
    "constant": lambda i: 1.0,
    "mostly zero": lambda i: float(i % 17 == 0),
    "increasing": float,
    "waves": lambda i: float(np.sin(i)),
    "huge": lambda i: 1e12 * np.cos(i),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "two steps": {"uncertainty_threshold": 1e9},
    "three steps": {"uncertainty_threshold": 1e9, "max_steps": 5},
    "explores": {"uncertainty_threshold": 1e-6, "uncertainty_count": 2, "neighbors": 3},
    "no tolerance": {"tolerance": 0, "gp_queries": 1},
    "no step": {"lr": 0.0},
}


def embeddings(kind: str, m: int = 60) -> np.ndarray:
    rng = np.random.default_rng(3)
    Z = rng.normal(size=(m, 5))
    if kind == "duplicates":
        Z = Z[rng.integers(m // 4, size=m)]
    if kind == "all the same":
        Z[:] = Z[0]
    if kind == "constant column":
        Z[:, 2] = 0.1
    return Z


def run(opt: zf.Zopo, score: Callable[[int], float], batch: int | None = None) -> list[int]:
    """Run the search to its end, within a bounded number of asks."""
    order: list[int] = []
    with time_limit():
        for _ in range(1000):
            if opt.done:
                return order
            asked = [opt.ask()] if batch is None else opt.ask(batch)
            assert 1 <= len(asked) <= (batch or 1)
            order.extend(asked)
            for i in asked:
                opt.tell(i, score(i))
    raise AssertionError("the search is not done after a thousand asks")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("kind", ["normal", "duplicates", "all the same", "constant column"])
def test_a_search_ends_and_spends_its_budget_exactly(kind: str, scores: str, variant: str) -> None:
    for budget in (1, 7, 31, 60):
        config = zf.ZopoConfig.official(budget=budget, initial=min(budget, 6), seed=1, **VARIANTS[variant])
        order = run(zf.Zopo(embeddings(kind), config), SCORES[scores])
        assert len(order) == len(set(order)) == budget


@pytest.mark.parametrize("neighbors", [1, 2, 100])
@pytest.mark.parametrize("batch", [None, 4])
def test_a_search_ends_although_every_pass_is_uncertain(neighbors: int, batch: int | None) -> None:
    """With count 1 and threshold 0 a round without an unscored prompt only resets the counters."""
    config = zf.ZopoConfig.official(
        budget=31, initial=6, uncertainty_threshold=0.0, uncertainty_count=1, neighbors=neighbors
    )
    order = run(zf.Zopo(embeddings("normal"), config), SCORES["waves"], batch)
    assert len(order) == len(set(order)) == 31


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scores", ["zero", "waves"])
@pytest.mark.parametrize("batch", [2, 4, 100])
def test_many_prompts_can_be_asked_at_once(scores: str, variant: str, batch: int) -> None:
    for budget in (1, 31, 60):
        config = zf.ZopoConfig.official(budget=budget, initial=min(budget, 6), seed=1, **VARIANTS[variant])
        order = run(zf.Zopo(embeddings("normal"), config), SCORES[scores], batch)
        assert len(order) == len(set(order)) == budget


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_nearest_unscored_prompt_is_asked_when_all_neighbours_are_scored(variant: str) -> None:
    """All neighbours have scores, and the gradient is zero."""
    Z = embeddings("normal")
    opt = zf.Zopo(Z, zf.ZopoConfig.official(budget=20, initial=[0, 1], **VARIANTS[variant]))
    for i in range(2, 59):
        opt.tell(i, 0.0)
    with time_limit():
        assert [opt.ask(), opt.ask()] == [0, 1]
        opt.tell(0, 0.0)
        opt.tell(1, 0.0)
        assert opt.ask() == 59
        opt.tell(59, 0.0)
    assert opt.done


def test_a_zero_gradient_leads_to_the_nearest_unscored_prompt() -> None:
    """With scores of zero the gradient vanishes; all neighbours of the current point have scores."""
    Z = np.arange(40.0)[:, None] ** 1.5
    config = zf.ZopoConfig.official(budget=30, initial=[10, 9, 11, 8, 12], neighbors=3)
    opt = zf.Zopo(Z, config)
    order = []
    for _ in range(6):
        order.append(i := opt.ask())
        opt.tell(i, 0.0)
    unscored = [i for i in range(40) if i not in order[:5]]
    assert order[5] == min(unscored, key=lambda i: abs(Z[i, 0] - Z[10, 0]))


def test_parallel_asks_do_not_wait_for_the_exploration() -> None:
    """Each ask(4) without scores gives four new prompts, until the budget is spent."""
    opt = zf.Zopo(embeddings("normal"), zf.ZopoConfig.official(budget=18, initial=5, seed=2))
    batches = [opt.ask(4) for _ in range(5)]
    asked = [i for batch in batches for i in batch]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 2]
    assert len(set(asked)) == 18
    assert opt.pending == asked
    with pytest.raises(zf.NothingToAsk):
        opt.ask(4)
    for i in reversed(asked):
        opt.tell(i, float(np.sin(i)))
    assert opt.done


@pytest.mark.parametrize("variant", VARIANTS)
def test_discards_are_refunded(variant: str) -> None:
    rng = np.random.default_rng(5)
    opt = zf.Zopo(embeddings("normal"), zf.ZopoConfig.official(budget=25, initial=6, **VARIANTS[variant]))
    told, discarded = [], 0
    with time_limit():
        for _ in range(500):
            if opt.done:
                break
            i = opt.ask()
            if rng.random() < 0.4 and discarded < 100:
                opt.discard(i)
                discarded += 1
            else:
                opt.tell(i, float(np.sin(i)))
                told.append(i)
    assert discarded > 5
    assert len(told) == len(set(told)) == 25


def test_all_initial_points_may_be_discarded() -> None:
    opt = zf.Zopo(embeddings("normal"), zf.ZopoConfig.official(budget=12, initial=4, seed=0))
    with time_limit():
        for _ in range(4):
            opt.discard(opt.ask())
        order = run(opt, SCORES["waves"])
    assert len(set(order)) == 12


def test_embeddings_and_kernel_are_not_rescaled() -> None:
    """With embeddings times 100 the run is a different one."""
    g = load_golden("trace_m60_d8")
    assert run(replay(g, 100.0 * g.data["Z"].astype(float)), lambda i: float(g.data["f"][i])) != (
        g.data["evaluated"].tolist()
    )
