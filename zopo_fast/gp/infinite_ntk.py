"""Neural tangent kernel of an infinitely wide ReLU network, in closed form."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec

import numpy as np

from zopo_fast._utils.public import public
from zopo_fast._utils.settings import check, document, setting
from zopo_fast.errors import ArrayError
from zopo_fast.gp.arrays import Array, as_doubles
from zopo_fast.gp.ntk import MAX_LAYERS

Parametrization = Literal["standard", "ntk"]
P = ParamSpec("P")

_TILE = 256  # rows and columns of a tile, so that its temporaries stay in the cache
# Pairs whose angle is this small relative to the spread of the points: compute the angle from the difference
# of the vectors, because their inner product has an error of about eps / angle.
_NEAR = 1e-3
_PAIRS = 4096  # such pairs per batch


def _within_float64(
    method: Callable[Concatenate[InfiniteNTK, P], Array],
) -> Callable[Concatenate[InfiniteNTK, P], Array]:
    """Make a method raise ArrayError if its result overflows float64."""

    @functools.wraps(method)
    def checked(self: InfiniteNTK, /, *args: P.args, **kwargs: P.kwargs) -> Array:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            out = method(self, *args, **kwargs)
        if not np.isfinite(out).all():
            raise ArrayError(
                f"{method.__name__}: the kernel of depth {self.depth}, weight_variance "
                f"{self.weight_variance:g} and bias_variance {self.bias_variance:g} is beyond float64 "
                "on these points"
            )
        return out

    return checked


@public
@document
@dataclass(frozen=True)
class InfiniteNTK:
    """Limit of the neural tangent kernel of `NTK.random` for infinitely wide hidden layers.

        import numpy as np
        import zopo_fast as zf

        X = np.random.default_rng(0).normal(size=(10, 4))
        kernel = zf.InfiniteNTK(depth=2, bias_variance=0.2, parametrization="ntk")
        K = kernel.gram(X)  # (10, 10)
        G = kernel.gradient(X[0], X)  # dk(x, X_i)/dx at x = X[0], (10, 4)

    S_1 = w x.x'/d + b is the covariance of a pre-activation and t_l its angle: cos t_l = S_l(x, x') /
    sqrt(S_l(x, x) S_l(x', x')). With the arc-cosine kernels of order 1 and 0 (Cho & Saul 2009)

        Q_l = E relu relu = sqrt(S_l(x, x) S_l(x', x')) (sin t_l + (pi - t_l) cos t_l) / 2 pi
        P_l = E relu' relu' = (pi - t_l) / 2 pi
        S_{l+1} = w Q_l + b

    the kernel is K = T_{L+1} (Jacot et al. 2018, theorem 1), where

        "standard"   T_1 = 0,    T_{l+1} = Q_l + w P_l T_l
        "ntk"        T_1 = S_1,  T_{l+1} = S_{l+1} + w P_l T_l

    "standard" is the parametrization of `NTK.random`: weights ~ N(0, w / fan_in), biases ~ N(0, b), and
    derivatives with respect to these. Its kernel grows with the width, so K = lim k / width. The weights out
    of the hidden layers dominate this limit; the first layer's term x.x' + 1 and all biases vanish in it.
    At depth 1 it is Q_1. "ntk" is the parametrization of Jacot et al.: parameters ~ N(0, 1) with the factors
    sqrt(w / fan_in) and sqrt(b). All layers and biases contribute; it is the default of neural-tangents.

    Inputs have any dimension d. Values are float64 and raw, never rescaled. K has a cusp where two inputs
    coincide, except "standard" at depth 1: it falls off like |x - x'| and has no derivative there. Sample
    paths are differentiable nowhere. `gradient` omits the cusp's term, which gives the mean of the two
    one-sided derivatives. Use a finite `NTK` where the covariance of the derivative is needed.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    depth: int = setting(2, "Number L of hidden layers.", minimum=1, maximum=MAX_LAYERS)
    weight_variance: float = setting(
        2.0,
        "Variance w of a weight times its fan-in; 2 preserves the scale across layers (He et al. 2015).",
        above=0,
    )
    bias_variance: float = setting(0.01, "Variance b of a bias.", minimum=0)
    parametrization: Parametrization = setting("standard", 'Parametrization, "standard" or "ntk".')

    def __post_init__(self) -> None:
        check(self)

    @_within_float64
    def gram(self, X: Any, Y: Any | None = None) -> Array:
        """Compute the Gram matrix K_ij = k(X_i, Y_j).

        Args:
            X: (n, d) points.
            Y: (m, d) points; None means Y = X.

        Returns:
            (n, m) array. The error of an entry is about 1e-15 of sqrt(K_ii K_jj), near-duplicates included.

        Raises:
            ArrayError: Wrong shape, NaN or infinity, a row with a non-finite square, or a kernel that
                overflows float64.
        """
        A = _matrix(X, "X")
        left = self._directions(A, "X")
        if Y is None:
            return self._symmetric(_centered(left.unit.sum(axis=0) / max(1, len(A)), left)[0])
        right = self._directions(_matrix(Y, "Y", A.shape[1]), "Y")
        n, m = len(left.norm), len(right.norm)
        center = (left.unit.sum(axis=0) + right.unit.sum(axis=0)) / max(1, n + m)
        rows, columns = _centered(center, left, right)
        K: Array = rows.offset @ columns.offset.T  # one product; its tiles are then replaced by those of K
        wide = _TILE * max(1, _TILE // max(1, n))
        for i in range(0, n, _TILE):
            some = rows.part(i, _TILE)
            for j in range(0, m, wide):
                at = np.s_[i : i + _TILE, j : j + wide]
                K[at] = self._tile(K[at], some, columns.part(j, wide))
        return K

    @_within_float64
    def diag(self, X: Any) -> Array:
        """Compute k(X_i, X_i).

        Args:
            X: (n, d) points.

        Returns:
            (n,) array.

        Raises:
            ArrayError: Wrong shape, NaN or infinity, a row with a non-finite square, or a kernel that
                overflows float64.
        """
        S = self._directions(_matrix(X, "X"), "X").norm ** 2
        T = S if self._ntk else np.zeros_like(S)
        half = self.weight_variance / 2
        for _ in range(self.depth):
            after = half * S + self.bias_variance
            T = (after if self._ntk else S / 2) + half * T
            S = after
        return T

    @_within_float64
    def gradient(self, x: Any, X: Any) -> Array:
        """Compute dk(x, X_i)/dx, without the cusp's term where X_i = x.

        The rest is half the derivative of k(x, x). Without biases the cusp extends along the whole ray
        through x, and its term is omitted there too; the derivative at x = 0 is then 0, as relu'(0) is.

        Args:
            x: (d,) point.
            X: (n, d) points.

        Returns:
            (n, d) array.

        Raises:
            ArrayError: Wrong shape, NaN or infinity, a row with a non-finite square, or a derivative that
                overflows float64.
        """
        point = _vector(x, "x")
        others = _matrix(X, "X", len(point))
        at, directions = self._directions(point[None], "x"), self._directions(others, "X")
        return self._gradient(point, at.unit[0], at.norm[0], others, directions)

    @_within_float64
    def gram_gradient(self, X: Any, Y: Any, weight: Any) -> Array:
        """Compute sum_j weight_ij dk(X_i, Y_j)/dX_i: the vector-Jacobian product of gram(X, Y) in X.

        Args:
            X: (n, d) points.
            Y: (m, d) points.
            weight: (n, m) derivative of a scalar with respect to gram(X, Y).

        Returns:
            (n, d) array: derivative of that scalar with respect to X.

        Raises:
            ArrayError: Wrong shape, NaN or infinity, a row with a non-finite square, or a derivative that
                overflows float64.
        """
        A = _matrix(X, "X")
        B = _matrix(Y, "Y", A.shape[1])
        by = as_doubles(weight, "weight")
        if by.shape != (len(A), len(B)) or not np.isfinite(by).all():
            raise ArrayError(f"weight: expected {(len(A), len(B))}, finite, got shape {by.shape}")
        left, right = self._directions(A, "X"), self._directions(B, "Y")
        out = np.empty_like(A)
        for i, (x, unit, norm) in enumerate(zip(A, left.unit, left.norm, strict=True)):
            out[i] = by[i] @ self._gradient(x, unit, norm, B, right)
        return out

    def gradient_prior_trace(self, x: Any) -> float:
        """Return the trace of d^2 k(x, x')/dx dx' at x' = x: infinity at a cusp, w / 2 without one.

        Args:
            x: (d,) point.

        Raises:
            ArrayError: Wrong shape, NaN or infinity.
        """
        _vector(x, "x")
        return math.inf if self._ntk or self.depth > 1 else self.weight_variance / 2

    @property
    def _ntk(self) -> bool:
        return self.parametrization == "ntk"

    def _directions(self, X: Array, name: str) -> _Directions:
        """Return direction and norm of each row (sqrt(w/d) x, sqrt(b)); S_1 is their inner product."""
        n, d = X.shape
        rows = np.empty((n, d + 1))
        rows[:, d] = math.sqrt(self.bias_variance)
        with np.errstate(over="ignore"):
            np.multiply(X, math.sqrt(self.weight_variance / d), out=rows[:, :d])
            norm = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not np.isfinite(norm).all():
            raise ArrayError(f"{name}: the square of row {int(np.argmin(np.isfinite(norm)))} is not finite")
        rows /= np.where(norm > 0, norm, 1.0)[:, None]  # the direction of a zero row is irrelevant
        return _Directions(rows, norm)

    def _symmetric(self, points: _Centered) -> Array:
        n = len(points.norm)
        K: Array = points.offset @ points.offset.T
        for i in range(0, n, _TILE):
            rows = points.part(i, _TILE)
            for j in range(i, n, _TILE):
                tile = self._tile(K[i : i + _TILE, j : j + _TILE], rows, points.part(j, _TILE))
                if i == j:
                    tile = np.triu(tile) + np.triu(tile, 1).T
                K[i : i + _TILE, j : j + _TILE] = tile
                K[j : j + _TILE, i : i + _TILE] = tile.T
        return K

    def _tile(self, products: Array, left: _Centered, right: _Centered) -> Array:
        """Compute K between two sets of points from the inner products of their offsets."""
        half, b = self.weight_variance / 2, self.bias_variance
        versine, opposite = _versines(products, left, right)
        r, q = left.norm[:, None], right.norm[None, :]
        angle, product = _Angle.of(versine, opposite), r * q
        Q = 0.5 * product * (1 - angle.lost)
        T = half * angle.order0 * product * (1 - versine) + 2 * half * Q + b if self._ntk else Q
        for _ in range(1, self.depth):
            versine, r, q, _difference = self._next_layer(versine, angle.lost, r, q, r - q)
            angle, product = _Angle.of(versine, 2 - versine), r * q
            Q = 0.5 * product * (1 - angle.lost)
            T = half * angle.order0 * T + (2 * half * Q + b if self._ntk else Q)
        return T

    def _next_layer(
        self, versine: Array, lost: Array, r: Any, q: Any, difference: Any
    ) -> tuple[Array, Any, Any, Any]:
        """Compute 1 - cos t_{l+1}, the norms sqrt(S_{l+1}(x, x)) and sqrt(S_{l+1}(x', x')), and r' - q'.

        S_{l+1}(x, x') is the inner product of (sqrt(w/2) r f(x), sqrt(b)) and (sqrt(w/2) q f(x'), sqrt(b)),
        where |f| = 1 and f(x).f(x') = 1 - lost. This gives a formula without cancellation:
        r' q' (1 - cos t_{l+1}) = b (w/2) (r - q)^2 / (r' q' + (w/2) r q + b) + (w/2) r q lost.
        """
        half, b = self.weight_variance / 2, self.bias_variance
        if b == 0:
            scale = math.sqrt(half)
            return lost, scale * r, scale * q, scale * difference
        r_next, q_next = np.sqrt(half * r * r + b), np.sqrt(half * q * q + b)
        product, product_next = half * r * q, r_next * q_next
        apart = half * b * difference**2 / (product_next + product + b)
        return (
            (apart + product * lost) / product_next,
            r_next,
            q_next,
            half * difference * (r + q) / (r_next + q_next),
        )

    def _gradient(self, x: Array, unit: Array, norm: np.float64, X: Array, others: _Directions) -> Array:
        """Differentiate forward through the layers, by the norm r = sqrt(S_1(x, x)) and by t_1."""
        half, b, d = self.weight_variance / 2, self.bias_variance, len(x)
        factor = math.sqrt(self.weight_variance / d)
        if norm == 0:
            return np.zeros_like(X)
        r: Any = norm
        is_zero = others.norm == 0  # zero rows without biases: k is 0 for every x
        q = np.where(is_zero, 1.0, others.norm)
        # apart = v/|v| - u/|u| with u = (sqrt(w/d) x, sqrt(b)) and v likewise, from the difference v - u
        step = factor * (X - x)
        difference = -np.einsum("ij,ij->i", step, factor * (X + x)) / (r + q)
        apart = np.empty_like(others.unit)
        apart[:, :d] = step / q[:, None]
        apart[:, d] = 0.0
        apart += (difference / q)[:, None] * unit
        sum_ = apart + 2 * unit
        versine = np.minimum(np.einsum("ij,ij->i", apart, apart) / 2, 2.0)
        opposite = np.minimum(np.einsum("ij,ij->i", sum_, sum_) / 2, 2.0)
        # On a line through 0 the angle is 0 or pi up to rounding: set it exactly, the remainder is noise.
        rounding = 8 * np.finfo(float).eps
        versine[2 * versine <= rounding**2 * np.einsum("ij,ij->i", step, step) / q**2] = 0.0
        versine[is_zero] = 0.0
        opposite[2 * opposite <= rounding**2] = 0.0
        # dt_1/dx = -factor tangent / r, where tangent is the x-part of a unit vector, or 0
        sine = np.sqrt(versine * opposite)
        tangent = _ratio(apart[:, :d] + versine[:, None] * unit[:d], sine[:, None])

        angle_r, angle_t, norm_r = np.zeros_like(q), np.ones_like(q), 1.0  # derivatives by r and by t_1
        if self._ntk:
            T, T_r, T_t = r * q * (1 - versine), q * (1 - versine), -r * q * sine
        else:
            T = T_r = T_t = np.zeros_like(q)
        share = self.weight_variance if self._ntk else 1.0
        for _ in range(self.depth):
            angle = _Angle.of(versine, opposite)
            slope = -angle.order0 * angle.sine  # derivative of 1 - lost by the angle
            T_r = half * (angle.order0 * T_r - angle_r * T / np.pi)
            T_r += share * q / 2 * ((1 - angle.lost) * norm_r + r * slope * angle_r)
            T_t = half * (angle.order0 * T_t - angle_t * T / np.pi) + share * r * q / 2 * slope * angle_t
            T = half * angle.order0 * T + share * r * q / 2 * (1 - angle.lost) + (b if self._ntk else 0.0)

            versine, r_next, q_next, difference_next = self._next_layer(versine, angle.lost, r, q, difference)
            opposite = 2 - versine
            sine = np.sqrt(versine * opposite)
            by_angle = _ratio(-half * r * q * slope, r_next * q_next * sine)
            by_norm = half * b / r_next**2 * _ratio(difference + q * angle.lost, r_next * q_next * sine)
            angle_r = by_angle * angle_r + by_norm * norm_r
            angle_t = by_angle * angle_t
            norm_r *= half * r / r_next
            r, q, difference = r_next, q_next, difference_next

        out = factor * (T_r[:, None] * unit[:d] - (T_t / norm)[:, None] * tangent)
        out[is_zero] = 0.0
        return np.asarray(out)


class _Directions(NamedTuple):
    """Vectors as unit vectors (n, k) and norms (n,)."""

    unit: Array
    norm: Array


class _Centered(NamedTuple):
    """Directions with their offsets from a common center (n, k) and half the squared offsets (n,)."""

    unit: Array
    norm: Array
    offset: Array
    half_square: Array

    def part(self, start: int, count: int) -> _Centered:
        return _Centered(*(values[start : start + count] for values in self))


def _centered(center: Array, *sets: _Directions) -> list[_Centered]:
    offsets = [points.unit - center for points in sets]
    return [
        _Centered(*points, offset, np.einsum("ij,ij->i", offset, offset) / 2)
        for points, offset in zip(sets, offsets, strict=True)
    ]


class _Angle(NamedTuple):
    """Sines of angles, and their normalized arc-cosine kernels of order 1 (1 - lost) and order 0."""

    sine: Array
    lost: Array
    order0: Array

    @classmethod
    def of(cls, versine: Array, opposite: Array) -> _Angle:
        """Compute from 1 - cos t and 1 + cos t; the smaller of the two is the more exact one."""
        low, high = np.sqrt(versine), np.sqrt(opposite)
        t = 2 * np.arctan2(low, high)
        sine = low * high
        cubic = sine - t * (1 - versine)
        small = t < 0.03
        if small.any():  # avoid cancellation by the series t^3 / 3 (1 - t^2 / 10 + ...), exact to 1e-18
            square = t[small] ** 2
            cubic[small] = t[small] * square / 3 * (1 - square / 10 * (1 - square / 28 * (1 - square / 54)))
        return cls(sine, versine - cubic / np.pi, 1 - t / np.pi)


def _versines(products: Array, left: _Centered, right: _Centered) -> tuple[Array, Array]:
    """Compute 1 - cos and 1 + cos, (n, m) each, of the angles between the vectors of two sets.

    1 - cos = |u - v|^2 / 2 follows from inner products about the common center, which keeps the digits of
    vectors that point in similar directions. Where cancellation would lose the digits of u - v or u + v, it
    follows from that vector itself.
    """
    spread = left.half_square[:, None] + right.half_square[None, :]
    versine = np.clip(spread - products, 0.0, 2.0)
    opposite = 2 - versine
    for values, sign, near in (
        (versine, -1.0, versine <= _NEAR * spread),
        (opposite, 1.0, opposite <= _NEAR),
    ):
        i, j = np.nonzero(near)
        for k in range(0, len(i), _PAIRS):
            rows, columns = i[k : k + _PAIRS], j[k : k + _PAIRS]
            vectors = left.unit[rows] + sign * right.unit[columns]
            values[rows, columns] = 0.5 * np.einsum("ij,ij->i", vectors, vectors)
    return versine, opposite


def _ratio(above: Array, below: Array) -> Array:
    """Divide, with 0 for a division by 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _finite(array: Array, name: str) -> Array:
    if not np.isfinite(array).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise ArrayError(f"{name}: NaN or infinity at {tuple(int(k) for k in at)}")
    return array


def _matrix(value: Any, name: str, dim: int | None = None) -> Array:
    array = as_doubles(value, name)
    if array.ndim != 2 or array.shape[1] < 1 or dim not in (None, array.shape[1]):
        expected = "d >= 1" if dim is None else f"d = {dim}"
        raise ArrayError(f"{name}: expected shape (n, d) with {expected}, got {array.shape}")
    return _finite(array, name)


def _vector(value: Any, name: str) -> Array:
    array = as_doubles(value, name)
    if array.ndim != 1 or len(array) < 1:
        raise ArrayError(f"{name}: expected shape (d,) with d >= 1, got {array.shape}")
    return _finite(array, name)
