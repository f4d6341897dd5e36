"""Linear part of the prior: a dense reference, points, states, earlier scores and refusals."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.search.linear import LEVELS
from zopo_fast.search.problem import DEFAULT_KERNEL, FEATURE_NUGGETS

RNG = np.random.default_rng(5)
Z = RNG.normal(size=(120, 7))
FEATURES = RNG.normal(size=(120, 12))
LINEAR = (RNG.random((120, 6)) < 0.3).astype(np.float64)
EFFECTS = np.array([1.0, -1.0, 0.8, 0.5, -0.4, 0.0])
SCORES = np.sin(Z[:, 0]) + LINEAR @ EFFECTS
POOL = 80  # the first candidates; the others are new
CONFIG = zf.ZopoConfig(budget=60)


def made(m: int = POOL, features: Any = None, linear: Any = LINEAR, **settings: Any) -> zf.Zopo:
    return zf.Zopo(
        Z[:m],
        zf.ZopoConfig(**{"budget": 60, **settings}),
        features=None if features is None else features[:m],
        linear=None if linear is None else linear[:m],
    )


def play(opt: zf.Zopo, n: int = 12) -> list[int]:
    asked: list[int] = []
    while not opt.done and len(asked) < n:
        asked.append(opt.ask())
        opt.tell(asked[-1], float(SCORES[asked[-1]]))
    return asked


def free(opt: zf.Zopo) -> list[int]:
    scored = {entry[1] for entry in opt.state_dict()["log"] if entry[0] == "tell"}
    return [index for index in range(POOL) if index not in scored]


# ---- the model ---------------------------------------------------------------------------------------


def dense(scored: list[int], features: Any, linear: Any) -> tuple[Any, Any]:
    """Return mean and latent variance of all candidates, averaged over kernels, levels and nuggets."""

    def centered(A: Any, square: float) -> Any:
        shifted = A - A[:POOL].mean(axis=0)
        return shifted * np.sqrt(square / (shifted[:POOL] ** 2).sum(axis=1).mean())

    d = Z.shape[1] + (0 if features is None else features.shape[1])
    T = linear / np.sqrt((linear[:POOL] ** 2).sum(axis=1)[linear[:POOL].any(axis=1)].mean())
    shares = (0.0,) if features is None else (0.2, 0.8)
    y = SCORES[scored]
    mean, second, evidence = [], [], []
    for share in shares:
        X = centered(Z, d) * np.sqrt(1.0 - share)
        if features is not None:
            X = np.concatenate([X, centered(features, d) * np.sqrt(share)], axis=1)
        K = DEFAULT_KERNEL.gram(X)
        K /= np.diag(K)[:POOL].mean()
        for b in LEVELS:
            K_b = K + b * T @ T.T
            for nugget in FEATURE_NUGGETS:
                A = K_b[np.ix_(scored, scored)] + nugget * np.eye(len(y))
                k = K_b[scored]
                solved = np.linalg.solve(A, y - y.mean())
                amplitude = float((y - y.mean()) @ solved) / len(y)
                evidence.append(-0.5 * len(y) * np.log(amplitude) - 0.5 * np.linalg.slogdet(A)[1])
                mean.append(k.T @ solved)
                left = np.diag(K_b) - (k * np.linalg.solve(A, k)).sum(axis=0)
                second.append(amplitude * left + mean[-1] ** 2)
    weight = np.exp(np.array(evidence) - max(evidence))
    weight /= weight.sum()
    average = weight @ np.array(mean)
    return y.mean() + average, weight @ np.array(second) - average**2


@pytest.mark.parametrize("features", [None, FEATURES], ids=["alone", "features"])
def test_model_is_the_mixture_of_dense_processes(features: Any) -> None:
    opt = made(features=features, emphasis=0.0)
    scored = play(opt, 20)
    mean, variance = dense(scored, features, LINEAR)
    inside = opt.predict(latent=True)
    found = opt.predict(Z[POOL:], None if features is None else features[POOL:], LINEAR[POOL:], latent=True)
    assert inside is not None
    assert found is not None
    at = free(opt)
    np.testing.assert_allclose(inside.mean[at], mean[at], atol=2e-4)
    np.testing.assert_allclose(inside.variance[at], variance[at], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found.mean, mean[POOL:], atol=2e-4)
    np.testing.assert_allclose(found.variance, variance[POOL:], rtol=2e-3, atol=1e-4)


def test_the_search_finds_effects_that_add_up() -> None:
    """The embeddings are noise, and the scores add up over twenty columns."""

    def found(seed: int, uses: bool) -> float:
        rng = np.random.default_rng(seed)
        columns = (rng.random((300, 20)) < 0.2).astype(np.float64)
        scores = columns @ rng.normal(size=20)
        linear = columns if uses else None
        opt = zf.Zopo(rng.normal(size=(300, 5)), zf.ZopoConfig(budget=40), linear=linear)
        while not opt.done:
            index = opt.ask()
            opt.tell(index, float(scores[index]))
        return float(opt.best[1] / scores.max())

    assert np.mean([found(seed, True) - found(seed, False) for seed in range(8)]) > 0.15


@pytest.mark.parametrize("features", [None, FEATURES], ids=["alone", "features"])
def test_points_are_predicted_as_after_add(features: Any) -> None:
    opt = made(features=features)
    play(opt, 15)
    new = None if features is None else features[POOL:]
    found = opt.predict(Z[POOL:], new, LINEAR[POOL:])
    assert opt.add(Z[POOL:], new, LINEAR[POOL:]) == [*range(POOL, 120)]
    after = opt.predict()
    assert found is not None
    assert after is not None
    np.testing.assert_allclose(found.mean, after.mean[POOL:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.variance, after.variance[POOL:], rtol=1e-4, atol=1e-5)


def test_a_region_has_the_model_of_the_whole_pool() -> None:
    """Without a Gram matrix, rows and blocks of the kernel are computed one by one."""
    initial = [*range(20)]
    wide, narrow = made(initial=initial), made(initial=initial, region=30)
    for opt in (wide, narrow):
        for index in opt.ask(20):
            opt.tell(index, float(SCORES[index]))
    for each in (wide, narrow):
        each.ask()
    expected, inside = wide.predict(), narrow.predict()
    found, points = narrow.predict(Z[POOL:], None, LINEAR[POOL:]), wide.predict(Z[POOL:], None, LINEAR[POOL:])
    assert expected is not None
    assert inside is not None
    assert found is not None
    assert points is not None
    np.testing.assert_allclose(inside.mean, expected.mean[inside.indices], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(inside.variance, expected.variance[inside.indices], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.mean, points.mean, rtol=1e-4, atol=1e-4)


def test_the_unit_of_the_columns_does_not_matter() -> None:
    assert play(made()) == play(made(linear=1024.0 * LINEAR))


def test_columns_may_appear_with_added_candidates() -> None:
    """A pool without demonstrations: rows of zeros, and others when it grows."""
    opt = made(linear=np.zeros((POOL, 6)))
    play(opt, 10)
    new = opt.add(Z[POOL:], None, LINEAR[POOL:])
    for index in new[:25]:
        opt.tell(index, float(SCORES[index]))
    found = opt.predict()
    assert found is not None
    rest = new[25:]
    assert np.corrcoef(found.mean[rest], SCORES[rest])[0, 1] > 0.6


def test_without_a_linear_part_nothing_changes() -> None:
    assert play(made(linear=None)) == play(zf.Zopo(Z[:POOL], CONFIG))
    assert "linear" not in zf.Zopo(Z, CONFIG).state_dict()


# ---- states ------------------------------------------------------------------------------------------


def restored(opt: zf.Zopo) -> zf.Zopo:
    state = json.loads(json.dumps(opt.state_dict()))
    m = len(opt._problem.embeddings)
    return zf.Zopo.from_state(
        Z[:m], state, FEATURES[:m] if opt._problem.features else None, LINEAR[:m].astype(np.int8)
    )


@pytest.mark.parametrize("features", [None, FEATURES], ids=["alone", "features"])
@pytest.mark.parametrize("again", [restored, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_a_restored_search_continues_identically(again: Callable[[zf.Zopo], zf.Zopo], features: Any) -> None:
    opt = made(features=features)
    play(opt, 9)
    opt.add(Z[POOL:], None if features is None else features[POOL:], LINEAR[POOL:])
    play(opt, 9)
    other = again(opt)
    assert other.state_dict() == opt.state_dict()
    assert play(other) == play(opt)


def test_earlier_scores_stand_beside_the_linear_part() -> None:
    def learned(linear: Any) -> zf.Zopo:
        opt = made(linear=linear)
        opt.learn_from([*range(30)], np.cos(Z[:30, 1]).tolist(), source="earlier")
        return opt

    opt = learned(LINEAR)
    play(opt, 15)
    other = restored(opt)
    inside, again = opt.predict(), opt.predict(Z[:POOL], None, LINEAR[:POOL])
    assert inside is not None
    assert again is not None
    at = free(opt)
    np.testing.assert_allclose(again.mean[at], inside.mean[at], rtol=1e-4, atol=1e-4)
    opt.add(Z[POOL:], None, LINEAR[POOL:])
    other.add(Z[POOL:], None, LINEAR[POOL:])
    assert play(other) == play(opt)
    plain, taught = made(), learned(LINEAR)
    for each in (plain, taught):
        for index in range(12):
            each.tell(index, float(SCORES[index]))
    assert not np.allclose(np.asarray(plain.predict())[1], np.asarray(taught.predict())[1])


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linear", "says"),
    [
        (LINEAR[:79], "linear: expected 80 rows, one for each embedding, got shape"),
        (LINEAR[0], "linear: expected 80 rows"),
        (np.empty((POOL, 0)), "linear: expected 1 to 64 columns, got 0"),
        (np.ones((POOL, 65)), "linear: expected 1 to 64 columns, got 65"),
        (np.full((POOL, 2), np.inf), "linear: NaN or infinity in row 0"),
        (np.full((POOL, 2), 1e200), "linear: rows of norm .* rescale them"),
        (np.full((POOL, 2), "word"), "linear: expected real numbers"),
    ],
)
def test_linear_parts_that_cannot_be_used_are_refused(linear: Any, says: str) -> None:
    with pytest.raises(zf.ArrayError, match=says):
        zf.Zopo(Z[:POOL], CONFIG, linear=linear)


@pytest.mark.parametrize(
    "config", [zf.ZopoConfig(search="thompson"), zf.ZopoConfig(search="gradient"), zf.ZopoConfig.official()]
)
@pytest.mark.filterwarnings("ignore:budget")
def test_only_the_default_search_takes_a_linear_part(config: zf.ZopoConfig) -> None:
    with pytest.raises(zf.ConfigError, match='linear: only search="improvement" uses it'):
        zf.Zopo(Z, config, linear=LINEAR)


@pytest.mark.parametrize("call", ["add", "predict"])
def test_other_candidates_need_the_same_columns(call: str) -> None:
    opt, plain = made(), made(linear=None)
    with pytest.raises(
        zf.ArrayError, match="linear: expected 6 columns a candidate, as the pool has, got none"
    ):
        getattr(opt, call)(Z[POOL:])
    with pytest.raises(zf.ArrayError, match="linear: expected 6 columns, as the pool has, got 4"):
        getattr(opt, call)(Z[POOL:], None, LINEAR[POOL:, :4])
    with pytest.raises(zf.ArrayError, match="linear: expected 40 rows"):
        getattr(opt, call)(Z[POOL:], None, LINEAR)
    with pytest.raises(zf.ArrayError, match=r"linear: an entry of .* is too far from the first rows"):
        getattr(opt, call)(Z[POOL:], None, 1e20 * LINEAR[POOL:])
    with pytest.raises(zf.ArrayError, match="linear: given, but the pool has none"):
        getattr(plain, call)(Z[POOL:], None, LINEAR[POOL:])
    assert len(opt._problem.embeddings) == POOL
    with pytest.raises(zf.ArrayError, match="linear: given without embeddings"):
        opt.predict(linear=LINEAR)  # type: ignore[call-overload]


def test_a_state_needs_its_linear_part() -> None:
    state, plain = made(120).state_dict(), zf.Zopo(Z, CONFIG).state_dict()
    with pytest.raises(zf.EmbeddingMismatchError, match="linear: this state has a linear part"):
        zf.Zopo.from_state(Z, state)
    with pytest.raises(zf.EmbeddingMismatchError, match="linear: this state has no linear part"):
        zf.Zopo.from_state(Z, plain, linear=LINEAR)
    with pytest.raises(zf.EmbeddingMismatchError, match="linear: not the linear part of this state"):
        zf.Zopo.from_state(Z, state, linear=LINEAR[::-1])
    for damaged in (0, "x", {}, []):
        with pytest.raises(zf.InputError):
            zf.Zopo.from_state(Z, state | {"linear": damaged}, linear=LINEAR)
