"""Projection of embeddings to two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROWS = 20_000  # rows that the components are computed from


def project(embeddings: NDArray[Any]) -> NDArray[np.float64]:
    """Project rows on their first two principal components.

    Args:
        embeddings: (m, d) array; of a large one, rows at equal distances determine the components.

    Returns:
        (m, 2) float64. The sign of each component is such that its largest loading is positive.
    """
    sample = embeddings[:: max(1, len(embeddings) // MAX_ROWS)].astype(np.float64)
    center = sample.mean(axis=0)
    covariance = (sample - center).T @ (sample - center)
    _, vectors = np.linalg.eigh(covariance)  # ascending eigenvalues
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    if axes.shape[1] < 2:  # embeddings of one dimension
        axes = np.concatenate([axes, np.zeros_like(axes)], axis=1)
    places: NDArray[np.float64] = (embeddings.astype(np.float64) - center) @ axes
    return places
