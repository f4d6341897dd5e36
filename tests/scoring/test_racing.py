"""Race: stated error of the futility tests, budget, and an incumbent with full scores."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.search import quality as search_quality, racing as search_racing
from zopo_fast.bench.search.replay import load_folder
from zopo_fast.errors import ConfigError, InputError
from zopo_fast.scoring import race as racing
from zopo_fast.scoring.futility import SPENDING, binary_limit, evidence_below

LANDSCAPES = search_quality.BENCH / "landscapes"


def orders(examples: int, successes: int) -> Iterator[tuple[int, ...]]:
    """Return all orders of the given numbers of successes and failures; they are equally likely."""
    for where in itertools.combinations(range(examples), successes):
        yield tuple(int(i in where) for i in range(examples))


def limits_of(examples: int, needed: int, looks: tuple[int, ...], error: float) -> tuple[int, ...]:
    limits: tuple[int, ...] = ()
    for n in range(len(looks)):
        limits += (binary_limit(examples, needed, looks[: n + 1], limits, error),)
    return limits


def share_given_up(examples: int, successes: int, looks: tuple[int, ...], limits: tuple[int, ...]) -> float:
    """Return the share of orders that reach a limit at any look, by enumeration."""
    out = [
        any(sum(order[:look]) <= limit for look, limit in zip(looks, limits, strict=True))
        for order in orders(examples, successes)
    ]
    return sum(out) / len(out)


# ---- futility tests -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("needed", [2, 5, 8])
@pytest.mark.parametrize("looks", [(2, 4, 6, 8, 10), (4, 8), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)])
def test_limits_spend_the_error_and_no_more(error: float, needed: int, looks: tuple[int, ...]) -> None:
    limits = limits_of(12, needed, looks, error)
    assert share_given_up(12, needed, looks, limits) <= error * (looks[-1] / 12) ** SPENDING + 1e-12
    if needed < 12:
        stronger = share_given_up(12, needed + 1, looks, limits)
        assert stronger <= share_given_up(12, needed, looks, limits)
    for n in range(len(looks)):  # a limit higher by one at any look exceeds the error
        bolder = (*limits[:n], limits[n] + 1)
        assert share_given_up(12, needed, looks[: n + 1], bolder) > error * (looks[n] / 12) ** SPENDING


def test_limits_do_something() -> None:
    assert limits_of(20, 14, (4, 8, 12, 16), 0.1) == (0, 3, 6, 9)
    assert binary_limit(20, 14, (4,), (), 0.0) == -1
    assert binary_limit(20, 14, (4, 8), (-1,), 0.0) == 1  # 1 of 8 allows 13 of 20 at most
    assert binary_limit(20, 21, (4,), (), 0.0) == 4  # the incumbent is perfect


@pytest.mark.parametrize("successes", [4, 6, 7, 9])
def test_an_incumbent_that_improves_costs_no_further_error(successes: int) -> None:
    looks, targets, error = (2, 4, 6, 8), (4, 6, 6, 9), 0.2
    limits: tuple[int, ...] = ()
    for n, target in enumerate(targets):
        limits += (binary_limit(10, target, looks[: n + 1], limits, error),)
    judged = [
        n for n, target in enumerate(targets) if successes >= target
    ]  # targets at which giving up is wrong
    wrong = [any(sum(order[: looks[n]]) <= limits[n] for n in judged) for order in orders(10, successes)]
    assert sum(wrong) / len(wrong) <= error


def test_a_bet_is_seldom_won_by_chance_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    for scores in (rng.random(30), rng.beta(0.3, 0.3, 30), rng.integers(0, 2, 30).astype(float)):
        wins = 0
        for _ in range(400):
            shuffled = rng.permutation(scores).tolist()
            total = float(scores.sum()) - 1e-6  # the incumbent is beaten by little
            wins += any(evidence_below(shuffled[:n], 30, total) >= 10.0 for n in range(1, 30))
        assert wins <= 40 + 3 * math.sqrt(36)  # three standard deviations above the bound of a tenth


def test_a_bet_is_won_where_the_scores_are_low_and_grows_with_the_target() -> None:
    low = [0.1, 0.2, 0.0, 0.1, 0.3, 0.2, 0.1, 0.0]
    evidence = [evidence_below(low, 40, total) for total in (2.0, 10.0, 20.0, 30.0, 32.9)]
    assert evidence == sorted(evidence)
    assert evidence[0] < 2.0
    assert 10.0 < evidence[3] < math.inf
    assert evidence_below(low, 40, 33.1) == math.inf  # at most 32 more
    assert evidence_below([1.0] * 8, 40, 20.0) < 1.5


# ---- the race ----------------------------------------------------------------------------------------


def raced(means: list[float], race: racing.Race, seed: int = 0) -> list[int]:
    """Run a race to its end, one mini-batch after the other; return the candidates given up, in order."""
    rng = np.random.default_rng(seed)
    scores = [(rng.permutation(race.examples) < round(m * race.examples)).astype(float) for m in means]
    begun, out = 0, []
    while (index := race.choose(begun < len(means))) is not None:
        if index == racing.NEW:
            index, begun = begun, begun + 1
        out += race.finish(index, [float(scores[index][place]) for place in race.start(index)])
    return out


def test_race_finds_the_best_for_a_part_of_the_calls() -> None:
    means = [0.5, 0.1, 0.2, 0.9, 0.0, 0.1, 0.3, 0.2, 0.1, 0.4]
    race = racing.Race(20, 120, initial=4, error=0.1)
    out = raced(means, race)
    assert race.best == (3, 0.9)
    assert race.spent <= 120
    assert {1, 2, 4, 5} <= set(out)
    assert all(race.scores(i) for i in range(len(means)))  # six candidates without racing


def test_every_candidate_has_an_order_of_its_own_drawn_by_the_seed() -> None:
    race = racing.Race(20, 200, first=4, batch=3, seed=3)
    assert race.start(5) == race.order(5)[:4]
    assert race.finish(5, [1.0, 0.0, 1.0, 1.0]) == []
    assert race.start(5) == race.order(5)[4:7]
    assert sorted(race.order(5)) == list(range(20))
    assert race.order(5) == racing.Race(20, 200, seed=3).order(5)
    assert race.order(5) not in (race.order(6), racing.Race(20, 200, seed=4).order(5))
    assert race.in_order(5) == tuple(
        zip(*sorted(zip(race.order(5)[:4], [1.0, 0.0, 1.0, 1.0], strict=True)), strict=True)
    )


def test_mean_and_noise() -> None:
    race = racing.Race(10, 100, first=4, batch=6)
    race.start(0)
    race.finish(0, [1.0, 0.0, 1.0, 1.0])
    assert race.mean(0) == 0.75
    beta = 4 * 2 / (6**2 * 7)  # variance of Beta(1 + 3, 1 + 1)
    assert race.noise(0) == pytest.approx(beta * (1 - 4 / 10))
    race.start(0)
    race.finish(0, [0.0] * 6)
    assert race.noise(0) == 0.0
    assert race.best == (0, 0.3)


def test_a_full_race_ends_with_the_best_of_all() -> None:
    """With calls for all prompts, the race completes the candidates given up wrongly."""
    for seed in range(20):
        means = np.random.default_rng(seed).integers(0, 20, 12) / 20
        race = racing.Race(20, 12 * 20, initial=5, error=0.3, seed=seed)
        raced(means.tolist(), race, seed)
        assert race.best is not None
        assert race.best[1] == pytest.approx(max(means))


def test_no_candidate_starts_that_could_not_be_completed() -> None:
    race = racing.Race(20, 50)
    assert race.choose() == racing.NEW
    race.start(0)
    assert race.choose() == racing.NEW
    race.start(1)  # 40 of the 50 calls are reserved
    assert race.choose() is None
    race.finish(1, [0.0] * 4)
    assert race.choose() == 1
    race.abandon(0)
    assert race.choose() == 1
    assert race.spent == 4
    assert race.finish(0, []) == []  # no mini-batch was in flight


def test_a_better_incumbent_ends_those_that_wait() -> None:
    race = racing.Race(10, 200, initial=3, first=4, batch=6, error=0.1)
    for index, scores in ((0, [0.0] * 4), (1, [1.0] * 4), (2, [0.0, 1.0, 1.0, 1.0])):
        assert race.choose() == racing.NEW
        race.start(index)
        assert race.finish(index, scores) == []  # no incumbent yet
    assert race.choose() == 1  # the highest shrunk mean
    race.start(1)
    assert race.best is None
    assert race.finish(1, [1.0] * 3 + [0.0] * 3) == [0]
    assert race.best == (1, 0.7)


def test_scores_between_are_raced_by_a_bet() -> None:
    race = racing.Race(40, 400, bounds=(-1.0, 1.0), binary=False, first=8, batch=4, error=0.1)
    race.start(0)
    race.finish(0, [0.6] * 8)
    while race.best is None:
        race.finish(0, [0.6] * len(race.start(0)))
    race.start(1)
    assert race.finish(1, [-0.9, -0.8] * 4) == [1]
    race.start(2)
    assert race.finish(2, [0.5, 0.6] * 4) == []
    assert 0.0 < race.noise(2) < 0.05


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"error": 1.0}, "race error"),
        ({"first": 0}, "first mini-batch"),
        ({"batch": 0}, "mini-batch"),
        ({"bounds": (1.0, 0.0)}, "bounds must be finite and ascending"),
        ({"bounds": (0.0, math.inf)}, "bounds must be finite and ascending"),
        ({"calls": 19}, "19 calls"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        racing.Race(20, **{"calls": 100, **settings})  # type: ignore[arg-type]


def test_scores_out_of_range() -> None:
    race = racing.Race(20, 100)
    race.start(0)
    with pytest.raises(InputError, match="3 scores for 4"):
        race.finish(0, [0.0] * 3)
    with pytest.raises(InputError, match=r"0 or 1, got 0\.5"):
        race.finish(0, [0.0, 0.5, 0.0, 0.0])
    race = racing.Race(20, 100, binary=False)
    race.start(0)
    with pytest.raises(InputError, match=r"0 to 1, got 1\.5"):
        race.finish(0, [0.0, 0.5, 0.0, 1.5])
    assert race.finish(0, [0.0, 0.5, 0.0, 1.0]) == []


def test_the_search_gets_partial_means_and_refunds() -> None:
    optimizer = zf.Zopo(np.random.default_rng(0).normal(size=(30, 4)), zf.ZopoConfig(budget=2, initial=2))
    race = racing.Race(10, 20, initial=2, first=4, batch=6)
    one, two = optimizer.ask(2)
    race.start(one)
    racing.tell(optimizer, race, one, race.finish(one, [1.0] * 4))
    race.start(one)
    racing.tell(optimizer, race, one, race.finish(one, [1.0] * 6))
    assert optimizer.best == (one, 1.0)
    race.start(two)
    given_up = race.finish(two, [0.0] * 4)
    assert given_up == [two]
    racing.tell(optimizer, race, two, given_up)
    assert optimizer.pending == []
    assert not optimizer.done
    assert optimizer.ask() not in (one, two)
    restored = zf.Zopo.from_state(optimizer._problem.embeddings, optimizer.state_dict())
    assert restored.pending == optimizer.pending


# ---- measured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("landscape", load_folder(LANDSCAPES), ids=lambda landscape: landscape.name)
@pytest.mark.parametrize("stated", [racing.DEFAULT_ERROR])
def test_fewer_are_given_up_wrongly_than_stated(landscape, stated: float) -> None:  # type: ignore[no-untyped-def]
    """Whole runs, in which candidates and incumbents depend on the scores of others."""
    found = search_racing.decisions(landscape, stated, search_quality.Plan(), range(12))
    assert found.winners > 10
    assert found.losers > 0
    assert found.wrong <= stated * found.winners


def test_the_measurement_sees_wrong_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "binary_limit", lambda examples, needed, looks, limits, error: looks[-1] // 2)
    found = search_racing.decisions(load_folder(LANDSCAPES)[0], 0.1, search_quality.Plan(), range(12))
    assert found.wrong > 0.1 * found.winners


def test_the_measurement_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("rhymes.json", "rhymes.npy"):
        (tmp_path / name).write_bytes((LANDSCAPES / name).read_bytes())
    arguments = ["--landscapes", str(tmp_path), "--seeds", "2", "--errors", "0.2", "--workers", "1"]
    search_racing.main([*arguments, "--out", str(tmp_path / "out")])
    kept = json.loads((tmp_path / "out" / "search_racing.json").read_text())
    assert [row["landscape"] for row in kept["decisions"]] == ["rhymes"]
    assert {row["method"] for row in kept["curves"]} == {"official", "racing"}
    assert "rhymes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        search_racing.main([*arguments[:-4], "--errors", "1.5"])
