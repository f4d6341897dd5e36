"""Linear part of the prior of a search: columns whose effects on the score add up.

With rows t(x), such as the demonstrations that a prompt contains, each kernel of the model becomes

    k(x, y) + b t(x)^T t(y),

which is Bayesian linear regression on the columns beside the kernel (Rasmussen & Williams 2006, eq. 2.39).
The model averages over several b by their evidence, so that columns without an effect do little harm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast.errors import ArrayError
from zopo_fast.gp.arrays import Array, as_host_array

MAX_COLUMNS = 64  # as many multiply-adds of an entry of the Gram matrix as 64 dimensions more
MAX_ENTRY = 1e6  # of a row in its unit: beside a larger one, single precision would lose the kernel
MAX_UNIT = 1e100  # its square and its inverse must not overflow float64
# b, in units of the kernel's mean diagonal. Each is a kernel of its own, and costs as much. Finer grids are
# no better, whether there are effects or none.
LEVELS = (0.05, 0.5)


class LinearPart:
    """Rows of the linear part of a pool, in the unit of its first rows.

    The unit is the root mean square norm of the first rows that are not zero; 1 where all are.

    Args:
        rows: (m, r) array of real numbers.
        m: Number of candidates.

    Attributes:
        given: (m, r) float64, the rows as given.

    Raises:
        ArrayError: The rows are not (m, r) finite real numbers with 1 <= r <= 64, or too large.
    """

    def __init__(self, rows: Any, m: int) -> None:
        self.given = _checked(rows, m, None)
        with np.errstate(over="ignore"):
            squares = (self.given**2).sum(axis=1)
            unit = math.sqrt(float(squares[squares > 0.0].mean())) if squares.any() else 1.0
        if not 1.0 / MAX_UNIT < unit < MAX_UNIT:
            raise ArrayError(f"linear: rows of norm {unit:.3g} are beyond float64; rescale them")
        self._unit = unit

    @property
    def columns(self) -> int:
        """Return the number r of columns."""
        return int(self.given.shape[1])

    def rows(self, rows: Any, k: int) -> Array:
        """Return the rows (k, r) of other candidates, as given.

        Raises:
            ArrayError: The rows are missing, of another shape, not finite, or far larger than the first.
        """
        checked = _checked(rows, k, self.columns)
        if float(np.abs(checked).max()) / self._unit > MAX_ENTRY:
            raise ArrayError(
                f"linear: an entry of {np.abs(checked).max():.3g} is too far from the first rows, of norm "
                f"{self._unit:.3g}; distances are measured in their unit"
            )
        return checked

    def scaled(self, rows: Array | None = None) -> Array:
        """Return rows (k, r) in the unit of the first ones; default: those of the pool."""
        scaled: Array = (self.given if rows is None else rows) / self._unit
        return scaled

    def grow(self, rows: Array) -> None:
        """Append the rows of new candidates, as given."""
        self.given = np.concatenate([self.given, rows])


def beside(trend: Array | None, linear: Array | None, k: int) -> Array:
    """Return trends (k * s,) and a linear part (k, r) side by side, (k * (s + r),); None counts as empty."""
    parts = [part for part in (trend, linear) if part is not None]
    if not parts:
        return np.empty(0)
    both = np.concatenate([part.reshape(k, -1) for part in parts], axis=1)
    flat: Array = np.ascontiguousarray(both).ravel()
    return flat


def _checked(rows: Any, k: int, columns: int | None) -> Array:
    T: NDArray[Any] = as_host_array(rows, "linear")
    if T.dtype.kind not in "iubf":
        raise ArrayError(f"linear: expected real numbers, got {T.dtype}")
    if T.ndim != 2 or len(T) != k:
        raise ArrayError(f"linear: expected {k} rows, one for each embedding, got shape {T.shape}")
    if columns is not None and T.shape[1] != columns:
        raise ArrayError(f"linear: expected {columns} columns, as the pool has, got {T.shape[1]}")
    if not 1 <= T.shape[1] <= MAX_COLUMNS:
        raise ArrayError(f"linear: expected 1 to {MAX_COLUMNS} columns, got {T.shape[1]}")
    checked = np.array(T, dtype=np.float64, order="C")
    if not np.isfinite(checked).all():
        raise ArrayError(f"linear: NaN or infinity in row {int(np.argmin(np.isfinite(checked).all(axis=1)))}")
    return checked
