"""Predictions at candidates outside the pool: those of `add` and `predict`, and a dense reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.search.problem import DEFAULT_KERNEL

RNG = np.random.default_rng(7)
Z = RNG.normal(size=(120, 9)).astype(np.float32)
FEATURES = RNG.normal(size=(120, 20))
SCORES = np.sin(Z[:, 0]) + 0.5 * FEATURES[:, 1]
POOL = 80  # the first candidates; the others are new


def played(n: int = 14, noise: float | None = None, partial: int = 0, **arguments: Any) -> zf.Zopo:
    config = zf.ZopoConfig(**{"budget": 60, **arguments.pop("settings", {})})
    features = arguments.pop("features", None)
    opt = zf.Zopo(Z[:POOL], config, features=None if features is None else features[:POOL], **arguments)
    for k in range(n):
        index = opt.ask()
        opt.tell(index, float(SCORES[index]), noise=noise, final=k >= partial)
    return opt


def after_add(opt: zf.Zopo, features: Any, latent: bool = False) -> Any:
    """Return mean and variance of the new candidates once they are in the pool."""
    new = opt.add(Z[POOL:], features)
    found = opt.predict(latent=latent)
    assert found is not None
    at = {index: k for k, index in enumerate(found.indices.tolist())}
    rows = [at[index] for index in new]
    return found.mean[rows], found.variance[rows]


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"features": FEATURES},
        {"noise": 0.02},
        {"noise": 0.02, "partial": 9},
        {"kernel": [InfiniteNTK(1), InfiniteNTK(3, bias_variance=0.0)]},
        {"kernel": zf.NTK.random(9, seed=3)},
        {"settings": {"zscore": True, "emphasis": 0.0}},
        {"settings": {"noise": 0.3}},
        {"settings": {"search": "thompson"}},
        {"n": 1},
        {"n": 25, "features": FEATURES[:, :1]},
    ],
    ids=lambda case: ",".join(case) or "default",
)
def test_points_are_predicted_as_after_add(case: dict[str, Any], latent: bool) -> None:
    opt = played(**case)
    features = None if "features" not in case else case["features"][POOL:]
    found = opt.predict(Z[POOL:], features, latent=latent)
    assert found is not None
    mean, variance = after_add(opt, features, latent)
    unit = float(np.ptp(SCORES))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-5 * unit)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-4, atol=1e-5 * unit**2)


def test_prediction_is_that_of_a_dense_process() -> None:
    opt = played(settings={"noise": 0.1, "emphasis": 0.0})
    found, latent = opt.predict(Z[POOL:]), opt.predict(Z[POOL:], latent=True)
    assert found is not None
    assert latent is not None
    X = Z.astype(float) - Z[:POOL].astype(float).mean(axis=0)
    X *= np.sqrt(9.0 / (X[:POOL] ** 2).sum(axis=1).mean())
    K = DEFAULT_KERNEL.gram(X)
    K /= np.diag(K)[:POOL].mean()
    scored = [entry[1] for entry in opt.state_dict()["log"] if entry[0] == "tell"]
    y = SCORES[scored]
    A = K[np.ix_(scored, scored)] + 0.1 * np.eye(len(y))
    amplitude = (y - y.mean()) @ np.linalg.solve(A, y - y.mean()) / len(y)
    k = K[np.ix_(scored, range(POOL, 120))]
    weights = np.linalg.solve(A, k)
    np.testing.assert_allclose(found.mean, y.mean() + (y - y.mean()) @ weights, atol=1e-4)
    left = np.diag(K)[POOL:] - (k * weights).sum(axis=0)
    np.testing.assert_allclose(found.variance, amplitude * (left + 0.1), rtol=1e-3)
    np.testing.assert_allclose(latent.variance, amplitude * left, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_points_take_the_precision_of_the_pool(dtype: Any) -> None:
    opt = zf.Zopo(Z[:POOL].astype(dtype), zf.ZopoConfig(budget=20))
    for _ in range(8):
        index = opt.ask()
        opt.tell(index, float(SCORES[index]))
    found = opt.predict(Z[POOL:].astype(np.float64))
    assert found is not None
    mean, _ = after_add(opt, None)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-5)


def test_a_region_of_a_larger_pool_predicts_any_point() -> None:
    """The scored prompts are all in the model, wherever the region is."""
    wide = zf.Zopo(Z[:POOL], zf.ZopoConfig(budget=60, initial=[*range(20)]))
    narrow = zf.Zopo(Z[:POOL], zf.ZopoConfig(budget=60, initial=[*range(20)], region=10))
    for opt in (wide, narrow):
        for index in opt.ask(20):
            opt.tell(index, float(SCORES[index]))
    expected, found = wide.predict(Z[POOL:]), narrow.predict(Z[POOL:])
    assert expected is not None
    assert found is not None
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-3, atol=1e-5)


def test_a_pool_beyond_one_region_predicts_its_own_rows() -> None:
    m = 2100
    pool = np.random.default_rng(1).normal(size=(m, 6))
    opt = zf.Zopo(pool, zf.ZopoConfig(budget=40))
    for _ in range(12):
        index = opt.ask()
        opt.tell(index, float(np.sin(pool[index, 0])))
    inside = opt.predict()
    assert inside is not None
    assert len(inside.indices) < m
    scored = {entry[1] for entry in opt.state_dict()["log"] if entry[0] == "tell"}
    free = [k for k, index in enumerate(inside.indices.tolist()) if index not in scored]
    found = opt.predict(pool[inside.indices[free]])
    assert found is not None
    np.testing.assert_allclose(found.mean, inside.mean[free], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variance, inside.variance[free], rtol=1e-3, atol=1e-5)


def test_trends_of_earlier_scores_reach_the_points() -> None:
    """Rows of the pool get the prediction of the pool, and new ones about that after `add`."""
    opt = zf.Zopo(Z[:POOL], zf.ZopoConfig(budget=20, emphasis=0.0))
    truth = Z @ np.linspace(1.0, -1.0, 9)
    opt.learn_from([*range(60)], truth[:60].tolist(), source="earlier")
    for _ in range(8):
        index = opt.ask()
        opt.tell(index, float(truth[index]))
    inside, again, found = opt.predict(), opt.predict(Z[:POOL]), opt.predict(Z[POOL:])
    assert inside is not None
    assert again is not None
    assert found is not None
    scored = {entry[1] for entry in opt.state_dict()["log"] if entry[0] == "tell"}
    free = [index for index in range(POOL) if index not in scored]
    np.testing.assert_allclose(again.mean[free], inside.mean[free], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again.variance[free], inside.variance[free], rtol=1e-3, atol=1e-4)
    opt.add(Z[POOL:])
    assert opt.predict() is None  # until the next call
    assert opt.predict(Z[POOL:]) is None
    opt.ask()
    after = opt.predict()
    assert after is not None
    assert np.abs(found.mean - after.mean[POOL:]).max() < 0.2 * float(np.std(truth))


def test_prediction_changes_nothing() -> None:
    opt, other = played(), played()
    for _ in range(6):
        other.predict(Z[POOL:])
        asked = [each.ask() for each in (opt, other)]
        assert asked[0] == asked[1]
        for each in (opt, other):
            each.tell(asked[0], float(SCORES[asked[0]]))
    assert other.state_dict() == opt.state_dict()


def test_a_search_of_a_batch_predicts_points() -> None:
    batch = zf.ZopoBatch([Z[:POOL], Z[:POOL]], zf.ZopoConfig(budget=60), features=[None, FEATURES[:POOL]])
    for b, features in enumerate((None, FEATURES)):
        opt = played(10, features=features)
        for entry in opt.state_dict()["log"]:
            if entry[0] == "tell":
                batch[b].tell(entry[1], entry[2])
        given = None if features is None else features[POOL:]
        found, expected = batch[b].predict(Z[POOL:], given), opt.predict(Z[POOL:], given)
        assert found is not None
        assert expected is not None
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)


# ---- the score to improve on -------------------------------------------------------------------------


def test_incumbent_value_is_the_best_exact_score() -> None:
    opt = zf.Zopo(Z[:POOL], zf.ZopoConfig(budget=20))
    with pytest.raises(zf.NothingToAsk, match="incumbent_value: no score was told yet"):
        opt.incumbent_value  # noqa: B018
    opt.tell(0, 0.7, noise=0.1)
    opt.tell(1, 0.4, noise=0.1, final=False)
    assert opt.incumbent_value == 0.7
    opt.tell(2, 0.5)
    assert opt.incumbent_value == 0.5
    assert opt.best[1] == 0.7


def test_incumbent_value_of_other_searches_is_their_best_score() -> None:
    for config in (zf.ZopoConfig(search="gradient", budget=20), zf.ZopoConfig.official(budget=20)):
        opt = zf.Zopo(Z[:POOL], config)
        opt.tell(3, 0.25)
        assert opt.incumbent_value == 0.25


# ---- none, and refusals ------------------------------------------------------------------------------


def test_no_prediction_of_points_before_a_score_and_of_other_searches() -> None:
    assert zf.Zopo(Z[:POOL], zf.ZopoConfig(budget=20)).predict(Z[POOL:]) is None
    for config in (zf.ZopoConfig(search="gradient", budget=20), zf.ZopoConfig.official(budget=20)):
        opt = zf.Zopo(Z[:POOL], config)
        opt.tell(3, 0.25)
        assert opt.predict(Z[POOL:]) is None


@pytest.mark.parametrize("scored", [0, 6])
@pytest.mark.parametrize(
    ("rows", "features", "says"),
    [
        (Z[POOL:, :5], None, "embeddings: expected dimension 9, as the pool has, got 5"),
        (Z[POOL], None, "embeddings: expected a non-empty"),
        (np.where(np.arange(9) == 4, np.nan, Z[POOL:]), None, "embeddings: NaN or infinity in row 0"),
        (Z[POOL:] * 1e30, None, "standard deviations of the first pool away"),
        (Z[POOL:], FEATURES[POOL:], "features: expected 0 a candidate, as the pool has, got 20"),
        (None, FEATURES[POOL:], "features: given without embeddings"),
    ],
)
def test_points_that_cannot_be_predicted_are_refused(
    rows: Any, features: Any, says: str, scored: int
) -> None:
    with pytest.raises(zf.ArrayError, match=says):
        played(scored).predict(rows, features)


def test_points_need_the_features_of_the_pool() -> None:
    opt = played(6, features=FEATURES)
    with pytest.raises(zf.ArrayError, match="features: expected 20 a candidate, as the pool has, got 0"):
        opt.predict(Z[POOL:])
    with pytest.raises(zf.ArrayError, match="features: expected 40 rows, one for each embedding, got 39"):
        opt.predict(Z[POOL:], FEATURES[POOL + 1 :])
