"""Objects after 10,000 changes agree to 1e-8 with new ones of the same data."""

from __future__ import annotations

import numpy as np
import pytest
from emulation_tools import EMULATED
from numeric_tools import assert_close

import zopo_fast as zf
from zopo_fast import _core

OPERATIONS = 10_000
MAX_SIZE = 120  # observations
CHECK_EVERY = 500
RTOL = 1e-8


def assert_fresh(gp: zf.GaussianProcess, Q: np.ndarray) -> None:
    """Check posterior and likelihood against a new process with the same data."""
    X, y, noise = gp._gp.state()
    fresh = zf.GaussianProcess(gp.kernel)
    if len(X):
        fresh.append(X, y, noise)
    for name, long, short in zip(gp.posterior(Q)._fields, gp.posterior(Q), fresh.posterior(Q), strict=True):
        assert np.abs(short).max() > 0 or len(X) == 0, name
        assert_close(long, short, RTOL)
    assert gp.log_marginal_likelihood() == pytest.approx(fresh.log_marginal_likelihood(), rel=RTOL)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 1.0], ids=lambda share: f"noise {share:g}")
def test_process_after_ten_thousand_changes(device: str, noise: float) -> None:
    """The changes are appends of one and of many, pops and removals, with exact duplicates."""
    rng = np.random.default_rng(5)
    kernel = zf.NTK.random(16, width=24, depth=2, seed=2)
    points, Q = rng.normal(size=(300, 16)), rng.normal(size=(3, 16))
    unit = kernel.diag(points).mean()
    gp = zf.GaussianProcess(kernel, noise=noise * unit, device=device)
    operations = OPERATIONS if device == "cpu" or not EMULATED else 400  # an emulated launch takes 10 ms
    check_every = min(CHECK_EVERY, operations // 4)
    sizes, growing, removed = [], True, 0
    for operation in range(1, operations + 1):
        if len(gp) == 0 or len(gp) >= MAX_SIZE:
            growing = len(gp) == 0
        if rng.random() < (0.75 if growing else 0.25):
            count = min(int(rng.integers(1, 5)) if rng.random() < 0.1 else 1, MAX_SIZE - len(gp))
            at = rng.integers(len(points), size=count)
            gp.append(points[at], rng.normal(size=count), unit * noise * rng.uniform(1, 3, size=count))
        elif rng.random() < 0.3 and len(gp):
            gp.pop()
        elif len(gp):
            gp.remove(int(rng.integers(len(gp))))
            removed += 1
        sizes.append(len(gp))
        if operation % check_every == 0:
            assert_fresh(gp, Q)
    assert gp.jitter == 0.0
    assert min(sizes) == 0
    assert max(sizes) == MAX_SIZE
    assert removed > 0.3 * operations


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 1.0], ids=lambda share: f"noise {share:g}")
def test_gradient_at_a_center_after_ten_thousand_changes(noise: float) -> None:
    """The changes are appends, new centers, pending candidates, and now and then a clear."""
    rng = np.random.default_rng(6)
    kernel = zf.NTK.random(16, width=24, depth=2, seed=2)
    Z = rng.normal(size=(300, 16))
    pool, unit = _core.Pool(Z, np.zeros(16), np.ones(16)), kernel.diag(Z).mean()
    local, seen, center = _core.LocalGradient(kernel.network, pool), [], 0
    local.center(center)
    clears, most = 0, 0
    for operation in range(1, OPERATIONS + 1):
        what = rng.random()
        if len(seen) == MAX_SIZE or (what < 0.002 and seen):
            local.clear()
            seen, clears = [], clears + 1
            local.center(center)
        elif what < 0.5:
            seen.append((int(rng.integers(300)), float(rng.normal()), unit * noise * rng.uniform(1, 3)))
            local.append(*seen[-1])
        elif what < 0.8:
            center = int(rng.integers(300))
            local.center(center)
        else:
            local.relative_uncertainty(rng.integers(300, size=3).tolist(), unit * noise)
        most = max(most, len(local))
        if operation % CHECK_EVERY == 0:
            fresh = _core.LocalGradient(kernel.network, pool)
            for observation in seen:
                fresh.append(*observation)
            fresh.center(center)
            assert_close(local.gradient(), fresh.gradient(), RTOL)
            uncertainty = fresh.relative_uncertainty([7], unit * noise)
            assert local.relative_uncertainty([7], unit * noise) == pytest.approx(uncertainty, rel=RTOL)
            assert local.step(1.0) == fresh.step(1.0)
    assert clears > 20
    assert most == MAX_SIZE
