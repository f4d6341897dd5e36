"""Many independent searches in one native object."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast import _core
from zopo_fast._utils.exclusive import ExclusiveAccess
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import (
    ArrayError,
    ConfigError,
    DeviceError,
    EmbeddingMismatchError,
    InputError,
    UnknownIndexError,
)
from zopo_fast.gp.arrays import Array, Indices, as_doubles, as_host_array
from zopo_fast.gp.device import parse_device
from zopo_fast.gp.infinite_ntk import InfiniteNTK
from zopo_fast.gp.ntk import NTK
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.search.problem import Kernel, SearchProblem
from zopo_fast.search.state import STATE_VERSION as SEARCH_STATE_VERSION, SavedSearch

STATE_VERSION = 3


@public
class ZopoBatch:
    """B independent searches over B pools, advanced together.

        import numpy as np
        import zopo_fast as zf

        pools = np.random.default_rng(0).normal(size=(8, 200, 16))  # B = 8 pools of 200 prompts
        batch = zf.ZopoBatch(pools, zf.ZopoConfig(budget=30))
        while not batch.done.all():
            indices = batch.ask()  # (8,) int64, -1 where a search is done
            scores = -np.linalg.norm(pools[np.arange(8), indices], axis=1)
            batch.tell(indices, scores)  # a score is ignored where the index is -1
        indices, scores = batch.best

    Each search proposes the same indices as `Zopo(pool, config, kernel)` with the same calls. `ask`, `tell`
    and `discard` serve all searches at once: on "cpu" threads share them, on "cuda" one launch does. A search
    whose score takes longer can be left out of a call: `tell` skips an index of -1, and `ask` accepts the
    numbers of the searches to ask. `batch[b]` is search b as a `Zopo`, with all its methods: prior data,
    `learn_from`, `add`, several asks at once.

    One thread at a time can use a batch, its searches included. A batch can be pickled and copied, and used
    in a forked child unless it is on a CUDA device.

    Args:
        pools: B arrays (m_b, d_b) of float16, float32 or float64, one row per prompt; an array may repeat. A
            C-contiguous array is not copied; do not change it afterwards.
        configs: One ZopoConfig for all searches, or one each. Default: ZopoConfig().
        device: "cpu", "cuda" or "cuda:N"; a CUDA device runs gradient searches only, without prompts that are
            asked while others are pending.
        kernels: One kernel for all searches, or for each search one or several, as for `Zopo`. Default: as
            for `Zopo`.
        features: B arrays (m_b, q_b), as for `Zopo`; None in place of one for a search without features.

    Attributes:
        device: The device as given.

    Raises:
        ArrayError: A pool is empty, not two-dimensional, not real, or holds NaN or infinity.
        ConfigError: The number of configs or kernels differs from that of pools, a config is one that the
            device or a batch cannot run, or a setting is out of range.
        ConcurrentUseError: In any method, another thread is using the batch.
        DeviceError: The device is not available; in any method, the batch is on a CUDA device and this is a
            forked child.
    """

    def __init__(
        self,
        pools: Sequence[Any],
        configs: ZopoConfig | Sequence[ZopoConfig] | None = None,
        device: str = "cpu",
        kernels: Kernel | Sequence[Kernel | Sequence[Kernel]] | None = None,
        features: Sequence[Any] | None = None,
    ) -> None:
        ordinal = parse_device(device)
        pools = list(pools)
        if not pools:
            raise ConfigError("pools: expected at least one")
        self.device = device
        default = ZopoConfig() if ordinal is None else ZopoConfig(search="gradient")
        all_configs = _one_each("configs", default if configs is None else configs, ZopoConfig, len(pools))
        all_kernels = (
            [None] * len(pools)
            if kernels is None
            else _one_each("kernels", kernels, (NTK, InfiniteNTK), len(pools), may_be_several=True)
        )
        described = [None] * len(pools) if features is None else list(features)
        if len(described) != len(pools):
            raise ConfigError(f"features: expected one for each of {len(pools)} pools, got {len(described)}")
        self._problems: list[SearchProblem] = []
        for b, pool in enumerate(pools):
            config = all_configs[b]
            _require_supported(b, config, ordinal)
            try:
                self._problems.append(SearchProblem(pool, config, all_kernels[b], described[b]))
            except ArrayError as error:
                raise ArrayError(f"pools[{b}]: {error}") from error
            except ConfigError as error:
                raise ConfigError(f"configs[{b}]: {error}") from error
        inputs = [problem.native_inputs() for problem in self._problems]
        self._native = _core.Search(inputs) if ordinal is None else _core.CudaSearch(inputs, ordinal)
        self._access = ExclusiveAccess("ZopoBatch")
        self._access.device = None if ordinal is None else device

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, search: int) -> Zopo:
        """Return a search as an optimizer of its own, which shares its state with the batch.

        Raises:
            IndexError: There is no such search.
        """
        b = range(len(self))[search]
        return Zopo._of_batch(self._problems[b], self._native, b, self._access)

    def __iter__(self) -> Iterator[Zopo]:
        """Iterate over the searches."""
        return (self[b] for b in range(len(self)))

    @property
    def done(self) -> NDArray[np.bool_]:
        """Return (B,) bool: True where nothing is pending and the budget or the pool is exhausted."""
        with self._access.read_only:
            return self._native.done_each()

    @property
    def pending(self) -> Indices:
        """Return (B,) int64: the prompt that each search has waited for longest, -1 for none."""
        with self._access.read_only:
            return self._native.pending_each()

    @property
    def best(self) -> tuple[Indices, Array]:
        """Return index and score of the best prompt of each search, (B,) both; -1 and NaN before a score."""
        with self._access.read_only:
            return self._native.best_each()

    @property
    def gradient_uncertainty(self) -> Array:
        """Return tr Sigma / tr d2k, (B,) in [0, 1], at the best prompt of each search.

        This is the remaining share of the gradient's prior uncertainty; NaN for other searches than the
        gradient search, and while the initial prompts of a search are being scored.
        """
        with self._access.read_only:
            return self._native.gradient_uncertainty()

    def ask(self, studies: Any | None = None, ahead: bool = False) -> Indices:
        """Return the next prompt of each search.

        Args:
            studies: Numbers of the searches to ask. Default: all.
            ahead: True to ask although a search has pending prompts.

        Returns:
            (B,) int64; -1 where a search has nothing to ask or was not asked.

        Raises:
            UnknownIndexError: A search has a pending prompt and `ahead` is False, or does not exist.
            DeviceError: A search on a CUDA device has a pending prompt.
        """
        which = np.arange(len(self)) if studies is None else _integers("studies", studies)
        out = np.full(len(self), -1, dtype=np.int64)
        with self._access:
            out[which] = self._native.ask_each(which, bool(ahead))
        return out

    def tell(self, indices: Any, scores: Any, noise: Any | None = None, final: bool = True) -> None:
        """Record the scores of pending prompts.

        Args:
            indices: (B,) pending prompts, such as the result of `ask`; -1 where there is nothing to tell.
            scores: (B,) scores, higher is better; ignored where the index is -1.
            noise: (B,) variances of the scores. Default: those of the configs.
            final: False for partial scores, which leave the prompts pending; see `Zopo.tell`.

        Raises:
            UnknownIndexError: A prompt is not pending; nothing was recorded.
            ArrayError: Wrong shape, a score that is NaN or infinite, or a negative variance; nothing was
                recorded.
        """
        which, values = _integers("indices", indices), as_doubles(scores, "scores")
        variances = None if noise is None else as_doubles(noise, "noise")
        with self._access:
            self._native.tell_each(which, values, variances, bool(final))

    def discard(self, indices: Any) -> None:
        """Return pending prompts without a score, and refund the budgets; see `Zopo.discard`.

        Args:
            indices: (B,) pending prompts; -1 where there is nothing to discard.

        Raises:
            UnknownIndexError: A prompt is not pending; nothing was discarded.
            ArrayError: Wrong shape.
        """
        which = _integers("indices", indices)
        if len(which) != len(self):
            raise ArrayError(f"indices: expected shape ({len(self)},), got {which.shape}")
        with self._access:
            dropped = [(b, int(index)) for b, index in enumerate(which) if index != -1]
            for b, index in dropped:
                if index not in self._native.pending(b):
                    raise UnknownIndexError(f"discard: study {b}: prompt {index} is not pending")
            for b, index in dropped:
                self._native.discard(b, index)

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, from which `from_state` rebuilds the batch exactly.

        Raises:
            ConcurrentUseError: Another thread is using the batch, or the caller is a signal handler that
                interrupted a change.
        """
        with self._access.read_only:
            self._access.require_consistent()
            return {"version": STATE_VERSION, "studies": [search.state_dict() for search in self]}

    @classmethod
    def from_state(
        cls,
        pools: Sequence[Any],
        state: dict[str, Any],
        device: str = "cpu",
        features: Sequence[Any] | None = None,
    ) -> ZopoBatch:
        """Rebuild a batch from `state_dict()` and the same pools, on any device.

        Args:
            pools: The same pools, each with added rows below the first ones.
            state: The state.
            device: As for the constructor.
            features: The same features, likewise.

        Raises:
            EmbeddingMismatchError: The pools are not those of the state.
            InputError: The state is damaged or of another version.
            DeviceError: The device is not available.
        """
        try:
            version = state["version"]
            if version not in (2, STATE_VERSION):
                raise InputError(
                    f"state version {short_repr(version)}: this package reads 2 and {STATE_VERSION}"
                )
            saved = state["studies"]
            if len(pools) != len(saved):
                raise EmbeddingMismatchError(f"the state is of {len(saved)} pools, {len(pools)} were given")
            if version == 2:
                saved = [_current_form(study) for study in saved]
            described = [None] * len(pools) if features is None else list(features)
            starts = [SavedSearch(*each) for each in zip(pools, saved, described, strict=True)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the first object has already warned
                batch = cls(
                    [start.first_rows for start in starts],
                    [start.config for start in starts],
                    device,
                    [start.kernels for start in starts],
                    [start.first_features for start in starts],
                )
            for b, (search, start) in enumerate(zip(batch, starts, strict=True)):
                try:
                    start.repeat(search)
                except InputError as error:
                    raise InputError(f"state: search {b}: {error}") from error
        except InputError:
            raise
        except DeviceError:  # the machine lacks the device; the state is valid
            raise
        except Exception as error:  # a state is untrusted: whatever fails, it is invalid
            raise InputError(
                f"state: damaged or not a state of this package ({short_repr(error, 200)})"
            ) from error
        return batch

    def __getstate__(self) -> dict[str, Any]:
        described = [problem.described() for problem in self._problems]
        return {
            "pools": [embeddings for embeddings, _ in described],
            "features": [features for _, features in described],
            "state": self.state_dict(),
            "device": self.device,
        }

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__ = ZopoBatch.from_state(
            pickled["pools"], pickled["state"], pickled["device"], pickled.get("features")
        ).__dict__


def _require_supported(b: int, config: ZopoConfig, ordinal: int | None) -> None:
    if config.official_settings:
        raise ConfigError(f"configs[{b}]: the published loop runs in a Zopo of its own, not in a batch")
    if ordinal is not None and config.search != "gradient":
        raise ConfigError(
            f"configs[{b}]: a CUDA device runs gradient searches only; give "
            "ZopoConfig(search='gradient', ...), or device='cpu'"
        )


def _current_form(study: dict[str, Any]) -> dict[str, Any]:
    """Convert the state of a search of version 2, whose log names told prompts and their scores alone."""
    log: list[Any] = []
    for index, score in study["log"]:
        log += [["ask", None, [index]], ["tell", index, score, None, True]]
    pending = [] if study["pending"] < 0 else [study["pending"]]
    log += [["ask", None, pending]] if pending else []
    return study | {"log": log, "pending": pending, "version": SEARCH_STATE_VERSION}


def _one_each(
    name: str, value: Any, kinds: type[Any] | tuple[type[Any], ...], count: int, may_be_several: bool = False
) -> list[Any]:
    single = isinstance(value, kinds) or not isinstance(value, Iterable)
    many = [value] * count if single else list(value)
    if len(many) != count:
        raise ConfigError(f"{name}: expected one for all or one for each of {count} pools, got {len(many)}")
    for i, item in enumerate(many):
        each = item if may_be_several and isinstance(item, Sequence) else [item]
        if not all(isinstance(one, kinds) for one in each):
            names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise ConfigError(f"{name}[{i}]: expected a {names}, got {short_repr(item)}")
    return many


def _integers(name: str, value: Any) -> Indices:
    array = as_host_array(value, name)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ArrayError(f"{name}: expected a one-dimensional array of integers, got {short_repr(value)}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UnknownIndexError(f"{name}: {array.max()} is out of range")  # int64 would wrap around
    return np.ascontiguousarray(array, dtype=np.int64)
