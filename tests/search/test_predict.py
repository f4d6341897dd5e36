"""Predictions of a search: the searches that have none, and finite values for all scored prompts."""

from __future__ import annotations

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.search.problem import DEFAULT_KERNEL


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


def test_the_prediction_leaves_the_own_score_out() -> None:
    """Dense reference of one noise level: every scored prompt is predicted by a fit without it."""
    rng = np.random.default_rng(4)
    Z = rng.normal(size=(40, 6))
    X = (Z - Z.mean(axis=0)) * np.sqrt(6.0 / ((Z - Z.mean(axis=0)) ** 2).sum(axis=1).mean())
    K = DEFAULT_KERNEL.gram(X)
    K /= np.diag(K).mean()
    opt = zf.Zopo(Z, zf.ZopoConfig(budget=12, initial=12, noise=0.1, emphasis=0.0))
    scored, scores = [], []
    for _ in range(12):
        scored.append(opt.ask())
        scores.append(float(np.sin(X[scored[-1], 0])))
        opt.tell(scored[-1], scores[-1])
    found = opt.predict()
    assert found is not None
    y = np.array(scores)
    A = K[np.ix_(scored, scored)] + 0.1 * np.eye(12)
    amplitude = (y - y.mean()) @ np.linalg.solve(A, y - y.mean()) / 12.0
    at = {int(index): k for k, index in enumerate(found.indices)}
    for index in range(40):
        rest = [k for k in range(12) if scored[k] != index]
        k = K[index, [scored[j] for j in rest]]
        weights = np.linalg.solve(A[np.ix_(rest, rest)], k)
        assert found.mean[at[index]] == pytest.approx(y.mean() + weights @ (y - y.mean())[rest], abs=1e-4)
        variance = amplitude * (K[index, index] + 0.1 - weights @ k)
        assert found.variance[at[index]] == pytest.approx(variance, rel=1e-3)
