"""Empirical neural tangent kernel of a finite ReLU network, in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from zopo_fast import _core
from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.gp.arrays import as_doubles, as_floats
from zopo_fast.gp.cuda_arrays import ANY_DEVICE, DeviceCall, device_call
from zopo_fast.gp.device import parse_device
from zopo_fast.gp.handles import new_handle

Initialization = Literal["he", "normal"]
GramPrecision = Literal["float64", "float32", "tf32x3"]
_PRECISIONS = get_args(GramPrecision)
MAX_LAYERS = 1000
MAX_PARAMETERS = 2**28  # 2 GiB in float64


def parameter_count(dim: int, width: int, depth: int) -> int:
    """Return the number of weights and biases that NTK.random() draws."""
    return width * (dim + 1) + (depth - 1) * width * (width + 1) + width + 1


@public
class NTK:
    """Empirical neural tangent kernel (NTK) of a finite ReLU network.

        import numpy as np
        import zopo_fast as zf

        X = np.random.default_rng(0).normal(size=(10, 4))
        kernel = zf.NTK.random(dim=4, width=32, depth=2, seed=0)
        K = kernel.gram(X)  # (10, 10)
        G = kernel.gradient(X[0], X)  # dk(x, X_i)/dx at x = X[0], (10, 4)

    For f(x) = W_L h_L + b_L with h_0 = x and h_{l+1} = relu(W_l h_l + b_l), and D_l the derivative of f with
    respect to the pre-activation of layer l + 1, the kernel over all weights and biases is

        k(x, x') = sum_l (h_l(x).h_l(x') + 1) (D_l(x).D_l(x'))     (Jacot et al. 2018, by the chain rule)

    Values are raw, never rescaled. Arrays are float64; inputs of another real dtype are converted.

    Args:
        weights: W[l] of shape (width_{l+1}, width_l), the last one (1, width_L); at least two.
        biases: b[l] of shape (width_{l+1},).

    Attributes:
        weights: Read-only copies of the weights.
        biases: Read-only copies of the biases.
        number: Handle by which the torch operators find this kernel.
        recipe: Arguments of `random` for a kernel made by it; None otherwise.
        network: Native counterpart of weights and biases, for internal use.

    Raises:
        ArrayError: The shapes do not chain, or an array holds NaN or infinity; the message names the array.
    """

    def __init__(self, weights: Sequence[Any], biases: Sequence[Any]) -> None:
        # Read-only copies, because the native network holds its own and the two must stay equal.
        self.weights = [as_doubles(w, f"weights[{i}]").copy() for i, w in enumerate(weights)]
        self.biases = [as_doubles(b, f"biases[{i}]").copy() for i, b in enumerate(biases)]
        for array in (*self.weights, *self.biases):
            array.flags.writeable = False
        self.network = _core.Network(self.weights, self.biases)
        self.number = new_handle(self)
        # A saved state holds the recipe instead of the weights.
        self.recipe: dict[str, Any] | None = None

    @classmethod
    def random(
        cls, dim: int, width: int = 32, depth: int = 2, seed: int = 0, initialization: Initialization = "he"
    ) -> NTK:
        """Draw the kernel of a random network.

        Args:
            dim: Dimension d of the inputs.
            width: Units of each hidden layer.
            depth: Number L of hidden layers.
            seed: Seed of the draw.
            initialization: "he": weights ~ N(0, 2 / fan_in), biases ~ N(0, 0.1^2); activations keep their
                scale across layers (He et al. 2015). "normal": weights and biases ~ N(0, 1), as in the
                published ZOPO code.

        Raises:
            ConfigError: A size is below 1, the network is too large, or the initialization is unknown.
        """
        dim, width, depth = as_integer("dim", dim), as_integer("width", width), as_integer("depth", depth)
        seed = as_integer("seed", seed)
        if min(dim, width, depth) < 1 or seed < 0:
            raise ConfigError(
                f"dim, width and depth must be at least 1 and seed 0, got {dim}, {width}, {depth}, {seed}"
            )
        if not isinstance(initialization, str) or initialization not in ("he", "normal"):
            raise ConfigError(f"initialization must be 'he' or 'normal', got {short_repr(initialization)}")
        if depth > MAX_LAYERS or parameter_count(dim, width, depth) > MAX_PARAMETERS:
            raise ConfigError(
                f"a network of dim {dim}, width {width} and depth {depth} is too large: at most "
                f"{MAX_LAYERS} hidden layers and {MAX_PARAMETERS:,} parameters"
            )
        rng = np.random.default_rng(seed)
        sizes = [dim, *[width] * depth, 1]
        he = initialization == "he"
        weights, biases = [], []
        for fan_in, fan_out in itertools.pairwise(sizes):
            weights.append(rng.normal(size=(fan_out, fan_in)) * (np.sqrt(2.0 / fan_in) if he else 1.0))
            biases.append(rng.normal(size=fan_out) * (0.1 if he else 1.0))
        kernel = cls(weights, biases)
        kernel.recipe = {
            "dim": dim, "width": width, "depth": depth, "seed": seed, "initialization": initialization,
        }  # fmt: skip
        return kernel

    @property
    def dim(self) -> int:
        """Return the dimension d of the inputs."""
        return self.network.dim

    @property
    def depth(self) -> int:
        """Return the number L of hidden layers."""
        return self.network.layers

    def gram(
        self, X: Any, Y: Any | None = None, *, device: str | None = None, precision: GramPrecision = "float64"
    ) -> Any:
        """Compute the Gram matrix K_ij = k(X_i, Y_j).

        Args:
            X: (n, d) points. CUDA arrays (torch, CuPy, CudaArray, ...) of float64, float32 or float16 are
                used in place, on the caller's stream.
            Y: (m, d) points; None means Y = X.
            device: "cpu", "cuda" or "cuda:N". Default: the device of the arrays.
            precision: Precision of the inner products. "float64" works everywhere; the others need a CUDA
                device and return float32. "float32" accumulates in float32; its error is about 5e-7 of the
                largest entry of K at d = 768. "tf32x3" splits each number in two for the tensor cores; its
                error is about 8e-7, measured with sums rounded to nearest, while tensor cores truncate.

        Returns:
            (n, m) array, of the same kind and on the same device as CUDA inputs.

        Raises:
            ArrayError: Wrong shape, NaN or infinity; on a device also an unsupported dtype or memory order.
            ConfigError: The precision is unknown, or not available on the CPU.
            DeviceError: The device is not available, or X and Y are on different devices.
        """
        if not isinstance(precision, str) or precision not in _PRECISIONS:
            raise ConfigError(
                f"precision must be one of {', '.join(_PRECISIONS)}, got {short_repr(precision)}"
            )
        if call := self._device_call({"X": X} if Y is None else {"X": X, "Y": Y}, device):
            left, right = call.arrays[0], None if Y is None else call.arrays[1]
            return call.finish(_core.cuda_array_gram(self.network, left, right, precision, call.stream))
        ordinal = parse_device(device)
        if ordinal is not None:
            others = None if Y is None else as_floats(Y, "Y")
            return _core.cuda_gram(self.network, as_floats(X, "X"), others, precision, ordinal)
        if precision != "float64":
            raise ConfigError(f"precision {precision!r}: the CPU computes in float64; use device='cuda'")
        return _core.gram(self.network, as_doubles(X, "X"), None if Y is None else as_doubles(Y, "Y"))

    def diag(self, X: Any, *, device: str | None = None) -> Any:
        """Compute k(X_i, X_i).

        Args:
            X: (n, d) points, or a float64 CUDA array.
            device: As for `gram`.

        Returns:
            (n,) array.

        Raises:
            ArrayError: Wrong shape, NaN or infinity.
            DeviceError: The device is not available.
        """
        if call := self._device_call({"X": X}, device):
            return call.finish(_core.cuda_array_diag(self.network, call.arrays[0], call.stream))
        ordinal, points = parse_device(device), as_doubles(X, "X")
        if ordinal is not None:
            return _core.cuda_diag(self.network, points, ordinal)
        return _core.diag(self.network, points)

    def gradient(self, x: Any, X: Any, *, device: str | None = None) -> Any:
        """Compute dk(x, X_i)/dx = sum_l (D_l(x).D_l(X_i)) J_l(x)^T h_l(X_i), with J_l = dh_l/dx.

        Args:
            x: (d,) point, or a float64 CUDA array.
            X: (n, d) points, on the same device.
            device: As for `gram`.

        Returns:
            (n, d) array. The kernel is piecewise smooth in x; this is the derivative of the piece of x.

        Raises:
            ArrayError: Wrong shape, NaN or infinity.
            DeviceError: The device is not available, or x and X are on different devices.
        """
        if call := self._device_call({"x": x, "X": X}, device):
            at, others = call.arrays
            return call.finish(_core.cuda_array_gradient(self.network, at, others, call.stream))
        ordinal, point, points = parse_device(device), as_doubles(x, "x"), as_doubles(X, "X")
        if ordinal is not None:
            return _core.cuda_gradient(self.network, point, points, ordinal)
        return _core.gradient(self.network, point, points)

    def gram_gradient(self, X: Any, Y: Any, weight: Any) -> Any:
        """Compute sum_j weight_ij dk(X_i, Y_j)/dX_i: the vector-Jacobian product of gram(X, Y) in X.

        Args:
            X: (n, d) points, or a float64 CUDA array.
            Y: (m, d) points, on the same device.
            weight: (n, m) derivative of a scalar with respect to gram(X, Y), on the same device.

        Returns:
            (n, d) array: derivative of that scalar with respect to X.

        Raises:
            ArrayError: Wrong shape, NaN or infinity.
            DeviceError: The arrays are on different devices.
        """
        if call := self._device_call({"X": X, "Y": Y, "weight": weight}, None):
            left, right, by = call.arrays
            return call.finish(_core.cuda_array_gram_gradient(self.network, left, right, by, call.stream))
        return _core.gram_gradient(
            self.network, as_doubles(X, "X"), as_doubles(Y, "Y"), as_doubles(weight, "weight")
        )

    def gradient_prior_trace(self, x: Any, *, device: str | None = None) -> float:
        """Compute the trace of d^2 k(x, x')/dx dx' at x' = x: sum_l |D_l|^2 |J_l|_F^2.

        Args:
            x: (d,) point.
            device: As for `gram`.

        Raises:
            ArrayError: Wrong shape, NaN or infinity.
            DeviceError: The device is not available, or x is a CUDA array.
        """
        ordinal, point = parse_device(device), as_doubles(x, "x")
        if ordinal is not None:
            return _core.cuda_gradient_prior_trace(self.network, point, ordinal)
        return _core.gradient_prior_trace(self.network, point)

    def _device_call(self, arguments: dict[str, Any], device: str | None) -> DeviceCall | None:
        ordinal = ANY_DEVICE if device is None else parse_device(device)
        return device_call(arguments, f"the call (device={device!r})", ordinal)

    def __getstate__(self) -> dict[str, Any]:
        return {"weights": self.weights, "biases": self.biases, "recipe": self.recipe}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["weights"], state["biases"])  # type: ignore[misc]
        self.recipe = state["recipe"]


def require_ntk(kernel: Any) -> NTK:
    """Return the kernel if it is an NTK.

    Raises:
        ConfigError: The kernel has no network; the message tells the alternative.
    """
    if isinstance(kernel, NTK):
        return kernel
    raise ConfigError(
        f"kernel: expected an NTK, whose network the native code computes with, got {type(kernel).__name__}; "
        "give NTK.random(dim), or for a kernel near InfiniteNTK's NTK.random(dim, width=512)"
    )
