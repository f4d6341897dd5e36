"""CUDA engine of the Gaussian process: algorithms by size, memory, several devices."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numeric_tools import assert_close, random_network

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import process as gp_module

pytestmark = pytest.mark.cuda


def pair(kernel: zf.NTK, noise: float = 1e-2) -> tuple[zf.GaussianProcess, zf.GaussianProcess]:
    cpu, cuda = (zf.GaussianProcess(kernel, noise=noise, device=device) for device in ("cpu", "cuda"))
    return cpu, cuda


def assert_same(cpu: zf.GaussianProcess, cuda: zf.GaussianProcess, Q: np.ndarray) -> None:
    a, b = cpu.posterior(Q), cuda.posterior(Q)
    prior = float(cpu.kernel.diag(Q).max())
    traces = max(cpu.kernel.gradient_prior_trace(q) for q in Q)
    assert_close(b.mean, a.mean, 1e-9)
    assert_close(b.variance, a.variance, 1e-9, prior)
    assert_close(b.gradient, a.gradient, 1e-9)
    assert_close(b.gradient_uncertainty, a.gradient_uncertainty, 1e-9, traces)
    assert_close(cuda.gradient_covariance(Q[0]), cpu.gradient_covariance(Q[0]), 1e-9, traces)
    for mine, theirs in zip(cuda._gp.predict(Q), cpu._gp.predict(Q), strict=True):
        assert_close(mine, theirs, 1e-9, max(prior, float(np.abs(a.mean).max())))
    assert cuda.log_marginal_likelihood() == pytest.approx(cpu.log_marginal_likelihood(), rel=1e-9, abs=1e-9)


# d, width, depth, rows of a first and of a second append, query points. The engine appends up to 32 rows one
# by one and more in panels of 64, and answers fewer than 8 points one by one.
WAYS = [
    (7, 9, 2, 33, 70, 11),
    (5, 33, 3, 130, 1, 40),
    (20, 32, 2, 65, 128, 9),
    (3, 65, 1, 64, 31, 33),
    (1, 1, 1, 40, 40, 9),
    (12, 7, 4, 32, 32, 7),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_all_sizes_equal_the_cpu(way: tuple[int, ...], rng: np.random.Generator) -> None:
    d, width, depth, first, second, q = way
    kernel = zf.NTK(*random_network(rng, d, [width] * depth))
    X, y, Q = rng.normal(size=(first + second, d)), rng.normal(size=first + second), rng.normal(size=(q, d))
    both = pair(kernel, noise=0.01 * float(kernel.diag(X).mean()))
    for gp in both:
        gp.append(X[:first], y[:first])
        gp.append(X[first:], y[first:])
    assert_same(*both, Q)
    for i in (first + second - 2, 0, 31, 1):  # within, across and at the end of 32 rotations
        for gp in both:
            gp.remove(i)
    for gp in both:
        gp.append(X[0], y[0])
    assert_same(*both, Q)


def test_results_are_reproducible_bit_for_bit(rng: np.random.Generator) -> None:
    kernel, X, y, Q = (
        zf.NTK.random(9, width=12),
        rng.normal(size=(50, 9)),
        rng.normal(size=50),
        rng.normal(size=(9, 9)),
    )
    answers: list[Any] = []
    for _ in range(2):
        gp = zf.GaussianProcess(kernel, device="cuda")
        gp.append(X[:40], y[:40])
        for x, score in zip(X[40:], y[40:], strict=True):
            gp.append(x, float(score))
        gp.remove(3)
        for _ in range(2):
            answers.append([*gp.posterior(Q), *gp.posterior(Q[0]), gp.log_marginal_likelihood()])
    for other in answers[1:]:
        for a, b in zip(answers[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.emulated  # would fill the memory of a real device
def test_too_little_memory_changes_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, Q = rng.normal(size=(300, 5)), rng.normal(size=300), rng.normal(size=(2, 5))
    cpu, cuda = pair(zf.NTK.random(5, width=8))
    for gp in (cpu, cuda):
        gp.append(X[:60], y[:60])
    assert_same(cpu, cuda, Q)
    # Memory for the first arrays of a larger object, but not for all.
    for limit in (1, 10_000, 1_000_000, 2_000_000):
        monkeypatch.setenv("ZOPO_EMULATE_MEMORY", str(limit))
        with pytest.raises(zf.DeviceMemoryError, match="memory"):
            cuda.append(X[60:], y[60:])
        with pytest.raises(MemoryError):
            cuda.posterior(np.repeat(Q, 2000, axis=0))
        monkeypatch.delenv("ZOPO_EMULATE_MEMORY")
        assert len(cuda) == 60
        assert_same(cpu, cuda, Q)
    for gp in (cpu, cuda):
        gp.append(X[60:], y[60:])
    assert_same(cpu, cuda, Q)


def test_a_network_that_is_too_deep_is_refused() -> None:
    with pytest.raises(zf.ConfigError, match="at most 8"):
        zf.GaussianProcess(zf.NTK.random(3, width=4, depth=9), device="cuda")


@pytest.mark.emulated  # needs two devices
def test_each_object_stays_on_its_device() -> None:
    program = """
import numpy as np, zopo_fast as zf
rng = np.random.default_rng(0)
kernel, X, y = zf.NTK.random(4, width=6), rng.normal(size=(40, 4)), rng.normal(size=40)
gps = [zf.GaussianProcess(kernel, device=d) for d in ("cuda:1", "cuda", "cuda:0")]
for x, v in zip(X, y):
    for gp in gps:
        gp.append(x, float(v))
means = [gp.posterior(X[:9]).mean for gp in gps]
assert (means[0] == means[1]).all() and (means[1] == means[2]).all()
try:
    zf.GaussianProcess(kernel, device="cuda:2")
except zf.DeviceError as error:
    assert "does not exist" in str(error)
else:
    raise SystemExit("cuda:2 was there")
"""
    environment = {**os.environ, "ZOPO_EMULATE_DEVICES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_auto_moves_when_the_observations_are_many(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gp_module, "AUTO_CROSSOVER", 20 * 5)
    kernel, X, y, Q = (
        zf.NTK.random(5, width=8),
        rng.normal(size=(25, 5)),
        rng.normal(size=25),
        rng.normal(size=(3, 5)),
    )
    cpu, auto = zf.GaussianProcess(kernel), zf.GaussianProcess(kernel, device="auto")
    for gp in (cpu, auto):
        gp.append(X[:19], y[:19])
    assert isinstance(auto._gp, _core.GaussianProcess)
    for gp in (cpu, auto):
        gp.append(X[19:], y[19:])
    assert isinstance(auto._gp, _core.CudaGaussianProcess)
    assert_same(cpu, auto, Q)
    monkeypatch.setattr(_core, "cuda_device_count", lambda: 0)
    without = zf.GaussianProcess(kernel, device="auto")
    without.append(X, y)
    assert isinstance(without._gp, _core.GaussianProcess)
