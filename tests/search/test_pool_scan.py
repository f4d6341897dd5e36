"""Scan of a pool: exact in any precision, ordered by float64 distances, ties to the lowest index."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from emulation_tools import EMULATED
from hypothesis import HealthCheck, given, settings, strategies as st
from numeric_tools import assert_close
from pool_tools import Pool, make_pool

import zopo_fast as zf
from zopo_fast import _core
from zopo_fast.gp import reference

DTYPES = ["float16", "float32", "float64"]


def assert_exact(
    pool: Pool,
    E: np.ndarray,
    x: np.ndarray,
    ks: tuple[int, ...] = (1, 2, 7, 10**6),
    available: np.ndarray | None = None,
) -> None:
    """Check nearest, k nearest (of all and of available candidates) and distances by the reference."""
    free = np.ones(len(E), dtype=bool) if available is None else available
    for k in ks:
        assert pool.k_nearest(x, k).tolist() == reference.k_nearest(E, x, k).tolist()
        near = pool.k_nearest(x, k, available_only=True)
        assert near.tolist() == reference.k_nearest(E, x, k, free).tolist()
    assert pool.nearest(x) == (reference.k_nearest(E, x, 1, free).tolist() or [-1])[0]
    np.testing.assert_allclose(pool.distances(x), ((E - x) ** 2).sum(axis=1), rtol=1e-12)


def assert_ordered(pool: Pool, x: np.ndarray, ks: tuple[int, ...], free: np.ndarray) -> None:
    """Check that candidates are ordered by float64 distance, then by index."""
    distances = pool.distances(x)
    order = np.lexsort((np.arange(len(free)), distances))
    for k in ks:
        assert pool.k_nearest(x, k).tolist() == order[:k].tolist()
        assert pool.k_nearest(x, k, available_only=True).tolist() == order[free[order]][:k].tolist()
    assert pool.nearest(x) == (order[free[order]].tolist() or [-1])[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 384])
def test_every_width(device: str, rng: np.random.Generator, dtype: str, d: int) -> None:
    """No vector register divides all of these widths; the tail of a scan has rows as well."""
    Z = rng.normal(size=(271, d)).astype(dtype)
    mean, scale = rng.normal(size=d), rng.uniform(0.5, 2.0, size=d)
    E = reference.standardize(Z, mean, scale)
    pool = make_pool(device, Z, mean, scale)
    for x in (rng.normal(size=d), E[-1], np.zeros(d)):
        assert_exact(pool, E, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "d"),
    [
        *[(1, 1), (1, 385), (31, 7), (31, 1000), (33, 384), (33, 1000), (1000, 1), (1000, 384)],
        *[(1000, 385), (3072, 8), (3073, 9), (5000, 1), (5000, 7), (5000, 384)],
    ],
)
def test_every_height(device: str, rng: np.random.Generator, dtype: str, m: int, d: int) -> None:
    """The pool has copies and near copies; any number of candidates is taken, up to all."""
    Z = rng.normal(size=(m, d)).astype(dtype)[np.sort(rng.integers(m, size=m))]
    Z[rng.integers(m, size=m // 3)] = np.nextafter(Z[m // 2], np.inf, dtype=dtype)
    pool, free = make_pool(device, Z, *(_core.column_moments(Z)[0], np.full(d, 0.7))), np.ones(m, bool)
    points = [pool.row(m // 2), rng.normal(size=d)]
    for x in points:
        assert_ordered(pool, x, (0, 1, 2, 9, m // 30, m, m + 1), free)
    for left in (m // 2, 1, 0):
        for i in np.flatnonzero(free)[rng.permutation(int(free.sum()))[left:]].tolist():
            pool.take(i)
            free[i] = False
        for x in points:
            assert_ordered(pool, x, (1, 3, m + 1), free)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [700, 7000])
def test_copies_of_one_point(device: str, rng: np.random.Generator, dtype: str, m: int) -> None:
    """All candidates tie, so that all are rescored."""
    Z = np.tile(rng.normal(size=5), (m, 1)).astype(dtype)
    pool, x = make_pool(device, Z), rng.normal(size=5)
    assert_ordered(pool, x, (1, 2, m - 1, m), np.ones(m, bool))
    assert_ordered(pool, Z[0].astype(float), (1, 40), np.ones(m, bool))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_very_different_length(device: str, rng: np.random.Generator, dtype: str) -> None:
    """The squares of the longest rows overflow float32, those of the others do not."""
    Z = rng.normal(size=(400, 12)) * 10.0 ** rng.integers(-22, 22, size=(400, 1))
    pool, E = make_pool(device, Z.astype(dtype)), Z.astype(dtype).astype(float)
    for i in range(0, 400, 7):
        assert_ordered(pool, E[i], (1, 2, 50), np.ones(400, bool))
        assert pool.nearest(E[i]) == i
    edge = 1e19 * np.array([[0.0, 1.0], [0.0, -1.0], [1.87, 0.0], [-1.87, 0.0]])  # the last two, barely
    assert_ordered(make_pool(device, edge.astype(dtype)), np.array([9e18, 0.0]), (1, 2, 3), np.ones(4, bool))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_device_gives_the_same_bits(device: str, rng: np.random.Generator, dtype: str) -> None:
    Z = rng.normal(3.0, 1.0, size=(150, 77)).astype(dtype)
    moments, x = _core.column_moments(Z), rng.normal(size=77)
    pool, cpu = make_pool(device, Z, *moments), make_pool("cpu", Z, *moments)
    np.testing.assert_array_equal(pool.distances(x), cpu.distances(x))
    np.testing.assert_array_equal(pool.rows(np.arange(150)), cpu.rows(np.arange(150)))
    assert [pool.radius(i, 9) for i in range(5)] == [cpu.radius(i, 9) for i in range(5)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_standardised_in_float64(device: str, rng: np.random.Generator, dtype: str) -> None:
    Z = rng.normal(3.0, 0.1, size=(20, 6)).astype(dtype)
    mean, scale = Z.astype(float).mean(axis=0), Z.astype(float).std(axis=0)
    E, pool = reference.standardize(Z, mean, scale), make_pool(device, Z, mean, scale)
    assert len(pool) == pool.available == 20
    np.testing.assert_array_equal(pool.rows(np.arange(20)), E)
    np.testing.assert_array_equal(pool.rows(np.array([7, 7, 2])), E[[7, 7, 2]])
    for i in (0, 19):
        np.testing.assert_array_equal(pool.row(i), E[i])
    assert pool.rows(np.array([], dtype=np.int64)).shape == (0, 6)
    moments = _core.column_moments(Z)
    assert_close(moments[0], mean, 1e-13)
    assert_close(moments[1], scale, 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_ties_go_to_the_lowest_index(device: str, rng: np.random.Generator, dtype: str) -> None:
    Z = rng.normal(size=(6, 40)).astype(dtype)[rng.integers(6, size=700)]  # many copies of six points
    pool = make_pool(device, Z)
    for x in (np.zeros(40), Z[13].astype(float)):
        assert_exact(pool, Z.astype(float), x, ks=(1, 3, 150, 700))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 20])
def test_an_integer_grid_is_full_of_ties(device: str, rng: np.random.Generator, dtype: str, d: int) -> None:
    Z = rng.integers(-2, 3, size=(500, d)).astype(dtype)
    pool = make_pool(device, Z)
    for x in (np.zeros(d), np.full(d, 0.5), rng.integers(-2, 3, size=d).astype(float)):
        assert_exact(pool, Z.astype(float), x, ks=(1, 5, 499))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_near_ties_that_float32_cannot_resolve(device: str, rng: np.random.Generator, dtype: str) -> None:
    """Distances differ by 1e-7 and less, relative: a float32 sum would order them at random."""
    d = 64
    Z = np.tile(rng.normal(size=d), (400, 1))
    Z[np.arange(400), rng.integers(d, size=400)] *= 1 + 2e-7 * rng.integers(-3, 4, size=400)
    Z = Z.astype(dtype)
    x, E = rng.normal(size=d), Z.astype(float)
    distance = np.unique(((E - x) ** 2).sum(axis=1))
    assert len(distance) > 50
    assert distance[-1] / distance[0] - 1 < 1e-6
    assert_exact(make_pool(device, Z), E, x, ks=(1, 20, 200))
    # On a sphere around x, with equal distances up to rounding.
    sphere = rng.normal(size=(300, d))
    E = (sphere / np.linalg.norm(sphere, axis=1, keepdims=True)).astype(dtype).astype(float)
    pool, order = make_pool(device, E.astype(dtype)), np.argsort((E**2).sum(axis=1), kind="stable")
    distance = (E**2).sum(axis=1)[order]
    clear = np.flatnonzero(np.diff(distance) > 1e-14)  # more than the rounding of a float64 sum
    found = pool.k_nearest(np.zeros(d), 300)
    for end in clear + 1:
        assert set(found[:end].tolist()) == set(order[:end].tolist())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [1e-2, 1.0])
def test_huge_offset_with_a_tiny_spread(
    device: str, rng: np.random.Generator, dtype: str, spread: float
) -> None:
    """With mean >> spread, z s - t cancels all digits of float32 in the scan."""
    Z = (1e4 + spread * rng.normal(size=(600, 33))).astype(dtype)
    mean, scale = Z.astype(float).mean(axis=0), Z.astype(float).std(axis=0)
    E, pool = reference.standardize(Z, mean, scale), make_pool(device, Z, mean, scale)
    for x in (E[5], np.zeros(33), rng.normal(size=33)):
        assert_exact(pool, E, x)
    assert_exact(make_pool(device, Z), Z.astype(float), Z[17].astype(float) + 2.0**-12)  # exact in float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "unit", [1e-35, 1e-30, 1e-24, 5e-23, 1e-22, 1e-21, 1e-20, 1e-15, 1e15, 1e18, 1e25, 1e35]
)
def test_any_unit_of_the_embeddings(device: str, rng: np.random.Generator, dtype: str, unit: float) -> None:
    """The squares overflow or underflow float32; the order does not depend on the unit."""
    Z = (unit * rng.normal(size=(2000, 16))).astype(dtype)
    pool, E = make_pool(device, Z), Z.astype(float)
    for _ in range(10 if device != "cpu" and EMULATED else 100):
        x = unit * rng.normal(size=16)
        assert pool.nearest(x) == reference.k_nearest(E, x, 1)[0]
    assert_exact(pool, E, x, ks=(1, 7))


@pytest.mark.parametrize("unit", [2.0**-24, 2.0**-14, 6e4])
def test_float16_at_both_ends_of_its_range(device: str, rng: np.random.Generator, unit: float) -> None:
    Z = np.clip(unit * rng.integers(-3, 4, size=(300, 12)), -65504, 65504).astype(np.float16)
    assert Z.any()
    assert_exact(make_pool(device, Z), Z.astype(float), unit * rng.normal(size=12))


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_query(device: str, rng: np.random.Generator, dtype: str) -> None:
    Z = rng.normal(size=(300, 24)).astype(dtype)
    for far in (1e3, 1e6, 1e12):
        direction = rng.normal(size=24)
        x, E = far * direction, Z.astype(float)
        distance = ((E - x) ** 2).sum(axis=1)
        order = np.lexsort((np.arange(300), distance))
        gap = distance[order[1]] / distance[order[0]] - 1
        if gap > 1e-14:
            assert make_pool(device, Z).nearest(x) == order[0]
        assert abs(distance[make_pool(device, Z).nearest(x)] / distance[order[0]] - 1) < 1e-13
    for far in (1e3, 1e8, 1e15, 1e16, 1e17, 1e18, 1e25, 1e80):  # up to no difference in float64
        assert_ordered(make_pool(device, Z), far * rng.normal(size=24), (1, 5, 300), np.ones(300, bool))


@pytest.mark.parametrize("dtype", DTYPES)
def test_take_and_release(device: str, rng: np.random.Generator, dtype: str) -> None:
    Z = rng.normal(size=(130, 9)).astype(dtype)
    E, pool, free, x = Z.astype(float), make_pool(device, Z), np.ones(130, dtype=bool), rng.normal(size=9)
    for i in rng.permutation(130).tolist():
        pool.take(i)
        pool.take(i)  # a second time changes nothing
        free[i] = False
        assert pool.taken(i)
        assert pool.available == free.sum()
        if free.sum() % 10 == 0:
            assert_exact(pool, E, x, ks=(1, 5, 200), available=free)
    assert pool.nearest(x) == -1
    assert pool.k_nearest(x, 3, available_only=True).tolist() == []
    assert pool.k_nearest(x, 200).tolist() == reference.k_nearest(E, x, 200).tolist()
    for i in (64, 63, 0, 129):  # at word borders of the bit set
        pool.release(i)
        pool.release(i)
        free[i] = True
        assert not pool.taken(i)
        assert_exact(pool, E, x, available=free)
    assert pool.available == 4


def test_always_the_nearest_until_none_is_left(device: str, rng: np.random.Generator) -> None:
    Z = rng.normal(size=(80, 5)).astype(np.float32)
    pool, x, order = make_pool(device, Z), rng.normal(size=5), []
    while (i := pool.nearest(x)) >= 0:
        order.append(i)
        pool.take(i)
    assert order == reference.k_nearest(Z.astype(float), x, 80).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_smallest_pools(device: str, dtype: str) -> None:
    for Z in (np.array([[2.0]]), np.array([[2.0, 3.0]]), np.array([[2.0], [-1.0], [2.0]])):
        pool, d = make_pool(device, Z.astype(dtype)), Z.shape[1]
        assert_exact(pool, Z, np.zeros(d))
        assert pool.k_nearest(np.zeros(d), 0).tolist() == []
    pool = make_pool(device, np.array([[2.0]], dtype=dtype))
    pool.take(0)
    assert pool.nearest(np.zeros(1)) == -1
    for Z in (np.empty((0, 3)), np.empty((0, 8))):
        pool = make_pool(device, Z.astype(dtype))
        assert (len(pool), pool.available, pool.nearest(Z.sum(axis=0))) == (0, 0, -1)
        assert pool.k_nearest(Z.sum(axis=0), 3).tolist() == []
        assert pool.distances(Z.sum(axis=0)).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_columns(device: str, rng: np.random.Generator, dtype: str) -> None:
    Z = rng.normal(size=(200, 10)).astype(dtype)
    Z[:, [0, 4, 9]] = np.array([0.1, -7.3, 1e3]).astype(dtype)
    mean, deviation = _core.column_moments(Z)
    assert (deviation[[0, 4, 9]] <= 1e-12 * np.abs(Z[0, [0, 4, 9]].astype(float))).all()
    scale = np.where(deviation < 1e-9, 1.0, deviation)
    E = reference.standardize(Z, mean, scale)
    assert_exact(make_pool(device, Z, mean, scale), E, E[3] + 0.1)
    everything_equal = np.full((50, 3), 0.1).astype(dtype)
    assert_exact(
        make_pool(device, everything_equal), everything_equal.astype(float), np.zeros(3), ks=(1, 9, 50)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_pool_on_all_threads(device: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    Z = rng.normal(size=(20_000, 64)).astype(dtype)
    Z[15_000:] = Z[:5_000]  # every fourth has a copy in the range of another thread
    mean, scale = _core.column_moments(Z)
    E, pool = reference.standardize(Z, mean, scale), make_pool(device, Z, mean, scale)
    free = np.ones(20_000, bool)
    for i in rng.integers(20_000, size=3_000).tolist():
        pool.take(i)
        free[i] = False
    for x in (rng.normal(size=64), E[123], E[19_999]):
        assert_exact(pool, E, x, ks=(1, 11, 500, 900), available=free)


@pytest.mark.alone
def test_a_float32_scan_rescores_few_candidates() -> None:
    """Most candidates must be decided by the error bound: a scan is faster than all float64 distances."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(40_000, 128)).astype(np.float32)
    pool, x = make_pool("cpu", Z), rng.normal(size=128)

    # The best times of interleaved calls: other load on the machine only adds rounds.
    best = {"scan": math.inf, "everything": math.inf}  # all distances in float64
    for _ in range(200):
        for name, f in (("scan", pool.nearest), ("everything", pool.distances)):
            start = time.perf_counter()
            f(x)
            best[name] = min(best[name], time.perf_counter() - start)
        if best["scan"] < 0.9 * best["everything"]:
            return
    pytest.fail(f"the scan takes {best['scan']:.4f} s, everything {best['everything']:.4f} s")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)  # the fixture does not change
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES),
    st.sampled_from([1, 4, 64, 1e4]), st.integers(1, 12),
)  # fmt: skip
def test_any_small_pool(
    device: str, seed: int, m: int, d: int, dtype: str, resolution: float, k: int
) -> None:
    rng = np.random.default_rng(seed)
    Z = (np.round(rng.normal(size=(m, d)) * resolution) / resolution).astype(dtype)
    pool, free = make_pool(device, Z), rng.random(m) < 0.7
    for i in np.flatnonzero(~free).tolist():
        pool.take(i)
    x = np.round(rng.normal(size=d) * 4) / 4  # sums of exact squares: rounding breaks no tie
    if resolution <= 64:
        assert_exact(pool, Z.astype(float), x, ks=(k,), available=free)
    else:
        assert pool.nearest(x) == (reference.k_nearest(Z.astype(float), x, 1, free).tolist() or [-1])[0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_radius_is_the_distance_to_the_kth_nearest_other(
    device: str, rng: np.random.Generator, dtype: str
) -> None:
    Z = rng.normal(size=(60, 7)).astype(dtype)
    pool = make_pool(device, Z, *_core.column_moments(Z))
    E = pool.rows(np.arange(60))
    for i in (0, 31, 59):
        others = np.sort(np.linalg.norm(E - E[i], axis=1))  # the first is itself, at distance 0
        for k in (1, 4, 59):
            assert pool.radius(i, k) == pytest.approx(others[k], rel=1e-12)
        assert pool.radius(i, 2**64 - 1) == pool.radius(i, 1000)
        assert pool.radius(i, 1000) == pytest.approx(others[-1], rel=1e-12)
    with pytest.raises(zf.UnknownIndexError):
        pool.radius(60, 1)
