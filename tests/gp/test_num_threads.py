"""Limit of native threads: set, refused, and without influence on results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast import _core


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    zf.set_num_threads(0)


def test_the_limit_is_set() -> None:
    assert zf.get_num_threads() >= 1
    zf.set_num_threads(3)
    assert zf.get_num_threads() == 3
    zf.set_num_threads(np.int64(1))
    assert zf.get_num_threads() == 1


@pytest.mark.parametrize("bad", [-1, 1.5, "2", None, True])
def test_invalid_limits_are_refused(bad: Any) -> None:
    with pytest.raises(zf.ConfigError, match="set_num_threads"):
        zf.set_num_threads(bad)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cannot count threads here")
def test_results_do_not_depend_on_it() -> None:
    """Each row of K, query and column sum is computed by one thread in the same way."""
    rng = np.random.default_rng(0)
    kernel = zf.NTK.random(64, seed=0)
    X, Q = rng.normal(size=(300, 64)), rng.normal(size=(2000, 64))
    Z = rng.normal(size=(30_000, 64)).astype(np.float32)
    seen = []
    for threads in (1, 2, 5):
        zf.set_num_threads(threads)
        gp = zf.GaussianProcess(kernel, noise=1.0)
        gp.append(X, X[:, 0])
        mean, deviation = _core.column_moments(Z)
        pool = _core.Pool(Z, mean, deviation)
        near = [int(i) for i in pool.k_nearest(Q[0], 20)]
        seen.append([kernel.gram(X), kernel.gram(X, Q), *gp.posterior(Q), mean, deviation, np.array(near)])
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_bandwidth_benchmark_reads_every_byte() -> None:
    """The native read pass returns the xor of all words."""
    for size in (0, 1, 7, 8, 63, 64, 65, 1000, 3_000_001):
        data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        words = np.zeros((size + 7) // 8 * 8, np.uint8)
        words[:size] = data
        expected = int(np.bitwise_xor.reduce(words.view(np.uint64))) if size else 0
        assert _core.read_pass(data) == expected
