"""State of a search: JSON, and a restored search continues identically after any calls."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numeric_tools import random_network

import zopo_fast as zf

M, D = 40, 5
Z = np.random.default_rng(3).normal(size=(M, D))
EXPLORES = {"uncertainty_threshold": 1e-6, "uncertainty_count": 2, "neighbors": 3}
CASES: dict[str, Callable[[], zf.Zopo]] = {
    "default": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=6, seed=4)),
    "default, listed": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=[3, 1, 4])),
    "default, fixed noise": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5, noise=0.1)),
    "default, own kernel": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5), own_kernel()),
    "default, recipe": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5), zf.NTK.random(D, 7, 3, 9)),
    "several kernels": lambda: zf.Zopo(
        Z, zf.ZopoConfig(budget=30, initial=5), [own_kernel(), zf.InfiniteNTK(3), zf.NTK.random(D)]
    ),
    "trust region": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5, region=8)),
    "thompson": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5, search="thompson")),
    "thompson, trust region": lambda: zf.Zopo(
        Z, zf.ZopoConfig(budget=30, initial=5, search="thompson", region=8, zscore=True)
    ),
    "gradient": lambda: zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=6, seed=4, search="gradient")),
    "gradient, fixed noise": lambda: zf.Zopo(
        Z, zf.ZopoConfig(budget=30, initial=5, noise=0.1, exploration=5, search="gradient")
    ),
    "gradient, own kernel": lambda: zf.Zopo(
        Z, zf.ZopoConfig(budget=30, initial=5, search="gradient"), own_kernel()
    ),
    "float16": lambda: zf.Zopo(Z.astype(np.float16), zf.ZopoConfig(budget=30, initial=6)),
    "official": lambda: zf.Zopo(Z, zf.ZopoConfig.official(budget=30, initial=6, seed=4)),
    "official, explores": lambda: zf.Zopo(Z, zf.ZopoConfig.official(budget=30, initial=6, **EXPLORES)),
    "official, own kernel": lambda: zf.Zopo(
        Z, zf.ZopoConfig.official(budget=30, initial=[2, 0]), own_kernel()
    ),
}


def own_kernel() -> zf.NTK:
    return zf.NTK(*random_network(np.random.default_rng(8), D, [6, 4]))


def score(i: int) -> float:
    return math.sin(3.0 * i) / 3.0  # needs all digits


def step(opt: zf.Zopo, rng: np.random.Generator) -> Any:
    """Make one random call; the result depends on the visible state and the generator only."""
    kind = rng.choice(
        ["ask", "ask", "ask(n)", "tell", "tell", "tell", "partial", "discard", "prior", "again"]
    )
    pick, n, noise = rng.random(), int(rng.integers(1, 5)), float(rng.uniform(0.01, 1.0))
    pending = opt.pending
    if kind in ("tell", "partial", "discard") and pending:
        i = pending[int(pick * len(pending))]
        if kind == "discard":
            opt.discard(i)
        elif kind == "partial":
            opt.tell(i, score(i) + noise, noise=noise, final=False)
        else:
            opt.tell(i, score(i), noise=noise if pick < 0.3 else None)
        return kind, i
    if kind == "prior" and pick < 0.3:
        i = int(pick / 0.3 * M)
        if i not in pending:
            try:
                opt.tell(i, score(i))
            except zf.ConflictingScoreError:
                return kind, "conflict"
        return kind, i
    if kind == "again":
        with pytest.raises(zf.UnknownIndexError):
            opt.tell(M, 1.0)  # a refused call changes nothing
        return kind
    try:
        return kind, opt.ask(n) if kind == "ask(n)" else opt.ask()
    except zf.NothingToAsk:
        return kind, "nothing"


def visible(opt: zf.Zopo) -> Any:
    try:
        best: Any = tuple(opt.best)
    except zf.NothingToAsk:
        best = None
    return opt.pending, opt.done, best


def embeddings_of(case: str) -> np.ndarray:
    return Z.astype(np.float16) if case == "float16" else Z


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_a_restored_search_continues_identically_after_any_prefix(case: str, seed: int) -> None:
    steps = 70
    opt, rng, states, answers, views = CASES[case](), np.random.default_rng(seed), [], [], []
    for _ in range(steps):
        states.append((json.dumps(opt.state_dict()), rng.bit_generator.state))
        answers.append(step(opt, rng))
        views.append(visible(opt))
    final = json.dumps(opt.state_dict())
    assert sum(a[0] == "ask" and a[1] != "nothing" for a in answers) > 5
    for prefix, (text, generator) in enumerate(states):
        restored = zf.Zopo.from_state(embeddings_of(case), json.loads(text))
        assert json.dumps(restored.state_dict()) == text
        rng.bit_generator.state = generator
        for at in range(prefix, min(prefix + 12, steps) if prefix % 10 else steps):
            assert step(restored, rng) == answers[at]
            assert visible(restored) == views[at]
        if prefix % 10 == 0:
            assert json.dumps(restored.state_dict()) == final


@pytest.mark.parametrize("case", CASES)
def test_reading_the_state_changes_nothing(case: str) -> None:
    watched, alone = CASES[case](), CASES[case]()
    rngs = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(80):
        state = watched.state_dict()
        state["log"].clear()  # the caller owns the copy
        visible(watched)
        assert step(watched, rngs[0]) == step(alone, rngs[1])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("case", CASES)
def test_pickle_and_copy(case: str, duplicate: Callable[[zf.Zopo], zf.Zopo]) -> None:
    opt, rng = CASES[case](), np.random.default_rng(2)
    for _ in range(25):
        step(opt, rng)
    twin, rng_twin = duplicate(opt), copy.deepcopy(rng)
    answers = [step(opt, rng) for _ in range(30)]
    assert answers == [step(twin, rng_twin) for _ in range(30)]  # both are independent


def test_the_caller_may_change_returned_objects() -> None:
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5, search="gradient"))
    asked = opt.ask(5)
    state = opt.state_dict()
    saved = copy.deepcopy(state)
    asked.sort(reverse=True)
    for part in ("log", "kernel", "pending", "config"):
        given = opt.state_dict()
        if part == "log":
            given["log"][0][2].clear()
        given[part].clear()
    assert opt.state_dict() == saved
    assert zf.Zopo.from_state(Z, opt.state_dict()).pending == opt.pending


def test_the_state_holds_the_weights_at_the_construction_of_a_kernel() -> None:
    """A kernel copies its weights; the restored one must have the same."""
    W, b = random_network(np.random.default_rng(8), D, [6, 4])
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=5), zf.NTK(W, b))
    W[0][:] = -W[0]
    for _ in range(15):
        opt.tell(i := opt.ask(), score(i))
    assert zf.Zopo.from_state(Z, opt.state_dict()).ask() == opt.ask()


@pytest.mark.parametrize("case", ["default", "official"])
def test_other_embeddings_are_refused(case: str) -> None:
    opt = CASES[case]()
    opt.tell(opt.ask(), 1.0)
    state = opt.state_dict()
    one_bit, swapped = Z.copy(), Z.copy()
    one_bit[-1, -1] = np.nextafter(one_bit[-1, -1], np.inf)
    swapped[[0, 1]] = swapped[[1, 0]]
    for other in (one_bit, swapped, Z[:-1], Z[:, :-1], Z.T, Z.astype(np.float32), Z.reshape(D, M)):
        with pytest.raises(zf.EmbeddingMismatchError):
            zf.Zopo.from_state(other, state)
    assert zf.Zopo.from_state(np.asfortranarray(Z), state).pending == opt.pending
    assert zf.Zopo.from_state(Z.astype(">f8"), state).pending == opt.pending


def spoil(path: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        at: Any = state
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version": spoil(["version"], 999),
    "budget": spoil(["config", "budget"], -1),
    "budget below the log": spoil(["config", "budget"], 2),
    "an unknown setting": spoil(["config", "surprise"], 1),
    "config is no dict": spoil(["config"], [1, 2]),
    "log is no list": spoil(["log"], 5),
    "log is null": spoil(["log"], None),
    "an entry is no list": spoil(["log", 0], 5),
    "an empty entry": spoil(["log", 0], []),
    "an unknown entry": spoil(["log", 0, 0], "hello"),
    "an index outside": spoil(["log", 1, 1], 10**6),
    "an index of text": spoil(["log", 1, 1], "3"),
    "a score of text": spoil(["log", 1, 2], "high"),
    "a score that is null": spoil(["log", 1, 2], None),
    "another answer": spoil(["log", 0, 2], [39]),
    "too many arguments": lambda s: s["log"][1].extend([1, 2, 3]),
    "too many asks": lambda s: s["log"].extend([["ask", 100, []], ["ask", None, [0]]]),
    "an entry lost": lambda s: s["log"].pop(),
    "another pending": spoil(["pending"], [0, 1, 2]),
    "pending is null": spoil(["pending"], None),
    "embeddings is null": spoil(["embeddings"], None),
    "kernel is null": spoil(["kernel"], None),
    "kernel of text": spoil(["kernel"], "abc"),
    "weights no base64": spoil(["kernel", "weights", 0, "float64"], "!!! no base64 !!!"),
    "weights cut": lambda s: s["kernel"]["weights"][0].update(
        float64=s["kernel"]["weights"][0]["float64"][:32]
    ),
    "weights of another shape": spoil(["kernel", "weights", 0, "shape"], [1, 1]),
    "weights NaN": spoil(["kernel", "biases", 2], {"shape": [1], "float64": "AAAAAAAA+H8="}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_an_input_error(damage: str) -> None:
    opt = CASES["default, own kernel"]()
    for _ in range(8):
        opt.tell(i := opt.ask(), score(i))
    opt.ask(2)
    state = json.loads(json.dumps(opt.state_dict()))
    DAMAGE[damage](state)
    with pytest.raises(zf.InputError):
        zf.Zopo.from_state(Z, state)


def test_every_key_of_the_state_is_needed() -> None:
    opt = CASES["default"]()
    opt.tell(opt.ask(), 1.0)
    for key in opt.state_dict():
        state = opt.state_dict()
        del state[key]
        with pytest.raises(zf.InputError):
            zf.Zopo.from_state(Z, state)
    for nonsense in (None, [], "state", 5, {}):
        with pytest.raises(zf.InputError):
            zf.Zopo.from_state(Z, nonsense)


@pytest.mark.parametrize("case", CASES)
def test_prompts_can_be_added_during_a_run(case: str) -> None:
    """The search finds the added prompts if they are the best; the state holds them."""
    opt = CASES[case]()
    dtype = embeddings_of(case).dtype
    told = {}
    for _ in range(12):
        i = opt.ask()
        told[i] = score(i)
        opt.tell(i, told[i])
    waiting = opt.ask()
    more = np.random.default_rng(5).normal(size=(6, D))
    assert opt.add(more) == list(range(M, M + 6))
    assert opt.pending == [waiting]
    with pytest.raises(zf.ArrayError, match="dimension"):
        opt.add(np.ones((2, D + 1)))
    with pytest.raises(zf.ArrayError, match="embeddings"):
        opt.add(np.full((2, D), math.inf))
    opt.tell(M + 2, 7.0)  # prior data on one of them
    again = zf.Zopo.from_state(
        np.concatenate([Z.astype(dtype), more.astype(dtype)]), json.loads(json.dumps(opt.state_dict()))
    )
    orders = []
    for one in (opt, again):
        one.tell(waiting, score(waiting))
        order = []
        while not one.done:
            order.append(i := one.ask())
            one.tell(i, score(i))
        orders.append(order)
    assert orders[0] == orders[1]
    assert not {*told, waiting, M + 2} & set(orders[0])
    assert len(set(orders[0])) == len(orders[0]) == 30 - 13
    assert opt.best == (M + 2, 7.0)
    with pytest.raises(zf.EmbeddingMismatchError):
        zf.Zopo.from_state(Z.astype(dtype), opt.state_dict())


@pytest.mark.parametrize("search", ["improvement", "thompson", "gradient"])
def test_added_prompts_are_asked(search: Any) -> None:
    with pytest.warns(UserWarning, match="clipped to 10"):
        opt = zf.Zopo(Z[:10], zf.ZopoConfig(budget=30, initial=3, search=search))
    opt.add(Z[10:])
    asked = set()
    while not opt.done:
        asked.add(i := opt.ask())
        opt.tell(i, score(i))
    assert len(asked) == 30
    assert max(asked) >= 10
