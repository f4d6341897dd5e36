"""NTK Gram matrix and Gaussian process posterior as differentiable torch operators for CPU and CUDA.

    import zopo_fast as zf, zopo_fast.torch

    K = zopo_fast.torch.ntk_gram(kernel, X)                  # (n, n)
    mean, variance = zopo_fast.torch.posterior(gp, x)        # of x (..., d): (...,) and (...,)
    (mean + 2 * variance.sqrt()).sum().backward()            # x.grad

These functions call the operators `torch.ops.zopo_fast.ntk_gram` and `torch.ops.zopo_fast.gp_posterior`,
each one node to torch.compile. Operators take the handle (`number`) of a kernel or process. Results are
float64. Only first derivatives exist; a second one raises. The kernel is piecewise smooth, and its derivative
at a point is that of the piece which contains the point.
"""

from __future__ import annotations

from typing import Any

from zopo_fast.errors import ArrayError, DeviceError, MissingDependencyError
from zopo_fast.gp.handles import from_handle
from zopo_fast.gp.ntk import NTK
from zopo_fast.gp.process import GaussianProcess

try:
    import torch
    from torch import Tensor
    from torch.autograd.function import once_differentiable
except ImportError as error:
    raise MissingDependencyError(
        "zopo_fast.torch needs torch 2.4 or later: pip install 'zopo-fast[torch]'"
    ) from error

# The operators wait for the device's NaN check, which a CUDA graph cannot record.
_TAGS: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)


def _plain(x: Tensor) -> Tensor:
    """Detach, and convert to a C-contiguous tensor of a dtype that the native layer accepts."""
    kept = x.dtype in (torch.float16, torch.float32, torch.float64)
    return x.detach().to(x.dtype if kept else torch.float64).contiguous()


def _doubles(x: Tensor) -> Tensor:
    """Convert as `_plain` does, to float64; on a device only gram() accepts another dtype."""
    return _plain(x.to(torch.float64))


def _tensor(result: Any, like: Tensor) -> Tensor:
    """Convert a native result, a NumPy array for host tensors, to a tensor on the device of `like`."""
    made = result if isinstance(result, Tensor) else torch.from_numpy(result)
    return made.to(like.device)


# ---- gram: (n, d), (m, d) -> (n, m)


def _gram(X: Tensor, Y: Tensor | None, kernel: int) -> Tensor:
    other = None if Y is None else _plain(Y)
    return _tensor(from_handle(kernel, NTK).gram(_plain(X), other), X)


def _fake_gram(X: Tensor, Y: Tensor | None, kernel: int) -> Tensor:
    return X.new_empty((X.shape[0], X.shape[0] if Y is None else Y.shape[0]), dtype=torch.float64)


def _gram_gradient(weight: Tensor, X: Tensor, Y: Tensor, kernel: int) -> Tensor:
    """Compute sum_j weight_ij dk(x_i, y_j)/dx_i: (n, m), (n, d), (m, d) -> (n, d)."""
    return _tensor(from_handle(kernel, NTK).gram_gradient(_doubles(X), _doubles(Y), _doubles(weight)), X)


def _fake_gram_gradient(weight: Tensor, X: Tensor, Y: Tensor, kernel: int) -> Tensor:
    return X.new_empty(X.shape, dtype=torch.float64)


def _save_points(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    X, Y, ctx.number = inputs
    ctx.save_for_backward(X, Y)
    ctx.kernel = from_handle(ctx.number, NTK)  # keeps the kernel alive until backward


def _gram_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    X, Y = ctx.saved_tensors
    operator = torch.ops.zopo_fast.ntk_gram_gradient
    if Y is None:  # each point contributes a row and a column
        return operator(grad + grad.T, X, X, ctx.number).to(X.dtype), None, None
    of_X = operator(grad, X, Y, ctx.number).to(X.dtype) if ctx.needs_input_grad[0] else None
    of_Y = operator(grad.T, Y, X, ctx.number).to(Y.dtype) if ctx.needs_input_grad[1] else None
    return of_X, of_Y, None


def ntk_gram(kernel: NTK, X: Tensor, Y: Tensor | None = None) -> Tensor:
    """Compute `kernel.gram(X, Y)`, differentiable in X and Y.

    Args:
        kernel: The kernel.
        X: (n, d) tensor.
        Y: (m, d) tensor on the same device; None means Y = X.

    Returns:
        (n, m) float64 tensor on the device of X.

    Raises:
        ArrayError: Wrong shape, NaN or infinity.
        DeviceError: X and Y are on different devices.
    """
    for name, points in (("X", X), ("Y", Y)):
        if points is not None and (points.ndim != 2 or points.shape[1] != kernel.dim):
            raise ArrayError(f"{name}: expected shape (n, {kernel.dim}), got {tuple(points.shape)}")
    if Y is not None and Y.device != X.device:
        raise DeviceError(f"mixed devices: X is on {X.device}, Y on {Y.device}")
    result: Tensor = torch.ops.zopo_fast.ntk_gram(X, Y, kernel.number)
    return result


# ---- posterior: (q, d) -> (q,), (q,) and with `gradients` (q, d), (q, d)

_Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _posterior(x: Tensor, process: int, gradients: bool) -> _Four:
    """Compute mean and variance of a process as it is now, and their gradients, empty unless requested."""
    gp, points = from_handle(process, GaussianProcess), _doubles(x)
    if gradients:
        mean, variance, of_mean, of_variance = gp.derivatives(points)
    else:
        mean, variance = gp.predict(points)
        of_mean, of_variance = (torch.empty((0, x.shape[1]), dtype=torch.float64) for _ in range(2))
    return _tensor(mean, x), _tensor(variance, x), _tensor(of_mean, x), _tensor(of_variance, x)


def _fake_posterior(x: Tensor, process: int, gradients: bool) -> _Four:
    q, d = x.shape
    rows = q if gradients else 0
    empty = torch.float64
    return (
        x.new_empty((q,), dtype=empty), x.new_empty((q,), dtype=empty),
        x.new_empty((rows, d), dtype=empty), x.new_empty((rows, d), dtype=empty),
    )  # fmt: skip


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: _Four) -> None:
    x, _, ctx.gradients = inputs
    _, _, of_mean, of_variance = output
    ctx.mark_non_differentiable(of_mean, of_variance)
    ctx.save_for_backward(of_mean, of_variance)
    ctx.dtype = x.dtype


@once_differentiable  # type: ignore[untyped-decorator]
def _posterior_backward(ctx: Any, mean: Tensor, variance: Tensor, *_: Any) -> tuple[Any, ...]:
    if not ctx.gradients:
        raise NotImplementedError("zopo_fast::gp_posterior was called with gradients=False")
    of_mean, of_variance = ctx.saved_tensors
    return (mean[:, None] * of_mean + variance[:, None] * of_variance).to(ctx.dtype), None, None


def posterior(gp: GaussianProcess, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and latent variance of `gp.posterior(x)`, differentiable in x.

    If x requires a gradient, the gradients are computed together with the values, so observations appended
    before `backward` do not change them. The variance is clamped at 0, its gradient is not.

    Args:
        gp: The process.
        x: (..., d) tensor.

    Returns:
        Mean and variance, two (...,) float64 tensors on the device of x.

    Raises:
        ArrayError: Wrong shape, NaN or infinity.
        DeviceError: x is on another CUDA device than the process.
    """
    d = gp.kernel.dim
    if x.ndim == 0 or x.shape[-1] != d:
        raise ArrayError(f"x: expected shape (..., {d}), got {tuple(x.shape)}")
    gradients = x.requires_grad and torch.is_grad_enabled()
    mean, variance, _, _ = torch.ops.zopo_fast.gp_posterior(x.reshape(-1, d), gp.number, gradients)
    return mean.reshape(x.shape[:-1]), variance.reshape(x.shape[:-1])


# ---- registration


def _register(
    name: str, schema: str, function: Any, fake: Any, backward: Any = None, save: Any = None
) -> None:
    operator = torch.library.custom_op(
        f"zopo_fast::{name}", function, mutates_args=(), schema=schema, **_TAGS
    )
    operator.register_fake(fake)
    if backward:
        operator.register_autograd(backward, setup_context=save)


_register(
    "ntk_gram", "(Tensor X, Tensor? Y, int kernel) -> Tensor", _gram, _fake_gram, _gram_backward, _save_points
)
_register(
    "ntk_gram_gradient",
    "(Tensor weight, Tensor X, Tensor Y, int kernel) -> Tensor",
    _gram_gradient,
    _fake_gram_gradient,
)
_register(
    "gp_posterior",
    "(Tensor x, int process, bool gradients) -> (Tensor, Tensor, Tensor, Tensor)",
    _posterior,
    _fake_posterior,
    _posterior_backward,
    _save_gradients,
)
