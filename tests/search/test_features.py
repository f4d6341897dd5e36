"""Features beside the embeddings: states, pickles, added candidates, batches and refusals."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(90, 6)).astype(np.float32)
FEATURES = RNG.normal(size=(90, 40))
SCORES = np.sin(FEATURES[:, 0]) + FEATURES[:, 1]
CONFIG = zf.ZopoConfig(budget=40)


def play(opt: Any, n: int = 40) -> list[int]:
    asked: list[int] = []
    while not opt.done and len(asked) < n:
        asked.append(opt.ask())
        opt.tell(asked[-1], float(SCORES[asked[-1]]))
    return asked


def made(m: int = 90, **settings: Any) -> zf.Zopo:
    return zf.Zopo(Z[:m], zf.ZopoConfig(**{"budget": 40, **settings}), features=FEATURES[:m])


def test_the_search_finds_what_only_the_features_tell() -> None:
    """The scores are a function of two features, and the embeddings are noise."""

    def found(features: Any) -> float:
        runs = [zf.Zopo(Z, zf.ZopoConfig(budget=20, seed=seed), features=features) for seed in range(10)]
        return float(np.mean([SCORES[play(opt)].max() for opt in runs]))

    assert found(FEATURES[:, :2]) > found(None) + 0.2


def test_the_start_is_that_of_the_embeddings() -> None:
    opt, alone = made(), zf.Zopo(Z, CONFIG)
    np.testing.assert_allclose(opt._problem.points(range(9)), alone._problem.points(range(9)), rtol=1e-12)
    assert opt.ask(5) == alone.ask(5)


def test_without_features_nothing_changes() -> None:
    assert play(zf.Zopo(Z, CONFIG, features=None)) == play(zf.Zopo(Z, CONFIG))
    assert "features" not in zf.Zopo(Z, CONFIG).state_dict()


def restored(opt: zf.Zopo) -> zf.Zopo:
    state = json.loads(json.dumps(opt.state_dict()))
    m = len(opt._problem.embeddings)
    return zf.Zopo.from_state(Z[:m], state, FEATURES[:m])


@pytest.mark.parametrize("again", [restored, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_a_restored_search_continues_identically(again: Callable[[zf.Zopo], zf.Zopo]) -> None:
    opt = made(70)
    asked = play(opt, 9)
    assert opt.add(Z[70:], FEATURES[70:]) == [*range(70, 90)]
    asked += play(opt, 9)
    other = again(opt)
    assert other.state_dict() == opt.state_dict()
    assert play(other) == play(opt)
    assert len(set(asked)) == 18


def test_earlier_scores_combine_with_features() -> None:
    def learned(features: Any) -> zf.Zopo:
        opt = zf.Zopo(Z, CONFIG, features=features)
        opt.learn_from([*range(20)], SCORES[:20].tolist(), source="earlier")
        return opt

    opt = learned(FEATURES)
    play(opt, 12)
    other = restored(opt)
    assert play(other) == play(opt)
    assert play(learned(FEATURES)) != play(learned(None))


def test_a_batch_mixes_searches_with_and_without() -> None:
    batch = zf.ZopoBatch([Z, Z, Z], CONFIG, features=[FEATURES, None, FEATURES[:, :8]])
    alone = [play(zf.Zopo(Z, CONFIG, features=each)) for each in (FEATURES, None, FEATURES[:, :8])]
    for b, one in enumerate(batch):
        assert play(one, 20) == alone[b][:20]
    state = json.loads(json.dumps(batch.state_dict()))
    again = zf.ZopoBatch.from_state([Z, Z, Z], state, features=[FEATURES, None, FEATURES[:, :8]])
    for others in (again, pickle.loads(pickle.dumps(batch))):
        assert [play(one) for one in others] == [each[20:] for each in alone]


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (FEATURES[:89], "features: expected 90 rows, one for each embedding, got 89"),
        (FEATURES[0], "features: expected a non-empty"),
        (np.full((90, 2), np.nan), "NaN|finite"),
        (np.full((90, 2), 1e300), "NaN|finite"),  # beyond the precision of the embeddings
        (np.full((90, 2), "word"), "features"),
    ],
)
def test_features_that_cannot_be_used_are_refused(features: Any, says: str) -> None:
    with pytest.raises(zf.ArrayError, match=says):
        zf.Zopo(Z, CONFIG, features=features)


@pytest.mark.parametrize(
    "config", [zf.ZopoConfig(search="thompson"), zf.ZopoConfig(search="gradient"), zf.ZopoConfig.official()]
)
@pytest.mark.filterwarnings("ignore:budget")
def test_only_the_default_search_takes_features(config: zf.ZopoConfig) -> None:
    with pytest.raises(zf.ConfigError, match='features: only search="improvement" uses them'):
        zf.Zopo(Z, config, features=FEATURES)


def test_a_finite_network_takes_no_features() -> None:
    with pytest.raises(zf.ConfigError, match="features: every kernel must be an InfiniteNTK"):
        zf.Zopo(Z, CONFIG, zf.NTK.random(6), FEATURES)


def test_added_candidates_need_the_same_features() -> None:
    opt = made(70)
    with pytest.raises(zf.ArrayError, match="features: expected 40 a candidate, as the pool has, got 0"):
        opt.add(Z[70:])
    with pytest.raises(zf.ArrayError, match="features: expected 40 a candidate, as the pool has, got 3"):
        opt.add(Z[70:], FEATURES[70:, :3])
    with pytest.raises(zf.ArrayError, match="features: expected 0 a candidate, as the pool has, got 40"):
        zf.Zopo(Z[:70], CONFIG).add(Z[70:], FEATURES[70:])
    assert len(opt._problem.embeddings) == 70


def test_a_state_needs_its_features() -> None:
    state, plain = made().state_dict(), zf.Zopo(Z, CONFIG).state_dict()
    with pytest.raises(zf.EmbeddingMismatchError, match="this state has 40 features a prompt"):
        zf.Zopo.from_state(Z, state)
    with pytest.raises(zf.EmbeddingMismatchError, match="this state has no features"):
        zf.Zopo.from_state(Z, plain, FEATURES)
    with pytest.raises(zf.EmbeddingMismatchError):
        zf.Zopo.from_state(Z, state, FEATURES[::-1])
    for damaged in (-1, 46, 1000, "x", None):
        with pytest.raises(zf.InputError):
            zf.Zopo.from_state(Z, state | {"features": damaged}, FEATURES)


def test_a_batch_needs_features_for_every_pool() -> None:
    with pytest.raises(zf.ConfigError, match="features: expected one for each of 2 pools, got 1"):
        zf.ZopoBatch([Z, Z], CONFIG, features=[FEATURES])
