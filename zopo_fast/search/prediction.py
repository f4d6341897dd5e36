"""Result of `Zopo.predict`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zopo_fast.gp.arrays import Array


class Prediction(NamedTuple):
    """Predicted scores of k candidates.

    Attributes:
        indices: (k,) int64, pool indices: the whole pool, or the region of a larger one.
        mean: (k,) float64, in units of the score.
        variance: (k,) float64, of a score without noise around the mean, in squared units of the score.
    """

    indices: NDArray[np.int64]
    mean: Array
    variance: Array
