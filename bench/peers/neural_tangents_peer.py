"""Empirical NTK of the same network by neural-tangents in JAX, float64, compiled."""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # silence TensorFlow's startup messages
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations between JAX and TensorFlow
    import jax
    import neural_tangents as nt

IMPLEMENTATIONS = {
    "neural-tangents, vector products": nt.NtkImplementation.NTK_VECTOR_PRODUCTS,
    "neural-tangents, Jacobians": nt.NtkImplementation.JACOBIAN_CONTRACTION,
}


def _network(parameters: Any, x: Any) -> Any:
    """Return f(x), (n, 1)."""
    for W, b in parameters[:-1]:
        x = jax.nn.relu(x @ W.T + b)
    W, b = parameters[-1]
    return x @ W.T + b


def grams(kernel: Any, X: Any, Y: Any | None) -> dict[str, Any]:
    """Return the two implementations that run with a current JAX; structured derivatives fail there."""
    jax.config.update("jax_enable_x64", True)
    parameters = [
        (jax.numpy.asarray(W), jax.numpy.asarray(b))
        for W, b in zip(kernel.weights, kernel.biases, strict=True)
    ]
    A = jax.numpy.asarray(X)
    B = None if Y is None else jax.numpy.asarray(Y)
    cases = {}
    for label, implementation in IMPLEMENTATIONS.items():
        ntk = jax.jit(nt.empirical_ntk_fn(_network, trace_axes=(-1,), implementation=implementation))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # JAX deprecates neural-tangents' tracing
            ntk(A, B, parameters)
        cases[label] = lambda ntk=ntk: ntk(A, B, parameters).block_until_ready()
    return cases
