"""Predictions of a search: the searches that have none, and finite values for all scored prompts."""

from __future__ import annotations

import numpy as np
import pytest

import zopo_fast as zf


def searched(scores: dict[int, float], **more: object) -> zf.Zopo:
    Z = np.random.default_rng(2).normal(size=(40, 5))
    optimizer = zf.Zopo(Z, zf.ZopoConfig(budget=30, initial=3, **more))  # type: ignore[arg-type]
    for index, score in scores.items():
        optimizer.tell(index, score)
    return optimizer


def test_no_prediction_before_a_score() -> None:
    assert searched({}).predict() is None


@pytest.mark.parametrize(
    "config",
    [zf.ZopoConfig.official(budget=20, initial=3), zf.ZopoConfig(search="gradient", budget=20, initial=3)],
)
def test_no_prediction_of_other_searches(config: zf.ZopoConfig) -> None:
    optimizer = zf.Zopo(np.random.default_rng(2).normal(size=(40, 5)), config)
    index = optimizer.ask()
    optimizer.tell(index, 0.5)
    assert optimizer.predict() is None


def test_prediction_is_finite_and_covers_the_scored_prompts() -> None:
    rng = np.random.default_rng(0)
    scores = {
        int(i): float(s) for i, s in zip(rng.permutation(40)[:12], rng.uniform(0.3, 0.6, 12), strict=True)
    }
    found = searched(scores).predict()
    assert found is not None
    for values in (found.mean, found.variance):
        assert np.isfinite(values).all()
    assert (np.asarray(found.variance) >= 0.0).all()
    assert set(scores) <= set(np.asarray(found.indices).tolist())
