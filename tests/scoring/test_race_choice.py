"""Next look of a race: calls kept for the favorite, beliefs of the search, and candidates given up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from zopo_fast.scoring import race as racing
from zopo_fast.scoring.candidates import Predictions
from zopo_fast.scoring.knowledge_gradient import log_rates


@pytest.mark.parametrize(("calls", "chosen"), [(33, None), (34, 1)])
def test_no_look_starts_that_the_favorite_needs(calls: int, chosen: int | None) -> None:
    race = racing.Race(20, calls, first=4, batch=4)
    race.start(0)
    race.finish(0, [1.0] * 4)
    race.start(1, range(10))
    race.finish(1, [0.0] * 6 + [1.0] * 4)
    assert len(race.start(0)) == 4  # in flight; the favorite takes 12 further calls
    assert race.choose(fresh=False) == chosen


def test_the_favorite_continues_with_the_calls_kept_for_it() -> None:
    race = racing.Race(20, 32, first=4, batch=4)
    race.start(0)
    race.finish(0, [1.0] * 4)
    race.start(1, range(10))
    assert race.choose(fresh=False) == 0  # of 18 calls left it takes 16


def test_the_first_favorite_is_completed_once_half_of_the_calls_is_spent() -> None:
    race = racing.Race(20, 100, first=4)
    better = Predictions(np.arange(6), np.full(6, 0.5), np.full(6, 0.04), np.arange(6) == 5)
    better.mean[5] = 0.9
    for index in range(4):
        race.start(index, range(12))
        race.finish(index, [1.0, 0.0] * 5 + [float(index == 2), 0.0])
        assert race.choose(better) == racing.NEW
    race.start(4)
    race.finish(4, [0.0] * 4)
    assert race.choose(better) == 2  # 52 calls are spent
    race.start(0, range(12, 20))
    race.finish(0, [0.0] * 8)
    assert race.best is not None
    assert race.choose(better) == racing.NEW


def test_neither_a_running_candidate_nor_one_given_up_is_next() -> None:
    race = racing.Race(20, 200, first=4, batch=4)
    race.start(0)
    race.finish(0, [1.0] * 4)
    race.start(0)
    assert race.choose(fresh=False) is None
    race.finish(0, [1.0] * 4)
    race.start(0, sorted(set(range(20)) - set(race.order(0))))
    race.finish(0, [1.0] * 10 + [0.0] * 2)
    race.start(2)
    race.finish(2, [1.0, 0.0, 1.0, 1.0])
    race.start(1, range(10))
    assert race.finish(1, [0.0] * 10) == [1]
    sure = Predictions(np.arange(3), np.array([0.9, 1.0, 0.5]), np.full(3, 1e-5), np.zeros(3, dtype=bool))
    assert race.choose(sure, fresh=False) == 2


def test_calls_left_complete_those_given_up_that_can_still_win() -> None:
    race = racing.Race(20, 100, first=4)
    race.start(0, range(20))
    race.finish(0, [1.0] * 12 + [0.0] * 8)
    for index, scores in ((1, [0.0] * 7), (2, [0.0] * 9), (3, [0.0] * 7 + [1.0])):
        race.start(index, range(len(scores)))
        assert race.finish(index, scores) == [index]
    assert race.choose(fresh=False) == 3  # a success, and 13 in all are possible, as with prompt 1
    race.start(3, [9, 10])
    assert race.finish(3, [0.0, 0.0]) == []  # not given up again
    assert race.choose(fresh=False) == 3
    assert len(race.start(3)) == 10
    race.finish(3, [1.0] * 10)
    assert race.choose(fresh=False) == 1
    assert len(race.start(1)) == 13
    race.finish(1, [1.0] * 13)
    assert race.best == (1, 13 / 20)
    assert race.choose(fresh=False) is None  # prompt 2 reaches 11 at most


def test_a_candidate_that_fails_on_its_first_look_is_none_of_the_initial_ones() -> None:
    race = racing.Race(20, 400, initial=2, first=4)
    race.start(0)
    race.start(1)
    race.finish(1, [1.0, 0.0, 1.0, 0.0])
    worse = Predictions(np.arange(3), np.array([0.5, 0.5, 0.1]), np.full(3, 1e-4), np.arange(3) == 2)
    assert race.choose(worse) == 1
    race.abandon(0)
    assert race.choose(worse) == racing.NEW


def test_a_candidate_that_fails_while_it_is_completed_at_the_end_is_not_tried_again() -> None:
    race = racing.Race(20, 100, first=4)
    race.start(0, range(20))
    race.finish(0, [1.0] * 12 + [0.0] * 8)
    race.start(1, range(7))
    assert race.finish(1, [0.0] * 7) == [1]
    assert race.choose(fresh=False) == 1
    race.start(1)
    race.abandon(1)
    assert race.choose(fresh=False) is None


def test_a_failed_candidate_is_no_rival_of_the_favorite() -> None:
    """With a single contender, completing it has no certain gain over a second."""
    race = racing.Race(20, 400, initial=2, first=4)
    for index in (0, 1):
        race.start(index)
        race.finish(index, [1.0, 0.0, 1.0, 0.0])
    race.start(0)
    race.abandon(0)
    better = Predictions(
        np.arange(3), np.array([0.5, 0.3, 0.9]), np.full(3, 0.04), np.array([False, False, True])
    )
    assert race.choose(better) == racing.NEW
    assert race.choose(better, fresh=False) == 1


def test_a_candidate_predicted_better_starts_before_others_continue() -> None:
    race = racing.Race(20, 200, initial=2, first=2)
    for index in (0, 1):
        race.start(index)
        race.finish(index, [0.0, 1.0])
    at = np.arange(4)
    fresh = np.array([False, False, True, True])
    better = Predictions(at, np.array([0.4, 0.4, 0.3, 0.7]), np.full(4, 0.04), fresh)
    worse = Predictions(at, np.array([0.4, 0.4, 0.01, 0.01]), np.full(4, 1e-4), fresh)
    assert race.choose(better) == racing.NEW
    assert race.choose(worse) in (0, 1)
    assert race.choose(better, fresh=False) in (0, 1)


def test_beliefs_use_the_prediction_of_each_candidate() -> None:
    rng = np.random.default_rng(5)
    plain = racing.Race(20, 2000, initial=2, first=4)
    wide = racing.Race(20, 2000, initial=2, first=4, bounds=(-1.0, 3.0))
    for index in (80, 7):
        for race, scores in ((plain, [1.0, 0.0] * 2), (wide, [3.0, -1.0] * 2)):
            race.start(index, range(4))
            race.finish(index, scores)
    mean, variance, fresh = rng.random(200), rng.uniform(0.01, 0.1, 200), np.arange(200) >= 100
    mean[[80, 7]] = 0.8, 0.3
    found, beliefs = plain._beliefs(Predictions(np.arange(200), mean, variance, fresh), True)
    assert found[:2].tolist() == [80, 7]
    assert beliefs.mean[0] > beliefs.mean[1] + 0.05  # the same scores on the same examples
    best = np.argsort(-(mean + np.sqrt(variance))[100:])[: racing.FRESH] + 100
    assert sorted(found[2:]) == sorted(best)
    np.testing.assert_allclose(beliefs.mean[2:], mean[found[2:]])
    np.testing.assert_allclose(beliefs.prior_variance, variance[found])
    order = rng.permutation(200)
    shuffled = Predictions(order, mean[order], variance[order], fresh[order])
    scaled = Predictions(np.arange(200), 4.0 * mean - 1.0, 16.0 * variance, fresh)
    for race, given in ((plain, shuffled), (wide, scaled)):
        again, others = race._beliefs(given, True)
        first, second = np.argsort(found), np.argsort(again)
        assert found[first].tolist() == again[second].tolist()
        np.testing.assert_allclose(others.mean[second], beliefs.mean[first])
        np.testing.assert_allclose(others.prior_variance[second], beliefs.prior_variance[first])
    assert plain._beliefs(Predictions(np.arange(200), mean, variance, fresh), False)[0].tolist() == [80, 7]
    none = np.zeros(200, dtype=bool)  # the search offers another candidate than it predicts
    assert plain._beliefs(Predictions(np.arange(200), mean, variance, none), True)[0][2:] == racing.NEW


def test_the_prediction_counts_by_its_certainty_and_for_the_examples_without_a_score() -> None:
    rng = np.random.default_rng(6)
    race = racing.Race(40, 4000, first=4)
    ease = rng.normal(0.0, 2.0, 40)
    for index in range(12):
        look = race.start(index, rng.permutation(40)[: 40 if index < 4 else 12].tolist())
        passes = rng.random(len(look)) < 1.0 / (1.0 + np.exp(-ease[list(look)]))
        race.finish(index, passes.astype(float).tolist())
    found, none = race._model.estimates(), np.zeros(12, dtype=bool)
    mean = np.linspace(0.1, 0.9, 12)
    for variance, weight in ((1e9, 0.0), (0.0, 1.0 - found.effective / 40)):
        _, beliefs = race._beliefs(Predictions(np.arange(12), mean, np.full(12, variance), none), False)
        expected = found.quality + weight * (mean - found.quality)
        np.testing.assert_allclose(beliefs.mean, expected, atol=2e-3)


def test_rates_are_of_effective_numbers_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def rates(*arguments: Any) -> Any:
        given[:] = arguments
        return log_rates(*arguments)

    monkeypatch.setattr(racing, "log_rates", rates)
    rng = np.random.default_rng(7)
    race = racing.Race(40, 4000, first=4)
    for index in range(12):
        look = race.start(index, range(40) if index < 11 else range(10, 25))
        race.finish(index, [float(j >= 20 and rng.random() < 0.5) for j in look])
    race.start(12, range(38))
    assert race.finish(12, [0.0] * 38) == [12]
    assert race.choose() is not None
    beliefs, examples, sizes, before, after = given
    assert (beliefs.mean == -math.inf).tolist() == [index == 12 for index in range(14)]
    count, effective = (race._model.estimates().count[11], race._model.estimates().effective[11])
    assert (examples, count, before[11]) == (40, 15, effective)
    assert effective < 0.8 * count  # ten of its examples tell little
    assert after[11, -1] == pytest.approx(40.0)
    assert (sizes[11, -1], before[13]) == (25, 0.0)
    assert (after[13] > sizes[13]).any()  # the examples that tell most come first


def test_the_units_of_the_scores_do_not_matter() -> None:
    found: list[list[tuple[int, tuple[int, ...]]]] = []
    for low, high in ((0.0, 1.0), (-1.0, 3.0)):
        race = racing.Race(20, 200, initial=4, bounds=(low, high))
        rng, looks = np.random.default_rng(8), []
        scores = low + (high - low) * (rng.random((20, 20)) < rng.random((20, 1)))
        while (index := race.choose(fresh=race._begun < 20)) is not None:
            index = race._begun if index == racing.NEW else index
            looks.append((index, race.start(index)))
            race.finish(index, scores[index, list(looks[-1][1])].tolist())
        found.append(looks)
    assert found[0] == found[1]


def test_beliefs_are_finite_at_extreme_predictions() -> None:
    race = racing.Race(20, 200, initial=2, first=2)
    for index in (3, 1):
        race.start(index)
        race.finish(index, [0.0, 0.0])
    at = np.array([7, 1, 3, 2])  # unsorted
    found = Predictions(
        at,
        np.array([1e6, -1e6, 0.5, 0.5]),
        np.array([0.0, 1e9, 0.0, 1.0]),
        np.array([True, False, False, True]),
    )
    _, beliefs = race._beliefs(found, True)
    for values in (beliefs.mean, beliefs.residual, beliefs.prior_variance):
        assert np.isfinite(values).all()
    assert race.choose(found) is not None
