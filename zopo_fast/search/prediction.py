"""Results of `Zopo.predict`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zopo_fast import _core
from zopo_fast.errors import ArrayError
from zopo_fast.gp.arrays import Array
from zopo_fast.search.problem import SearchProblem, as_embeddings


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


class PointPrediction(NamedTuple):
    """Predicted scores of k candidates outside the pool.

    Attributes:
        mean: (k,) float64, in units of the score.
        variance: (k,) float64, of a score without noise around the mean, in squared units of the score.
    """

    mean: Array
    variance: Array


def predicted(
    problem: SearchProblem,
    native: _core.Search | _core.CudaSearch,
    number: int,
    embeddings: Any | None,
    features: Any | None,
    latent: bool,
) -> Prediction | PointPrediction | None:
    """Return what a native search predicts; arguments, result and errors as for `Zopo.predict`."""
    if embeddings is None and features is not None:
        raise ArrayError("features: given without embeddings; pass both, or neither")
    rows = None if embeddings is None else problem.rows_of(as_embeddings(embeddings), features)
    if native.best(number)[0] < 0:
        return None
    if rows is None:
        found = native.predict(number, latent)
        return None if found is None else Prediction(*found)
    trend = np.empty(0) if problem.trends is None else problem.trends.at(rows)
    at = native.predict_at(number, rows, trend, latent)
    return None if at is None else PointPrediction(*at)
