"""scikit-learn's Gaussian process with its RBF kernel, without hyperparameter search.

The library has no update and no derivative: each change of the data is a new fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

Array = NDArray[np.float64]
LABEL = "scikit-learn, RBF"


class Process:
    """Fitted regressor."""

    def __init__(self, X: Array, y: Array, noise: float) -> None:
        self._X, self._y, self._noise = X, y, noise
        kernel = RBF(length_scale=X.shape[1] ** 0.5)
        self._model = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(X, y)

    def points(self, X: Any) -> Array:
        return np.ascontiguousarray(X, dtype=np.float64)

    def predict(self, X: Array) -> tuple[Array, Array]:
        mean, deviation = self._model.predict(X, return_std=True)
        return mean, deviation**2

    def posterior(self, x: Array) -> tuple[Array, Array]:
        return self.predict(x)

    def appended(self, x: Array, y: float) -> Process:
        return Process(np.vstack([self._X, x]), np.append(self._y, y), self._noise)

    def removed(self, i: int) -> Process:
        return Process(np.delete(self._X, i, axis=0), np.delete(self._y, i), self._noise)


def processes(kernel: Any, X: Any, y: Any, noise: float) -> dict[str, Any]:
    """Return the regressor on this data, with its own kernel."""
    return {LABEL: Process(X, y, noise)}
