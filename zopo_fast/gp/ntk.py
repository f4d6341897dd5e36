"""The empirical neural tangent kernel of a small ReLU network, in closed form."""

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
from zopo_fast.gp.cuda_arrays import ANYWHERE, OnDevice, on_device
from zopo_fast.gp.device import parse_device
from zopo_fast.gp.handles import number_of

Initialization = Literal["he", "normal"]
GramPrecision = Literal["float64", "float32", "tf32x3"]
_PRECISIONS = get_args(GramPrecision)
MOST_LAYERS = 1000
MOST_PARAMETERS = 2**28  # 2 GiB of them


def parameters(dim: int, width: int, depth: int) -> int:
    """How many weights and biases NTK.random() draws."""
    return width * (dim + 1) + (depth - 1) * width * (width + 1) + width + 1


@public
class NTK:
    """Neural tangent kernel of f(x) = W_L relu(... relu(W_0 x + b_0) ...) + b_L over all its parameters.

    k(x, x') = sum_l (h_l(x).h_l(x') + 1) (D_l(x).D_l(x'))    (Jacot et al. 2018, chain rule over W and b)

    Raw: never rescaled. All arrays are float64; inputs of another real dtype are converted once.

    Args:
        weights: W[l] of shape (width_{l+1}, width_l), the last (1, width_L); at least two.
        biases: b[l] of shape (width_{l+1},).

    Raises:
        ArrayError: shapes that do not chain, NaN or infinity; names the array.
    """

    def __init__(self, weights: Sequence[Any], biases: Sequence[Any]) -> None:
        # Copies: the native network holds its own, and the two must not drift apart.
        self.weights = [as_doubles(w, f"weights[{i}]").copy() for i, w in enumerate(weights)]
        self.biases = [as_doubles(b, f"biases[{i}]").copy() for i, b in enumerate(biases)]
        for array in (*self.weights, *self.biases):
            array.flags.writeable = False
        self._network = _core.Network(self.weights, self.biases)
        self.number = number_of(self)  # by which the torch operators know it
        # How random() made it, so that a saved state need not hold the weights.
        self.recipe: dict[str, Any] | None = None

    @classmethod
    def random(
        cls, dim: int, width: int = 32, depth: int = 2, seed: int = 0, initialization: Initialization = "he"
    ) -> NTK:
        """Draw a network with `depth` hidden layers of `width` units.

        "he": weights ~ N(0, 2 / fan_in), biases ~ N(0, 0.1^2), so that activations keep their scale
        with the width (He et al. 2015). "normal": everything ~ N(0, 1), as the published code has it.

        Raises:
            ConfigError: a size below one, a network too large to be meant, or an unknown initialization.
        """
        dim, width, depth = as_integer("dim", dim), as_integer("width", width), as_integer("depth", depth)
        seed = as_integer("seed", seed)
        if min(dim, width, depth) < 1 or seed < 0:
            raise ConfigError(
                f"dim, width and depth must be at least 1 and seed 0, got {dim}, {width}, {depth}, {seed}"
            )
        if not isinstance(initialization, str) or initialization not in ("he", "normal"):
            raise ConfigError(f"initialization must be 'he' or 'normal', got {short_repr(initialization)}")
        if depth > MOST_LAYERS or parameters(dim, width, depth) > MOST_PARAMETERS:
            raise ConfigError(
                f"a network of dim {dim}, width {width} and depth {depth} is too large: at most "
                f"{MOST_LAYERS} hidden layers and {MOST_PARAMETERS:,} parameters"
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
        """Dimension d of the inputs."""
        return self._network.dim

    @property
    def depth(self) -> int:
        """Number L of hidden layers."""
        return self._network.layers

    def gram(
        self, X: Any, Y: Any | None = None, *, device: str | None = None, precision: GramPrecision = "float64"
    ) -> Any:
        """K_ij = k(X_i, Y_j): (n, d) and (m, d) in, (n, m) out; Y = X when left out.

        CUDA arrays (torch, CuPy, CudaArray, ...; float64, float32 or float16) are taken where they lie, on
        the caller's stream, and the answer is of their kind, there.

        Args:
            device: "cpu" (the default for host arrays), "cuda" or "cuda:N".
            precision: of the inner products. "float64"; on a CUDA device also "float32", products and sums
                in float32, off by about 5e-7 of K's largest entry at d = 768, and "tf32x3", tensor cores on
                numbers in two parts, off by about 8e-7 (measured with sums rounded to nearest; the tensor
                cores' own are cut off). These two give float32 out.

        Raises:
            ArrayError: wrong shape, NaN or infinity; on a device also wrong dtype or not C-contiguous.
            ConfigError: an unknown precision, or one that the CPU does not have.
            DeviceError: no such device, it cannot be used, or X and Y are not on one device.
        """
        if not isinstance(precision, str) or precision not in _PRECISIONS:
            raise ConfigError(
                f"precision must be one of {', '.join(_PRECISIONS)}, got {short_repr(precision)}"
            )
        if call := self._on_device({"X": X} if Y is None else {"X": X, "Y": Y}, device):
            left, right = call.arrays[0], None if Y is None else call.arrays[1]
            return call.finish(_core.cuda_array_gram(self._network, left, right, precision, call.stream))
        ordinal = parse_device(device)
        if ordinal is not None:
            others = None if Y is None else as_floats(Y, "Y")
            return _core.cuda_gram(self._network, as_floats(X, "X"), others, precision, ordinal)
        if precision != "float64":
            raise ConfigError(f"precision {precision!r}: the CPU computes in float64; use device='cuda'")
        return _core.gram(self._network, as_doubles(X, "X"), None if Y is None else as_doubles(Y, "Y"))

    def diag(self, X: Any, *, device: str | None = None) -> Any:
        """k(X_i, X_i): (n, d) in, (n,) out; device and float64 CUDA arrays as for gram()."""
        if call := self._on_device({"X": X}, device):
            return call.finish(_core.cuda_array_diag(self._network, call.arrays[0], call.stream))
        ordinal, points = parse_device(device), as_doubles(X, "X")
        if ordinal is not None:
            return _core.cuda_diag(self._network, points, ordinal)
        return _core.diag(self._network, points)

    def gradient(self, x: Any, X: Any, *, device: str | None = None) -> Any:
        """dk(x, X_i)/dx = sum_l (D_l(x).D_l(X_i)) J_l(x)^T h_l(X_i): (d,) and (n, d) in, (n, d) out.

        device and float64 CUDA arrays as for gram().
        """
        if call := self._on_device({"x": x, "X": X}, device):
            at, others = call.arrays
            return call.finish(_core.cuda_array_gradient(self._network, at, others, call.stream))
        ordinal, point, points = parse_device(device), as_doubles(x, "x"), as_doubles(X, "X")
        if ordinal is not None:
            return _core.cuda_gradient(self._network, point, points, ordinal)
        return _core.gradient(self._network, point, points)

    def gram_gradient(self, X: Any, Y: Any, weight: Any) -> Any:
        """sum_j weight_ij dk(X_i, Y_j)/dX_i: (n, d), (m, d) and (n, m) in, (n, d) out.

        What the chain rule needs: of a function of gram(X, Y) with derivative `weight`, the gradient in X.
        float64 CUDA arrays as for gram().
        """
        if call := self._on_device({"X": X, "Y": Y, "weight": weight}, None):
            left, right, by = call.arrays
            return call.finish(_core.cuda_array_gram_gradient(self._network, left, right, by, call.stream))
        return _core.gram_gradient(
            self._network, as_doubles(X, "X"), as_doubles(Y, "Y"), as_doubles(weight, "weight")
        )

    def _on_device(self, arguments: dict[str, Any], device: str | None) -> OnDevice | None:
        where = ANYWHERE if device is None else parse_device(device)
        return on_device(arguments, f"the call (device={device!r})", where)

    def gradient_prior_trace(self, x: Any, *, device: str | None = None) -> float:
        """Trace of d^2 k(x, x')/dx dx' at x' = x: sum_l |D_l|^2 |J_l|_F^2, for x (d,).

        device as for gram().
        """
        ordinal, point = parse_device(device), as_doubles(x, "x")
        if ordinal is not None:
            return _core.cuda_gradient_prior_trace(self._network, point, ordinal)
        return _core.gradient_prior_trace(self._network, point)

    def __getstate__(self) -> dict[str, Any]:
        return {"weights": self.weights, "biases": self.biases, "recipe": self.recipe}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["weights"], state["biases"])  # type: ignore[misc]
        self.recipe = state["recipe"]


def as_network_kernel(kernel: Any) -> NTK:
    """Return a kernel that has a network behind it; ConfigError says what to give in place of another."""
    if isinstance(kernel, NTK):
        return kernel
    raise ConfigError(
        f"kernel: expected an NTK, whose network the native code computes with, got {type(kernel).__name__}; "
        "give NTK.random(dim), or for a kernel near InfiniteNTK's NTK.random(dim, width=512)"
    )
