"""Knowledge gradient against numerical integration of the expected best, and at its extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zopo_fast.scoring import knowledge_gradient
from zopo_fast.scoring.knowledge_gradient import FARTHEST, SIZES, STEP, Beliefs, log_rates, look_sizes


def beliefs(mean: list[float], **more: list[float]) -> Beliefs:
    c = len(mean)
    given = {"residual": [0.15] * c, "prior_variance": [0.04] * c}
    values = {name: np.array(value) for name, value in {**given, **more}.items()}
    return Beliefs(np.array(mean), **values)


def rates(
    one: Beliefs, examples: int, step: float = 1.0, count: list[float] | None = None, most: float = 100.0
) -> np.ndarray:
    """Return the rates of candidates on examples that all tell the same."""
    before = np.array(count or [4.0] * len(one.mean))
    sizes = look_sizes(np.full(len(before), step), np.minimum(examples - before, most))
    return log_rates(one, examples, sizes, before, before[:, None] + sizes)


def posterior_variance(residual: float, prior: float, n: float, examples: int) -> float:
    """Return the variance of the mean of N scores a + e_j given n of them, by conditioning."""
    n = int(n)
    covariance = np.full((examples, examples), prior) + residual * np.eye(examples)
    weights = np.full(examples, 1.0 / examples)
    cross = covariance[:, :n] @ np.linalg.inv(covariance[:n, :n]) @ covariance[:n] if n else 0.0 * covariance
    return float(weights @ (covariance - cross) @ weights)


def expected_gain(mean: np.ndarray, which: int, change: float) -> float:
    """Return E max over the candidates after the mean of one has changed by N(0, change^2), less max."""
    z = np.linspace(-12.0, 12.0, 400_001)
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    others = np.delete(mean, which)
    best = others.max() if len(others) else mean[which]
    return float(np.trapezoid((np.maximum(mean[which] + change * z, best) - mean.max()) * density, z))


def test_variance_is_that_of_the_mean_of_all_scores() -> None:
    for residual, prior, n in ((0.15, 0.04, 0), (0.15, 0.04, 5), (0.02, 0.3, 11), (0.2, 0.01, 12)):
        one = beliefs([0.5], residual=[residual], prior_variance=[prior])
        found = one.variance(np.array([[float(n)]]), 12)[0, 0]
        assert found == pytest.approx(posterior_variance(residual, prior, n, 12), abs=1e-12)


@pytest.mark.parametrize("mean", [[0.5, 0.45, 0.7, 0.2], [0.6, 0.6, 0.5], [0.3, 0.9]])
def test_rates_equal_the_integral_of_the_expected_best(mean: list[float]) -> None:
    examples, step, count = 40, 3.0, 4.0
    found = rates(beliefs(mean), examples, step)
    sizes = np.rint(step * ((examples - count) / step) ** np.linspace(0.0, 1.0, SIZES))
    one = beliefs([0.0])
    for i in range(len(mean)):
        by_size = []
        for size in sizes:
            had, after = np.array([[count]]), np.array([[count + size]])
            change = math.sqrt(float((one.variance(had, examples) - one.variance(after, examples))[0, 0]))
            by_size.append(expected_gain(np.array(mean), i, change) / size)
        assert math.exp(found[i]) == pytest.approx(max(by_size), rel=2e-4)


def test_table_is_as_close_as_its_step() -> None:
    for z in np.arange(-39.9, 0.0, 0.137):
        table = np.interp(z, knowledge_gradient._Z, knowledge_gradient._LOG_EXCESS)
        assert table == pytest.approx(knowledge_gradient._log_excess(float(z)), abs=STEP**2)
    below, above = (knowledge_gradient._log_excess(z) for z in (-6.0, -6.0 + 1e-9))
    assert below == pytest.approx(above, abs=1e-3)  # the next term of the series is 945 / z^8


def test_far_candidates_keep_the_order_of_their_distances() -> None:
    tiny = {"residual": [1e-5] * 4, "prior_variance": [1e-5] * 4}
    one = beliefs([0.9, 0.5, 0.4, 0.1], **tiny)
    found = rates(one, 20)
    assert np.isfinite(found).all()
    assert found[1] > found[2] > found[3]
    assert found[3] < -(FARTHEST**2) / 2.0


def test_sizes_go_from_the_next_look_to_all() -> None:
    found = look_sizes(np.array([2.0, 5.0, 3.0]), np.array([40.0, 3.0, 0.0]))
    assert found[0, 0] == 2
    assert found[0, -1] == 40
    assert (np.diff(found[0]) >= 0).all()
    assert (found[1] == 3).all()
    assert (found[2] == 1).all()


def test_one_candidate_alone() -> None:
    assert np.isfinite(rates(beliefs([0.5]), 20, most=5.0)).all()


def test_uncertainty_raises_the_rate_and_scores_lower_it() -> None:
    unsure = rates(beliefs([0.6, 0.5, 0.5], prior_variance=[0.04, 0.01, 0.09]), 40)
    assert unsure[2] > unsure[1]
    known = rates(beliefs([0.6, 0.5, 0.5]), 40, count=[4.0, 4.0, 30.0])
    assert known[1] > known[2]


def test_examples_that_tell_more_raise_the_rate() -> None:
    before, sizes = np.full(3, 4.0), look_sizes(np.full(3, 2.0), np.full(3, 16.0))
    gain = np.array([1.0, 1.0, 1.5])[:, None]
    after = np.minimum(before[:, None] + gain * sizes, 20.0)
    found = log_rates(beliefs([0.6, 0.5, 0.5]), 20, sizes, before, after)
    assert found[2] > found[1]
