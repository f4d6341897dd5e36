"""Gaussian process with that kernel, grown and shrunk one observation at a time."""

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
from zopo_fast.gp.cuda_arrays import ANYWHERE, OnDevice, on_device
from zopo_fast.gp.device import cuda_available, parse_device
from zopo_fast.gp.handles import number_of
from zopo_fast.gp.ntk import NTK, as_network_kernel

# "auto" takes a device where the observations fill matrices of this size, n d: below, a launch and its
# answer take longer than the work on the CPU. An estimate, to be replaced by a measured crossover.
AUTO_CROSSOVER = 1 << 18

if TYPE_CHECKING:
    from zopo_fast._core import CudaArray


@public
class Posterior(NamedTuple):
    """Posterior at q points, (q, ...) arrays; at one point, floats and a (d,) gradient."""

    mean: Any
    variance: Any
    gradient: Any
    gradient_uncertainty: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _rows(points: CudaArray) -> CudaArray:
    """A single point (d,) as (1, d)."""
    return points.reshape((1, *points.shape)) if len(points.shape) == 1 else points


@public
class GaussianProcess:
    """Exact GP regression with incremental Cholesky updates, in float64.

    A = K + diag(noise) = C C^T; appending costs O(n^2), popping the last observation nothing, removing
    any other a rank-one update (Rasmussen & Williams 2006, sec. 2.2; the derivative is a GP too, sec. 9.4).

    It serves one thread at a time, any thread: a call that comes in from another one meanwhile raises
    ConcurrentUseError, and changes nothing. It can be pickled and copied, and goes on in a forked process,
    though not from a CUDA device (DeviceError).

    Args:
        kernel: the kernel, used raw.
        noise: default noise variance of an observation, in K's units.
        device: "cpu", "cuda" or "cuda:N"; "auto": the CPU until the observations are many, then a CUDA
            device where there is one.

    Raises:
        ArrayError: noise negative or not finite.
        ConfigError: a kernel without a network, such as InfiniteNTK.
        DeviceError: a device that is not there or cannot be used.
    """

    def __init__(self, kernel: NTK, noise: float = 1e-4, device: str = "cpu") -> None:
        ordinal = None if device == "auto" else parse_device(str(device))
        variance = as_doubles(noise, "noise")
        if variance.ndim != 0 or not (np.isfinite(variance) and variance >= 0):
            raise ArrayError(f"noise: a variance is one number, finite and not negative, got {noise!r}")
        self.kernel = as_network_kernel(kernel)
        self.default_noise = float(variance)
        self.device = device
        self._ordinal = ordinal
        self._gp: _core.GaussianProcess | _core.CudaGaussianProcess = (
            _core.GaussianProcess(kernel._network)
            if ordinal is None
            else _core.CudaGaussianProcess(kernel._network, ordinal)
        )
        self._access = ExclusiveAccess("GaussianProcess")
        self._access.device = None if ordinal is None else device
        self.number = number_of(self)  # by which the torch operators know it

    def __len__(self) -> int:
        with self._access.read_only:
            return len(self._gp)

    @property
    def jitter(self) -> float:
        """What had to be added to the diagonal to factorise; 0 as a rule."""
        with self._access.read_only:
            return self._gp.jitter

    def append(self, x: Any, y: Any, noise: Any | None = None) -> None:
        """Add one observation (x (d,), y a number) or many (X (q, d), y (q,)).

        A process on a CUDA device also takes float64 CUDA arrays, all of them or none.

        Args:
            x: point or points.
            y: score or scores.
            noise: variance replacing the default for these rows, a number or (q,).

        Raises:
            ArrayError: wrong shape, NaN or infinity, negative noise.
            DeviceError: arrays on different devices, or on another one than the process.
            NotPositiveDefiniteError: A cannot be factorised even with jitter; nothing was added.
        """
        with self._access:
            before = self._gp.jitter
            if not self._append_on_device(x, y, noise):
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

    def _append_on_device(self, x: Any, y: Any, noise: Any | None) -> bool:
        """Whether these were CUDA arrays; they have been appended then."""
        given = {"X": x, "y": y, "noise": self.default_noise if noise is None else noise}
        arrays = {name: value for name, value in given.items() if not _is_number(value)}
        call = self._on_device(arrays)
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
        # A few numbers, to be looked at one by one.
        variances = as_doubles(taken["noise"].numpy() if "noise" in taken else given["noise"], "noise")
        if variances.ndim == 0:
            variances = np.full(len(X), variances)
        process = cast("_core.CudaGaussianProcess", self._gp)  # _on_device() saw to it
        _core.cuda_array_append(process, X, targets, variances, call.stream)
        return True

    def _on_device(self, arguments: dict[str, Any]) -> OnDevice | None:
        """CUDA arrays among the arguments, where this process is; "auto" goes to theirs."""
        auto = self.device == "auto" and self._ordinal is None
        call = on_device(arguments, "the process", ANYWHERE if auto else self._ordinal)
        if call is not None and auto:
            self._move(call.ordinal)
        return call

    def _move_when_large(self, n: int) -> None:
        """To a CUDA device, once, when n observations are many and there is one."""
        large = n * self.kernel.dim >= AUTO_CROSSOVER
        if self._ordinal is None and large and cuda_available():
            self._move(0)

    def _move(self, ordinal: int) -> None:
        moved = _core.CudaGaussianProcess(self.kernel._network, ordinal)
        if len(self._gp):
            moved.append(*self._gp.state())
        self._gp, self._ordinal = moved, ordinal
        self._access.device = f"cuda:{ordinal}"

    def pop(self) -> None:
        """Drop the last observation; free. IndexError when there is none."""
        with self._access:
            self._gp.pop()

    def remove(self, i: int) -> None:
        """Drop observation i by a rank-one update, O((n - i)^2). IndexError out of range."""
        at = as_integer("remove", i)
        with self._access:
            n = len(self._gp)
            if not -n <= at < n:
                raise UnknownIndexError(f"remove: there is no observation {at}, only {n}")
            self._gp.remove(at + n if at < 0 else at)

    def posterior(self, x: Any) -> Posterior:
        """Mean, latent variance, gradient of the mean, and trace of the gradient's covariance.

        Args:
            x: (d,) gives floats and a (d,) gradient; (q, d) gives (q,), (q,), (q, d), (q,). A float64 CUDA
                array, on the process's device, gives arrays of its kind there; (d,) then gives arrays of
                no dimensions for numbers.

        With no observation this is the prior. Variance and uncertainty are clamped at 0.
        """
        with self._access.read_only:
            if (parts := self._ask_device("posterior", x)) is not None:
                return Posterior(*parts)
            X, single = as_points(x, "x", self.kernel.dim)
            mean, variance, gradient, uncertainty = self._gp.posterior(X)
        if single:
            return Posterior(float(mean[0]), float(variance[0]), gradient[0], float(uncertainty[0]))
        return Posterior(mean, variance, gradient, uncertainty)

    def predict(self, x: Any) -> tuple[Any, Any]:
        """Mean and latent variance at x (q, d) alone: (q,), (q,)."""
        with self._access.read_only:
            return self._ask_device("predict", x) or self._gp.predict(as_doubles(x, "x"))

    def derivatives(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Mean and variance at x (q, d) and the gradients of both: (q,), (q,), (q, d), (q, d).

        The variance's is dk(x, x)/dx - 2 G^T A^-1 k_x, also where rounding has the variance clamped at 0.
        """
        with self._access.read_only:
            return self._ask_device("derivatives", x) or self._gp.derivatives(as_doubles(x, "x"))

    def _ask_device(self, what: str, x: Any) -> Any:
        """That part of the posterior at points on a device, answered there; None for a host array."""
        call = self._on_device({"x": x})
        if call is None:
            return None
        points = call.arrays[0]
        single = len(points.shape) == 1
        parts = getattr(_core, f"cuda_array_{what}")(self._gp, _rows(points), call.stream)
        return call.finish(*(part.reshape(part.shape[1:]) for part in parts) if single else parts)

    def gradient_covariance(self, x: Any) -> Array:
        """Covariance of the derivative at x (d,): d2k - G^T A^-1 G, (d, d)."""
        with self._access.read_only:
            return self._gp.gradient_covariance(as_doubles(x, "x"))

    def log_marginal_likelihood(self) -> float:
        """-1/2 (y^T A^-1 y + log det A + n log 2 pi)  (Rasmussen & Williams 2006, eq. 2.30)."""
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
