"""Loops over the candidates of a region, compiled separately: angle, exp and expected improvement."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from zopo_fast.gp import reference

SOURCES = Path(__file__).parents[2] / "csrc"
SHIM = """
#include <cstddef>
#include <cstdint>
#define ZOPO_VECTOR_BYTES 16
#define ZOPO_GRAM_ROWS 4
#define ZOPO_GRAM_VECTORS 2
#include "simd/simd.hpp"
#include "simd/vectors.inl"
#include "simd/region.inl"
extern "C" {
void angle(std::size_t n, const float* c, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = zopo::angle_of(c[i]);
}
void exponential(std::size_t n, const double* x, double* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = zopo::exp_negative(x[i]);
}
void expected(std::size_t n, int power, const double* u, double* out) {
  for (std::size_t i = 0; i < n; ++i)
    out[i] = power == 1 ? zopo::expected<1>(u[i]) : zopo::expected<2>(u[i]);
}
void bell(std::size_t n, const float* x, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = zopo::bell(zopo::Vecf{} + x[i])[0];
}
void inverse_root(std::size_t n, const float* x, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = zopo::inverse_root(zopo::Vecf{} + x[i])[0];
}
void expected_f32(std::size_t n, int power, const float* u, float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const zopo::Vecf v = zopo::Vecf{} + u[i];
    out[i] = (power == 1 ? zopo::expected<1>(v) : zopo::expected<2>(v))[0];
  }
}
}
"""
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=fast", "-fno-trapping-math", "-fno-math-errno"]


@pytest.fixture(scope="module", params=["plain", "fused"])
def loops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Compile the loops with and without fused multiply-add, like the instruction sets do."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = [*FLAGS]
    if request.param == "fused":
        if " fma " not in Path("/proc/cpuinfo").read_text():
            pytest.skip("no fused multiply-add here")
        flags += ["-mfma", "-mavx2"]
    folder = tmp_path_factory.mktemp("loops")
    source, library = folder / "shim.cpp", folder / "shim.so"
    source.write_text(SHIM)
    subprocess.run([compiler, *flags, f"-I{SOURCES}", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def call(loops: ctypes.CDLL, name: str, x: np.ndarray, *options: int) -> np.ndarray:
    x, out = np.ascontiguousarray(x), np.empty_like(x)
    to = [ctypes.c_void_p(a.ctypes.data) for a in (x, out)]
    getattr(loops, name)(ctypes.c_size_t(len(x)), *map(ctypes.c_int, options), *to)
    return out


def test_the_angle_is_precise(loops: ctypes.CDLL) -> None:
    """The error is at most 3e-8 of pi and single precision; small angles keep their digits."""
    near = 1.0 - 2.0 ** -np.arange(1.0, 25.0)
    c = np.concatenate([np.linspace(-1, 1, 100_001), near, -near]).astype(np.float32)
    found, exact = call(loops, "angle", c).astype(np.float64), np.arccos(c.astype(np.float64))
    assert np.abs(found - exact).max() < 5e-7
    small = c > 0.5
    assert np.abs(found[small] / np.maximum(exact[small], 1e-30) - 1)[exact[small] > 0].max() < 1e-6
    assert call(loops, "angle", np.float32([1.0, -1.0])).tolist() == [0.0, np.float32(np.pi)]


def test_the_exponential_is_precise(loops: ctypes.CDLL) -> None:
    x = -np.concatenate([np.linspace(0, 708, 200_001), np.logspace(-300, 0, 1000), [0.0]])
    assert np.abs(call(loops, "exponential", x) / np.exp(x) - 1).max() < 1e-13
    assert not call(loops, "exponential", np.array([-708.1, -745.0, -1e9, -1e300, -np.inf])).any()


def by_quadrature(u: float, power: int) -> float:
    """Return phi(u) times the integral of t^p exp(u t - t^2 / 2) over t > 0."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    scale = 1.0 / max(1.0, -u)  # scale of the integrand
    edges = np.linspace(0.0, 45.0 * scale + max(u, 0.0), 60)
    width = np.diff(edges)[:, None]
    t = edges[:-1, None] + width * (nodes + 1) / 2
    shift = 0.5 * max(u, 0.0) ** 2  # the integrand is at most exp(u^2 / 2)
    values = t**power * np.exp(u * t - 0.5 * t**2 - shift)
    total = float((width / 2 * weights * values).sum())
    return total * np.exp(-0.5 * u * u + shift) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("power", [1, 2])
def test_the_reference_of_the_expected_improvement(power: int) -> None:
    u = np.concatenate([np.linspace(-37, 38, 301), [-1e-8, 0.0]])
    found = reference.expected_improvement(u, np.ones(len(u)), 0.0, power)
    exact = np.array([by_quadrature(v, power) for v in u.tolist()])
    assert np.abs(found / exact - 1).max() < (1e-9 if power == 1 else 1e-6)  # cancellation in the tail
    other = reference.expected_improvement(3.0 + 2.0 * u, np.full(len(u), 4.0), 3.0, power)
    np.testing.assert_allclose(other, 2.0**power * found, rtol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_the_expected_improvement_is_precise(loops: ctypes.CDLL, power: int) -> None:
    """The relative error is small down to 1e-307, where the exponential underflows."""
    u = np.concatenate([np.linspace(-37.6, 38, 1501), [-1e-300, 0.0, 1e-300, -1e-8, 1e-8]])
    found = call(loops, "expected", u, power)
    exact = np.array([by_quadrature(v, power) for v in u.tolist()])
    assert np.abs(found / exact - 1).max() < 1e-7
    deep = np.linspace(-40, -37.7, 50)
    assert not call(loops, "expected", deep, power).any()
    far = np.array([-1e3, -1e150, -1e200, -np.inf])
    assert not call(loops, "expected", far, power).any()
    assert call(loops, "expected", np.array([1e3, 1e6]), power).tolist() == [
        pytest.approx(v, rel=1e-12) for v in ([1e3, 1e6] if power == 1 else [1e6 + 1, 1e12 + 1])
    ]


@pytest.mark.parametrize("power", [1, 2])
def test_the_expected_improvement_increases_with_the_mean(loops: ctypes.CDLL, power: int) -> None:
    """Otherwise a worse candidate could be preferred; the steps are larger than the error."""
    u = np.concatenate([np.linspace(-37.6, -5, 5000), np.linspace(-5, 5, 5000), np.linspace(5, 38, 5000)])
    values = call(loops, "expected", np.unique(u), power)
    assert (np.diff(values) > 0).all()


# ---- single precision --------------------------------------------------------------------------------


def test_the_loops_in_single_precision_are_precise(loops: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(0, 11, 100_001), np.logspace(-30, 0, 1000)]).astype(np.float32)
    exact = np.exp(-0.5 * x.astype(np.float64) ** 2)
    assert np.abs(call(loops, "bell", x) / exact - 1).max() < 1e-5
    v = np.logspace(-20, 20, 100_001).astype(np.float32)
    assert np.abs(call(loops, "inverse_root", v) * np.sqrt(v.astype(np.float64)) - 1).max() < 5e-6


@pytest.mark.parametrize("power", [1, 2])
def test_the_criterion_in_single_precision_bounds_the_exact_one(loops: ctypes.CDLL, power: int) -> None:
    """Its error is at most half of the share within which candidates are compared in double precision."""
    for lowest, off in ((-8.0, 4e-4), (-10.9, 1e-3)):
        u = np.concatenate([np.linspace(lowest, 30, 20_001), [-1e-8, 0.0, 1e-8]]).astype(np.float32)
        found = call(loops, "expected_f32", u, power)
        exact = call(loops, "expected", u.astype(np.float64), power)
        assert np.abs(found / exact - 1).max() < off
    far = np.array([-11.0, -1e4, -1e15, -np.inf], dtype=np.float32)
    assert call(loops, "expected_f32", far, power).max() < 1e-26
    assert (call(loops, "expected_f32", far, power) >= 0).all()
    above = call(loops, "expected_f32", -far, power)
    np.testing.assert_allclose(above, np.float32(-far) ** power + (power - 1), rtol=1e-6)
