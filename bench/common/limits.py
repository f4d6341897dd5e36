"""Minimum bytes and flops of each operation, for fractions of a ceiling.

Bytes count each array once, in float64 unless stated. Flops count a multiply-add as two. d: dimension, w:
width of every hidden layer, depth: number of hidden layers, n: observations, m: candidates, q: query
points.
"""

from __future__ import annotations

from typing import Any

from . import machine


def gram_flops(n: int, m: int, d: int, w: int, depth: int) -> float:
    """Count the flops of K (n, m): inner products of h_0..h_L and D_0..D_{L-1}, one product of the last."""
    return 2.0 * n * m * (d + 2 * w * depth + 1)


def feature_flops(q: int, d: int, w: int, depth: int) -> float:
    """Count the flops of the forward and backward pass of q points."""
    return 2.0 * q * (d * w + 2 * (depth - 1) * w * w)


def predict_flops(q: int, n: int, d: int, w: int, depth: int) -> float:
    """Count the flops of mean and variance: features, K (q, n), a product, a solve."""
    return feature_flops(q, d, w, depth) + gram_flops(q, n, d, w, depth) + q * (2.0 * n + n * n)


def append_bytes(n: int, d: int, w: int, depth: int) -> float:
    """Count the bytes of an append: all points with their features, the factor, the first layer's weights."""
    return 8.0 * (n * (d + 2 * w * depth) + n * n / 2 + d * w)


def step_bytes(n: int, m: int, d: int, w: int, depth: int, itemsize: int) -> float:
    """Count the bytes of ask + tell of the gradient search at an unchanged center.

    These are: the pool in half precision; the observed rows twice, in the pool's precision; C^-1, X X^T and
    the new A^-1 (read and written); features, P and S; the first layer's weights once, and again for half
    its units.
    """
    triangles = 4 * n * n / 2
    return 2.0 * m * d + 2.0 * itemsize * n * d + 8.0 * (triangles + n * w * (2 * depth + 1) + 1.5 * d * w)


def step_flops(n: int, m: int, d: int, w: int, depth: int) -> float:
    """Count the flops of that step: scan, two passes over rows, features, products, triangles."""
    return 2.0 * (m * d + 2 * n * d + 2 * d * w + n * w * (2 * depth + 1) + 4 * n * n / 2)


def region_bytes(n: int, columns: int, d: int, levels: int) -> float:
    """Count the bytes of ask + tell of the default search in an unchanged region.

    These are: the members' coordinates for a kernel row, where no Gram matrix is kept (else d = 0); the
    kernel rows of all observations once; for each noise level the triangle of C^-1 (float64), and a variance
    (float32) and two means (float64), read and written. All else is float32.
    """
    return columns * (4.0 * (d + n + 1) + levels * 2.0 * (4 + 2 * 8)) + levels * 4.0 * n * n


def region_flops(n: int, columns: int, d: int, levels: int) -> float:
    """Count the flops of that step: inner products, and per level w^T K, C^-1 k and a new row's updates."""
    return 2.0 * columns * (d + levels * (n + 3)) + levels * 2.0 * n * n


def compute(flops: float, seconds: float, threads: int, quick: bool) -> dict[str, Any]:
    """Return the rate of a computation, also as a share of this run's dgemm on as many threads."""
    ceilings = machine.ceilings(quick)
    dgemm = ceilings["dgemm_gflops_1"] if threads == 1 else ceilings["dgemm_gflops"]
    rate = flops / seconds / 1e9
    return {"mflop": flops / 1e6, "gflops": rate, "of_dgemm": rate / dgemm if dgemm else None}


def traffic(size: float, seconds: float, quick: bool) -> dict[str, Any]:
    """Return the rate of moving bytes, also as a share of this run's memory bandwidth; above 1 in caches."""
    rate = size / seconds / 1e9
    return {"kb": size / 1e3, "gb_s": rate, "of_bandwidth": rate / machine.ceilings(quick)["bandwidth_gb_s"]}
