"""What an operation has to move and to compute at least: the counts that fractions of a ceiling are made of.

Bytes are of float64 unless said, each array once; flops count a multiply-add as two. d: dimension, w: width
of every hidden layer, depth: their number, n: observations, m: candidates, q: query points.
"""

from __future__ import annotations

from typing import Any

from . import machine


def gram_flops(n: int, m: int, d: int, w: int, depth: int) -> float:
    """K (n, m): the inner products of h_0..h_L and D_0..D_{L-1}, and one product of the last."""
    return 2.0 * n * m * (d + 2 * w * depth + 1)


def feature_flops(q: int, d: int, w: int, depth: int) -> float:
    """Forward and backward pass of q points."""
    return 2.0 * q * (d * w + 2 * (depth - 1) * w * w)


def predict_flops(q: int, n: int, d: int, w: int, depth: int) -> float:
    """Mean and variance: features, K (q, n), one product with alpha, one triangular solve."""
    return feature_flops(q, d, w, depth) + gram_flops(q, n, d, w, depth) + q * (2.0 * n + n * n)


def append_bytes(n: int, d: int, w: int, depth: int) -> float:
    """All points with their features, the factor, and the first layer's weights."""
    return 8.0 * (n * (d + 2 * w * depth) + n * n / 2 + d * w)


def step_bytes(n: int, m: int, d: int, w: int, depth: int, itemsize: int) -> float:
    """ask + tell of the gradient search at an unchanged center.

    The pool in half precision; the observed rows twice, as they lie in the pool; C^-1, X X^T and the new
    A^-1 (read and written); features, P and S; the first layer's weights once, and those of half its units.
    """
    triangles = 4 * n * n / 2
    return 2.0 * m * d + 2.0 * itemsize * n * d + 8.0 * (triangles + n * w * (2 * depth + 1) + 1.5 * d * w)


def step_flops(n: int, m: int, d: int, w: int, depth: int) -> float:
    """The same: scan, two passes over the rows, features and their products, the triangles."""
    return 2.0 * (m * d + 2 * n * d + 2 * d * w + n * w * (2 * depth + 1) + 4 * n * n / 2)


def region_bytes(n: int, columns: int, d: int, levels: int) -> float:
    """ask + tell of the default search in an unchanged region: its members' coordinates for a kernel row,
    and for each noise level V, its new row, two means and a variance; float32, the means float64.
    """
    return columns * (4.0 * d + levels * (4.0 * n + 4 + 2 * 8 + 4))


def region_flops(n: int, columns: int, d: int, levels: int) -> float:
    """The same: inner products, and for each level V^T l and what a row adds; no expected improvement."""
    return 2.0 * columns * (d + levels * (n + 3))


def compute(flops: float, seconds: float, threads: int, quick: bool) -> dict[str, Any]:
    """Rate of a computation, as a share of this run's dgemm on as many threads."""
    ceilings = machine.ceilings(quick)
    dgemm = ceilings["dgemm_gflops_1"] if threads == 1 else ceilings["dgemm_gflops"]
    rate = flops / seconds / 1e9
    return {"mflop": flops / 1e6, "gflops": rate, "of_dgemm": rate / dgemm if dgemm else None}


def traffic(size: float, seconds: float, quick: bool) -> dict[str, Any]:
    """Rate of moving bytes, as a share of this run's main memory bandwidth; above 1 in the caches."""
    rate = size / seconds / 1e9
    return {"kb": size / 1e3, "gb_s": rate, "of_bandwidth": rate / machine.ceilings(quick)["bandwidth_gb_s"]}
