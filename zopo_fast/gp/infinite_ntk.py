"""The neural tangent kernel of an infinitely wide ReLU network, in closed form."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, get_args

import numpy as np

from zopo_fast._utils.checks import as_integer, as_number
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ArrayError, ConfigError
from zopo_fast.gp.arrays import Array, as_doubles
from zopo_fast.gp.ntk import MOST_LAYERS

Parametrization = Literal["standard", "ntk"]
P = ParamSpec("P")

_TILE = 256  # rows and columns worked on at once: the temporaries stay in the cache
# Pairs whose angle is this small against the spread of the points are measured by their difference: an inner
# product would leave an error of about eps / angle in it.
_NEAR = 1e-3
_PAIRS = 4096  # measured so at once


def _within_float64(
    method: Callable[Concatenate[InfiniteNTK, P], Array],
) -> Callable[Concatenate[InfiniteNTK, P], Array]:
    """Raise ArrayError where a value is beyond what float64 holds, instead of returning infinity or NaN."""

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
@dataclass(frozen=True)
class InfiniteNTK:
    """Limit of the neural tangent kernel of `NTK.random` as its hidden layers grow wide.

    With S_1 = w x.x'/d + b the covariance of a unit before its relu, t_l its angle (cos t_l = S_l(x, x') /
    sqrt(S_l(x, x) S_l(x', x'))), and the arc-cosine kernels of order 1 and 0 (Cho & Saul 2009)

        Q_l = E relu relu = sqrt(S_l(x, x) S_l(x', x')) (sin t_l + (pi - t_l) cos t_l) / 2 pi
        P_l = E relu' relu' = (pi - t_l) / 2 pi
        S_{l+1} = w Q_l + b

    the kernel K = T_{L+1} is, by layers (Jacot et al. 2018, theorem 1),

        "standard"   T_1 = 0,    T_{l+1} = Q_l + w P_l T_l
        "ntk"        T_1 = S_1,  T_{l+1} = S_{l+1} + w P_l T_l

    "standard" is how `NTK.random` is parametrised: weights N(0, w / fan_in), biases N(0, b), and derivatives
    by these themselves. Its kernel grows with the width, and K = lim k / width: a hidden activation has
    as many entries as its layer is wide, so that the weights out of the hidden layers stay in the limit
    and the first layer's, x.x' + 1, and all biases fall out of it. Of depth 1 it is Q_1 alone.
    "ntk" is Jacot et al.'s: factors sqrt(w / fan_in) and sqrt(b) before N(0, 1) parameters, so that
    every layer stays, biases too; this is neural-tangents' default.

    Any dimension d; float64; raw, never rescaled. K has a cusp where two inputs coincide ("standard" of
    depth 1 has not): it falls off like |x - x'|, has no derivative there, and its sample paths have none
    anywhere. `gradient` leaves the cusp's term out there, which is the mean of the two one-sided
    derivatives. What needs the covariance of the derivative takes it from a finite `NTK`.

    Args:
        depth: hidden layers L.
        weight_variance: w, times the fan-in; 2 keeps the scale from layer to layer (He et al. 2015).
        bias_variance: b.
        parametrization: "standard" or "ntk".

    Raises:
        ConfigError: depth below 1 or above 1,000, a variance negative or not finite, w zero, an unknown
            parametrization.
    """

    depth: int = 2
    weight_variance: float = 2.0
    bias_variance: float = 0.01
    parametrization: Parametrization = "standard"

    def __post_init__(self) -> None:
        depth = as_integer("depth", self.depth)
        w = as_number("weight_variance", self.weight_variance)
        b = as_number("bias_variance", self.bias_variance)
        if depth < 1:
            raise ConfigError(f"depth must be at least 1, got {depth}")
        if depth > MOST_LAYERS:
            raise ConfigError(f"depth must be at most {MOST_LAYERS}, got {depth}")
        if not (math.isfinite(w) and w > 0):
            raise ConfigError(f"weight_variance must be positive and finite, got {w}")
        if not (math.isfinite(b) and b >= 0):
            raise ConfigError(f"bias_variance must be finite and not negative, got {b}")
        known = get_args(Parametrization)
        if not isinstance(self.parametrization, str) or self.parametrization not in known:
            raise ConfigError(
                f"parametrization must be 'standard' or 'ntk', got {short_repr(self.parametrization)}"
            )
        for name, value in (("depth", depth), ("weight_variance", w), ("bias_variance", b)):
            object.__setattr__(self, name, value)

    @_within_float64
    def gram(self, X: Any, Y: Any | None = None) -> Array:
        """K_ij = k(X_i, Y_j): (n, d) and (m, d) in, (n, m) out; Y = X when left out.

        Near-duplicates are as exact as the rest: an entry is off by some 1e-15 of sqrt(K_ii K_jj).

        Raises:
            ArrayError: wrong shape, NaN or infinity, a row whose square is not finite, or a kernel beyond
                float64.
        """
        A = _matrix(X, "X")
        left = self._directions(A, "X")
        if Y is None:
            return self._symmetric(_about(left.unit.sum(axis=0) / max(1, len(A)), left)[0])
        right = self._directions(_matrix(Y, "Y", A.shape[1]), "Y")
        n, m = len(left.norm), len(right.norm)
        middle = (left.unit.sum(axis=0) + right.unit.sum(axis=0)) / max(1, n + m)
        rows, columns = _about(middle, left, right)
        K: Array = rows.offset @ columns.offset.T  # in one product; then each tile becomes K's in its place
        wide = _TILE * max(1, _TILE // max(1, n))
        for i in range(0, n, _TILE):
            some = rows.part(i, _TILE)
            for j in range(0, m, wide):
                at = np.s_[i : i + _TILE, j : j + wide]
                K[at] = self._tile(K[at], some, columns.part(j, wide))
        return K

    @_within_float64
    def diag(self, X: Any) -> Array:
        """k(X_i, X_i): (n, d) in, (n,) out."""
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
        """dk(x, X_i)/dx: (d,) and (n, d) in, (n, d) out; where X_i = x without the cusp's term.

        That leaves half the derivative of k(x, x). Without biases the cusp runs along the whole ray through
        x and is left out there too; at x = 0 the derivative is then taken to be 0, as relu'(0) is.
        """
        point = _vector(x, "x")
        others = _matrix(X, "X", len(point))
        at, directions = self._directions(point[None], "x"), self._directions(others, "X")
        return self._gradient(point, at.unit[0], at.norm[0], others, directions)

    @_within_float64
    def gram_gradient(self, X: Any, Y: Any, weight: Any) -> Array:
        """sum_j weight_ij dk(X_i, Y_j)/dX_i: (n, d), (m, d) and (n, m) in, (n, d) out."""
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
        """Trace of d^2 k(x, x')/dx dx' at x' = x (d,): infinite, for the cusp; w / 2 where there is none."""
        _vector(x, "x")
        return math.inf if self._ntk or self.depth > 1 else self.weight_variance / 2

    @property
    def _ntk(self) -> bool:
        return self.parametrization == "ntk"

    def _directions(self, X: Array, name: str) -> _Directions:
        """The rows (sqrt(w/d) x, sqrt(b)), whose inner products are S_1, as directions and norms."""
        n, d = X.shape
        rows = np.empty((n, d + 1))
        rows[:, d] = math.sqrt(self.bias_variance)
        with np.errstate(over="ignore"):
            np.multiply(X, math.sqrt(self.weight_variance / d), out=rows[:, :d])
            norm = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not np.isfinite(norm).all():
            raise ArrayError(f"{name}: the square of row {int(np.argmin(np.isfinite(norm)))} is not finite")
        rows /= np.where(norm > 0, norm, 1.0)[:, None]  # a row of zeros has no direction, and needs none
        return _Directions(rows, norm)

    def _symmetric(self, points: _Centred) -> Array:
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

    def _tile(self, products: Array, left: _Centred, right: _Centred) -> Array:
        """K between two sets of points, from their offsets' inner products."""
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
        """1 - cos t_{l+1}, the norms sqrt(S_{l+1}(x, x)) and sqrt(S_{l+1}(x', x')), and their difference.

        S_{l+1}(x, x') is the inner product of (sqrt(w/2) r f(x), sqrt(b)) with its like, f of length 1 and
        f(x).f(x') = 1 - lost; hence, without the difference of nearly equal numbers,
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
        """The chain rule forward through the layers, by r = sqrt(S_1(x, x)), the norm, and by t_1."""
        half, b, d = self.weight_variance / 2, self.bias_variance, len(x)
        factor = math.sqrt(self.weight_variance / d)
        if norm == 0:
            return np.zeros_like(X)
        r: Any = norm
        nothing = others.norm == 0  # rows of zeros without biases: k is 0 whatever x
        q = np.where(nothing, 1.0, others.norm)
        # v/|v| - u/|u| of u = (sqrt(w/d) x, sqrt(b)) and v likewise, from the difference v - u
        step = factor * (X - x)
        difference = -np.einsum("ij,ij->i", step, factor * (X + x)) / (r + q)
        apart = np.empty_like(others.unit)
        apart[:, :d] = step / q[:, None]
        apart[:, d] = 0.0
        apart += (difference / q)[:, None] * unit
        sum_ = apart + 2 * unit
        versine = np.minimum(np.einsum("ij,ij->i", apart, apart) / 2, 2.0)
        opposite = np.minimum(np.einsum("ij,ij->i", sum_, sum_) / 2, 2.0)
        # On one line through 0 an angle of 0 or pi is left with what was rounded off: it has no direction.
        rounding = 8 * np.finfo(float).eps
        versine[2 * versine <= rounding**2 * np.einsum("ij,ij->i", step, step) / q**2] = 0.0
        versine[nothing] = 0.0
        opposite[2 * opposite <= rounding**2] = 0.0
        # dt_1/dx = -factor tangent / r, a unit vector's x-part; 0 where there is none
        sine = np.sqrt(versine * opposite)
        tangent = _ratio(apart[:, :d] + versine[:, None] * unit[:d], sine[:, None])

        angle_r, angle_t, norm_r = np.zeros_like(q), np.ones_like(q), 1.0  # by r and by t_1
        if self._ntk:
            T, T_r, T_t = r * q * (1 - versine), q * (1 - versine), -r * q * sine
        else:
            T = T_r = T_t = np.zeros_like(q)
        share = self.weight_variance if self._ntk else 1.0
        for _ in range(self.depth):
            angle = _Angle.of(versine, opposite)
            slope = -angle.order0 * angle.sine  # of 1 - lost by the angle
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
        out[nothing] = 0.0
        return np.asarray(out)


class _Directions(NamedTuple):
    """Vectors as unit (n, k) and norm (n,)."""

    unit: Array
    norm: Array


class _Centred(NamedTuple):
    """The same, with the units' offsets from a common middle (n, k) and half their squares (n,)."""

    unit: Array
    norm: Array
    offset: Array
    half_square: Array

    def part(self, start: int, count: int) -> _Centred:
        return _Centred(*(values[start : start + count] for values in self))


def _about(middle: Array, *sets: _Directions) -> list[_Centred]:
    offsets = [points.unit - middle for points in sets]
    return [
        _Centred(*points, offset, np.einsum("ij,ij->i", offset, offset) / 2)
        for points, offset in zip(sets, offsets, strict=True)
    ]


class _Angle(NamedTuple):
    """Of angles t: sin t, and the normalised arc-cosine kernels, order 1 as 1 - lost, and order 0."""

    sine: Array
    lost: Array
    order0: Array

    @classmethod
    def of(cls, versine: Array, opposite: Array) -> _Angle:
        """From 1 - cos t and 1 + cos t, of which the smaller one is the more exact."""
        low, high = np.sqrt(versine), np.sqrt(opposite)
        t = 2 * np.arctan2(low, high)
        sine = low * high
        cubic = sine - t * (1 - versine)
        small = t < 0.03
        if small.any():  # t^3 / 3 from the difference of two t; by its series, to 1e-18 of it
            square = t[small] ** 2
            cubic[small] = t[small] * square / 3 * (1 - square / 10 * (1 - square / 28 * (1 - square / 54)))
        return cls(sine, versine - cubic / np.pi, 1 - t / np.pi)


def _versines(products: Array, left: _Centred, right: _Centred) -> tuple[Array, Array]:
    """1 - cos and 1 + cos of the angles between the vectors of two sets, each (n, m).

    As half of |u - v|^2 by the inner products about their middle, which keeps the digits of vectors that
    all point one way; where those of u - v or of u + v would be lost, from that vector itself.
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
    """above / below, and 0 where below is 0."""
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
