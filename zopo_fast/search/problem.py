"""What a search starts from, and how that is written down and recognised again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast import _core
from zopo_fast.errors import ArrayError, ConfigError
from zopo_fast.gp.arrays import as_host_array
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import NTK, as_network_kernel
from zopo_fast.search.config import ZopoConfig

Kernel = NTK | InfiniteNTK

# Of the default search; on coordinates of mean square d. Chosen over seven landscapes (bench/README.md).
DEFAULT_KERNEL = InfiniteNTK(depth=2, weight_variance=2.0, bias_variance=0.2, parametrization="ntk")
MOST_KERNELS = 10_000  # of a state
FARTHEST = 1e9  # standard deviations of an embedding that is added
LARGEST_RAW = 1e100  # entry of embeddings that are not standardised


class StudyStart:
    """A pool, its settings and its kernel, checked and completed: the same for one search and for many.

    Attributes:
        embeddings: (m, d), C-contiguous, native byte order.
        budget: at most m.
        rng: of the search, after the initial indices were drawn.
        initial: indices asked first.
        kernels: of the model; one of them, with a network, for the searches along a gradient.
        mean, deviation: (d,), the standardisation of the embeddings; 0 and 1 for the official preset.
        spread: root mean square distance of the embeddings from their mean.

    Raises:
        ArrayError: embeddings empty, not two-dimensional, not real, with NaN or infinity; a kernel of
            another dimension.
        ConfigError: initial indices outside the pool, or more than the budget; for a search along a
            gradient a kernel without a network, such as InfiniteNTK, or several.
    """

    def __init__(self, embeddings: Any, config: ZopoConfig, kernel: Kernel | Sequence[Kernel] | None) -> None:
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
        if official and LARGEST_RAW < float(np.abs(Z).max()) < math.inf:  # infinity and NaN have their error
            raise ArrayError(
                f"embeddings: the official preset takes them raw, and the squares of entries beyond "
                f"{LARGEST_RAW:g} are beyond float64"
            )
        self.kernels = self._kernels_of(kernel, d)
        self.mean, self.deviation = (np.zeros(d), np.ones(d)) if official else _core.column_moments(Z)
        self.spread = float(np.linalg.norm(self.deviation))
        self.deviation[self.deviation == 0.0] = 1.0  # a constant column tells no candidates apart

    @property
    def kernel(self) -> NTK:
        """The network's kernel of a search along a gradient."""
        return as_network_kernel(self.kernels[0])

    def _kernels_of(self, kernel: Kernel | Sequence[Kernel] | None, d: int) -> list[Kernel]:
        config = self.config
        official = config.official_settings is not None
        along_gradient = official or config.search == "gradient"
        if kernel is None and along_gradient:
            kernel = NTK.random(d, seed=config.seed, initialization="normal" if official else "he")
        several = kernel if isinstance(kernel, Sequence) else [DEFAULT_KERNEL if kernel is None else kernel]
        if not several or len(several) > MOST_KERNELS or (along_gradient and len(several) > 1):
            raise ConfigError(
                f"kernel: expected one{'' if along_gradient else ' or more'}, got {len(several)}"
            )
        for one in several:
            if isinstance(one, InfiniteNTK) and not along_gradient:
                continue
            if (dim := as_network_kernel(one).dim) != d:
                raise ArrayError(f"kernel: made for dimension {dim}, the embeddings have {d}")
        return list(several)

    def pool(self) -> _core.Pool:
        """The candidates in standardised coordinates, none taken."""
        return _core.Pool(self.embeddings, self.mean, self.deviation)

    def require_near(self, more: NDArray[Any]) -> None:
        """ArrayError for rows (k, d) that are beyond arithmetic in the units of this pool."""
        with np.errstate(over="ignore", invalid="ignore"):
            offset = np.abs(more.astype(np.float64) - self.mean)
            far = (offset / self.deviation).max(axis=1)
            if self.spread > 0.0 and not self.config.official_settings:
                far = np.maximum(far, offset.max(axis=1) / self.spread)
        most = LARGEST_RAW if self.config.official_settings else FARTHEST
        if (far > most).any():
            raise ArrayError(
                f"embeddings: row {int(np.argmax(far))} lies {far.max():.3g} times as far off as the spread "
                "of the first pool, whose units stand"
            )

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


# The mean diagonal of the kernel is taken over the whole pool up to this size, over an even sample of
# this many candidates beyond.
SCALE_SAMPLE = 4096

MAX_CAPACITY = 1024  # observations that room is made for at once; more as they come

LARGEST_SCALE = 1e150


def kernel_scale(kernel: NTK, pool: _core.Pool) -> float:
    """Mean of k(z, z) over the candidates: the unit in which noise and thresholds are given.

    ArrayError where it is such that nothing can be computed in it.
    """
    step = max(1, len(pool) // SCALE_SAMPLE)
    rows = pool.rows(np.arange(0, len(pool), step))
    return usable_scale(float(kernel.diag(rows).mean()))


def usable_scale(scale: float) -> float:
    """Return the kernel's mean diagonal; ArrayError where its square or its inverse is beyond float64."""
    if not 1 / LARGEST_SCALE < scale < LARGEST_SCALE:
        raise ArrayError(
            f"kernel: its values on these embeddings, {scale:.3g} in the mean, are beyond float64"
        )
    return scale
