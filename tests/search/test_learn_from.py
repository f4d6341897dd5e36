"""Scores of earlier searches in the prior of a new one: `Zopo.learn_from`."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.search.problem import NUGGETS, SearchProblem
from zopo_fast.search.sources import Source, beside_winners, winners
from zopo_fast.search.trends import TREND_VARIANCE, Trends, opening


def landscape(m: int = 120, d: int = 8, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(m, d))
    return Z, np.sin(Z[:, 0]) + 0.5 * Z[:, 1] + 0.1 * rng.normal(size=m)


def some(f: Any, n: int = 30, seed: int = 1) -> tuple[list[int], list[float]]:
    at = np.random.default_rng(seed).permutation(len(f))[:n]
    return [int(i) for i in at], [float(f[i]) for i in at]


def play(opt: zf.Zopo, f: Any, n: int | None = None) -> list[int]:
    asked = []
    while not opt.done and (n is None or len(asked) < n):
        asked.append(opt.ask())
        opt.tell(asked[-1], float(f[asked[-1]]))
    return asked


def made(Z: Any, f: Any, **settings: Any) -> zf.Zopo:
    opt = zf.Zopo(Z, zf.ZopoConfig(**{"budget": 20, "initial": 5, **settings}))
    opt.learn_from(*some(f), source="earlier model")
    return opt


def prior_of(opt: zf.Zopo) -> tuple[Any, Any]:
    """Return K + Phi Phi^T and Phi of a search, in double precision."""
    problem = opt._problem
    X = (problem.embeddings.astype(float) - problem.mean) / problem.deviation * problem.factor
    K = np.mean([kernel.gram(X) for kernel in problem.kernels], axis=0)
    phi = Trends(problem, problem.sources.values()).over_pool.reshape(len(X), -1)
    return K / np.diag(K).mean() + phi @ phi.T, phi


@pytest.mark.parametrize("kernel", [None, [InfiniteNTK(1), InfiniteNTK(2)]], ids=["closed form", "mean"])
@pytest.mark.parametrize("region", [None, 40])
def test_model_has_the_prior_with_the_trends(region: int | None, kernel: Any) -> None:
    Z, f = landscape()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=60, initial=5, region=region, emphasis=0.0), kernel)
    opt.learn_from(*some(f), source="a")
    opt.learn_from(*some(Z[:, 2], seed=2), source="b")
    asked = play(opt, f, 25)
    K, phi = prior_of(opt)
    assert phi.shape == (len(Z), 2)
    members, mean, variance, *_ = opt._native.region(0)
    y = f[asked]
    # The native search updates its unit of the scores once per eighth of growth only.
    reference = _core.RegionPosterior.of_gram(np.ascontiguousarray(K), NUGGETS, 60)
    for i, score in zip(asked, (y - y.mean()) / y.std(), strict=True):
        reference.append(i, float(score), 0.0)
    expected_mean, expected_variance = reference.posterior()
    ratio = np.sqrt(variance / expected_variance[members])
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=2e-3)
    slope, offset = np.polyfit(expected_mean[members], mean, 1)
    np.testing.assert_allclose(mean, slope * expected_mean[members] + offset, atol=2e-3)


def test_trend_is_the_posterior_mean_of_the_source() -> None:
    Z, _ = landscape()
    indices, scores = some(Z[:, 0] + Z[:, 1], 60)
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    K = np.ascontiguousarray(prior_of(opt)[0])  # without a source
    opt.learn_from(indices, scores)
    phi = prior_of(opt)[1][:, 0]
    model = _core.RegionPosterior.of_gram(K, NUGGETS, 60)
    for i, score in zip(indices, scores, strict=True):
        model.append(i, score)
    mean = model.posterior()[0]
    assert np.corrcoef(phi, mean)[0, 1] > 0.9999
    assert phi.mean() == pytest.approx(0.0, abs=1e-12)
    # A smooth source is explained in great part, and its trend has nearly the whole variance.
    assert 0.7 * TREND_VARIANCE < phi.var() < TREND_VARIANCE


def test_best_prompt_of_a_source_is_asked_first() -> None:
    Z, f = landscape()
    opt = made(Z, f)
    indices, scores = some(f)
    best = indices[int(np.argmax(scores))]
    others = [i for i in zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5)).ask(5) if i != best]
    assert opt.ask(5) == [best, *others[:4]]


def test_three_sources_have_a_winner_and_a_trend_each_beside_three_other_prompts() -> None:
    Z, f = landscape()
    opt, plain = (zf.Zopo(Z, zf.ZopoConfig(budget=20)) for _ in range(2))
    start = plain.ask(5)
    values = [f, Z[:, 1], Z[:, 2]]
    best = []
    for k, scores in enumerate(values):
        indices, known = some(scores, seed=k)
        opt.learn_from(indices, known, source=f"model {k}")
        best.append(indices[int(np.argmax(known))])
    assert len(set(best)) == 3
    assert opt.ask(6) == [*best, *[i for i in start if i not in best][:3]]
    phi = prior_of(opt)[1]
    assert phi.shape == (len(Z), 3)
    agreement = [np.corrcoef(phi[:, k], scores)[0, 1] for k, scores in enumerate(values)]
    assert min(agreement) > 0.7, agreement


def test_winners_are_by_rank_across_sources_and_shrunk_by_noise() -> None:
    one = Source("a", (3, 5, 7), (2.0, 9.0, 8.0), (0.0, 1e6, 0.0))
    same = Source("b", (7, 1), (1.0, 0.0), (0.0, 0.0))
    equal = Source("c", (8, 9), (1.0, 1.0), (0.0, 0.0))
    assert winners([one]) == [7]  # the score of 9 is mostly noise
    assert winners([one, same]) == [7]  # both have the same best prompt
    assert winners([same, Source("d", (2, 4), (0.0, 1.0), (0.0, 0.0))]) == [7, 4]
    assert winners([equal]) == []
    assert beside_winners(5, 2) == beside_winners(5, 4) == 3
    assert (beside_winners(2, 2), beside_winners(10, 2), beside_winners(0, 1)) == (2, 8, 0)


def test_given_initial_prompts_stay() -> None:
    Z, f = landscape()
    opt = made(Z, f, initial=[3, 4])
    assert [opt.ask(), opt.ask()] == [3, 4]


def test_lucky_partial_score_does_not_count_as_best() -> None:
    Z, _ = landscape()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    opt.learn_from([1, 2, 3, 4], [1.0, 0.9, 0.1, 0.2], noise=[1.0, 0.001, 0.001, 0.001])
    assert opt.ask() == 2


def test_correlated_source_finds_the_best_sooner() -> None:
    with_source, without = [], []
    for seed in range(6):
        Z, f = landscape(seed=seed)
        other = f + 0.3 * np.random.default_rng(seed).normal(size=len(f))
        opt = zf.Zopo(Z, zf.ZopoConfig(budget=15, initial=5, seed=seed))
        plain = copy.deepcopy(opt)
        opt.learn_from(*some(other, 50))
        for of, to in ((opt, with_source), (plain, without)):
            to.append(np.maximum.accumulate(f[play(of, f)]).mean())
    assert np.mean(with_source) > np.mean(without)


def test_opposite_source_is_used_with_its_sign() -> None:
    Z, f = landscape()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    indices, scores = some(f, 60)
    opt.learn_from(indices, [-score for score in scores])
    assert f[play(opt, f)].max() > np.quantile(f, 0.98)


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, 0.5, 0.5]])
def test_source_without_differences_contributes_nothing(scores: list[float]) -> None:
    Z, f = landscape()
    opt, plain = (zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5)) for _ in range(2))
    opt.learn_from(list(range(len(scores))), scores)
    assert play(opt, f) == play(plain, f)


def test_permuted_scores_give_no_trend() -> None:
    Z, f = landscape()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    rng = np.random.default_rng(0)
    opt.learn_from(list(range(60)), [float(x) for x in rng.permutation(f)[:60]])
    assert np.abs(prior_of(opt)[1]).max(initial=0.0) < 0.5


def test_unit_of_the_scores_does_not_matter() -> None:
    Z, f = landscape()
    indices, scores = some(f)
    one, other = (zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5)) for _ in range(2))
    one.learn_from(indices, scores, noise=0.01)
    other.learn_from(indices, [16 * score for score in scores], noise=0.01 * 256)
    assert play(one, f) == play(other, f)


def test_same_name_replaces_a_source() -> None:
    Z, f = landscape()
    opt, once = made(Z, -f), made(Z, f)
    opt.learn_from(*some(f), source="earlier model")
    assert play(opt, f) == play(once, f)


@pytest.mark.parametrize("search", ["improvement", "thompson"])
@pytest.mark.parametrize("region", [None, 30])
def test_state_pickle_and_copy_continue_exactly(search: str, region: int | None) -> None:
    Z, f = landscape()
    opt = made(Z, f, search=search, region=region)
    play(opt, f, 8)
    state = json.loads(json.dumps(opt.state_dict()))
    others = [zf.Zopo.from_state(Z, state), pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)]
    rest = play(opt, f)
    assert all(play(other, f) == rest for other in others)
    assert all(other.state_dict() == opt.state_dict() for other in others)


@pytest.mark.parametrize("region", [None, 30])
def test_added_candidates_have_trends(region: int | None) -> None:
    Z, f = landscape()
    opt = zf.Zopo(Z[:90], zf.ZopoConfig(budget=40, initial=5, region=region))
    opt.learn_from(*some(f[:90]))
    play(opt, f, 10)
    opt.add(Z[90:])
    other = zf.Zopo.from_state(Z, opt.state_dict())
    assert prior_of(opt)[1].shape == (120, 1)
    assert play(opt, f) == play(other, f)


def test_source_that_explains_nothing_once_candidates_are_added() -> None:
    """The unit of the kernel changes with the pool, so that a trend may become zero."""
    rng = np.random.default_rng(5)
    Z = rng.normal(size=(40, 3))
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=40, initial=5))
    opt.learn_from(list(range(12)), rng.normal(size=12).tolist())
    more = 30 * rng.normal(size=(20, 3))
    assert prior_of(opt)[1].any()
    play(opt, Z[:, 0], 8)
    opt.add(more)
    assert not prior_of(opt)[1].any()
    assert isinstance(opt.ask(), int)


def test_source_in_a_batch_is_that_of_a_single_search() -> None:
    Z, f = landscape()
    config = zf.ZopoConfig(budget=20, initial=5)
    batch = zf.ZopoBatch([Z, Z], config)
    batch[1].learn_from(*some(f), source="earlier model")
    assert play(batch[1], f, 12) == play(made(Z, f), f, 12)
    restored = zf.ZopoBatch.from_state([Z, Z], batch.state_dict())
    assert play(batch[1], f) == play(restored[1], f)
    assert play(batch[0], f) == play(zf.Zopo(Z, config), f)


def test_state_without_sources_has_the_form_of_before() -> None:
    Z, _ = landscape()
    assert "sources" not in zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5)).state_dict()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([0, 500], [1.0, 2.0]), zf.UnknownIndexError),
        (([0, 0], [1.0, 2.0]), zf.InputError),
        (([0, 1], [1.0]), zf.InputError),
        (([0, 1], [1.0, np.nan]), zf.InputError),
        (([0, 1], [1.0, 2.0], [0.1]), zf.InputError),
        (([0, 1], [1.0, 2.0], -0.1), zf.InputError),
        (([0, 1], [1.0, 2.0], None, 3), zf.InputError),
        (([0, 1], 1.0), zf.InputError),
    ],
)
def test_wrong_arguments_change_nothing(arguments: Any, error: type[Exception]) -> None:
    Z, _ = landscape()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    with pytest.raises(error):
        opt.learn_from(*arguments)
    assert "sources" not in opt.state_dict()


def test_search_that_has_begun_refuses_sources() -> None:
    Z, f = landscape()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=20, initial=5))
    opt.ask()
    with pytest.raises(zf.InputError, match="before the first ask"):
        opt.learn_from(*some(f))


@pytest.mark.parametrize(
    "config",
    [zf.ZopoConfig(budget=20, initial=5, search="gradient"), zf.ZopoConfig.official(budget=20, initial=5)],
)
def test_searches_without_sources_refuse_them(config: zf.ZopoConfig) -> None:
    Z, f = landscape()
    with pytest.raises(zf.ConfigError, match="improvement"):
        zf.Zopo(Z, config).learn_from(*some(f))


def test_best_is_a_member_of_the_opening_within_the_budget() -> None:
    Z, f = landscape()
    opt = made(Z, f, budget=1, initial=1)
    problem: SearchProblem = opt._problem
    assert len(opening(problem, problem.sources.values())) == 1
