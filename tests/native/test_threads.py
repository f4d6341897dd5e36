"""Native objects shared by threads: no crash and no inconsistent state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from region_tools import Twin, assert_same_posterior, of_points
from thread_tools import at_once, frequent_switches

import zopo_fast as zf
from zopo_fast import _core

__all__ = ["frequent_switches"]


def test_pool_is_scanned_while_candidates_are_taken_and_released() -> None:
    Z = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32)
    pool = _core.Pool(Z, np.zeros(16), np.ones(16))

    def change() -> None:
        for _ in range(20):
            for i in range(0, 5000, 2):
                pool.take(i)
            for i in range(0, 5000, 2):
                pool.release(i)

    def scan() -> None:
        for _ in range(100):
            found = pool.k_nearest(np.zeros(16), 5000, available_only=True)
            assert 2500 <= len(found) <= 5000
            assert len(set(found.tolist())) == len(found)

    at_once(change, scan, scan)


def test_the_state_of_a_process_is_consistent() -> None:
    gp = _core.GaussianProcess(zf.NTK.random(8, seed=0).network)
    rng = np.random.default_rng(0)

    def grow() -> None:
        for _ in range(150):
            gp.append(rng.normal(size=(1, 8)), np.ones(1), np.ones(1))

    def look() -> None:
        for _ in range(300):
            X, y, noise = gp.state()
            assert len(X) == len(y) == len(noise)
            gp.posterior(np.zeros((1, 8)))

    at_once(grow, look)
    assert len(gp) == 150


def test_process_grows_and_shrinks_in_two_threads() -> None:
    """Each thread removes as many observations as it adds; in any order the factor fits the rest."""
    kernel = zf.NTK.random(8, seed=0)
    gp, X = _core.GaussianProcess(kernel.network), np.random.default_rng(0).normal(size=(40, 8))
    gp.append(X[:20], np.arange(20.0), np.ones(20))

    def change() -> None:
        for _ in range(60):
            gp.append(X[20:], np.ones(20), np.ones(20))
            gp.predict(X)
            assert 20 <= len(gp) <= 60
            for _ in range(10):
                gp.pop()
                gp.remove(7)
            gp.log_marginal_likelihood()

    at_once(change, change)
    left, y, noise = gp.state()
    assert left.shape == (20, 8)
    fresh = _core.GaussianProcess(kernel.network)
    fresh.append(left, y, noise)
    for long, short in zip(gp.posterior(X), fresh.posterior(X), strict=True):
        np.testing.assert_allclose(long, short, rtol=1e-8)


def test_the_gradient_at_a_center_is_consistent() -> None:
    Z = np.random.default_rng(0).normal(size=(60, 16))
    pool = _core.Pool(Z, np.zeros(16), np.ones(16))
    local = _core.LocalGradient(zf.NTK.random(16, seed=0).network, pool)
    local.center(59)

    def grow() -> None:
        for n in range(50):
            local.append(n, float(n % 7), 1.0)

    def look() -> None:
        for n in range(100):
            local.center(50 + n % 10)
            assert len(local) <= 50
            assert np.isfinite(local.gradient()).all()
            assert 0.0 <= local.relative_uncertainty([51, 52], 1.0) <= 1.0
            assert 0 <= local.step(1.0) < 60

    at_once(grow, look, look)
    local.center(59)
    alone = _core.LocalGradient(zf.NTK.random(16, seed=0).network, pool)
    for n in range(50):
        alone.append(n, float(n % 7), 1.0)
    alone.center(59)
    np.testing.assert_allclose(local.gradient(), alone.gradient(), rtol=1e-10, atol=1e-12)


def test_the_posterior_of_a_region_is_consistent() -> None:
    """Threads append, propose and read; the result is that of one thread."""
    region, K = of_points(np.random.default_rng(0).normal(size=(130, 5)), zf.InfiniteNTK(2))

    def grow() -> None:
        for n in range(40):
            region.append(n, float(n % 7))

    def look() -> None:
        for n in range(120):
            assert 0 <= region.propose([50 + n % 10, 60], 3.0, 1 + n % 2) < 130
            mean, variance = region.posterior()
            assert np.isfinite(mean).all()
            assert (variance >= 0).all()
            assert region.shares()[0].sum() == pytest.approx(1.0)
            assert len(region) <= 40

    at_once(grow, look, look)
    twin = Twin(K)
    for n in range(40):
        twin.append(n, float(n % 7))
    assert_same_posterior(region, twin, 1e-3)


def test_two_threads_run_two_searches() -> None:
    Z = np.random.default_rng(0).normal(size=(200, 12))

    def search(out: list[int]) -> None:
        opt = zf.Zopo(Z, zf.ZopoConfig(budget=40, initial=10, seed=4))
        while not opt.done:
            i = opt.ask()
            opt.tell(i, float(Z[i, 0]))
            out.append(i)

    one: list[int] = []
    two: list[int] = []
    at_once(lambda: search(one), lambda: search(two))
    alone: list[int] = []
    search(alone)
    assert one == two == alone


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_append_without_memory_changes_nothing() -> None:
    code = """
import resource, numpy as np, zopo_fast as zf
gp = zf.GaussianProcess(zf.NTK.random(4, width=4, depth=1, seed=0), noise=0.1)
gp.append(np.eye(4), np.arange(4.0))
before = gp.posterior(np.ones(4))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    gp.append(np.random.default_rng(0).normal(size=(30000, 4)), np.zeros(30000))
except MemoryError:
    after = gp.posterior(np.ones(4))
    same = all(np.array_equal(a, b) for a, b in zip(before, after))
    gp.append(np.full(4, 2.0), 1.0)
    print(len(gp), same)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["5", "True"]


def test_a_pool_does_not_depend_on_the_number_of_threads() -> None:
    """The pool is large enough to be split; under ThreadSanitizer the test also finds data races."""
    Z = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    found = []
    try:
        for threads in (1, 4):
            zf.set_num_threads(threads)
            pool = _core.Pool(Z, *_core.column_moments(Z))
            found.append([int(i) for i in pool.k_nearest(np.ones(64), 50)])
    finally:
        zf.set_num_threads(0)
    assert found[0] == found[1]
