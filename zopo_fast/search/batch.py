"""Many independent gradient searches in one native object."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
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
from zopo_fast.gp.ntk import NTK, require_ntk
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.gradient import HISTORY, MAX_REFRESH, MIN_HISTORY, MIN_NOISE, NOISE_GRID
from zopo_fast.search.kernel_scale import kernel_scale, scale_sample
from zopo_fast.search.problem import SearchProblem
from zopo_fast.search.state import kernel_state, kernels_from_state, pool_fingerprint, same_pool
from zopo_fast.search.strategy import MAX_PREALLOCATED

STATE_VERSION = 2

_RULES: dict[str, Any] = {
    "noise_grid": NOISE_GRID,
    "max_refresh": MAX_REFRESH,
    "min_noise": MIN_NOISE,
    "history": HISTORY,
    "min_history": MIN_HISTORY,
}


@public
class ZopoBatch:
    """B independent gradient searches over B pools, advanced together.

        import numpy as np
        import zopo_fast as zf

        pools = np.random.default_rng(0).normal(size=(8, 200, 16))  # B = 8 pools of 200 prompts
        config = zf.ZopoConfig(search="gradient", budget=30, initial=10)
        batch = zf.ZopoBatch(pools, config, device="cpu")
        while not batch.done.all():
            indices = batch.ask()  # (8,) int64, -1 where a search is done
            scores = -np.linalg.norm(pools[np.arange(8), indices], axis=1)
            batch.tell(indices, scores)  # a score is ignored where the index is -1
        indices, scores = batch.best

    Each search proposes the same indices as `Zopo(pool, config, kernel)` that is told every score before the
    next ask. A search whose score takes longer can be left out of a call: `tell` skips an index of -1, and
    `ask` accepts the numbers of the searches to ask. On "cuda" one launch serves all searches; on "cpu"
    threads share them.

    One thread at a time can use a batch. A batch can be pickled and copied, and used in a forked child unless
    it is on a CUDA device.

    Args:
        pools: B arrays (m_b, d_b) of float16, float32 or float64, one row per prompt; an array may repeat. A
            C-contiguous array is not copied; do not change it afterwards.
        configs: One ZopoConfig with search="gradient" for all searches, or one each.
        device: "cpu", "cuda" or "cuda:N".
        kernels: One kernel for all searches, or one each. Default: random, by the seed of each config.

    Attributes:
        device: The device as given.

    Raises:
        ArrayError: A pool is empty, not two-dimensional, not real, or holds NaN or infinity.
        ConfigError: The number of configs or kernels differs from that of pools, a config is not for a
            gradient search, or a setting is out of range.
        ConcurrentUseError: In any method, another thread is using the batch.
        DeviceError: The device is not available; in any method, the batch is on a CUDA device and this is a
            forked child.
    """

    def __init__(
        self,
        pools: Sequence[Any],
        configs: ZopoConfig | Sequence[ZopoConfig] | None = None,
        device: str = "cpu",
        kernels: NTK | Sequence[NTK] | None = None,
    ) -> None:
        ordinal = parse_device(device)
        pools = list(pools)
        if not pools:
            raise ConfigError("pools: expected at least one")
        self.device = device
        if configs is None:
            configs = ZopoConfig(search="gradient")
        all_configs = _one_each("configs", configs, ZopoConfig, len(pools))
        all_kernels = (
            [None] * len(pools) if kernels is None else _one_each("kernels", kernels, NTK, len(pools))
        )
        self._problems: list[SearchProblem] = []
        for b, (pool, config, kernel) in enumerate(zip(pools, all_configs, all_kernels, strict=True)):
            if config.official_settings or config.search != "gradient":
                raise ConfigError(
                    f"configs[{b}]: a batch runs gradient searches only; give "
                    "ZopoConfig(search='gradient', ...)"
                )
            try:
                self._problems.append(SearchProblem(pool, config, kernel))
            except ArrayError as error:
                raise ArrayError(f"pools[{b}]: {error}") from error
            except ConfigError as error:
                raise ConfigError(f"configs[{b}]: {error}") from error
        models = [_model_of(problem) for problem in self._problems]
        settings = [_settings_of(problem) for problem in self._problems]
        kind = _core.Studies if ordinal is None else _core.CudaStudies
        self._searches = kind(models, settings, _RULES, ordinal or 0)
        self._access = ExclusiveAccess("ZopoBatch")
        self._access.device = None if ordinal is None else device

    def __len__(self) -> int:
        return len(self._problems)

    @property
    def done(self) -> NDArray[np.bool_]:
        """Return (B,) bool: True where nothing is pending and the budget or the pool is exhausted."""
        with self._access.read_only:
            return self._searches.done()

    @property
    def pending(self) -> Indices:
        """Return (B,) int64: the pending prompt of each search, -1 for none."""
        with self._access.read_only:
            return self._searches.pending()

    @property
    def best(self) -> tuple[Indices, Array]:
        """Return index and score of the best prompt of each search, (B,) both; -1 and NaN before a score."""
        with self._access.read_only:
            return self._searches.best()

    @property
    def gradient_uncertainty(self) -> Array:
        """Return tr Sigma / tr d2k, (B,) in [0, 1], at the best prompt of each search.

        This is the remaining share of the gradient's prior uncertainty; NaN while the initial prompts of
        a search are being scored.
        """
        with self._access.read_only:
            return self._searches.gradient_uncertainty()

    def ask(self, studies: Any | None = None) -> Indices:
        """Return the next prompt of each search.

        Args:
            studies: Numbers of the searches to ask. Default: all.

        Returns:
            (B,) int64; -1 where a search is done or was not asked.

        Raises:
            UnknownIndexError: A search has a pending prompt, or does not exist.
        """
        which = np.arange(len(self)) if studies is None else _integers("studies", studies)
        out = np.full(len(self), -1, dtype=np.int64)
        with self._access:
            out[which] = self._searches.ask(which)
        return out

    def tell(self, indices: Any, scores: Any) -> None:
        """Record the scores of pending prompts.

        Args:
            indices: (B,) result of `ask`; -1 where there is nothing to tell.
            scores: (B,) scores, higher is better; ignored where the index is -1.

        Raises:
            UnknownIndexError: An index is not the pending one; nothing was recorded.
            ArrayError: Wrong shape, or a score that is NaN or infinite; nothing was recorded.
        """
        which, values = _integers("indices", indices), as_doubles(scores, "scores")
        with self._access:
            self._searches.tell(which, values)

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, from which `from_state` rebuilds the batch exactly.

        Raises:
            ConcurrentUseError: Another thread is using the batch, or the caller is a signal handler that
                interrupted a change.
        """
        with self._access.read_only:
            self._access.require_consistent()
            return {
                "version": STATE_VERSION,
                "studies": [
                    {
                        "config": problem.config.to_dict(),
                        "kernel": kernel_state(problem.kernels),
                        "embeddings": pool_fingerprint(problem.embeddings),
                        "log": [[int(i), float(y)] for i, y in zip(*self._searches.log(b), strict=True)],
                        "pending": int(pending),
                    }
                    for b, (problem, pending) in enumerate(zip(self._problems, self.pending, strict=True))
                ],
            }

    @classmethod
    def from_state(cls, pools: Sequence[Any], state: dict[str, Any], device: str = "cpu") -> ZopoBatch:
        """Rebuild a batch from `state_dict()` and the same pools, on any device.

        Raises:
            EmbeddingMismatchError: The pools are not those of the state.
            InputError: The state is damaged or of another version.
            DeviceError: The device is not available.
        """
        try:
            if state["version"] != STATE_VERSION:
                raise InputError(
                    f"state version {short_repr(state['version'])}: this package reads {STATE_VERSION}"
                )
            saved = state["studies"]
            if len(pools) != len(saved):
                raise EmbeddingMismatchError(f"the state is of {len(saved)} pools, {len(pools)} were given")
            matched = [same_pool(pool, study["embeddings"]) for pool, study in zip(pools, saved, strict=True)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the first object has already warned
                batch = cls(
                    matched,
                    [ZopoConfig.from_dict(study["config"]) for study in saved],
                    device,
                    [
                        require_ntk(kernels_from_state(study["kernel"], Z.shape[1])[0])
                        for study, Z in zip(saved, matched, strict=True)
                    ],
                )
            batch._replay([study["log"] for study in saved], [study["pending"] for study in saved])
        except InputError:
            raise
        except DeviceError:  # the machine lacks the device; the state is valid
            raise
        except Exception as error:  # a state is untrusted: whatever fails, it is invalid
            raise InputError(
                f"state: damaged or not a state of this package ({short_repr(error, 200)})"
            ) from error
        return batch

    def _replay(self, logs: list[list[list[Any]]], pending: list[int]) -> None:
        for at in range(max((len(log) for log in logs), default=0)):
            which = [b for b, log in enumerate(logs) if at < len(log)]
            asked, scores = self.ask(which), np.zeros(len(self))
            for b in which:
                index, scores[b] = logs[b][at]
                if index != asked[b]:
                    raise InputError(
                        f"state: search {b} asked for prompt {index} then and for {asked[b]} now"
                    )
            self.tell(asked, scores)
        waiting = [b for b, index in enumerate(pending) if index >= 0]
        if waiting and not np.array_equal(self.ask(waiting), pending):
            raise InputError("state: the log does not lead to the pending prompts it names")

    def __getstate__(self) -> dict[str, Any]:
        return {
            "pools": [problem.embeddings for problem in self._problems],
            "state": self.state_dict(),
            "device": self.device,
        }

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__ = ZopoBatch.from_state(pickled["pools"], pickled["state"], pickled["device"]).__dict__


def _model_of(problem: SearchProblem) -> dict[str, Any]:
    return {
        "network": problem.kernel.network,
        "embeddings": problem.embeddings,
        "mean": problem.mean,
        "deviation": problem.deviation,
        "capacity": min(problem.config.budget, MAX_PREALLOCATED),
    }


def _settings_of(problem: SearchProblem) -> dict[str, Any]:
    config, pool = problem.config, problem.pool()
    return {
        "budget": problem.budget,
        "expected": config.budget,
        "initial": problem.initial,
        "neighbors": config.neighbors,
        "exploration": config.exploration,
        "step": config.step,
        "exploration_quantile": config.exploration_quantile,
        "noise": config.noise,
        "scale": kernel_scale([problem.kernel], pool.rows(scale_sample(len(pool)))),
    }


def _one_each(name: str, value: Any, kind: type[Any], count: int) -> list[Any]:
    single = isinstance(value, kind) or not isinstance(value, Iterable)
    many = [value] * count if single else list(value)
    if len(many) != count:
        raise ConfigError(f"{name}: expected one for all or one for each of {count} pools, got {len(many)}")
    for i, item in enumerate(many):
        if not isinstance(item, kind):
            raise ConfigError(f"{name}[{i}]: expected a {kind.__name__}, got {short_repr(item)}")
    return many


def _integers(name: str, value: Any) -> Indices:
    array = as_host_array(value, name)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ArrayError(f"{name}: expected a one-dimensional array of integers, got {short_repr(value)}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UnknownIndexError(f"{name}: {array.max()} is out of range")  # int64 would wrap around
    return np.ascontiguousarray(array, dtype=np.int64)
