"""State of a growing pool, screening and the record of the log, without a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.runs.growth.record import growth_record
from zopo_fast.runs.growth.screening import screen
from zopo_fast.runs.growth.state import BARREN, PATIENCE, GrowthState, Round, _shares, decoded, encoded
from zopo_fast.scoring.knowledge_gradient import log_expected_improvement
from zopo_fast.scoring.race import Race
from zopo_fast.storage.store import Event


@dataclass
class Run:
    """What a growing pool sees of a run."""

    spent: int = 0
    budget: int = 1000
    scores: dict[int, float] = field(default_factory=lambda: {0: 0.1, 1: 0.4, 2: 0.3, 3: 0.4, 4: 0.2})
    parts: int = 10
    size: int = 10
    waits: bool = True

    @property
    def calls(self) -> tuple[int, int]:
        return self.spent, self.budget

    @property
    def fresh(self) -> Any:
        return np.full(self.size, self.waits)

    def standings(self) -> dict[int, float]:
        return self.scores


def state(calls: dict[str, int] | None = None, **more: Any) -> GrowthState:
    return GrowthState(replace(zf.Growth(), **more), calls or {"edit": 0}, 10)


def outcome(number: int, entered: list[str], calls: dict[str, int] | None = None) -> dict[str, Any]:
    rows = [
        {"writer": name, "prompt": f"P {number} {k}", "parents": [1], "note": "", "fate": "entered"}
        for k, name in enumerate(entered)
    ]
    return {"round": number, "written": rows, "calls": calls or {}, "failed": {}, "usage": {}}


def turn(growth: GrowthState, run: Run, entered: list[str], calls: dict[str, int] | None = None) -> Round:
    order = growth.due(run)
    assert order is not None
    growth.begin(order.to_entry(), run)
    growth.end(outcome(order.number, entered, calls), run.size)
    run.size += len(entered)
    run.spent += 110 + sum((calls or {}).values())
    return order


# ---- rounds -----------------------------------------------------------------------------------------


def test_a_round_starts_from_the_best_and_earlier_of_equal_ones() -> None:
    order = state(parents=3).due(Run(300))
    assert order is not None
    assert (order.parents, order.scores, order.target) == ((1, 3, 2), (0.4, 0.4, 0.3), 0.4)
    assert order.asked == {"edit": 100}


@pytest.mark.parametrize(
    ("run", "idle", "expected"),
    [
        (Run(199), False, False),
        (Run(200), False, True),
        (Run(800), False, True),
        (Run(801), False, False),
        (Run(20, waits=False), False, True),
        (Run(20, waits=False, scores={1: 0.2, 2: 0.1, 3: 0.3}), False, False),
        (Run(801, waits=False), False, False),
        (Run(300, scores={1: 0.2, 2: 0.1, 3: 0.3}), False, False),
        (Run(300, scores={1: 0.2, 2: 0.1}), True, True),
        (Run(300, scores={1: 0.2}), True, False),
        (Run(9, budget=18, scores={1: 0.2, 2: 0.3, 3: 0.1, 4: 0.1}), False, False),
    ],
)
def test_when_a_round_is_due(run: Run, idle: bool, expected: bool) -> None:
    assert (state().due(run, idle) is not None) is expected


def test_rounds_keep_their_distance_unless_the_pool_is_exhausted() -> None:
    growth, run = state(), Run(200)
    turn(growth, run, ["edit"])
    run.spent = 299
    assert growth.due(run) is None
    run.waits = False
    assert growth.due(run) is not None
    run.spent = 200
    assert growth.due(run) is None, "nothing has changed since the last round"
    run.spent, run.waits = 301, True
    assert growth.due(run) is not None


def test_no_round_begins_while_one_is_written() -> None:
    growth, run = state(), Run(300)
    order = growth.due(run)
    assert order is not None
    growth.begin(order.to_entry(), run)
    run.spent = 500
    assert growth.due(run) is None
    with pytest.raises(zf.InputError, match="has not ended"):
        growth.begin(order.to_entry(), run)


def test_calls_wait_for_a_round_where_no_prompt_is_new() -> None:
    growth, run = state(), Run(300)
    assert not growth.holds(run)
    order = growth.due(run)
    assert order is not None
    growth.begin(order.to_entry(), run)
    assert not growth.holds(run)
    run.waits = False
    assert growth.holds(run)
    growth.end(outcome(1, []), run.size)
    assert not growth.holds(run)


# ---- what writers earn -----------------------------------------------------------------------------


def test_winners_and_losers_are_judged_by_the_best_score_of_their_time() -> None:
    growth, run = state(), Run(200)
    turn(growth, run, ["edit"] * 3)
    run.scores |= {10: 0.5, 11: 0.4}
    order = growth.due(run)
    assert order is not None
    growth.begin(order.to_entry(), run)
    edit = growth.earned["edit"]
    assert (edit.entered, edit.judged, edit.won) == (3, 2, 1)
    assert edit.losses == 1  # since the last win, and the entrant without a score is not judged
    assert edit.weight == pytest.approx(2 / 5)


def rounds_asked(growth: GrowthState, most: int) -> list[set[str]]:
    """Play rounds in which 8 entrants of the first writer lose; return the writers that each has asked."""
    run = Run(200, budget=100_000, scores={i: 0.9 - i / 100 for i in range(5)})
    growth.settings = replace(growth.settings, first=0.0, gap=0.0005)
    asked: list[set[str]] = []
    while len(asked) < most and (order := growth.due(run)) is not None:
        growth.begin(order.to_entry(), run)
        first = next(iter(growth.earned))
        growth.end(outcome(order.number, [first] * 8 if first in order.asked else []), run.size)
        run.scores |= dict.fromkeys(range(run.size, run.size + 8), 0.1)
        run.size += 8
        run.spent += 100
        asked.append(set(order.asked))
    return asked


def test_a_writer_that_only_loses_is_no_longer_asked() -> None:
    rounds = math.ceil(PATIENCE / 8)  # entrants are judged when the next round begins
    asked = rounds_asked(state({"model": 1}, entrants=8, share=1.0), rounds + 1)
    assert asked == [{"model"}] * rounds + [set()]


def test_a_writer_that_only_loses_gives_way_to_others() -> None:
    growth, run = state({"edit": 0, "other": 0}), Run(300)
    growth.earned["edit"].losses = PATIENCE
    order = growth.due(run)
    assert order is not None
    assert order.asked == {"other": 100}
    growth.earned["other"].barren = BARREN
    order = growth.due(run)
    assert order is not None
    assert order.asked == {"edit": 100}


def test_a_writer_that_only_loses_is_asked_once_the_pool_is_exhausted() -> None:
    growth, run = state({"model": 1}), Run(300)
    growth.earned["model"].losses = PATIENCE
    assert growth.due(run) is None
    run.waits = False
    order = growth.due(run)
    assert order is not None
    assert order.asked.keys() == {"model"}


def test_a_writer_that_makes_no_call_is_asked_although_it_loses() -> None:
    assert rounds_asked(state(entrants=8), 20) == [{"edit"}] * 20


def test_a_writer_whose_drafts_never_enter_is_no_longer_asked() -> None:
    growth, run = state({"edit": 0, "other": 0}), Run(200)
    for _ in range(BARREN):
        assert "other" in turn(growth, run, ["edit"]).asked
    assert turn(growth, run, ["edit"]).asked.keys() == {"edit"}


def test_better_writers_are_asked_for_more() -> None:
    growth, run = state({"edit": 0, "other": 0}, written=100), Run(200)
    assert turn(growth, run, ["edit", "other"]).asked == {"edit": 50, "other": 50}
    run.scores |= {10: 0.9, 11: 0.0}
    asked = turn(growth, run, []).asked
    assert asked == {"edit": 67, "other": 33}  # weights 2/4 and 1/4


def test_calls_of_writers_stay_within_their_share() -> None:
    growth, run = state({"edit": 0, "model": 1, "two": 2}, share=0.1, written=10), Run(200)
    total = 0
    while (order := growth.due(run)) is not None:
        calls = {n: k * growth.calls[n] for n, k in order.asked.items()}
        assert sum(calls.values()) <= math.ceil(0.1 * 1000 / 6)
        growth.begin(order.to_entry(), run)
        assert growth.reserved == sum(calls.values())
        growth.end(outcome(order.number, [], calls), run.size)
        assert growth.reserved == 0
        total += sum(calls.values())
        run.spent += 110
    assert 0 < total <= 100
    assert growth.spent == total


def test_shares_are_whole_and_sum_up() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        weights = {str(k): float(w) for k, w in enumerate(rng.random(rng.integers(1, 6)))}
        shares = _shares(weights, 17)
        assert sum(shares.values()) == 17
        whole = sum(weights.values())
        assert all(abs(shares[n] - 17 * w / whole) < 1 for n, w in weights.items())
    assert _shares({}, 5) == {}


# ---- entries ---------------------------------------------------------------------------------------


def test_round_and_embeddings_survive_the_log() -> None:
    order = Round(2, (3, 1), (0.5, 0.25), {"edit": 7}, 0.5, ((4, "given"), (0, "")))
    assert Round.of_entry(order.to_entry()) == order
    for dtype in ("float16", "float32", "float64", ">f4"):
        rows = np.random.default_rng(1).normal(size=(3, 5)).astype(dtype)
        assert np.array_equal(decoded(encoded(rows)), rows)
        assert decoded(encoded(rows)).dtype == rows.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "damage",
    [
        {"dtype": "O"}, {"dtype": "<i4"}, {"data": "!"}, {"data": "AAAA"}, {"shape": [9, 9]},
        {"shape": ["x"]}, {"data": None}, {"dtype": "<f4,<f4"},
    ],
)  # fmt: skip
def test_damaged_embeddings(damage: dict[str, Any]) -> None:
    rows = encoded(np.ones((2, 3), dtype=np.float32))
    with pytest.raises(zf.InputError):
        decoded({**rows, **damage})


@pytest.mark.parametrize(
    "damage",
    [
        {"round": 2}, {"parents": []}, {"parents": [10]}, {"parents": [-1]}, {"asked": {"nobody": 3}},
        {"asked": {"edit": -1}},
    ],
)  # fmt: skip
def test_damaged_begin_of_a_round(damage: dict[str, Any]) -> None:
    growth, run = state(), Run(300)
    order = growth.due(run)
    assert order is not None
    with pytest.raises(zf.InputError):
        growth.begin({**order.to_entry(), **damage}, run)
    assert growth.writing is None


@pytest.mark.parametrize(
    "damage",
    [
        {"round": 7}, {"calls": {"edit": -1}}, {"calls": {"edit": "3"}}, {"calls": {"nobody": 1}},
        {"written": [{"fate": "entered", "prompt": "P", "writer": "nobody", "parents": [0], "note": ""}]},
        {"written": [{"fate": "entered", "prompt": "P", "writer": "edit", "parents": [10], "note": ""}]},
    ],
)  # fmt: skip
def test_damaged_end_of_a_round(damage: dict[str, Any]) -> None:
    growth, run = state(), Run(300)
    order = growth.due(run)
    assert order is not None
    growth.begin(order.to_entry(), run)
    with pytest.raises(zf.InputError):
        growth.end({**outcome(1, ["edit"]), **damage}, run.size)


def test_the_record_tells_rounds_apart() -> None:
    order = Round(1, (0,), (0.5,), {"edit": 3}, 0.5)
    end = outcome(1, ["edit"])
    other = {"writer": "edit", "prompt": "", "parents": [0], "note": ""}
    end["written"] += [{**other, "fate": "screened out"}, {**other, "fate": "refusal"}]
    end["embeddings"] = encoded(np.ones((1, 3), dtype=np.float32))
    log = [Event(1, "write", order.to_entry()), Event(2, "grow", end)]
    record = growth_record(log, 10)
    (written,) = record.rounds
    assert (written.written, written.rejected, written.screened) == ({"edit": 3}, {"refusal": 1}, 1)
    assert [(one.index, one.target) for one in record.grown] == [(10, 0.5)]
    assert record.embeddings[0].shape == (1, 3)
    with pytest.raises(zf.StoreDamagedError, match="entry 2"):
        growth_record([log[0], Event(2, "grow", {**end, "written": 3})], 10)
    with pytest.raises(zf.StoreDamagedError, match="entry 2"):
        growth_record([log[1]], 10)


# ---- screening ---------------------------------------------------------------------------------------


def expected_improvement(mean: float, deviation: float, target: float) -> float:
    """Integrate max(x - target, 0) over the normal density by the trapezoidal rule."""
    x = np.linspace(mean - 12 * deviation, mean + 12 * deviation, 200_001)
    density = np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    return float(np.trapezoid(np.maximum(x - target, 0.0) * density, x))


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.1), (0.7, 0.2), (0.9, 0.05), (0.3, 0.1), (0.6, 1.0)])
def test_log_expected_improvement(mean: float, deviation: float) -> None:
    found = log_expected_improvement(np.array([mean]), np.array([deviation**2]), 0.6)
    assert math.exp(found[0]) == pytest.approx(expected_improvement(mean, deviation, 0.6), rel=2e-3)


def test_log_expected_improvement_orders_what_is_far_below() -> None:
    mean = np.linspace(-80, 0, 30)
    found = log_expected_improvement(mean, np.ones(30), 1.0)
    assert (np.diff(found) > 0).all()
    assert np.isfinite(found).all()


def test_only_drafts_that_promise_more_than_the_pool_enter() -> None:
    mean, variance = np.array([0.3, 0.6, 0.5, 0.6, 0.1]), np.full(5, 0.01)
    pool = np.array([0.2, 0.45]), np.array([0.01, 0.01])
    assert screen(mean, variance, *pool, 0.55, 5) == [1, 3, 2]
    assert screen(mean, variance, *pool, 0.55, 1) == [1]
    assert screen(mean, variance, pool[0] + 0.2, pool[1], 0.55, 5) == []
    assert screen(mean, variance, np.empty(0), np.empty(0), 0.55, 9) == [1, 3, 2, 0, 4]
    wide = np.array([0.01, 0.01, 0.5, 0.01, 0.01])
    assert screen(mean, wide, *pool, 0.55, 1) == [2], "uncertainty counts"


# ---- race and pool ---------------------------------------------------------------------------------


def test_a_race_is_charged_for_calls_that_score_nothing() -> None:
    race = Race(4, 20, first=2)
    race.finish(0, [1.0, 0.0][: len(race.start(0))])
    race.charge(15)
    assert race.spent == 17
    assert race.choose() == 0
    race.charge(2)
    assert race.choose() is None, "too few calls are left to complete a candidate"


def test_standings_leave_failed_candidates_out() -> None:
    race = Race(4, 40, first=2)
    assert race.standings(None) == {}
    for index, scores in ((0, [1.0, 1.0]), (1, [0.0, 0.0]), (2, [1.0, 0.0])):
        race.start(index)
        race.finish(index, scores)
    race.start(2)
    race.abandon(2)
    standings = race.standings(None)
    assert standings.keys() == {0, 1}
    assert standings[0] > standings[1]
    assert race.spent == 6


def test_pool_with_further_prompts() -> None:
    pool = zf.Pool.from_texts(["A", "B", "A"], {0: 0.5})
    more = pool.with_prompts(["C", "D"])
    assert (more.prompts, more.counts, more.scores) == (("A", "B", "C", "D"), (2, 1, 1, 1), {0: 0.5})
    assert pool.prompts == ("A", "B")
    with pytest.raises(zf.PoolError, match="'B'"):
        pool.with_prompts(["B"])
    with pytest.raises(zf.PoolError):
        pool.with_prompts(["C", "C"])
    with pytest.raises(zf.PoolError):
        pool.with_prompts([" C "])
