"""Ask and tell in every search: budget, pending, partial scores, discards, errors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from search_tools import CONFIGS, M, play, pool, score
from time_tools import time_limit

import zopo_fast as zf


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    """Constructor of the configuration of a search."""
    return CONFIGS[request.param]


def repr_(value: Any) -> str:
    return repr(value)[:12]


@pytest.mark.parametrize("budget", [1, 2, 10, 11, 40, M])
def test_budget_is_spent_exactly_and_no_point_is_offered_twice(config: Any, budget: int) -> None:
    opt = zf.Zopo(pool(), config(budget=budget, initial=10))
    order = play(opt)
    assert len(order) == len(set(order)) == budget
    assert set(order) <= set(range(M))
    assert all(type(i) is int for i in order)
    assert opt.done
    assert opt.pending == []
    index, best = opt.best
    assert best == max(map(score, order)) == score(index)
    with pytest.raises(zf.NothingToAsk):
        opt.ask()
    with pytest.raises(zf.NothingToAsk):
        opt.ask(3)


def test_done_means_nothing_pending(config: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=8, initial=3))
    asked = opt.ask(8)
    for i in asked:
        assert not opt.done
        with pytest.raises(zf.NothingToAsk, match="pending"):
            opt.ask()
        opt.tell(i, score(i))
    assert opt.done


def test_pool_exhausted_by_asks_and_prior_data(config: Any) -> None:
    opt = zf.Zopo(pool(12), config(budget=12, initial=2))
    for i in range(5):
        opt.tell(i, score(i))
    assert sorted(play(opt)) == list(range(5, 12))  # prior data does not count, and no prompt is left
    assert opt.done


def test_budget_above_the_pool_is_clipped_with_a_warning(config: Any) -> None:
    with pytest.warns(UserWarning, match="budget"):
        opt = zf.Zopo(pool(9), config(budget=30, initial=4))
    assert sorted(play(opt)) == list(range(9))


def test_initial_points_are_asked_first(config: Any) -> None:
    listed = [5, 1, 17, 0]
    order = play(zf.Zopo(pool(), config(budget=20, initial=listed)))
    assert order[:4] == listed
    drawn = [play(zf.Zopo(pool(), config(budget=12, initial=12, seed=s))) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    clipped = zf.Zopo(pool(), config(budget=3, initial=40))
    assert len(play(clipped)) == 3
    assert len(play(zf.Zopo(pool(), config(budget=5, initial=np.array([3, 4]))))) == 5


@pytest.mark.parametrize("initial", [[M], [-1], [0, 0], [], 0, -3, list(range(11)), "few", [0.5]])
def test_invalid_initial_points_are_refused(config: Any, initial: Any) -> None:
    with pytest.raises(zf.ConfigError, match="initial"):
        zf.Zopo(pool(), config(budget=10, initial=initial))


@pytest.mark.parametrize("budget", [0, -1, 2.5, math.nan, "many", None])
def test_invalid_budgets_are_refused(config: Any, budget: Any) -> None:
    with pytest.raises(zf.ConfigError, match="budget"):
        config(budget=budget)


@pytest.mark.parametrize("integer", [np.int64, np.int32])
def test_numpy_numbers_are_accepted(config: Any, integer: Any) -> None:
    """Counts, indices and scores may be NumPy numbers; the state is JSON nevertheless."""
    opt = zf.Zopo(pool(), config(budget=integer(20), initial=integer(4), seed=integer(2)))
    asked = opt.ask(integer(3))
    for i in asked:
        opt.tell(integer(i), np.float32(0.5), noise=np.float32(0.25), final=np.True_)
    opt.discard(integer(opt.ask()))
    plain = zf.Zopo(pool(), config(budget=20, initial=4, seed=2))
    assert plain.ask(3) == asked
    assert zf.Zopo.from_state(pool(), json.loads(json.dumps(opt.state_dict()))).ask() == opt.ask()


def test_ask_n_adds_at_most_n_pending_prompts(config: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=11, initial=3))
    first, second, third = opt.ask(4), opt.ask(4), opt.ask(4)
    assert [len(first), len(second), len(third)] == [4, 4, 3]
    assert opt.pending == [*first, *second, *third]
    assert len(set(opt.pending)) == 11
    one = zf.Zopo(pool(), config(budget=11, initial=3))
    assert isinstance(one.ask(1), list)
    assert isinstance(one.ask(), int)
    for n in (0, -1):
        with pytest.raises(zf.ConfigError):
            one.ask(n)


def test_scores_may_arrive_in_any_order(config: Any) -> None:
    rng, opt, asked = np.random.default_rng(0), zf.Zopo(pool(), config(budget=40, initial=6)), []
    with time_limit():
        while not opt.done:
            if len(opt.pending) < 7 and len(asked) < 40:
                asked.extend(opt.ask(int(rng.integers(1, 4))))
            i = opt.pending[int(rng.integers(len(opt.pending)))]
            opt.tell(i, score(i))
            assert i not in opt.pending
    assert len(asked) == len(set(asked)) == 40


def test_prior_data_is_used_and_not_counted(config: Any) -> None:
    prior = [7, 8, 9]
    opt = zf.Zopo(pool(), config(budget=15, initial=5))
    for i in prior:
        opt.tell(i, 100.0 + i)
    assert opt.best == (9, 109.0)
    order = play(opt)
    assert len(order) == 15
    assert not set(order) & set(prior)
    other = zf.Zopo(pool(), config(budget=15, initial=5))
    for i in prior:
        other.tell(i, -100.0 - i)
    assert play(other) != order  # the prior data was used


def test_a_repeated_score_is_ignored_and_a_different_one_conflicts(config: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=15, initial=5))
    i = opt.ask()
    opt.tell(i, 0.5)
    state = opt.state_dict()
    opt.tell(i, 0.5)
    assert opt.pending == []
    with pytest.raises(zf.ConflictingScoreError, match=str(i)):
        opt.tell(i, 0.6)
    with pytest.raises(zf.ConflictingScoreError):
        opt.tell(i, 0.6, final=False)
    assert opt.best == (i, 0.5)
    assert zf.Zopo.from_state(pool(), opt.state_dict()).ask() == zf.Zopo.from_state(pool(), state).ask()
    assert len(play(opt)) == 14


def test_partial_scores_replace_each_other_and_count_once(config: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=12, initial=3))
    i = opt.ask()
    for value, noise in ((0.9, 0.5), (0.4, 0.2), (0.4, 0.1)):
        opt.tell(i, value, noise=noise, final=False)
        assert opt.pending == [i]
        assert opt.best == (i, value)
    opt.tell(i, 0.6)
    assert opt.pending == []
    assert opt.best == (i, 0.6)
    order = play(opt)
    assert len(order) == 11
    assert i not in order


def test_partial_scores_do_not_stop_other_asks(config: Any) -> None:
    opt, order = zf.Zopo(pool(), config(budget=30, initial=5)), []
    with time_limit():
        while not opt.done:
            while len(opt.pending) < 3 and len(order) < 30:
                order.append(opt.ask())
            i = opt.pending[-1]
            for n in (5, 10):
                opt.tell(i, score(i) + 1 / n, noise=1 / n, final=False)
            opt.tell(i, score(i))
    assert len(order) == len(set(order)) == 30
    assert opt.best == max(((i, score(i)) for i in order), key=lambda b: b[1])


def test_a_discard_refunds_the_budget(config: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=10, initial=4))
    i = opt.ask()
    opt.discard(i)
    assert opt.pending == []
    with pytest.raises(zf.UnknownIndexError):
        opt.discard(i)
    order = play(opt)
    assert len(order) == len(set(order)) == 10
    told = zf.Zopo(pool(), config(budget=10, initial=4))
    i = told.ask()
    told.tell(i, 1.0)
    with pytest.raises(zf.UnknownIndexError):
        told.discard(i)
    with pytest.raises(zf.UnknownIndexError):
        told.discard(i + 1 if i + 1 < M else 0)


def test_discarded_prompts_can_be_asked_again(config: Any) -> None:
    opt = zf.Zopo(pool(6), config(budget=6, initial=2))
    for _ in range(2):
        for i in opt.ask(6):
            opt.discard(i)
        assert not opt.done
    assert sorted(play(opt)) == list(range(6))


def test_a_late_score_of_a_discarded_point_is_data(config: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=10, initial=4))
    i = opt.ask()
    opt.discard(i)
    opt.tell(i, 5.0)
    assert opt.best == (i, 5.0)
    order = play(opt)
    assert len(order) == 10
    assert i not in order


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "high", None, 10**400, [1.0, 2.0]], ids=repr_)
def test_invalid_scores_and_noise_are_refused(config: Any, bad: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=10, initial=4))
    i = opt.ask()
    with pytest.raises(zf.InputError, match="score"):
        opt.tell(i, bad)
    if bad is not None:
        with pytest.raises(zf.InputError, match="noise"):
            opt.tell(i, 1.0, noise=bad)
    with pytest.raises(zf.InputError, match="noise"):
        opt.tell(i, 1.0, noise=-1e-12)
    assert opt.pending == [i]
    with pytest.raises(zf.NothingToAsk):
        _ = opt.best
    assert len(play_rest(opt)) == 10


def play_rest(opt: zf.Zopo) -> list[int]:
    """Tell the pending prompts, then play; return all indices told."""
    told = list(opt.pending)
    for i in told:
        opt.tell(i, score(i))
    return told + play(opt)


@pytest.mark.parametrize("bad", [-1, M, 10**30, 1.5, math.nan, math.inf, "3", None, [1]])
def test_invalid_indices_are_refused(config: Any, bad: Any) -> None:
    opt = zf.Zopo(pool(), config(budget=10, initial=4))
    opt.ask(2)
    for call in (lambda: opt.tell(bad, 1.0), lambda: opt.discard(bad)):
        with pytest.raises(zf.UnknownIndexError):
            call()
    assert len(opt.pending) == 2


def test_a_search_is_reproducible(config: Any) -> None:
    runs = [play(zf.Zopo(pool(), config(budget=40, initial=8, seed=s))) for s in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2]
