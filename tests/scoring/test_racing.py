"""Race: stated error of the futility tests, budget, and an incumbent with full scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.search import quality as search_quality, racing as search_racing
from zopo_fast.bench.search.replay import load_folder
from zopo_fast.errors import ConfigError, InputError
from zopo_fast.scoring import futility, race as racing

LANDSCAPES = search_quality.BENCH / "landscapes"


# ---- the race ----------------------------------------------------------------------------------------


def raced(means: list[float], race: racing.Race, seed: int = 0) -> list[int]:
    """Run a race to its end, one look after the other; return the candidates given up, in order."""
    rng = np.random.default_rng(seed)
    scores = [(rng.permutation(race.examples) < round(m * race.examples)).astype(float) for m in means]
    begun, out = 0, []
    while (index := race.choose(fresh=begun < len(means))) is not None:
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
    def started(race: racing.Race, index: int) -> tuple[int, ...]:
        race.start(index)
        race.finish(index, [1.0, 0.0, 1.0, 1.0])
        race.start(index)
        return race.order(index)

    race = racing.Race(20, 200, first=4, batch=16, seed=3)
    assert race.order(5) == ()
    order = started(race, 5)
    assert sorted(order) == list(range(20))
    assert race.in_order(5) == tuple(
        zip(*sorted(zip(order[:4], [1.0, 0.0, 1.0, 1.0], strict=True)), strict=True)
    )
    assert order == started(racing.Race(20, 200, first=4, batch=16, seed=3), 5)
    assert order not in (started(race, 6), started(racing.Race(20, 200, first=4, batch=16, seed=4), 5))


def test_examples_that_all_pass_or_all_fail_come_last() -> None:
    """Half of 40 examples are passed or failed by all prompts and tell nothing."""
    race = racing.Race(40, 2000, first=4, batch=10, seed=1)
    for index in range(12):
        for _ in range(1 if index == 11 else 4):
            look = race.start(index)
            scores = [float(j % 2 if j < 20 else (j + index) % 3 == 0) for j in look]
            race.finish(index, scores)
    late = race.start(11)
    assert sum(example < 20 for example in late) <= 2
    race.abandon(11)
    assert len(race.order(11)) == 4
    assert race.start(11, late[:3]) == late[:3]
    race.finish(11, [1.0] * 3)
    for wrong in ([], late[:1], [3, 40], [-1], [5, 5]):
        with pytest.raises(InputError, match="cannot be scored on examples"):
            race.start(11, wrong)


def test_quality_and_its_variance() -> None:
    race = racing.Race(10, 100, first=4, batch=6)
    race.start(0)
    race.finish(0, [1.0, 0.0, 1.0, 1.0])
    assert race.mean(0) == 0.75
    quality, variance = race.quality(0)
    assert quality == pytest.approx(0.75, abs=0.15)
    assert 0.0 < variance < 0.25 / 4
    race.start(0)
    race.finish(0, [0.0] * 6)
    assert race.quality(0) == (0.3, 0.0)
    assert race.best == (0, 0.3)


def test_quality_is_in_units_of_the_scores() -> None:
    plain = racing.Race(20, 200, first=8)
    wide = racing.Race(20, 200, first=8, bounds=(-1.0, 3.0))
    for race in (plain, wide):
        race.start(0)
    plain.finish(0, [1.0, 0.0] * 4)
    wide.finish(0, [3.0, -1.0] * 4)
    mean, variance = plain.quality(0)
    assert wide.quality(0) == pytest.approx((4.0 * mean - 1.0, 16.0 * variance))


def test_a_full_race_ends_with_the_best_of_all() -> None:
    """With calls for all prompts, the race completes the candidates given up wrongly."""
    for seed in range(20):
        means = np.random.default_rng(seed).integers(0, 20, 12) / 20
        race = racing.Race(20, 12 * 20, initial=5, error=0.3, seed=seed)
        raced(means.tolist(), race, seed)
        assert race.best is not None
        assert race.best[1] == pytest.approx(max(means))


def test_no_candidate_starts_that_could_not_be_completed() -> None:
    race = racing.Race(20, 23, initial=2, first=4)
    assert race.choose() == racing.NEW
    race.start(0)
    assert race.choose() is None  # 19 calls are left, and a prompt takes 20
    race.finish(0, [0.0] * 4)
    assert race.choose() == 0
    race.start(0)
    race.abandon(0)
    assert race.spent == 4
    assert race.finish(0, []) == []  # no look was in flight


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


@pytest.mark.parametrize(("error", "given_up"), [(0.005, []), (0.01, [1])])
def test_a_new_incumbent_is_compared_anew_by_the_rest_of_the_error(error: float, given_up: list[int]) -> None:
    """Seven losses in a row give up at .0036 or more in a first duel, at .0072 or more in a second."""
    race = racing.Race(20, 400, error=error)
    race.start(0, range(19, -1, -1))
    race.finish(0, [1.0] * 10 + [0.0] * 10)
    for index in (1, 2):
        race.start(index, range(7))
        assert race.finish(index, [0.0] * 7) == []  # the incumbent fails there too
    look = race.start(2)
    race.start(3, range(20))
    assert race.finish(3, [1.0] * 12 + [0.0] * 8) == given_up  # prompt 2 has a look in flight
    assert race.finish(2, [0.0] * len(look)) == [2]
    race.start(4, range(7))
    assert race.finish(4, [0.0] * 7) == [4]
    race.start(5, range(20))
    race.finish(5, [1.0] * 11 + [0.0] * 9)
    assert race.best == (3, 0.6)


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
    quality, variance = race.quality(2)
    assert quality == pytest.approx(0.55, abs=0.1)
    assert 0.0 < variance < 0.05


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"error": 1.0}, "race error"),
        ({"first": 0}, "first look"),
        ({"batch": 0}, "look"),
        ({"bounds": (1.0, 0.0)}, "bounds must be finite and ascending"),
        ({"bounds": (0.0, math.inf)}, "bounds must be finite and ascending"),
        ({"calls": 19}, "19 calls"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        racing.Race(20, **{"calls": 100, **settings})  # type: ignore[arg-type]


def test_scores_out_of_range() -> None:
    race = racing.Race(20, 100, first=4)
    race.start(0)
    with pytest.raises(InputError, match="3 scores for 4"):
        race.finish(0, [0.0] * 3)
    with pytest.raises(InputError, match=r"0 or 1, got 0\.5"):
        race.finish(0, [0.0, 0.5, 0.0, 0.0])
    race = racing.Race(20, 100, first=4, binary=False)
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


def test_the_search_gets_the_variance_of_a_partial_mean() -> None:
    optimizer = Mock()
    race = racing.Race(10, 40, first=4, batch=6)
    race.start(5)
    racing.tell(optimizer, race, 5, race.finish(5, [1.0, 0.0, 1.0, 1.0]))
    score, noise = race.quality(5)
    assert noise > 0.0
    assert race.can_start(5)
    race.start(5)
    assert not race.can_start(5)
    race.finish(5, [1.0] * 6)
    assert not race.can_start(5)
    racing.tell(optimizer, race, 5, [7, 8])
    assert optimizer.mock_calls == [
        call.tell(5, score, noise=noise, final=False),
        call.tell(5, 0.9),
        call.discard(7),
        call.discard(8),
    ]


@pytest.mark.parametrize("calls", [20, 27, 55, 130])
@pytest.mark.parametrize("seed", range(6))
def test_a_complete_prompt_exists_at_the_end(calls: int, seed: int) -> None:
    """Calls that complete the favorite are kept, whatever the budget."""
    race = racing.Race(20, calls, initial=5, error=0.3, seed=seed)
    raced(np.random.default_rng(seed).random(30).tolist(), race, seed)
    assert race.best is not None
    assert race.is_complete(race.best[0])
    assert race.spent <= calls


def test_wrong_decisions_are_fewer_than_stated_where_prompts_fail_together() -> None:
    """Examples differ in difficulty, and prompts come in families of like ones; give-ups of winners count."""
    stated, winners, wrong, families, lost = 0.2, 0, 0, 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        quality, hardness = rng.normal(0.0, 1.0, 8), rng.normal(0.0, 1.5, 100)
        base = rng.random((8, 100)) < 1.0 / (1.0 + np.exp(-quality[:, None] - hardness))
        scores = np.repeat(base, 3, axis=0) ^ (rng.random((24, 100)) < 0.03)
        full = scores.mean(axis=1)
        race = racing.Race(100, 24 * 30, initial=4, error=stated, seed=seed)
        order, begun, judged = rng.permutation(24).tolist(), 0, {}
        while (index := race.choose(fresh=begun < 24)) is not None:
            if index == racing.NEW:
                index, begun = order[begun], begun + 1
            out = race.finish(index, scores[index, list(race.start(index))].astype(float).tolist())
            if race.best is not None:
                judged.update({i: i in out for i in (index, *out) if full[i] > race.best[1]})
        winners, wrong = winners + len(judged), wrong + sum(judged.values())
        for family in {i // 3 for i in judged}:
            members = [judged[i] for i in judged if i // 3 == family]
            families, lost = families + 1, lost + all(members)
    assert winners > 10
    assert wrong <= stated * winners
    assert lost <= stated * families


# ---- measured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("landscape", load_folder(LANDSCAPES), ids=lambda landscape: landscape.name)
@pytest.mark.parametrize("stated", [racing.DEFAULT_ERROR])
def test_fewer_are_given_up_wrongly_than_stated(landscape, stated: float) -> None:  # type: ignore[no-untyped-def]
    """Whole runs, in which candidates and incumbents depend on the scores of others."""
    found = search_racing.decisions(landscape, stated, search_quality.Plan(), range(12))
    assert found.winners > 3
    assert found.losers > 0
    assert found.wrong <= stated * found.winners


def test_the_measurement_sees_wrong_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        futility,
        "binary_limits",
        lambda examples, needed, looks, earlier, error: tuple(look // 2 for look in looks),
    )
    found = search_racing.decisions(load_folder(LANDSCAPES)[0], 0.1, search_quality.Plan(), range(12))
    assert found.wrong > 0.1 * found.winners


def test_the_measurement_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("rhymes.json", "rhymes.npy"):
        (tmp_path / name).write_bytes((LANDSCAPES / name).read_bytes())
    arguments = ["--landscapes", str(tmp_path), "--seeds", "2", "--errors", "0.2", "--workers", "1"]
    search_racing.main([*arguments, "--out", str(tmp_path / "out")])
    kept = json.loads((tmp_path / "out" / "search_racing.json").read_text())
    assert [row["landscape"] for row in kept["decisions"]] == ["rhymes", "landscapes, over all"]
    assert {row["method"] for row in kept["curves"]} == {"official", "racing"}
    assert "rhymes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        search_racing.main([*arguments[:-4], "--errors", "1.5"])
