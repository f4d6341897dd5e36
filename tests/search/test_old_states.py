"""States and pickles of the searches that were state machines in Python: all scores are kept."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from search_tools import play

import zopo_fast as zf

BEFORE = Path(__file__).parents[1] / "golden" / "before_native"
STATES: dict[str, Any] = json.loads((BEFORE / "states.json").read_text())


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_states", BEFORE / "make_states.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = maker()
Z: np.ndarray = MADE.embeddings()
SINGLE = [name for name in MADE.CONFIGS if name != "batch"]


def unpickled(name: str) -> Any:
    if importlib.util.find_spec("numpy._core") is None:
        pytest.skip("the arrays were pickled by NumPy 2")
    return pickle.loads((BEFORE / f"{name}.pickle").read_bytes())


LOADED: dict[str, tuple[str, Callable[[], zf.Zopo]]] = {
    **{f"state of {name}": (name, lambda name=name: zf.Zopo.from_state(Z, STATES[name])) for name in SINGLE},
    **{
        f"pickle of {name}": (name, lambda name=name: unpickled(name))
        for name in MADE.PICKLED
        if name != "batch"
    },
}


@pytest.mark.parametrize("what", LOADED)
def test_an_old_search_keeps_all_scores_and_continues(what: str, caplog: pytest.LogCaptureFixture) -> None:
    name, load = LOADED[what]
    state = STATES[name]
    with caplog.at_level(logging.WARNING, logger="zopo_fast"):
        opt = load()
    assert len(caplog.records) <= 1
    assert all("would have asked for" in record.getMessage() for record in caplog.records)
    assert opt.pending == state["pending"]
    assert len(opt.pending) == 3
    now = opt.state_dict()
    assert {key: now[key] for key in ("log", "embeddings", "kernel")} == {
        key: state[key] for key in ("log", "embeddings", "kernel")
    }
    assert opt.config.to_dict() == state["config"]
    kinds = [entry[0] for entry in state["log"]]
    assert [kinds.count(kind) for kind in ("ask", "discard", "add")] == [12, 1, 1]
    assert kinds.count("tell") >= 23
    scores = {entry[1]: entry[2] for entry in state["log"] if entry[0] == "tell"}
    partial = {entry[1] for entry in state["log"] if entry[0] == "tell" and not entry[4]} & set(opt.pending)
    for i, value in scores.items():
        assert opt._native.score_of(0, i) == value
    final = {i: value for i, value in scores.items() if i not in partial}
    assert opt.best == max(final.items(), key=lambda pair: pair[1])

    told = dict(scores)
    for i in opt.pending:
        told[i] = MADE.score(i)
        opt.tell(i, told[i])
    order = play(opt, MADE.score)
    asked = [i for entry in state["log"] if entry[0] == "ask" for i in entry[2]]
    discarded = [entry[1] for entry in state["log"] if entry[0] == "discard"]
    assert len(set(order)) == len(order) == 26 - (len(asked) - len(discarded))
    assert not set(order) & {*told, *discarded}
    again = zf.Zopo.from_state(Z, json.loads(json.dumps(opt.state_dict())))
    assert (again.done, again.best) == (True, opt.best)


@pytest.mark.parametrize("pickled", [False, True])
def test_an_old_batch_keeps_all_scores_and_continues(pickled: bool, caplog: pytest.LogCaptureFixture) -> None:
    pools, state = [Z[:m] for m in MADE.BATCH], STATES["batch"]
    assert state["version"] == 2
    with caplog.at_level(logging.WARNING, logger="zopo_fast"):
        batch: zf.ZopoBatch = unpickled("batch") if pickled else zf.ZopoBatch.from_state(pools, state)
    assert all("would have asked for" in record.getMessage() for record in caplog.records)
    assert len(caplog.records) <= len(pools)  # a line for each search
    assert batch.pending.tolist() == [study["pending"] for study in state["studies"]]
    assert (batch.pending >= 0).tolist() == [False, True, False]
    index, score = batch.best
    for b, study in enumerate(state["studies"]):
        assert [index[b], score[b]] == max(study["log"], key=lambda told: told[1])
        for i, value in study["log"]:
            assert batch[b]._native.score_of(b, i) == value
    asked = [[i for i, _ in study["log"]] for study in state["studies"]]
    waiting = batch.pending
    while not batch.done.all():
        for b, i in enumerate(waiting.tolist()):
            asked[b] += [i] * (i >= 0)
        batch.tell(waiting, np.array([MADE.score(i) if i >= 0 else 0.0 for i in waiting.tolist()]))
        waiting = batch.ask()
    assert [len(set(each)) for each in asked] == [len(each) for each in asked] == [20, 20, 20]
    new = json.loads(json.dumps(batch.state_dict()))
    assert new["version"] == 3
    assert (zf.ZopoBatch.from_state(pools, new).best[0] == batch.best[0]).all()
