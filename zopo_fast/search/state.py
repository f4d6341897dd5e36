"""JSON form of kernels and of a pool's fingerprint, for saved states."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.checks import as_integer
from zopo_fast.errors import EmbeddingMismatchError, InputError
from zopo_fast.gp.arrays import Array
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import MAX_PARAMETERS, NTK, parameter_count
from zopo_fast.search.problem import MAX_KERNELS, Kernel, as_embeddings


def pool_fingerprint(Z: NDArray[Any]) -> dict[str, Any]:
    """Return shape, dtype and hash of embeddings, which identify them in a saved state."""
    digest = hashlib.blake2b(Z.data, digest_size=16).hexdigest()
    return {"shape": list(Z.shape), "dtype": Z.dtype.name, "blake2b": digest}


def same_pool(embeddings: Any, fingerprint: dict[str, Any]) -> NDArray[Any]:
    """Return embeddings that have a fingerprint, as `as_embeddings` does.

    Raises:
        EmbeddingMismatchError: The embeddings have another fingerprint.
    """
    Z = as_embeddings(embeddings)
    if pool_fingerprint(Z) != fingerprint:
        raise EmbeddingMismatchError("the embeddings are not those this state was made with")
    return Z


def kernel_state(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Return kernels as JSON values: the arguments that they were drawn with, or their weights."""

    def packed(array: Array) -> dict[str, Any]:
        data = base64.b64encode(array.astype("<f8").tobytes()).decode()
        return {"shape": list(array.shape), "float64": data}

    if len(kernels) > 1:
        return {"several": [kernel_state([kernel]) for kernel in kernels]}
    (kernel,) = kernels
    if isinstance(kernel, InfiniteNTK):
        return {"infinite": asdict(kernel)}
    if kernel.recipe:
        return dict(kernel.recipe)
    return {"weights": [packed(w) for w in kernel.weights], "biases": [packed(b) for b in kernel.biases]}


def kernels_from_state(state: dict[str, Any], dim: int) -> list[Kernel]:
    """Rebuild the kernels of `kernel_state` for embeddings of dimension `dim`.

    A state is untrusted: its size is checked before a network is drawn.

    Raises:
        InputError: The state does not fit, or its networks are too large.
        Exception: A standard error, for a state that is not of this package.
    """
    kernels = state.get("several", [state])
    if not isinstance(kernels, list) or len(kernels) > MAX_KERNELS:
        raise InputError(f"state: expected a list of at most {MAX_KERNELS} kernels")
    total = 0
    for one in kernels:
        if "several" not in one and "infinite" not in one and "weights" not in one:
            recipe = [as_integer(name, one[name]) for name in ("dim", "width", "depth")]
            total += parameter_count(*recipe)
            if recipe[0] != dim or min(recipe) < 1 or total > MAX_PARAMETERS:
                raise InputError(f"state: kernels of {total} parameters for embeddings of dimension {dim}")
    return [_kernel_from_state(one) for one in kernels]


def _kernel_from_state(state: dict[str, Any]) -> Kernel:
    def unpacked(packed: dict[str, Any]) -> Array:
        data = np.frombuffer(base64.b64decode(packed["float64"]), dtype="<f8")
        array: Array = data.reshape(packed["shape"]).astype(np.float64)
        return array

    if "infinite" in state:
        return InfiniteNTK(**state["infinite"])
    if "weights" not in state:
        return NTK.random(**state)
    return NTK([unpacked(w) for w in state["weights"]], [unpacked(b) for b in state["biases"]])
