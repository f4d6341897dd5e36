"""Many independent searches side by side: one call asks them all, one call tells them all."""

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
from zopo_fast.gp.ntk import NTK, as_network_kernel
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.gradient import HISTORY, MAX_REFRESH, MIN_HISTORY, MIN_NOISE, NOISE_GRID
from zopo_fast.search.problem import MAX_CAPACITY, StudyStart, kernel_scale
from zopo_fast.search.state import kernel_state, kernels_from_state, pool_fingerprint, same_pool

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
    """B searches of their own, over pools of their own, moved on together.

        batch = ZopoBatch(pools, configs, device="cuda")
        while not batch.done.all():
            indices = batch.ask()                 # (B,) int64, -1 where a study is done
            scores = ...                          # (B,) higher is better; ignored where -1
            batch.tell(indices, scores)

    Each study proposes what `Zopo(pool, config, kernel)` would, index for index, when it is told each
    score before the next ask. Studies whose score takes longer can be left out of a call: tell() skips
    an index of -1, ask() takes the studies to ask. On "cuda" every operation of all studies is one launch;
    on "cpu" threads split the studies.

    Like `Zopo` it serves one thread at a time (ConcurrentUseError), can be pickled and copied, and goes on
    in a forked process, though not from a CUDA device (DeviceError).

    Args:
        pools: B arrays (m_b, d_b), float16, float32 or float64, one row a prompt; the same array may
            be given several times. Kept, not copied, when C-contiguous: do not change them afterwards.
        configs: one ZopoConfig for all, or one for each. The official preset is not among them.
        device: "cpu", "cuda" or "cuda:N".
        kernels: one for all or one for each; a random one by the seed of its config when left out.

    Raises:
        ArrayError: a pool that is empty, not two-dimensional, not real, with NaN or infinity; names it.
        ConfigError: another number of configs than pools; the official preset; settings out of range.
        DeviceError: no such device.
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
            raise ConfigError("pools: a batch has at least one study")
        self.device = device
        many = _one_each("configs", configs or ZopoConfig(search="gradient"), ZopoConfig, len(pools))
        given = [None] * len(pools) if kernels is None else _one_each("kernels", kernels, NTK, len(pools))
        self._starts: list[StudyStart] = []
        for b, (pool, config, kernel) in enumerate(zip(pools, many, given, strict=True)):
            if config.official_settings or config.search != "gradient":
                raise ConfigError(
                    f"configs[{b}]: a batch runs the search along the gradient: give "
                    "ZopoConfig(search='gradient', ...)"
                )
            try:
                self._starts.append(StudyStart(pool, config, kernel))
            except ArrayError as error:
                raise ArrayError(f"pools[{b}]: {error}") from error
            except ConfigError as error:
                raise ConfigError(f"configs[{b}]: {error}") from error
        models, settings = [], []
        for start in self._starts:
            config = start.config
            models.append(
                {
                    "network": start.kernel._network,
                    "embeddings": start.embeddings,
                    "mean": start.mean,
                    "deviation": start.deviation,
                    "capacity": min(config.budget, MAX_CAPACITY),
                }
            )
            settings.append(
                {
                    "budget": start.budget,
                    "expected": config.budget,
                    "initial": start.initial,
                    "neighbors": config.neighbors,
                    "exploration": config.exploration,
                    "step": config.step,
                    "exploration_quantile": config.exploration_quantile,
                    "noise": config.noise,
                    "scale": kernel_scale(start.kernel, start.pool()),
                }
            )
        kind = _core.Studies if ordinal is None else _core.CudaStudies
        self._studies = kind(models, settings, _RULES, ordinal or 0)
        self._access = ExclusiveAccess("ZopoBatch")
        self._access.device = None if ordinal is None else device

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def done(self) -> NDArray[np.bool_]:
        """(B,): whether a study's budget or pool is spent and nothing of it is pending."""
        with self._access.read_only:
            return self._studies.done()

    @property
    def pending(self) -> Indices:
        """(B,): the prompt whose score a study waits for, -1 for none."""
        with self._access.read_only:
            return self._studies.pending()

    @property
    def best(self) -> tuple[Indices, Array]:
        """Index and score of the best prompt of each study so far, (B,) both; -1 and NaN before a score."""
        with self._access.read_only:
            return self._studies.best()

    @property
    def gradient_uncertainty(self) -> Array:
        """(B,): share of the prior uncertainty of the derivative at the best prompt that is left.

        tr Sigma / tr d2k in [0, 1]; NaN while a study's first prompts are being scored.
        """
        with self._access.read_only:
            return self._studies.gradient_uncertainty()

    def ask(self, studies: Any | None = None) -> Indices:
        """Return the next prompt of every study, (B,) int64; -1 where a study is done.

        Args:
            studies: numbers of the studies to ask; the others get -1.

        Raises:
            UnknownIndexError: a study that waits for a score, or that does not exist.
        """
        which = np.arange(len(self)) if studies is None else _integers("studies", studies)
        out = np.full(len(self), -1, dtype=np.int64)
        with self._access:
            out[which] = self._studies.ask(which)
        return out

    def tell(self, indices: Any, scores: Any) -> None:
        """Record the scores of pending prompts.

        Args:
            indices: (B,), what ask() returned; -1 where there is nothing to tell.
            scores: (B,), higher is better; ignored where the index is -1.

        Raises:
            UnknownIndexError: an index that is not the pending one; nothing was recorded.
            ArrayError: wrong shapes, or a score that is NaN or infinite; nothing was recorded.
        """
        which, values = _integers("indices", indices), as_doubles(scores, "scores")
        with self._access:
            self._studies.tell(which, values)

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue identically, as JSON values; from_state() reads it."""
        with self._access.read_only:
            self._access.require_consistent()
            return {
                "version": STATE_VERSION,
                "studies": [
                    {
                        "config": start.config.to_dict(),
                        "kernel": kernel_state(start.kernels),
                        "embeddings": pool_fingerprint(start.embeddings),
                        "log": [[int(i), float(y)] for i, y in zip(*self._studies.log(b), strict=True)],
                        "pending": int(pending),
                    }
                    for b, (start, pending) in enumerate(zip(self._starts, self.pending, strict=True))
                ],
            }

    @classmethod
    def from_state(cls, pools: Sequence[Any], state: dict[str, Any], device: str = "cpu") -> ZopoBatch:
        """Rebuild a batch from state_dict() and the same pools, on any device.

        Raises:
            EmbeddingMismatchError: other pools than those the state was made with.
            InputError: a state of another version, or damaged.
        """
        try:
            if state["version"] != STATE_VERSION:
                raise InputError(
                    f"state version {short_repr(state['version'])}: this package reads {STATE_VERSION}"
                )
            saved = state["studies"]
            if len(pools) != len(saved):
                raise EmbeddingMismatchError(f"the state is of {len(saved)} pools, {len(pools)} were given")
            known = [same_pool(pool, study["embeddings"]) for pool, study in zip(pools, saved, strict=True)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once, when the first object was made
                batch = cls(
                    known,
                    [ZopoConfig.from_dict(study["config"]) for study in saved],
                    device,
                    [
                        as_network_kernel(kernels_from_state(study["kernel"], Z.shape[1])[0])
                        for study, Z in zip(saved, known, strict=True)
                    ],
                )
            batch._replay([study["log"] for study in saved], [study["pending"] for study in saved])
        except InputError:
            raise
        except DeviceError:  # the machine's fault, not the state's
            raise
        except Exception as error:  # it is of anyone's making: what it breaks is its own fault
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
                    raise InputError(f"state: study {b} asked for prompt {index} then and for {asked[b]} now")
            self.tell(asked, scores)
        waiting = [b for b, index in enumerate(pending) if index >= 0]
        if waiting and not np.array_equal(self.ask(waiting), pending):
            raise InputError("state: the log does not lead to the pending prompts it names")

    def __getstate__(self) -> dict[str, Any]:
        return {
            "pools": [start.embeddings for start in self._starts],
            "state": self.state_dict(),
            "device": self.device,
        }

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__ = ZopoBatch.from_state(pickled["pools"], pickled["state"], pickled["device"]).__dict__


def _one_each(name: str, value: Any, kind: type[Any], count: int) -> list[Any]:
    single = isinstance(value, kind) or not isinstance(value, Iterable)
    many = [value] * count if single else list(value)
    if len(many) != count:
        raise ConfigError(f"{name}: one for all or one for each of {count} pools, got {len(many)}")
    for i, item in enumerate(many):
        if not isinstance(item, kind):
            raise ConfigError(f"{name}[{i}]: expected a {kind.__name__}, got {short_repr(item)}")
    return many


def _integers(name: str, value: Any) -> Indices:
    array = as_host_array(value, name)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ArrayError(f"{name}: expected a one-dimensional array of integers, got {short_repr(value)}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UnknownIndexError(f"{name}: {array.max()} is not among them")  # not what it wraps around to
    return np.ascontiguousarray(array, dtype=np.int64)
