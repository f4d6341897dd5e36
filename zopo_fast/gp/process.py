"""Gaussian process with an NTK, updated one observation at a time."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from zopo_fast import _core
from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.exclusive import ExclusiveAccess
from zopo_fast._utils.public import public
from zopo_fast.errors import ArrayError, UnknownIndexError
from zopo_fast.gp.arrays import Array, as_doubles, as_points
from zopo_fast.gp.cuda_arrays import ANY_DEVICE, DeviceCall, device_call
from zopo_fast.gp.device import cuda_available, parse_device
from zopo_fast.gp.handles import new_handle
from zopo_fast.gp.ntk import NTK, require_ntk

# Size n d of the observations from which device="auto" uses a CUDA device. Below this size, a launch takes
# longer than the work on the CPU. An estimate, not a measurement.
AUTO_CROSSOVER = 1 << 18

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray


@public
class Posterior(NamedTuple):
    """Posterior of a Gaussian process.

    Attributes:
        mean: (q,) posterior mean; a float at a single point.
        variance: (q,) latent variance, without observation noise; a float at a single point.
        gradient: (q, d) gradient of the mean; (d,) at a single point.
        gradient_uncertainty: (q,) trace of the gradient's covariance; a float at a single point.
    """

    mean: Any
    variance: Any
    gradient: Any
    gradient_uncertainty: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _rows(points: CudaArray) -> CudaArray:
    """Reshape a single point (d,) to (1, d)."""
    return points.reshape((1, *points.shape)) if len(points.shape) == 1 else points


@public
class GaussianProcess:
    """Exact Gaussian process regression with incremental Cholesky updates, in float64.

        import numpy as np
        import zopo_fast as zf

        X = np.random.default_rng(0).normal(size=(10, 4))
        gp = zf.GaussianProcess(zf.NTK.random(dim=4), noise=1e-2)
        gp.append(X, np.sin(X[:, 0]))
        p = gp.posterior(np.zeros(4))  # p.mean, p.variance, p.gradient, p.gradient_uncertainty
        gp.pop()

    With A = K + diag(noise) = C C^T, appending an observation costs O(n^2), popping the last one nothing, and
    removing another one a rank-one update (Rasmussen & Williams 2006, sec. 2.2). The derivative of the
    process is a Gaussian process too (sec. 9.4).

    One thread at a time can use a process. It can be pickled, copied, and used in a forked child unless it is
    on a CUDA device.

    Args:
        kernel: Kernel, used without rescaling.
        noise: Default noise variance of an observation, in units of K.
        device: "cpu", "cuda", "cuda:N", or "auto": the CPU for few observations, a CUDA device for many.

    Attributes:
        kernel: The kernel.
        default_noise: Default noise variance of an observation.
        device: The device as given.
        number: Handle by which the torch operators find this process.

    Raises:
        ArrayError: `noise` is negative or not finite.
        ConfigError: The kernel has no network, such as InfiniteNTK.
        ConcurrentUseError: In any method, another thread is using the process.
        DeviceError: The device does not exist or is unusable; in any method, the process is on a CUDA device
            and this is a forked child.
    """

    def __init__(self, kernel: NTK, noise: float = 1e-4, device: str = "cpu") -> None:
        ordinal = None if device == "auto" else parse_device(str(device))
        variance = as_doubles(noise, "noise")
        if variance.ndim != 0 or not (np.isfinite(variance) and variance >= 0):
            raise ArrayError(f"noise: expected one finite number of at least 0, got {noise!r}")
        self.kernel = require_ntk(kernel)
        self.default_noise = float(variance)
        self.device = device
        self._ordinal = ordinal
        self._gp: _core.GaussianProcess | _core.CudaGaussianProcess = (
            _core.GaussianProcess(kernel.network)
            if ordinal is None
            else _core.CudaGaussianProcess(kernel.network, ordinal)
        )
        self._access = ExclusiveAccess("GaussianProcess")
        self._access.device = None if ordinal is None else device
        self.number = new_handle(self)

    def __len__(self) -> int:
        with self._access.read_only:
            return len(self._gp)

    @property
    def jitter(self) -> float:
        """Return the jitter added to the diagonal for the factorization; usually 0."""
        with self._access.read_only:
            return self._gp.jitter

    def append(self, x: Any, y: Any, noise: Any | None = None) -> None:
        """Add one observation or several.

        Args:
            x: (d,) point or (q, d) points. A process on a CUDA device accepts float64 CUDA arrays, for all
                array arguments or for none.
            y: Score, or (q,) scores.
            noise: Noise variance of these observations, a number or (q,). Default: that of the process.

        Raises:
            ArrayError: Wrong shape, NaN or infinity, or negative noise; nothing was added.
            DeviceError: The arrays are on different devices, or not on the device of the process.
            NotPositiveDefiniteError: A has no Cholesky factor even with jitter; nothing was added.
        """
        with self._access:
            before = self._gp.jitter
            if not self._append_from_device(x, y, noise):
                self._append_from_host(x, y, noise)
            jitter = self._gp.jitter
        if jitter > before:
            warnings.warn(
                f"the kernel matrix was not positive definite; {jitter:.3g} was added to its diagonal",
                RuntimeWarning,
                stacklevel=2,
            )

    def _append_from_host(self, x: Any, y: Any, noise: Any | None) -> None:
        X, _ = as_points(x, "X", self.kernel.dim)
        targets = np.atleast_1d(as_doubles(y, "y"))
        variances = as_doubles(self.default_noise if noise is None else noise, "noise")
        if variances.ndim > 1 or (variances.ndim == 1 and variances.shape != (len(X),)):
            raise ArrayError(f"noise: expected a number or ({len(X)},), got shape {variances.shape}")
        if self.device == "auto":
            self._move_when_large(len(self._gp) + len(X))
        self._gp.append(X, targets, np.ascontiguousarray(np.broadcast_to(variances, len(X))))

    def _append_from_device(self, x: Any, y: Any, noise: Any | None) -> bool:
        """Append CUDA arrays; return False for host arrays."""
        given = {"X": x, "y": y, "noise": self.default_noise if noise is None else noise}
        arrays = {name: value for name, value in given.items() if not _is_number(value)}
        call = self._device_call(arrays)
        if call is None:
            return False
        taken = dict(zip(arrays, call.arrays, strict=True))
        X = _rows(taken["X"])
        if "y" in taken:
            targets = taken["y"]
        else:
            targets = _core.cuda_from_numpy(as_doubles(y, "y"), call.ordinal, call.stream, "y")
        if targets.shape == ():
            targets = targets.reshape((1,))
        # The native layer checks noise variances on the host.
        variances = as_doubles(taken["noise"].numpy() if "noise" in taken else given["noise"], "noise")
        if variances.ndim == 0:
            variances = np.full(len(X), variances)
        process = cast("_core.CudaGaussianProcess", self._gp)  # checked by _device_call()
        _core.cuda_array_append(process, X, targets, variances, call.stream)
        return True

    def _device_call(self, arguments: dict[str, Any]) -> DeviceCall | None:
        """Prepare a call on CUDA arrays; an "auto" process on the host moves to their device."""
        can_move = self.device == "auto" and self._ordinal is None
        call = device_call(arguments, "the process", ANY_DEVICE if can_move else self._ordinal)
        if call is not None and can_move:
            self._move(call.ordinal)
        return call

    def _move_when_large(self, n: int) -> None:
        """Move to a CUDA device, if there is one, once n observations are enough to repay it."""
        is_large = n * self.kernel.dim >= AUTO_CROSSOVER
        if self._ordinal is None and is_large and cuda_available():
            self._move(0)

    def _move(self, ordinal: int) -> None:
        moved = _core.CudaGaussianProcess(self.kernel.network, ordinal)
        if len(self._gp):
            moved.append(*self._gp.state())
        self._gp, self._ordinal = moved, ordinal
        self._access.device = f"cuda:{ordinal}"

    def pop(self) -> None:
        """Drop the last observation, at no cost.

        Raises:
            UnknownIndexError: There is no observation.
        """
        with self._access:
            self._gp.pop()

    def remove(self, i: int) -> None:
        """Drop observation i by a rank-one update, in O((n - i)^2).

        Args:
            i: Position in order of appending; negative positions count from the end.

        Raises:
            UnknownIndexError: The position is out of range.
        """
        at = as_integer("remove", i)
        with self._access:
            n = len(self._gp)
            if not -n <= at < n:
                raise UnknownIndexError(f"remove: no observation {at}; there are {n}")
            self._gp.remove(at + n if at < 0 else at)

    def posterior(self, x: Any) -> Posterior:
        """Compute mean, latent variance, gradient of the mean, and trace of the gradient's covariance.

        Args:
            x: (d,) point or (q, d) points; a float64 CUDA array on the device of the process gives arrays of
                its kind.

        Returns:
            The posterior, or the prior without observations. (d,) gives floats and a (d,) gradient, with
            0-dimensional arrays instead of floats for a CUDA array; (q, d) gives (q,), (q,), (q, d), (q,).
            Variance and uncertainty are clamped at 0.

        Raises:
            ArrayError: Wrong shape, NaN or infinity.
            DeviceError: The array is not on the device of the process.
        """
        with self._access.read_only:
            if (parts := self._query_device("posterior", x)) is not None:
                return Posterior(*parts)
            X, single = as_points(x, "x", self.kernel.dim)
            mean, variance, gradient, uncertainty = self._gp.posterior(X)
        if single:
            return Posterior(float(mean[0]), float(variance[0]), gradient[0], float(uncertainty[0]))
        return Posterior(mean, variance, gradient, uncertainty)

    def predict(self, x: Any) -> tuple[Any, Any]:
        """Compute mean and latent variance only, (q,) each, at x (q, d)."""
        with self._access.read_only:
            return self._query_device("predict", x) or self._gp.predict(as_doubles(x, "x"))

    def derivatives(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Compute mean and variance at x (q, d) and the gradients of both: (q,), (q,), (q, d), (q, d).

        The gradient of the variance is dk(x, x)/dx - 2 G^T A^-1 k_x, even where the variance is clamped at 0.
        """
        with self._access.read_only:
            return self._query_device("derivatives", x) or self._gp.derivatives(as_doubles(x, "x"))

    def _query_device(self, query: str, x: Any) -> Any:
        """Answer a query at CUDA points on their device; return None for a host array."""
        call = self._device_call({"x": x})
        if call is None:
            return None
        points = call.arrays[0]
        single = len(points.shape) == 1
        parts = getattr(_core, f"cuda_array_{query}")(self._gp, _rows(points), call.stream)
        return call.finish(*(part.reshape(part.shape[1:]) for part in parts) if single else parts)

    def gradient_covariance(self, x: Any) -> Array:
        """Compute the covariance of the derivative at x (d,): d2k - G^T A^-1 G, (d, d)."""
        with self._access.read_only:
            return self._gp.gradient_covariance(as_doubles(x, "x"))

    def log_marginal_likelihood(self) -> float:
        """Compute -1/2 (y^T A^-1 y + log det A + n log 2 pi) (Rasmussen & Williams 2006, eq. 2.30)."""
        with self._access.read_only:
            return self._gp.log_marginal_likelihood()

    def __getstate__(self) -> dict[str, Any]:
        with self._access.read_only:
            self._access.require_consistent()
            X, y, noise = self._gp.state()
        return {
            "kernel": self.kernel,
            "noise": self.default_noise,
            "device": self.device,
            "data": (X, y, noise),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["kernel"], state["noise"], state["device"])  # type: ignore[misc]
        X, y, noise = state["data"]
        if len(X):
            self.append(X, y, noise)
