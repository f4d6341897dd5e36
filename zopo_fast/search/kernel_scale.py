"""Unit of a kernel on a pool: its mean diagonal, in which noise and thresholds are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zopo_fast.errors import ArrayError
from zopo_fast.gp.arrays import Array, Indices
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import NTK

MAX_SAMPLE = 4096  # candidates; of a larger pool an even sample is used
MAX_SCALE = 1e150  # the square and the inverse of the scale must not overflow float64


def scale_sample(m: int) -> Indices:
    """Return the indices of the candidates that `kernel_scale` averages over, for a pool of size m."""
    return np.arange(0, m, max(1, m // MAX_SAMPLE))


def kernel_scale(kernels: Sequence[NTK | InfiniteNTK], X: Array) -> float:
    """Return the mean of k(x, x) over kernels and points X (n, d); 1 if it is zero.

    Raises:
        ArrayError: The square or the inverse of the mean overflows float64.
    """
    scale = float(np.mean([kernel.diag(X).mean() for kernel in kernels]))
    if scale == 0.0:
        return 1.0
    if not 1 / MAX_SCALE < scale < MAX_SCALE:
        raise ArrayError(f"kernel: its mean diagonal on these embeddings, {scale:.3g}, is beyond float64")
    return scale
