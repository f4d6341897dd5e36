"""Logs of another version: their asks are repeated, also where this version would ask for other prompts."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf

M, D = 60, 5
Z = np.random.default_rng(3).normal(size=(M, D))
CONFIGS = {
    "improvement": zf.ZopoConfig(budget=30, initial=6, seed=4),
    "region": zf.ZopoConfig(budget=30, initial=6, seed=4, region=16),
    "thompson": zf.ZopoConfig(budget=30, initial=6, seed=4, search="thompson"),
    "gradient": zf.ZopoConfig(budget=30, initial=6, seed=4, search="gradient"),
    "official": zf.ZopoConfig.official(budget=30, initial=6, seed=4),
}


def score(i: int) -> float:
    return math.sin(3.0 * i) / 3.0


def state_of(name: str, steps: int = 18, pending: int = 2) -> dict[str, Any]:
    """Return the state of a search after some steps, with pending prompts."""
    opt = zf.Zopo(Z, CONFIGS[name])
    for _ in range(steps):
        i = opt.ask()
        opt.tell(i, score(i))
    for _ in range(pending):
        opt.ask()
    return opt.state_dict()


def with_other_asks(state: dict[str, Any], *places: int) -> dict[str, Any]:
    """Return the state with prompts that were never asked in place of those asked at some places."""
    free = iter(sorted(set(range(M)) - {i for entry in state["log"] if entry[0] == "ask" for i in entry[2]}))
    asks = [entry for entry in state["log"] if entry[0] == "ask"]
    changed = {asks[place][2][0]: next(free) for place in places}

    def other(value: Any) -> Any:
        return changed.get(value, value)

    log = [
        [entry[0], entry[1], [other(i) for i in entry[2]]]
        if entry[0] == "ask"
        else [entry[0], other(entry[1]), *entry[2:]]
        for entry in state["log"]
    ]
    return {**state, "log": log, "pending": [other(i) for i in state["pending"]]}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_state_with_other_asks_keeps_its_scores(name: str, caplog: pytest.LogCaptureFixture) -> None:
    state = with_other_asks(state_of(name), 8, 13, 18)
    with caplog.at_level(logging.WARNING, logger="zopo_fast"):
        opt = zf.Zopo.from_state(Z, state)
    assert len(caplog.records) == 1
    assert "would have asked for" in caplog.text
    assert opt.pending == state["pending"]
    scores = {entry[1]: entry[2] for entry in state["log"] if entry[0] == "tell"}
    assert opt.best == max(scores.items(), key=lambda pair: pair[1])
    asked = [i for entry in state["log"] if entry[0] == "ask" for i in entry[2]]
    for i in opt.pending:
        opt.tell(i, score(i))
    while not opt.done:
        i = opt.ask()
        asked.append(i)
        opt.tell(i, score(i))
    assert len(asked) == len(set(asked)) == 30
    again = zf.Zopo.from_state(Z, opt.state_dict())
    assert again.done
    assert again.best == opt.best


@pytest.mark.parametrize("name", CONFIGS)
def test_repeating_the_own_asks_changes_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    opt, twin = zf.Zopo(Z, CONFIGS[name]), zf.Zopo(Z, CONFIGS[name])
    sizes = iter([None, 3, 1, None, 2] * 20)
    while not opt.done:
        n = next(sizes)
        asked = opt.ask(n)
        asked = [asked] if isinstance(asked, int) else asked
        assert twin.repeat_ask(asked, n) == 0
        for i in asked:
            opt.tell(i, score(i))
            twin.tell(i, score(i))
    assert twin.state_dict() == opt.state_dict()
    assert caplog.records == []


def test_a_prompt_proposed_in_vain_is_proposed_again() -> None:
    """The search must not lose the prompt that the log replaces by another one."""
    opt, twin = (zf.Zopo(Z, CONFIGS["improvement"]) for _ in range(2))
    asked = []
    for _ in range(12):
        asked.append(i := opt.ask())
        opt.tell(i, score(i))
        assert twin.repeat_ask([i]) == 0
        twin.tell(i, score(i))
    best = opt.ask()
    other = next(i for i in range(M) if i != best and i not in asked)
    assert twin.repeat_ask([other]) == 1
    twin.discard(other)
    assert best in twin.ask(4)


@pytest.mark.parametrize(
    ("asked", "n"),
    [([0], None), ([M], None), ([-1], None), ([], None), ([], 2), ([7, 8], None), ([7, 7], 2), ([7], 2),
     (["7"], None)],
)  # fmt: skip
def test_an_ask_that_cannot_have_been_is_refused(asked: list[Any], n: int | None) -> None:
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=[0, 1]))
    assert opt.ask(2) == [0, 1]
    with pytest.raises((zf.InputError, zf.UnknownIndexError)):
        opt.repeat_ask(asked, n)


def test_a_damaged_state_is_still_refused() -> None:
    state = state_of("improvement")
    taken = state["log"][0][2][0]
    for entry in (
        [["ask", None, [taken]]],
        [["ask", None, [M]]],
        [["ask", 2, [50, 51, 52]]],
        [["ask", None, 50]],
    ):
        with pytest.raises(zf.InputError):
            zf.Zopo.from_state(Z, {**state, "log": [*state["log"], *entry]})
