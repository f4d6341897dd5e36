"""Saved states of searches as JSON values: kernels, the pool's fingerprint and the log of calls."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import EmbeddingMismatchError, InputError
from zopo_fast.gp.arrays import Array
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import MAX_PARAMETERS, NTK, parameter_count
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.linear import LinearPart
from zopo_fast.search.problem import MAX_KERNELS, Kernel, as_embeddings, split, with_features

STATE_VERSION = 2

_log = logging.getLogger(__name__)


class AskTell(Protocol):
    """Calls of `Zopo` that a log holds."""

    @property
    def pending(self) -> list[int]: ...
    def repeat_ask(self, asked: Sequence[int], n: int | None = None) -> int: ...
    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None: ...
    def discard(self, index: int) -> None: ...
    def add(self, embeddings: Any, features: Any | None = None, linear: Any | None = None) -> list[int]: ...
    def learn_from(
        self, indices: Sequence[int], scores: Any, noise: Any | None = None, source: str | None = None
    ) -> None: ...


class SavedSearch:
    """Checked state of one search, and the embeddings it was made with.

    Args:
        embeddings: The embeddings, with added rows below the first ones.
        state: Result of `Zopo.state_dict`.
        features: The features, likewise, or None.
        linear: The linear part, likewise, or None.

    Attributes:
        first_rows: Embeddings that the search began with.
        first_features: Features that the search began with, or None.
        first_described: Features and linear part that the search began with, each or None.
        config: The settings.
        kernels: The kernels of the model.

    Raises:
        EmbeddingMismatchError: The embeddings, features or linear part are not those of the state.
        InputError: The state is of another version, or inconsistent.
        Exception: A standard error, for a state that is not of this package.
    """

    def __init__(
        self, embeddings: Any, state: dict[str, Any], features: Any | None = None, linear: Any | None = None
    ) -> None:
        if state["version"] != STATE_VERSION:
            raise InputError(
                f"state version {short_repr(state['version'])}: this package reads {STATE_VERSION}"
            )
        count = as_integer("state: features", state.get("features", 0))
        if (features is not None) != (count > 0):
            has = f"has {count} features a prompt" if count else "has no features"
            raise EmbeddingMismatchError(f"features: this state {has}")
        both = embeddings if features is None else with_features(as_embeddings(embeddings), features)
        self._rows, self._features = split(same_pool(both, state["embeddings"]), count)
        self._linear = _same_linear(linear, state.get("linear"), len(self._rows))
        self._log, self._pending = state["log"], state["pending"]
        self._sources = state.get("sources", [])
        added = [as_integer("state: add", entry[1]) for entry in self._log if entry[0] == "add"]
        if min(added, default=0) < 0 or sum(added) >= len(self._rows):
            raise InputError("state: the log adds more prompts than there are")
        first = slice(len(self._rows) - sum(added))
        self.first_rows = self._rows[first]
        self.first_features = None if self._features is None else self._features[first]
        self.first_described = self.first_features, None if self._linear is None else self._linear[first]
        self.config = ZopoConfig.from_dict(state["config"])
        self.kernels = kernels_from_state(state["kernel"], self._rows.shape[1])

    def repeat(self, optimizer: AskTell) -> None:
        """Repeat the calls of the log on an optimizer with the first rows, settings and kernels.

        Raises:
            InputError: A call cannot be repeated, or leads to other pending prompts.
            Exception: A standard error, for a log that is not of this package.
        """
        for source in self._sources:
            optimizer.learn_from(**source)
        m = len(self.first_rows)
        different = 0
        for kind, *arguments in self._log:
            if kind == "tell":
                optimizer.tell(*arguments)
            elif kind == "discard":
                optimizer.discard(*arguments)
            elif kind == "add":
                more = slice(m, m + arguments[0])
                described = (None if of is None else of[more] for of in (self._features, self._linear))
                optimizer.add(self._rows[more], *described)
                m += arguments[0]
            elif kind == "ask":
                limit, asked = arguments
                different += optimizer.repeat_ask(asked, limit)
            else:
                raise InputError(f"state: unknown entry {short_repr(kind)} in the log")
        if different:
            _log.warning(
                "state: this version would have asked for %d other prompts; its scores are kept", different
            )
        if optimizer.pending != self._pending:
            raise InputError("state: the log does not lead to the pending prompts it names")


def pool_fingerprint(Z: NDArray[Any]) -> dict[str, Any]:
    """Return shape, dtype and hash of embeddings, which identify them in a saved state."""
    digest = hashlib.blake2b(Z.data, digest_size=16).hexdigest()
    return {"shape": list(Z.shape), "dtype": Z.dtype.name, "blake2b": digest}


def _same_linear(linear: Any | None, fingerprint: dict[str, Any] | None, m: int) -> Array | None:
    """Return the linear part of m candidates, which has a fingerprint; None where neither is there."""
    if (linear is None) != (fingerprint is None):
        raise EmbeddingMismatchError(f"linear: this state has {'a' if linear is None else 'no'} linear part")
    if linear is None:
        return None
    given = LinearPart(linear, m).given
    if pool_fingerprint(given) != fingerprint:
        raise EmbeddingMismatchError("linear: not the linear part of this state")
    return given


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
