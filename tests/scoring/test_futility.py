"""Futility tests: stated error over all orders of the examples, by enumeration and by simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from zopo_fast.scoring.futility import SPENDING, Duel, binary_limits, evidence_below


def orders(examples: int, successes: int) -> Iterator[tuple[int, ...]]:
    """Return all orders of the given numbers of successes and failures; they are equally likely."""
    for where in itertools.combinations(range(examples), successes):
        yield tuple(int(i in where) for i in range(examples))


def limits_of(examples: int, needed: int, looks: tuple[int, ...], error: float) -> tuple[int, ...]:
    return binary_limits(examples, needed, looks, (), error)


def share_given_up(examples: int, successes: int, looks: tuple[int, ...], limits: tuple[int, ...]) -> float:
    """Return the share of orders that reach a limit at any look, by enumeration."""
    out = [
        any(sum(order[:look]) <= limit for look, limit in zip(looks, limits, strict=True))
        for order in orders(examples, successes)
    ]
    return sum(out) / len(out)


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
    assert binary_limits(20, 14, (4,), (), 0.0) == (-1,)
    assert binary_limits(20, 14, (4, 8), (-1,), 0.0) == (-1, 1)  # 1 of 8 allows 13 of 20 at most
    assert binary_limits(20, 21, (4,), (), 0.0) == (4,)  # the incumbent is perfect


@pytest.mark.parametrize("successes", [4, 6, 7, 9])
def test_an_incumbent_that_improves_costs_no_further_error(successes: int) -> None:
    looks, targets, error = (2, 4, 6, 8), (4, 6, 6, 9), 0.2
    limits: tuple[int, ...] = ()
    for n, target in enumerate(targets):
        limits = binary_limits(10, target, looks[: n + 1], limits, error)
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


def recursion(
    examples: int, needed: int, looks: tuple[int, ...], limits: tuple[int, ...], error: float
) -> int:
    """Return the limit of the last look by enumeration, the earlier limits given."""
    if needed > examples:
        return looks[-1]
    every = list(orders(examples, needed))

    def lost(limit: int) -> float:
        pairs = list(zip(looks, (*limits, limit), strict=True))
        return sum(any(sum(order[:look]) <= bound for look, bound in pairs) for order in every) / len(every)

    may_spend = error * (looks[-1] / examples) ** SPENDING * (1.0 - 1e-12)
    allowed = [limit for limit in range(-1, min(needed, looks[-1]) + 1) if lost(limit) <= may_spend]
    return max(allowed[-1], needed - (examples - looks[-1]) - 1)


@pytest.mark.parametrize("targets", [(4, 4, 4, 4), (4, 6, 6, 9), (5, 5, 8, 11), (9, 9, 10, 10)])
def test_limits_follow_the_recursion_of_each_look(targets: tuple[int, ...]) -> None:
    """Earlier limits stay as they are while the incumbent improves."""
    looks, error = (2, 4, 6, 8), 0.3
    limits: tuple[int, ...] = ()
    for n, target in enumerate(targets):
        expected = (*limits, recursion(10, target, looks[: n + 1], limits, error))
        limits = binary_limits(10, target, looks[: n + 1], limits, error)
        assert limits == expected


def test_a_second_incumbent_at_the_same_look_only_raises_its_limit() -> None:
    looks = (3, 6)
    limits = binary_limits(12, 6, looks, (), 0.2)
    stricter = binary_limits(12, 9, looks, limits, 0.2)
    assert stricter[0] == limits[0]
    assert stricter[1] > limits[1]
    assert binary_limits(12, 6, looks, stricter, 0.2) == stricter


# ---- duels -----------------------------------------------------------------------------------------


def share_lost(
    candidate: np.ndarray, rivals: list[np.ndarray], looks: tuple[int, ...], error: float, binary: bool
) -> float:
    """Return the share of orders in which a candidate loses at any look; rivals change with the looks."""
    examples, lost, total = len(candidate), 0, 0
    for order in itertools.permutations(range(examples)):
        at, duel = list(order), None
        total += 1
        for n, look in enumerate(looks):
            number = min(n, len(rivals) - 1) + 1
            if duel is None or duel.number != number:
                duel = Duel(number, number, dict(enumerate(rivals[number - 1].tolist())), binary)
            if duel.is_lost(at[:look], candidate[at[:look]].tolist(), looks[: n + 1], error):
                lost += 1
                break
    return lost / total


@pytest.mark.parametrize("looks", [(1, 2, 3, 4, 5), (2, 4), (4,)])
@pytest.mark.parametrize("number", [1, 2])
def test_a_duel_spends_no_more_than_its_part_of_the_error(looks: tuple[int, ...], number: int) -> None:
    """Over all orders, for each number of wins above that of losses."""
    examples, error, most = 6, 0.9, 0.0
    for wins, losses in itertools.product(range(examples + 1), repeat=2):
        if losses < wins <= examples - losses:
            outcomes = np.array([1.0] * wins + [-1.0] * losses + [0.0] * (examples - wins - losses))
            lost = total = 0
            for order in set(itertools.permutations(outcomes.tolist())):
                differences = np.array(order)
                rivals = (differences < 0).astype(float)
                scores = (differences > 0).astype(float)
                duel = Duel(0, number, dict(enumerate(rivals.tolist())), True)
                total += 1
                lost += any(
                    duel.is_lost(range(look), scores[:look].tolist(), looks[: n + 1], error)
                    for n, look in enumerate(looks)
                )
            most = max(most, lost / total)
    assert most <= error * 0.5**number + 1e-12


@pytest.mark.parametrize("examples", [20, 21])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_duel_is_lost_from_its_part_of_the_error_on(examples: int, number: int) -> None:
    """Eight losses in a row: of 21 examples, a winner loses ten at most."""
    chance = math.comb(10, 8) / math.comb(21, 8)
    least = 2.0**number * chance / (8 / 21) ** SPENDING
    graded = 2.0**number / evidence_below([0.1] * 8, examples, examples / 2.0)
    for share, is_lost in ((0.999, False), (1.001, True)):
        duel = Duel(0, number, dict.fromkeys(range(examples), 1.0), True)
        assert duel.is_lost(range(8), [0.0] * 8, (8,), share * least) == is_lost
        duel = Duel(0, number, dict.fromkeys(range(examples), 0.9), False)
        assert duel.is_lost(range(8), [0.1] * 8, (8,), share * graded) == is_lost


def test_a_duel_gives_up_a_clear_loser_and_spends_part_of_its_error() -> None:
    rng = np.random.default_rng(0)
    looks, error, shares = tuple(range(2, 40, 3)), 0.4, {}
    for wins, losses in ((0, 20), (5, 25), (19, 20), (21, 20)):
        out = 0
        for _ in range(600):
            differences = rng.permutation([1.0] * wins + [-1.0] * losses + [0.0] * (60 - wins - losses))
            duel = Duel(0, 1, dict(enumerate((differences < 0).astype(float).tolist())), True)
            scores = (differences > 0).astype(float).tolist()
            out += any(
                duel.is_lost(range(look), scores[:look], looks[: n + 1], error)
                for n, look in enumerate(looks)
            )
        shares[wins, losses] = out / 600
    assert shares[0, 20] > 0.95
    assert shares[5, 25] > 0.9
    assert 0.01 < shares[21, 20] <= 0.2 + 3 * math.sqrt(0.16 / 600)


def test_several_incumbents_in_a_row_spend_no_more_than_the_error() -> None:
    candidate = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    rivals = [
        np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]),
        np.array([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
    ]
    for error in (0.3, 0.9):
        assert share_lost(candidate, rivals, (2, 4, 5), error, True) <= error


def test_a_graded_duel_is_seldom_lost_by_chance_and_lost_by_the_worse() -> None:
    rng, looks, error = np.random.default_rng(1), tuple(range(3, 30, 3)), 0.4
    rivals = rng.random(30)
    for gain, low, high in ((0.001, 0.0, 0.2 + 3 * math.sqrt(0.16 / 300)), (-0.25, 0.5, 1.0)):
        candidate = np.clip(rivals + rng.normal(0.0, 0.15, 30), 0.0, 1.0)
        candidate = np.clip(candidate + (rivals.mean() + gain - candidate.mean()), 0.0, 1.0)
        if gain > 0.0:
            candidate += max(0.0, rivals.mean() + 1e-9 - candidate.mean())
        out = 0
        for _ in range(300):
            at = rng.permutation(30).tolist()
            duel = Duel(0, 1, dict(enumerate(rivals.tolist())), False)
            out += any(
                duel.is_lost(at[:look], candidate[at[:look]].tolist(), looks[: n + 1], error)
                for n, look in enumerate(looks)
            )
        assert low <= out / 300 <= high


def test_without_an_error_no_duel_is_lost() -> None:
    assert not Duel(0, 1, dict.fromkeys(range(8), 1.0), True).is_lost(range(7), [0.0] * 7, (7,), 0.0)


def test_a_duel_by_difficulty_spends_no_more_than_its_error_in_the_two_way_model() -> None:
    """The chance of a win, given that the two differ, does not depend on the difficulty of the example."""
    rng, looks, error, winners, lost = np.random.default_rng(3), tuple(range(3, 60, 4)), 0.4, 0, 0
    ease = rng.normal(0.0, 2.0, 60)
    first = np.argsort(np.abs(ease)).tolist()  # what tells most comes first
    chance = 1.0 / (1.0 + np.exp(-ease))
    while winners < 600:
        candidate, rival = (rng.random((2, 60)) < chance).astype(float)
        if candidate.sum() > rival.sum():
            duel = Duel(0, 1, dict(enumerate(rival.tolist())), True)
            winners += 1
            lost += any(
                duel.is_lost(first[:look], candidate[first[:look]].tolist(), looks[: n + 1], error)
                for n, look in enumerate(looks)
            )
    assert 0.0 < lost / winners <= error / 2
