"""Validated inputs of a search: embeddings, settings and kernels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast import _core
from zopo_fast.errors import ArrayError, ConfigError
from zopo_fast.gp.arrays import Array, as_host_array
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import NTK, require_ntk
from zopo_fast.search.config import DEFAULT_INITIAL, ZopoConfig
from zopo_fast.search.design import sample_of, size_of_start, spread_start
from zopo_fast.search.kernel_scale import kernel_scale, scale_sample
from zopo_fast.search.linear import LEVELS, LinearPart, beside
from zopo_fast.search.sources import FittedTrends, Source

Kernel = NTK | InfiniteNTK

# Kernel of the default search, on coordinates with mean square norm d; tuned on seven landscapes
# (bench/README.md).
DEFAULT_KERNEL = InfiniteNTK(depth=2, weight_variance=2.0, bias_variance=0.2, parametrization="ntk")
MAX_KERNELS = 10_000
MAX_DISTANCE = 1e9  # of an added embedding from the pool's mean, in standard deviations
MAX_RAW_ENTRY = 1e100  # of embeddings that are not standardized: their squares must not overflow
# Default region: of a pool of at most MAX_WHOLE candidates all, of a larger one REGION.
MAX_WHOLE = {"improvement": 2048, "thompson": 1024, "gradient": 1024}
REGION = 1024
MAX_PREALLOCATED = 1024  # observations to allocate memory for in advance; a model grows beyond as needed

# With features: their share in the squared distance of each kernel that the model averages over, and the
# variances of the misfit. Two kernels of two levels cost as much as one of four; finer grids are not better.
FEATURE_SHARES = (0.2, 0.8)
FEATURE_NUGGETS = np.array([0.05, 0.7])

# Variances of the model's misfit, as shares of the signal variance; the model averages over them.
NUGGETS = np.logspace(-2, 0.5, 4)
MIN_NUGGET = 1e-4  # the rounding error of the model's single precision at coincident points


class SearchProblem:
    """Validated inputs of one search: embeddings, features, settings and kernels.

    Args:
        embeddings: (m, d) array of float16, float32 or float64.
        config: Settings.
        kernel: Kernel or kernels; None for the default of the search.
        features: (m, q) array of a second description of the candidates, or None.
        linear: (m, r) array of columns whose effects add up, or None.

    Attributes:
        embeddings: (m, d + q), the features behind the embeddings, C-contiguous, in native byte order.
        features: Number q of features.
        linear: Linear part of the prior, or None.
        config: The settings.
        budget: Budget, clipped to m.
        initial: Indices to ask first.
        sources: Scores of earlier searches, by name.
        trends: Trends of the sources; None without sources.
        kernels: Kernels of the model; one NTK for a gradient search.
        mean: (d + q,) shift of the standardization; 0 for the official preset.
        deviation: (d + q,) scale of the standardization; 1 for the official preset and for constant columns.
        spreads: Root mean square distance of embeddings, and of features, from their mean.

    Raises:
        ArrayError: The embeddings are empty, not two-dimensional, not real, or hold NaN or infinity, a
            kernel has another dimension, or there are not as many features as embeddings.
        ConfigError: Initial indices are outside the pool or exceed the budget, a gradient search gets several
            kernels or a kernel without a network, or the search cannot use features.
    """

    def __init__(
        self,
        embeddings: Any,
        config: ZopoConfig,
        kernel: Kernel | Sequence[Kernel] | None,
        features: Any | None = None,
        linear: Any | None = None,
    ) -> None:
        Z = as_embeddings(embeddings)
        m, d = Z.shape
        self.features = 0
        if features is not None:
            Z = with_features(Z, features)
            self.features = Z.shape[1] - d
        self.linear = None if linear is None else LinearPart(linear, m)
        if config.budget > m:
            warnings.warn(
                f"budget {config.budget} is larger than the pool of {m}; it is clipped to {m}", stacklevel=3
            )
        self.config = config
        self.budget = min(config.budget, m)
        self.embeddings = Z
        self.sources: dict[str, Source] = {}
        self.trends: FittedTrends | None = None
        official = config.official_settings
        if official and MAX_RAW_ENTRY < float(np.abs(Z).max()) < math.inf:  # others reject infinity and NaN
            raise ArrayError(
                f"embeddings: the official preset uses raw values, and the squares of entries above "
                f"{MAX_RAW_ENTRY:g} are beyond float64"
            )
        self.kernels = self._kernels_of(kernel, d)
        self.mean, self.deviation = (np.zeros(d), np.ones(d)) if official else _core.column_moments(Z)
        self.spreads = [float(np.linalg.norm(self.deviation[block])) for block in self._blocks]
        self.deviation[self.deviation == 0.0] = 1.0  # a constant column does not distinguish candidates
        self.initial = self._initial_indices(m)

    @property
    def kernel(self) -> NTK:
        """Return the kernel of a gradient search."""
        return require_ntk(self.kernels[0])

    def _kernels_of(self, kernel: Kernel | Sequence[Kernel] | None, d: int) -> list[Kernel]:
        config = self.config
        official = config.official_settings is not None
        uses_gradient = official or config.search == "gradient"
        if kernel is None and uses_gradient:
            kernel = NTK.random(d, seed=config.seed, initialization="normal" if official else "he")
        kernels = kernel if isinstance(kernel, Sequence) else [DEFAULT_KERNEL if kernel is None else kernel]
        if not kernels or len(kernels) > MAX_KERNELS or (uses_gradient and len(kernels) > 1):
            raise ConfigError(
                f"kernel: expected one{'' if uses_gradient else ' or more'}, got {len(kernels)}"
            )
        if self.features and (config.search != "improvement" or official):
            raise ConfigError('features: only search="improvement" uses them')
        if self.linear and (config.search != "improvement" or official):
            raise ConfigError('linear: only search="improvement" uses it')
        for each in kernels:
            if isinstance(each, InfiniteNTK) and not uses_gradient:
                continue
            if self.features:
                raise ConfigError("features: every kernel must be an InfiniteNTK")
            if (dim := require_ntk(each).dim) != d:
                raise ArrayError(f"kernel: made for dimension {dim}, the embeddings have {d}")
        return list(kernels)

    @property
    def factor(self) -> Array:
        """Return the factor (d + q,) from standardized coordinates to those of the kernel.

        The default search keeps the relative spread of the columns, which is informative: one factor scales
        the centered embeddings to mean square norm d + q, and another one the features. With `zscore`, and in
        the gradient search, each column of the embeddings has unit variance instead.
        """
        factor = np.ones(len(self.deviation))
        keeps_spread = self.config.search != "gradient" and not self.config.zscore
        for block, spread, keeps in zip(self._blocks, self.spreads, (keeps_spread, True), strict=False):
            if keeps and spread > 0.0:
                factor[block] = self.deviation[block] * (math.sqrt(len(factor)) / spread)
            else:
                factor[block] = math.sqrt(len(factor) / len(factor[block]))
        return factor

    @property
    def _blocks(self) -> list[slice]:
        """Return the columns of the embeddings, and those of the features where there are any."""
        d = self.embeddings.shape[1] - self.features
        return [slice(0, d), slice(d, d + self.features)][: 2 if self.features else 1]

    def _weights(self, share: float) -> Array | None:
        """Return the weights (d + q,) of coordinates whose features have a share of the squared distance."""
        if not self.features:
            return None
        d = self.embeddings.shape[1] - self.features
        return np.repeat([math.sqrt(1.0 - share), math.sqrt(share)], [d, self.features])

    def points(self, index: Any) -> Array:
        """Return coordinates of the kernel (n, d) by the embeddings alone, for the start and sources."""
        return self.coordinates(self.embeddings[index])

    def coordinates(self, rows: NDArray[Any]) -> Array:
        """Return the same of rows (n, d + q), which may be outside the pool."""
        embeddings, both = self._blocks[0], self.embeddings.shape[1]
        scale = self.factor[embeddings] * math.sqrt((both - self.features) / both)
        raw = rows[:, embeddings].astype(np.float64)
        points: Array = (raw - self.mean[embeddings]) / self.deviation[embeddings] * scale
        return points

    @property
    def region(self) -> int:
        """Return the number of candidates that the default search considers at a time.

        A pool whose Gram matrix is kept is searched as a whole. A Thompson sample costs O(region^3) whenever
        the region changes.
        """
        config = self.config
        if config.region is not None:
            return config.region
        whole = MAX_WHOLE[config.search]
        return whole if len(self.embeddings) <= whole else REGION

    def described(self) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return the embeddings (m, d), and the features (m, q) or None."""
        return split(self.embeddings, self.features)

    def pool(self) -> _core.Pool:
        """Return the candidates in standardized coordinates, none of them taken."""
        return _core.Pool(self.embeddings, self.mean, self.deviation)

    def native_pool(self) -> dict[str, Any]:
        """Return the pool and the budget for the native search."""
        return {
            "embeddings": self.embeddings,
            "mean": self.mean,
            "deviation": self.deviation,
            "budget": self.budget,
            "trend": self.native_trend(self.trends),
        }

    def native_trend(self, trends: FittedTrends | None) -> Array:
        """Return trends of the pool, and the linear part behind them, as a flat array."""
        known = None if trends is None else trends.over_pool
        return beside(known, None if self.linear is None else self.linear.scaled(), len(self.embeddings))

    def native_inputs(self) -> dict[str, Any]:
        """Return the inputs of the native search.

        Raises:
            ArrayError: The kernel overflows float64 on these embeddings.
        """
        config = self.config
        inputs = self.native_pool() | {
            "search": "outside" if config.official_settings else config.search,
            "capacity": min(config.budget, MAX_PREALLOCATED),
        }
        if config.official_settings:
            return inputs
        noise = config.noise
        nuggets = FEATURE_NUGGETS if self.features or self.linear else NUGGETS
        sample = self.embeddings[scale_sample(len(self.embeddings))].astype(np.float64)
        factor = self.factor
        X = (sample - self.mean) / self.deviation * factor
        weights = [self._weights(share) for share in (FEATURE_SHARES if self.features else (0.0,))]
        scales = [kernel_scale(self.kernels, X if each is None else X * each) for each in weights]
        return inputs | {
            "initial": self.initial,
            "expected": config.budget,
            "kernels": [_native_kernel(kernel) for kernel in self.kernels],
            "scale": scales[0],
            "mixture": self._mixture(scales, weights),
            "linear": 0 if self.linear is None else self.linear.columns,
            "factor": factor,
            "nuggets": nuggets if noise is None else np.array([max(noise, MIN_NUGGET)]),
            "seed": (config.seed % 2**64, config.seed >> 64),
            "noise": noise,
            "region": self.region,
            **{
                name: getattr(config, name)
                for name in (
                    "patience", "power", "emphasis", "step", "neighbors", "exploration",
                    "exploration_quantile",
                )
            },
        }  # fmt: skip

    def _mixture(
        self, scales: Sequence[float], weights: Sequence[Array | None]
    ) -> list[tuple[float, Array | None, float]]:
        """Return scale, weights of the coordinates and factor of the linear part of each kernel."""
        levels = LEVELS if self.linear else (0.0,)
        return [
            (scale, weight, math.sqrt(b))
            for b in levels
            for scale, weight in zip(scales, weights, strict=True)
        ]

    def grow(self, more: NDArray[Any], features: Any | None = None, linear: Any | None = None) -> None:
        """Append rows (k, d), converted to the precision of the pool; the budget may grow with the pool.

        Args, Raises: as for `rows_of` and `linear_of`.
        """
        rows, columns = self.rows_of(more, features), self.linear_of(linear, len(more))
        grown = np.concatenate([self.embeddings, rows])
        self.embeddings, self.budget = grown, min(self.config.budget, len(grown))
        if self.linear is not None and columns is not None:
            self.linear.grow(columns)

    def linear_of(self, linear: Any | None, k: int) -> Array | None:
        """Return the linear part (k, r) of k other candidates, as given; None where the pool has none.

        Raises:
            ArrayError: It is missing or not expected, or cannot be used.
        """
        if self.linear is None:
            if linear is not None:
                raise ArrayError("linear: given, but the pool has none; leave it out")
            return None
        if linear is None:
            raise ArrayError(
                f"linear: expected {self.linear.columns} columns a candidate, as the pool has, got none"
            )
        return self.linear.rows(linear, k)

    def rows_of(self, more: NDArray[Any], features: Any | None = None) -> NDArray[Any]:
        """Return other candidates (k, d) as rows (k, d + q) of this pool, in its precision.

        Args:
            more: Embeddings.
            features: (k, q), with a pool that has features.

        Raises:
            ArrayError: Wrong dimension, or a row that is not finite or too far from the first pool.
        """
        d = self.embeddings.shape[1] - self.features
        if more.shape[1] != d:
            raise ArrayError(f"embeddings: expected dimension {d}, as the pool has, got {more.shape[1]}")
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is rejected
            more = more.astype(self.embeddings.dtype)
        given = 0 if features is None else as_embeddings(features, "features").shape[1]
        if given != self.features:
            raise ArrayError(f"features: expected {self.features} a candidate, as the pool has, got {given}")
        if features is not None:
            more = with_features(more, features)
        self.require_near(more)
        return more

    def require_near(self, more: NDArray[Any]) -> None:
        """Check that new rows (k, d) are finite and do not overflow in the units of this pool.

        Raises:
            ArrayError: A row is too far from the pool, or holds NaN or infinity.
        """
        limit = MAX_RAW_ENTRY if self.config.official_settings else MAX_DISTANCE
        # The extremes of each column bound all rows; only rows that may fail are looked at one by one.
        if len(more) and self._distances(np.stack([more.min(axis=0), more.max(axis=0)])).max() <= limit:
            return
        far = self._distances(more)
        if np.isnan(far).any():
            raise ArrayError(f"embeddings: NaN or infinity in row {int(np.argmax(np.isnan(far)))}")
        if (far > limit).any():
            raise ArrayError(
                f"embeddings: row {int(np.argmax(far))} is {far.max():.3g} standard deviations of the first "
                "pool away from it; distances are measured in units of that pool"
            )

    def _distances(self, rows: NDArray[Any]) -> Array:
        """Return the greatest distance from the mean of the pool in each row, in units of the pool, (k,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            offset = np.abs(rows.astype(np.float64) - self.mean)
            far: Array = (offset / self.deviation).max(axis=1)
            for block, spread in zip(self._blocks, self.spreads, strict=True):
                if spread > 0.0 and not self.config.official_settings:
                    far = np.maximum(far, offset[:, block].max(axis=1) / spread)
        return far

    def size_of_start(self, budget: int) -> int:
        """Return the number of prompts to start with for a budget of prompts."""
        is_local = self.config.search == "gradient" or self.region < len(self.embeddings)
        return size_of_start(budget, is_local)

    def start(self, count: int, known: Sequence[int] = ()) -> list[int]:
        """Return prompts to start with, spread over the pool (`spread_start`), drawn by the seed.

        Args:
            count: Number of prompts.
            known: Prompts that are covered already, and are not returned.

        Raises:
            ArrayError: The kernel overflows float64 on these embeddings.
        """
        if count < 1:
            return []
        covered = sorted(set(known))
        rng = np.random.default_rng(self.config.seed)
        rows = np.array(sorted({*sample_of(len(self.embeddings), rng), *covered}))
        kernel = _core.PriorKernel([_native_kernel(each) for each in self.kernels], 1.0)
        chosen = spread_start(
            kernel.gram(self.points(rows)), count, rng, np.searchsorted(rows, covered).tolist()
        )
        return [int(rows[k]) for k in chosen]

    def _initial_indices(self, m: int) -> list[int]:
        initial = self.config.initial
        if initial is None and not self.config.official_settings:
            return self.start(self.size_of_start(self.budget))
        if initial is None:
            initial = DEFAULT_INITIAL
        if isinstance(initial, int):
            order = np.random.default_rng(self.config.seed).permutation(m)
            return [int(i) for i in order[: min(initial, self.budget)]]
        outside = [i for i in initial if not 0 <= i < m]
        if outside:
            raise ConfigError(f"initial: index {outside[0]} is not in the pool of {m}")
        if len(initial) > self.budget:
            raise ConfigError(f"initial names {len(initial)} prompts, the budget is {self.budget}")
        return list(initial)


def _native_kernel(kernel: Kernel) -> Any:
    if isinstance(kernel, InfiniteNTK):
        is_ntk = kernel.parametrization == "ntk"
        return kernel.depth, kernel.weight_variance, kernel.bias_variance, is_ntk
    return kernel.network


def with_features(Z: NDArray[Any], features: Any) -> NDArray[Any]:
    """Return embeddings (m, d) with features (m, q) behind them, in the precision of the embeddings.

    Raises:
        ArrayError: There are not as many features as embeddings, or they are not real numbers.
    """
    F = as_embeddings(features, "features")
    if len(F) != len(Z):
        raise ArrayError(f"features: expected {len(Z)} rows, one for each embedding, got {len(F)}")
    with np.errstate(over="ignore"):  # an overflow gives infinity, which is rejected
        return np.concatenate([Z, F.astype(Z.dtype)], axis=1)


def split(stacked: NDArray[Any], features: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the two parts of the result of `with_features`; None for no features."""
    if not features:
        return stacked, None
    d = stacked.shape[1] - features
    return stacked[:, :d], stacked[:, d:]


def as_embeddings(embeddings: Any, name: str = "embeddings") -> NDArray[Any]:
    """Return embeddings as a C-contiguous array of their own precision; integers become float64.

    Raises:
        ArrayError: The value is not a non-empty (m, d) array of real numbers.
        DeviceError: The array is on a CUDA device.
    """
    Z = as_host_array(embeddings, name)
    if Z.dtype.kind in "iub":
        Z = Z.astype(np.float64)
    if Z.dtype.kind != "f" or Z.dtype.itemsize not in (2, 4, 8):
        hint = "; a file is read by np.load" if Z.dtype.kind == "U" else ""
        raise ArrayError(f"{name}: expected float16, float32 or float64, got {Z.dtype}{hint}")
    if Z.ndim != 2 or Z.size == 0:
        raise ArrayError(f"{name}: expected a non-empty (m, d) array, got shape {Z.shape}")
    return np.ascontiguousarray(Z, dtype=Z.dtype.newbyteorder("="))
