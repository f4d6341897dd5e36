"""Ask/tell optimizer over a pool of embeddings, without I/O or event loop."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from zopo_fast import _core
from zopo_fast._utils.checks import as_integer, real
from zopo_fast._utils.exclusive import ExclusiveAccess
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import (
    ArrayError,
    ConfigError,
    ConflictingScoreError,
    InputError,
    NothingToAsk,
    UnknownIndexError,
)
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.gradient import GradientSearch
from zopo_fast.search.improvement import ImprovementSearch
from zopo_fast.search.official import OfficialSearch
from zopo_fast.search.problem import Kernel, SearchProblem, as_embeddings
from zopo_fast.search.state import kernel_state, kernels_from_state, pool_fingerprint, same_pool
from zopo_fast.search.strategy import Observations, Strategy
from zopo_fast.search.trust_region import Coordinates

STATE_VERSION = 2

_log = logging.getLogger(__name__)


@public
class Zopo:
    """Localized zeroth-order search over a pool of embedded prompts, by ask and tell.

        import numpy as np
        import zopo_fast as zf

        embeddings = np.random.default_rng(0).normal(size=(500, 16))
        opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=50, initial=10))
        while not opt.done:
            i = opt.ask()
            opt.tell(i, -np.linalg.norm(embeddings[i]))  # the score of prompt i, higher is better
        index, score = opt.best

    The method is that of arXiv 2403.02993. Asks can run ahead of tells, and tells can come in any order. A
    prompt that was asked and not yet told is pending. Each prompt is offered once, unless it is discarded.
    The same calls in the same order give bitwise the same answers, also after `from_state`.

    One thread at a time can use an optimizer. To share it, hold a lock around each call, or around calls that
    belong together. A signal handler may read `done`, `pending` and `best` at any time. An optimizer can be
    pickled, copied and used in a forked child.

    Args:
        embeddings: (m, d) array of float16, float32 or float64, one row per prompt. A C-contiguous array is
            not copied; do not change it afterwards.
        config: Settings. Default: ZopoConfig().
        kernel: Kernel on the centered and scaled embeddings, or several, of which the mean is used. Default:
            InfiniteNTK of depth 2; for a gradient search, a random NTK drawn with the seed of the config.

    Attributes:
        config: The settings.

    Raises:
        ArrayError: The embeddings are empty, not two-dimensional, not real, or hold NaN or infinity, or the
            kernel has another dimension.
        ConfigError: Initial indices are outside the pool or exceed the budget, or the search cannot use the
            kernel.
        ConcurrentUseError: In any method, another thread is using the optimizer.
    """

    def __init__(
        self,
        embeddings: Any,
        config: ZopoConfig | None = None,
        kernel: Kernel | Sequence[Kernel] | None = None,
    ) -> None:
        problem = SearchProblem(embeddings, config or ZopoConfig(), kernel)
        self._problem = problem
        self.config = problem.config
        self._budget = problem.budget
        self._embeddings = problem.embeddings
        self._rng = problem.rng
        self._kernels = problem.kernels
        self._pool = problem.pool()
        self._seen = Observations()
        self._pending: dict[int, None] = {}  # in order of asking
        self._partial: set[int] = set()  # indices with a partial score
        self._set_aside: dict[int, None] = {}  # discarded; offered again when nothing else is left
        self._counted = 0  # asked and not discarded
        self._log: list[list[Any]] = []
        self._access = ExclusiveAccess("Zopo")
        self._search = self._make_search()

    def _make_search(self) -> Strategy:
        problem, config, official = self._problem, self.config, self.config.official_settings
        if official:
            return OfficialSearch(
                self._pool, problem.kernel, self._seen, problem.initial, self._budget, official
            )
        if config.search == "gradient":
            return GradientSearch(self._pool, problem.kernel, self._seen, problem.initial, config)
        coordinates = Coordinates(self._pool, problem.deviation, problem.spread, config.zscore)
        return ImprovementSearch(
            self._pool, coordinates, self._kernels, self._seen, problem.initial, config, self._rng
        )

    # ---- ask ---------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Return True if nothing is pending and the budget or the pool is exhausted."""
        with self._access.read_only:
            return not self._pending and not self._can_offer()

    @property
    def pending(self) -> list[int]:
        """Return the indices asked and neither told nor discarded, in order of asking."""
        with self._access.read_only:
            return list(self._pending)

    @property
    def best(self) -> tuple[int, float]:
        """Return index and score of the best prompt so far; any final score beats a partial one.

        Raises:
            NothingToAsk: No score was told yet.
        """
        with self._access.read_only:
            final = [i for i in self._seen.indices if i not in self._partial]
            candidates = final or self._seen.indices
            if not candidates:
                raise NothingToAsk("best: no score was told yet")
            index = max(candidates, key=self._seen.score_of)
            return index, self._seen.score_of(index)

    @overload
    def ask(self, n: None = None) -> int: ...
    @overload
    def ask(self, n: int) -> list[int]: ...
    def ask(self, n: int | None = None) -> int | list[int]:
        """Return the next index to score, or with `n` a list of at most `n` indices.

        Args:
            n: Largest number of indices; None for a single index instead of a list.

        Raises:
            NothingToAsk: The budget or the pool is exhausted, or every remaining prompt is pending.
            ConfigError: `n` is not an integer of at least 1.
        """
        if n is not None and (n := as_integer("ask: n", n)) < 1:
            raise ConfigError(f"ask: n must be at least 1, got {n}")
        self._access.acquire()  # faster than `with`: this is the hot path
        try:
            if not self._can_offer():
                reason = "all that is left is pending" if self._pending else "the run is done"
                raise NothingToAsk(
                    f"{reason}: {self._counted} of {self._budget} asked, {len(self._pending)} pending"
                )
            if n is None:
                index = self._offer()
                self._log.append(["ask", None, [index]])
                return index
            asked = [self._offer()]
            while len(asked) < n and self._can_offer():
                asked.append(self._offer())
            self._log.append(["ask", n, list(asked)])  # a copy: the caller may change the list
            return asked
        finally:
            self._access.release()

    def repeat_ask(self, asked: Sequence[int], n: int | None = None) -> int:
        """Ask for the prompts that a log names; return how many of them this version would not ask for.

        Versions and processors differ in the last digits of a criterion, and so in a choice between nearly
        equal prompts. The log decides, so that the scores after it stay usable.

        Args:
            asked: Indices that `ask(n)` returned when the log was written.
            n: As for `ask`.

        Raises:
            InputError: A prompt cannot be asked for, or `ask(n)` cannot return that number of prompts.
        """
        limit = 1 if n is None else n
        with self._access:
            if not 1 <= len(asked) <= limit:
                raise InputError(f"ask({n}) cannot return {len(asked)} prompts")
            different = sum(not self._offer_as(index) for index in asked)
            if len(asked) < limit and self._can_offer():
                raise InputError(f"ask({n}) would return more than {len(asked)} prompts")
            self._log.append(["ask", n, list(asked)])
            return different

    def _offer_as(self, index: int) -> bool:
        """Offer a given prompt; return whether the search proposes the same."""
        index = self._checked(index)
        free = not self._pool.taken(index) if self._pool.available else index in self._set_aside
        if not free or not self._can_offer():
            raise InputError(f"prompt {index} cannot be asked for")
        found = self._next()
        if found != index:
            if self._pool.available:
                self._search.on_discard(found)
                self._search.on_ask(index)
            else:
                del self._set_aside[index]
                self._set_aside = {found: None, **self._set_aside}
        self._pool.take(index)
        self._pending[index] = None
        self._counted += 1
        return found == index

    def _offer(self) -> int:
        index = self._next()
        self._pool.take(index)
        self._pending[index] = None
        self._counted += 1
        return index

    def _can_offer(self) -> bool:
        return self._counted < self._budget and bool(self._pool.available or self._set_aside)

    def _next(self) -> int:
        if self._pool.available:
            return self._search.propose()
        index = next(iter(self._set_aside))  # only discarded prompts are left
        del self._set_aside[index]
        return index

    # ---- tell --------------------------------------------------------------------------------------

    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None:
        """Record the score of a prompt, for any index and in any order.

        Args:
            index: Pool index. A prompt that was never asked is prior data and does not count.
            score: Score, higher is better; the mean so far if not final.
            noise: Variance of the score, in squared units of the score. Default: that of the config.
            final: False records a partial score, which replaces the prompt's observation and leaves the
                prompt pending.

        Raises:
            UnknownIndexError: The index is outside the pool.
            InputError: `score` or `noise` is NaN or infinite, or `noise` is negative.
            ConflictingScoreError: The prompt already has another final score.
        """
        index, final = self._checked(index), bool(final)
        score = _finite("score", score)
        if noise is not None and (noise := _finite("noise", noise)) < 0:
            raise InputError(f"noise: expected a variance of at least 0, got {noise}")
        self._access.acquire()  # faster than `with`: this is the hot path
        try:
            if index in self._seen and index not in self._partial:
                known = self._seen.score_of(index)
                if known != score:
                    raise ConflictingScoreError(f"prompt {index} was given the score {known} and now {score}")
                return
            self._log.append(["tell", index, score, noise, final])
            is_repeat = not self._seen.record(index, score, noise)
            self._pool.take(index)
            self._set_aside.pop(index, None)
            if final:
                self._partial.discard(index)
                self._pending.pop(index, None)
            else:
                self._partial.add(index)
            self._search.on_tell(index, final, is_repeat)
        finally:
            self._access.release()

    def discard(self, index: int) -> None:
        """Return a pending prompt without a score, and refund the budget.

        The prompt is offered again only when nothing else is left.

        Raises:
            UnknownIndexError: The prompt is not pending.
        """
        index = self._checked(index)
        with self._access:
            if index not in self._pending:
                raise UnknownIndexError(f"discard: prompt {index} is not pending")
            self._log.append(["discard", index])
            del self._pending[index]
            self._counted -= 1
            if index not in self._seen:  # a partial score stays as data, and its prompt is not offered again
                self._set_aside[index] = None
            self._search.on_discard(index)

    def add(self, embeddings: Any) -> list[int]:
        """Add candidates to the pool during the search.

        New candidates are standardized by the statistics of the first pool, so that the model stays valid. A
        budget that was clipped to the pool grows with it. To restore a state later, pass all embeddings to
        `from_state`, with the added rows below the first ones.

        Args:
            embeddings: (k, d) array, converted to the precision of the pool.

        Returns:
            Indices of the new candidates, following the last index of the pool.

        Raises:
            ArrayError: Wrong shape or dtype, NaN or infinity (also after conversion to the precision of the
                pool), or an embedding too far from the first pool.
        """
        more, d = as_embeddings(embeddings), self._embeddings.shape[1]
        if more.shape[1] != d:
            raise ArrayError(f"embeddings: expected dimension {d}, as the pool has, got {more.shape[1]}")
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is rejected below
            more = more.astype(self._embeddings.dtype)
        self._problem.require_near(more)
        with self._access:
            m = len(self._embeddings)
            grown = np.concatenate([self._embeddings, more])
            pool = _core.Pool(grown, self._problem.mean, self._problem.deviation)
            for i in range(m):
                if self._pool.taken(i):
                    pool.take(i)
            self._embeddings, self._pool = grown, pool
            self._budget = min(self.config.budget, len(grown))
            self._search.on_add(pool, self._budget)
            self._log.append(["add", len(more)])
            return list(range(m, len(grown)))

    def _checked(self, index: int) -> int:
        m = len(self._embeddings)
        if type(index) is int and 0 <= index < m:  # the usual case first: this is the hot path
            return index
        try:
            real(index)  # rejects an array of one entry, which int() would accept
            checked = int(index)
        except (TypeError, ValueError, OverflowError) as error:
            raise UnknownIndexError(f"{short_repr(index)} is not a pool index") from error
        if checked != index or isinstance(index, bool) or not 0 <= checked < m:
            raise UnknownIndexError(f"prompt {short_repr(index)} is not in the pool of {m}")
        return checked

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, from which `from_state` rebuilds the optimizer exactly.

        The state holds the ordered log of calls, the settings, the kernels and a hash of the embeddings.

        Raises:
            ConcurrentUseError: Another thread is using the optimizer, or the caller is a signal handler that
                interrupted a change.
        """
        with self._access.read_only:
            self._access.require_consistent()
            return {
                "version": STATE_VERSION,
                "config": self.config.to_dict(),
                "kernel": kernel_state(self._kernels),
                "embeddings": pool_fingerprint(self._embeddings),
                "log": [[list(x) if isinstance(x, list) else x for x in entry] for entry in self._log],
                "pending": self.pending,
                "rng": self._rng.bit_generator.state,
            }

    @classmethod
    def from_state(cls, embeddings: Any, state: dict[str, Any]) -> Zopo:
        """Rebuild an optimizer from `state_dict()`.

        Args:
            embeddings: The same embeddings, with added rows below the first ones.
            state: The state.

        Raises:
            EmbeddingMismatchError: The embeddings are not those of the state.
            InputError: The state is damaged or of another version.
        """
        try:
            if state["version"] != STATE_VERSION:
                raise InputError(
                    f"state version {short_repr(state['version'])}: this package reads {STATE_VERSION}"
                )
            Z = same_pool(embeddings, state["embeddings"])
            added = [as_integer("state: add", entry[1]) for entry in state["log"] if entry[0] == "add"]
            if min(added, default=0) < 0 or sum(added) >= len(Z):
                raise InputError("state: the log adds more prompts than there are")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the first object has already warned
                optimizer = cls(
                    Z[: len(Z) - sum(added)],
                    ZopoConfig.from_dict(state["config"]),
                    kernels_from_state(state["kernel"], Z.shape[1]),
                )
            different = sum(optimizer._replay(entry, Z) for entry in state["log"])
            if different:  # random numbers may have been drawn otherwise
                optimizer._rng.bit_generator.state = state["rng"]
                _log.warning(
                    "state: this version would have asked for %d other prompts; its scores are kept",
                    different,
                )
            if optimizer.pending != state["pending"] or optimizer._rng.bit_generator.state != state["rng"]:
                raise InputError("state: the log does not lead to the pending prompts it names")
        except InputError:
            raise
        except Exception as error:  # a state is untrusted: whatever fails, it is invalid
            raise InputError(
                f"state: damaged or not a state of this package ({short_repr(error, 200)})"
            ) from error
        return optimizer

    def _replay(self, entry: list[Any], Z: Any) -> int:
        """Apply an entry of a log; return how many prompts this version would not have asked for."""
        kind, *arguments = entry
        if kind == "tell":
            self.tell(*arguments)
        elif kind == "discard":
            self.discard(*arguments)
        elif kind == "add":
            m = len(self._embeddings)
            self.add(Z[m : m + arguments[0]])
        elif kind == "ask":
            n, asked = arguments
            return self.repeat_ask(asked, n)
        else:
            raise InputError(f"state: unknown entry {short_repr(kind)} in the log")
        return 0

    def __getstate__(self) -> dict[str, Any]:
        return {"embeddings": self._embeddings, "state": self.state_dict()}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__ = Zopo.from_state(pickled["embeddings"], pickled["state"]).__dict__


def _finite(name: str, value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    try:
        number = real(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: expected a finite number, got {short_repr(value)}") from error
    if not math.isfinite(number):
        raise InputError(f"{name}: expected a finite number, got {short_repr(value)}")
    return number
