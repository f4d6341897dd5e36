"""Two-way model of scores: against a dense reference, on simulated scores, and at its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zopo_fast.scoring import two_way
from zopo_fast.scoring.two_way import TwoWayModel


def logistic(eta: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-eta))


def simulated(rng: np.random.Generator, rows: int, examples: int, spread: float) -> np.ndarray:
    """Return 0/1 scores with qualities of deviation 0.7 and difficulties of deviation `spread`."""
    a, b = rng.normal(0.0, 0.7, rows), rng.normal(0.0, spread, examples)
    return (rng.random((rows, examples)) < logistic(a[:, None] + b)).astype(float)


def filled(scores: np.ndarray, seen: np.ndarray) -> TwoWayModel:
    model = TwoWayModel(scores.shape[1])
    for i, row in enumerate(scores):
        at = np.flatnonzero(seen[i])
        model.add(i, at.tolist(), row[at].tolist())
    return model


def random_looks(rng: np.random.Generator, rows: int, examples: int, full: int) -> np.ndarray:
    """Return which scores are known: some prompts complete, others on few examples in random order."""
    seen = np.zeros((rows, examples), dtype=bool)
    for i in range(rows):
        seen[i, rng.permutation(examples)[: examples if i < full else rng.integers(3, examples // 2)]] = True
    return seen


def dense_posterior(seen: np.ndarray, va: float, vb: float, vr: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the design of the known scores, and the covariance of (a, b) given them."""
    r, n = seen.shape
    i, j = np.nonzero(seen)
    X = np.zeros((len(i), r + n))
    X[np.arange(len(i)), i] = 1.0
    X[np.arange(len(i)), r + j] = 1.0
    prior = np.diag(np.concatenate([np.full(r, 1.0 / va), np.full(n, 1.0 / vb)]))
    return X, np.linalg.inv(prior + X.T @ X / vr)


def dense_step(
    y: np.ndarray, seen: np.ndarray, mu: float, va: float, vb: float, vr: float
) -> tuple[np.ndarray, float, float, float, float]:
    """Return the joint posterior mean of (a, b), and the components after a step, by dense algebra."""
    r, n = y.shape
    i, j = np.nonzero(seen)
    X, covariance = dense_posterior(seen, va, vb, vr)
    mean = covariance @ X.T @ (y[i, j] - mu) / vr
    left = y[i, j] - mu - X @ mean
    vr = float((left**2 + ((X @ covariance) * X).sum(axis=1)).mean())
    second = mean**2 + np.diag(covariance)
    va, vb = (float(second[:r].sum()) + va) / (r + 1), (float(second[r:].sum()) + vb) / (n + 1)
    return mean, mu + float(left.mean()), va, vb, vr


@pytest.mark.parametrize("rows", [5, 8, 13])
def test_step_equals_dense_algebra(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = 0.5 + rng.normal(0, 0.1, (rows, 1)) + rng.normal(0, 0.1, 8) + rng.normal(0, 0.05, (rows, 8))
    seen = random_looks(rng, rows, 8, 1)
    seen[0] = True
    model = filled(y, seen)
    monkeypatch.setattr(two_way, "PASSES", 1)
    for _ in range(4):
        before = model._mu, model._va, model._vb, model._vr
        model._refit()
        mean, *after = dense_step(y, seen, *before)
        np.testing.assert_allclose(np.concatenate([model._a[:rows], model._b]), mean, atol=1e-10)
        np.testing.assert_allclose([model._mu, model._va, model._vb, model._vr], after, rtol=1e-9)


@pytest.mark.parametrize("rows", [5, 9])
def test_variance_of_the_difficulties_equals_dense_algebra(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around the mean of the covered ones; an example without a score has the variance of all."""
    rng = np.random.default_rng(10)
    y = 0.5 + rng.normal(0, 0.1, (rows, 1)) + rng.normal(0, 0.1, 8) + rng.normal(0, 0.05, (rows, 8))
    seen = rng.random((rows, 8)) < 0.6
    seen[0], seen[:, 6:] = True, False
    model = filled(y, seen)
    monkeypatch.setattr(two_way, "PASSES", 1)
    before = model._va, model._vb, model._vr
    model._refit()
    covariance = dense_posterior(seen[:, :6], *before)[1][rows:, rows:]
    np.testing.assert_allclose(model._b_variance[:6], np.diag(covariance) - covariance.mean(), rtol=1e-9)
    assert model._b_variance[6:].tolist() == [model._vb] * 2


def test_a_look_between_two_estimates_moves_its_prompt_to_the_maximum_of_the_bound() -> None:
    rng = np.random.default_rng(13)
    y = simulated(rng, 30, 40, 1.5)
    model = filled(y[:29], random_looks(rng, 29, 40, 20))
    components = model._mu, model._va, model._vb
    at = [3, 8, 21, 30]
    model.add(29, at, [1.0, 1.0, 1.0, 0.0])
    assert (model._mu, model._va, model._vb) == components
    assert model._a[29] > 0.1
    for _ in range(60):
        model._update(29)
    eta = model._mu + model._a[29] + model._b[at]
    variance = model._b_variance[at] + model._va / (1.0 + 0.2 * model._va * 4)
    xi = np.sqrt(eta**2 + variance)
    slope = np.array([0.5, 0.5, 0.5, -0.5]) - np.tanh(xi / 2.0) / (2.0 * xi) * eta
    assert slope.sum() == pytest.approx(model._a[29] / model._va)


def test_components_are_recovered_from_graded_scores() -> None:
    rng = np.random.default_rng(1)
    y = 0.5 + rng.normal(0, 0.1, (60, 1)) + rng.normal(0, 0.15, 80) + rng.normal(0, 0.05, (60, 80))
    model = filled(y, np.ones(y.shape, dtype=bool))
    for _ in range(30):
        model._refit()
    found = np.sqrt([model._va, model._vb, model._vr])
    np.testing.assert_allclose(found, [0.1, 0.15, 0.05], rtol=0.3)


def test_difficulty_is_found_where_examples_differ_and_only_there() -> None:
    found = []
    for spread in (0.0, 1.5):
        rng = np.random.default_rng(2)
        model = filled(simulated(rng, 40, 60, spread), np.ones((40, 60), dtype=bool))
        for _ in range(30):
            model._refit()
        found.append(model._vb)
    assert found[0] < 0.1
    assert 1.0 < found[1] < 4.0


def test_quality_is_unbiased_over_orders_for_a_wrong_model() -> None:
    """Predictions that depend on other prompts only are fixed over a prompt's orders."""
    rng = np.random.default_rng(3)
    y = rng.random(30) ** 3
    model = TwoWayModel(30)
    model.add(0, list(range(30)), y.tolist())
    model._mu = 0.4
    model._b[:] = rng.normal(0.0, 1.0, 30)
    model._a[0] = -0.7
    found = []
    for _ in range(4000):
        model._seen[0] = False
        model._seen[0, rng.permutation(30)[:6]] = True
        model._estimate(np.array([0]))
        found.append(float(model.estimates().quality[0]))
    assert abs(np.mean(found) - y.mean()) < 4 * np.std(found) / math.sqrt(len(found))


def test_effective_count_is_the_relative_information() -> None:
    rng = np.random.default_rng(6)
    y, seen = simulated(rng, 30, 40, 2.0), random_looks(rng, 30, 40, 4)
    model = filled(y, seen)
    found = model.estimates()
    p = logistic(model._mu + model._a[:30, None] + model._b)
    information = np.maximum(p * (1.0 - p), two_way.MIN_INFORMATION)
    expected = 40.0 * (information * seen).sum(axis=1) / information.sum(axis=1)
    np.testing.assert_allclose(found.effective, expected)
    assert found.effective[:4] == pytest.approx(40.0)
    rows = np.arange(30)[:, None]
    last = model.gains(rows, (40 - found.count[:, None]).astype(np.intp))
    np.testing.assert_allclose(last, 40.0)
    for row in (5, 17):
        upcoming = model.upcoming(row)
        assert sorted(upcoming) == np.flatnonzero(~seen[row]).tolist()
        gains = 40.0 * np.cumsum(information[row, upcoming]) / information[row].sum()
        found_gains = model.gains(np.array([[row]]), np.arange(1, len(upcoming) + 1)[None])
        np.testing.assert_allclose(found_gains[0], found.effective[row] + gains)


def test_what_tells_most_comes_first_where_examples_differ_and_only_there() -> None:
    for spread, least, most in ((0.0, 0.95, 1.1), (2.5, 1.25, 2.0)):
        rng = np.random.default_rng(7)
        y = simulated(rng, 40, 60, spread)
        model = filled(y, random_looks(rng, 40, 60, 10))
        p = logistic(model._mu + model._b)
        information = p * (1.0 - p)
        drawn = [information[model.upcoming(index)[:10]].mean() for index in range(100, 140)]
        assert least < np.mean(drawn) / information.mean() < most
        orders = {tuple(model.upcoming(index)[:10]) for index in range(100, 140)}
        assert len(orders) == 40  # random, not the same ten for all
        assert model.new_gains(np.array([0, 60])).tolist() == pytest.approx([0.0, 60.0])


def test_quality_of_informative_examples_is_close() -> None:
    """Scores on the examples that tell most say more than as many random ones."""
    found = {}
    for informative in (True, False):
        off = []
        for seed in range(10):
            rng = np.random.default_rng([seed, 8])
            y = simulated(rng, 60, 60, 2.0)
            model = filled(y[:40], np.ones((40, 60), dtype=bool))
            for index in range(40, 60):
                order = model.upcoming(index) if informative else rng.permutation(60)
                at = order[:12].tolist()
                model.add(index, at, y[index, at].tolist())
                off.append(float(model.estimates().quality[model.row(index)]) - y[index].mean())
        found[informative] = float(np.mean(np.square(off))), float(np.mean(off))
    assert found[True][0] < 0.8 * found[False][0]
    assert abs(found[True][1]) < 0.02


def test_quality_is_a_possible_mean_and_that_of_scored_and_other_examples() -> None:
    rng = np.random.default_rng(11)
    y, seen = simulated(rng, 32, 40, 1.0), random_looks(rng, 32, 40, 4)
    y[:, :10], y[:, 10:20] = 1.0, 0.0  # all pass or all fail, except for the last two prompts
    seen[30:] = False
    seen[30, :10] = seen[31, 10:20] = True
    y[30, :10], y[31, 10:20] = 0.0, 1.0
    found = filled(y, seen).estimates()
    low = (y * seen).sum(axis=1) / 40
    high = low + (~seen).sum(axis=1) / 40
    assert (low - 1e-12 <= found.quality).all()
    assert (found.quality <= high + 1e-12).all()
    assert found.quality[30] == pytest.approx(low[30])
    assert found.quality[31] == pytest.approx(high[31])
    both = (found.count * found.mean + (40 - found.count) * found.unseen) / 40
    np.testing.assert_allclose(both[:30], found.quality[:30])


def test_uncertain_difficulties_raise_the_noise() -> None:
    rng = np.random.default_rng(12)
    model = filled(simulated(rng, 30, 40, 1.5), random_looks(rng, 30, 40, 4))
    before = np.array([model.noise(i) for i in range(30)])
    model._b_variance += 0.5
    model._estimate(np.arange(30))
    p = logistic(model._mu + model._a[:30, None] + model._b)
    more = 0.5 * ((p * (1.0 - p)) ** 2).mean(axis=1)  # in units of the scores
    expected = more * (1.0 / model.estimates().effective - 1.0 / 40)
    np.testing.assert_allclose([model.noise(i) for i in range(30)] - before, expected, atol=1e-12)


def test_the_prior_of_a_new_prompt_is_that_of_the_qualities() -> None:
    rng = np.random.default_rng(14)
    a, b = rng.normal(1.5, 0.7, 60), rng.normal(0.0, 2.5, 80)
    y = (rng.random((60, 80)) < logistic(a[:, None] + b)).astype(float)
    model = filled(y, np.ones(y.shape, dtype=bool))
    for _ in range(30):
        model._refit()
    mean, variance = model.population()
    full = logistic(a[:, None] + b).mean(axis=1)
    assert mean == pytest.approx(full.mean(), abs=0.03)
    assert variance == pytest.approx(full.var(), rel=0.35)


@pytest.mark.parametrize("spread", [0.0, 2.5])
def test_the_residual_is_what_the_difficulties_leave_of_the_binomial_variance(spread: float) -> None:
    rng = np.random.default_rng(15)
    a, b = rng.normal(0.0, 0.7, 60), rng.normal(0.0, spread, 80)
    p = logistic(a[:, None] + b)
    model = filled((rng.random(p.shape) < p).astype(float), np.ones(p.shape, dtype=bool))
    for _ in range(30):
        model._refit()
    q = p.mean(axis=1)
    assert model.residual(q).mean() == pytest.approx((p * (1.0 - p)).mean(), rel=0.05)
    least = two_way.MIN_SHARE  # two failures are no certainty
    assert model.residual(np.array([0.0, 1.0])) == pytest.approx(
        model.residual(np.array([least, 1.0 - least]))
    )
    assert model.residual(np.array([0.0]))[0] > 0.0


def test_a_new_prompt_gains_most_at_first() -> None:
    rng = np.random.default_rng(16)
    model = filled(simulated(rng, 40, 60, 2.0), np.ones((40, 60), dtype=bool))
    p = logistic(model._mu + model._b)
    information = np.maximum(p * (1.0 - p), two_way.MIN_INFORMATION)
    best = np.sort(information)[::-1][:7].sum() / information.mean()
    assert model.new_gains(np.array([7]))[0] == pytest.approx(best)
    assert best > 8.0


def errors(spread: float) -> tuple[float, float, float]:
    """Return mean squared errors of quality and of the plain mean, and of quality in units of `noise`."""
    quality, plain, z = [], [], []
    for seed in range(12):
        rng = np.random.default_rng([seed, 9])
        y = simulated(rng, 30, 50, spread)
        seen = random_looks(rng, 30, 50, 4)
        model = filled(y, seen)
        estimates = model.estimates()
        for i in np.flatnonzero(~seen.all(axis=1)):
            off = float(estimates.quality[i]) - y[i].mean()
            quality.append(off**2)
            plain.append((float(estimates.mean[i]) - y[i].mean()) ** 2)
            z.append(off**2 / model.noise(int(i)))
    return float(np.mean(quality)), float(np.mean(plain)), float(np.mean(z))


def test_quality_beats_the_plain_mean_where_examples_differ() -> None:
    quality, plain, z = errors(1.8)
    assert quality < 0.85 * plain
    assert 0.5 < z < 1.6


def test_quality_is_as_good_as_the_plain_mean_where_examples_are_alike() -> None:
    quality, plain, z = errors(0.0)
    assert quality < 1.05 * plain
    assert 0.5 < z < 1.6


def test_complete_prompts_are_exact_and_memory_grows() -> None:
    rng = np.random.default_rng(4)
    y = simulated(rng, 40, 12, 1.0)
    model = filled(y, np.ones(y.shape, dtype=bool))
    assert len(model) == 40 > two_way.ROWS
    np.testing.assert_allclose(model.estimates().quality, y.mean(axis=1), atol=1e-12)
    assert all(model.noise(i) == 0.0 for i in range(40))
    np.testing.assert_allclose(model.estimates().effective, 12.0)


def test_graded_scores_after_binary_ones_change_the_link() -> None:
    model = TwoWayModel(10)
    model.add(0, [0, 1, 2], [1.0, 0.0, 1.0])
    model.add(1, [3, 4], [0.25, 0.5])
    model.add(2, [0, 1], [0.0, 1.0])
    assert not model._is_binary
    estimates = model.estimates()
    assert np.isfinite([estimates.quality, estimates.difficulty, estimates.unseen]).all()
    assert model.noise(1) > 0.0
    assert model.residual(np.array([0.1, 0.9])).tolist() == [model._vr] * 2


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("examples", [1, 12])
def test_equal_scores(score: float, rows: int, examples: int) -> None:
    model = TwoWayModel(examples)
    for i in range(rows):
        at = list(range(max(1, examples // 3)))
        model.add(i, at, [score] * len(at))
        estimates = model.estimates()
        assert np.isfinite([estimates.quality, estimates.difficulty, estimates.unseen]).all()
        np.testing.assert_allclose(estimates.quality, score, atol=0.25)
        assert math.isfinite(model.noise(i))


def test_order_of_prompts_does_not_matter_once_the_components_settle() -> None:
    rng = np.random.default_rng(5)
    y, seen = simulated(rng, 20, 15, 1.0), random_looks(rng, 20, 15, 3)
    found = []
    for order in (np.arange(20), rng.permutation(20)):
        model = TwoWayModel(15)
        for i in order.tolist():
            at = np.flatnonzero(seen[i])
            model.add(i, at.tolist(), y[i, at].tolist())
        for _ in range(3000):
            model._refit()
        model._estimate(np.arange(20))
        found.append([float(model.estimates().quality[model.row(i)]) for i in range(20)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
