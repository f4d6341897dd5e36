"""What a search starts from, and how that is written down and recognised again."""

from __future__ import annotations

import base64
import hashlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .arrays import Array, as_host_array
from .config import ZopoConfig
from .errors import ArrayError, ConfigError, EmbeddingMismatchError
from .kernel import NTK, as_network_kernel


class StudyStart:
    """A pool, its settings and its kernel, checked and completed: the same for one search and for many.

    Attributes:
        embeddings: (m, d), C-contiguous, native byte order.
        budget: at most m.
        rng: of the search, after the initial indices were drawn.
        initial: indices asked first.
        mean, deviation: (d,), the standardisation of the embeddings; 0 and 1 for the official preset.

    Raises:
        ArrayError: embeddings empty, not two-dimensional, not real, with NaN or infinity; a kernel of
            another dimension.
        ConfigError: initial indices outside the pool, or more than the budget; a kernel without a network,
            such as InfiniteNTK.
    """

    def __init__(self, embeddings: Any, config: ZopoConfig, kernel: NTK | None) -> None:
        Z = as_embeddings(embeddings)
        m, d = Z.shape
        if config.budget > m:
            warnings.warn(
                f"budget {config.budget} is larger than the pool of {m}; it is clipped to {m}", stacklevel=3
            )
        self.config = config
        self.budget = min(config.budget, m)
        self.embeddings = Z
        self.rng = np.random.default_rng(config.seed)
        self.initial = self._initial_indices(m)
        official = config.official_settings
        if kernel is None:
            kernel = NTK.random(d, seed=config.seed, initialization="normal" if official else "he")
        kernel = as_network_kernel(kernel)
        if kernel.dim != d:
            raise ArrayError(f"kernel: made for dimension {kernel.dim}, the embeddings have {d}")
        self.kernel = kernel
        self.mean, self.deviation = (np.zeros(d), np.ones(d)) if official else _core.column_moments(Z)
        self.deviation[self.deviation == 0.0] = 1.0  # a constant column tells no candidates apart

    def pool(self) -> _core.Pool:
        """The candidates in standardised coordinates, none taken."""
        return _core.Pool(self.embeddings, self.mean, self.deviation)

    def _initial_indices(self, m: int) -> list[int]:
        initial = self.config.initial
        if isinstance(initial, int):
            return [int(i) for i in self.rng.permutation(m)[: min(initial, self.budget)]]
        outside = [i for i in initial if not 0 <= i < m]
        if outside:
            raise ConfigError(f"initial: index {outside[0]} is not in the pool of {m}")
        if len(initial) > self.budget:
            raise ConfigError(f"initial names {len(initial)} prompts, the budget is {self.budget}")
        return list(initial)


def as_embeddings(embeddings: Any) -> NDArray[Any]:
    """Return embeddings as a C-contiguous array of their own precision; ArrayError says what is wrong,
    DeviceError that they lie on a CUDA device."""
    Z = as_host_array(embeddings, "embeddings")
    if Z.dtype.kind in "iub":
        Z = Z.astype(np.float64)
    if Z.dtype.kind != "f" or Z.dtype.itemsize not in (2, 4, 8):
        raise ArrayError(f"embeddings: expected float16, float32 or float64, got {Z.dtype}")
    if Z.ndim != 2 or Z.size == 0:
        raise ArrayError(f"embeddings: expected a non-empty (m, d) array, got shape {Z.shape}")
    return np.ascontiguousarray(Z, dtype=Z.dtype.newbyteorder("="))


def pool_fingerprint(Z: NDArray[Any]) -> dict[str, Any]:
    """Shape, dtype and hash of embeddings, by which a saved state knows them again."""
    digest = hashlib.blake2b(Z.data, digest_size=16).hexdigest()
    return {"shape": list(Z.shape), "dtype": Z.dtype.name, "blake2b": digest}


def same_pool(embeddings: Any, fingerprint: dict[str, Any]) -> NDArray[Any]:
    """Return the embeddings; EmbeddingMismatchError unless that is their fingerprint."""
    Z = as_embeddings(embeddings)
    if pool_fingerprint(Z) != fingerprint:
        raise EmbeddingMismatchError("the embeddings are not those this state was made with")
    return Z


def kernel_state(kernel: NTK) -> dict[str, Any]:
    """The kernel as JSON values: how it was drawn, or its weights."""

    def packed(array: Array) -> dict[str, Any]:
        data = base64.b64encode(array.astype("<f8").tobytes()).decode()
        return {"shape": list(array.shape), "float64": data}

    if kernel.recipe:
        return kernel.recipe
    return {"weights": [packed(w) for w in kernel.weights], "biases": [packed(b) for b in kernel.biases]}


def kernel_from_state(state: dict[str, Any]) -> NTK:
    """The kernel that kernel_state() wrote down."""

    def unpacked(packed: dict[str, Any]) -> Array:
        data = np.frombuffer(base64.b64decode(packed["float64"]), dtype="<f8")
        array: Array = data.reshape(packed["shape"]).astype(np.float64)
        return array

    if "weights" not in state:
        return NTK.random(**state)
    return NTK([unpacked(w) for w in state["weights"]], [unpacked(b) for b in state["biases"]])
