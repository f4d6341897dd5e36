"""Ask and tell: which prompt of a pool to score next. No I/O, no event loop; owns its randomness."""

from __future__ import annotations

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
from zopo_fast.search.gradient import LocalSearch
from zopo_fast.search.improvement import RegionSearch
from zopo_fast.search.official import OfficialSearch
from zopo_fast.search.problem import Kernel, StudyStart, as_embeddings
from zopo_fast.search.state import kernel_state, kernels_from_state, pool_fingerprint, same_pool
from zopo_fast.search.strategy import Observations, Strategy
from zopo_fast.search.trust_region import Coordinates

STATE_VERSION = 2


@public
class Zopo:
    """Localized zeroth-order search over a pool of embedded prompts (arXiv 2403.02993), by ask and tell.

        opt = Zopo(embeddings, ZopoConfig(budget=50, initial=10))
        while not opt.done:
            i = opt.ask()
            opt.tell(i, score(prompts[i]))        # higher is better

    Asks may run ahead of tells, and tells may come in any order: what was asked and not told is
    pending, and is neither offered again nor forgotten. Each prompt is offered once, unless it is
    discarded. Given the same calls in the same order the answers are the same, bit for bit; see
    state_dict.

    It serves one thread at a time, any thread: a call that comes in from another one meanwhile raises
    ConcurrentUseError, and changes nothing. Share one among threads by a lock of your own around each
    call, or around several that belong together. A signal handler may look at done, pending and best at any
    time. It can be pickled and copied, and goes on in a forked process.

    Args:
        embeddings: (m, d) float16, float32 or float64, one row a prompt. Kept, not copied, when
            C-contiguous: do not change it afterwards.
        config: settings; the defaults when left out.
        kernel: the kernel on the centered and scaled embeddings, or several, whose mean is taken: InfiniteNTK
            of depth 2 when left out. A search along a gradient needs one NTK; a random one by the seed.

    Raises:
        ArrayError: embeddings empty, not two-dimensional, not real, with NaN or infinity; a kernel of
            another dimension.
        ConfigError: initial indices outside the pool, or more than the budget; a kernel that the search
            cannot use.
    """

    def __init__(
        self,
        embeddings: Any,
        config: ZopoConfig | None = None,
        kernel: Kernel | Sequence[Kernel] | None = None,
    ) -> None:
        start = StudyStart(embeddings, config or ZopoConfig(), kernel)
        self._start = start
        self.config = start.config
        self._budget = start.budget
        self._embeddings = start.embeddings
        self._rng = start.rng
        self._kernels = start.kernels
        self._pool = start.pool()
        self._seen = Observations()
        self._pending: dict[int, None] = {}  # in order of asking
        self._partial: set[int] = set()  # told, but not finally
        self._set_aside: dict[int, None] = {}  # discarded: offered again when nothing else is left
        self._counted = 0  # asked and not discarded
        self._log: list[list[Any]] = []
        self._access = ExclusiveAccess(
            "Zopo"
        )  # one call at a time, or two threads would be given the same prompt
        self._search: Strategy
        official = self.config.official_settings
        if official:
            self._search = OfficialSearch(
                self._pool, start.kernel, self._seen, start.initial, self._budget, official
            )
        elif self.config.search == "gradient":
            self._search = LocalSearch(self._pool, start.kernel, self._seen, start.initial, self.config)
        else:
            coordinates = Coordinates(self._pool, start.deviation, start.spread, self.config.zscore)
            self._search = RegionSearch(
                self._pool,
                coordinates,
                self._kernels,
                self._seen,
                start.initial,
                self.config,
                self._rng,
            )

    # ---- ask ---------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Nothing pending, and the budget or the pool is spent."""
        with self._access.read_only:
            return not self._pending and not self._can_offer()

    @property
    def pending(self) -> list[int]:
        """Indices asked and neither told nor discarded, in order of asking."""
        with self._access.read_only:
            return list(self._pending)

    @property
    def best(self) -> tuple[int, float]:
        """Index and score of the best prompt scored so far, final scores before partial ones.

        Raises:
            NothingToAsk: nothing was told yet.
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
        """Return the next index to score, or with `n` a list of at most `n` of them.

        Raises:
            NothingToAsk: budget or pool is spent, or all that is left is pending.
            ConfigError: n below one.
        """
        if n is not None and (n := as_integer("ask: n", n)) < 1:
            raise ConfigError(f"ask: n must be at least 1, got {n}")
        self._access.acquire()  # faster than `with`: this is the hot path
        try:
            if not self._can_offer():
                left = "all that is left is pending" if self._pending else "the run is done"
                raise NothingToAsk(
                    f"{left}: {self._counted} of {self._budget} asked, {len(self._pending)} pending"
                )
            if n is None:
                index = self._offer()
                self._log.append(["ask", None, [index]])
                return index
            asked = [self._offer()]
            while len(asked) < n and self._can_offer():
                asked.append(self._offer())
            self._log.append(["ask", n, asked])
            return asked
        finally:
            self._access.release()

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
        index = next(iter(self._set_aside))  # only what was discarded is left
        del self._set_aside[index]
        return index

    # ---- tell --------------------------------------------------------------------------------------

    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None:
        """Record the score of a prompt; any index, in any order.

        Args:
            index: pool index. One never asked is prior data and is not counted.
            score: higher is better; a mean so far when not final.
            noise: variance of this score, in units of score squared; the default when left out.
            final: False records a partial score: it replaces the index's observation, and the index
                stays pending.

        Raises:
            UnknownIndexError: outside the pool.
            InputError: score or noise NaN, infinite, or noise negative.
            ConflictingScoreError: the index already has another final score.
        """
        index, final = self._checked(index), bool(final)
        score = _finite("score", score)
        if noise is not None and (noise := _finite("noise", noise)) < 0:
            raise InputError(f"noise: a variance cannot be negative, got {noise}")
        self._access.acquire()  # faster than `with`: this is the hot path
        try:
            if index in self._seen and index not in self._partial:
                known = self._seen.score_of(index)
                if known != score:
                    raise ConflictingScoreError(f"prompt {index} was given the score {known} and now {score}")
                return
            self._log.append(["tell", index, score, noise, final])
            again = not self._seen.set(index, score, noise)
            self._pool.take(index)
            self._set_aside.pop(index, None)
            if final:
                self._partial.discard(index)
                self._pending.pop(index, None)
            else:
                self._partial.add(index)
            self._search.told(index, final, again)
        finally:
            self._access.release()

    def discard(self, index: int) -> None:
        """Give a pending index back without a score; the budget is refunded.

        It is offered again only when nothing else is left.

        Raises:
            UnknownIndexError: not pending.
        """
        index = self._checked(index)
        with self._access:
            if index not in self._pending:
                raise UnknownIndexError(f"discard: prompt {index} is not pending")
            self._log.append(["discard", index])
            del self._pending[index]
            self._counted -= 1
            if index not in self._seen:  # with a partial score it stays as data, and is not repeated
                self._set_aside[index] = None
            self._search.discarded(index)

    def add(self, embeddings: Any) -> list[int]:
        """Add candidates to the pool in the middle of a run; return their indices, those after the last.

        They are standardised by the statistics of the first pool, which stand for the run, so that nothing
        the model knows changes. A budget that was clipped to the pool grows with it. To restore a saved
        state later, give from_state() all embeddings, these below the first.

        Args:
            embeddings: (k, d), converted to the pool's precision.

        Raises:
            ArrayError: not real, NaN or infinity (or beyond the pool's precision), another d, or so far from
                the first pool that no arithmetic in its units can hold them.
        """
        more, d = as_embeddings(embeddings), self._embeddings.shape[1]
        if more.shape[1] != d:
            raise ArrayError(f"embeddings: expected dimension {d}, as the pool has, got {more.shape[1]}")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as that
            more = more.astype(self._embeddings.dtype)
        self._start.require_near(more)
        with self._access:
            m = len(self._embeddings)
            grown = np.concatenate([self._embeddings, more])
            pool = _core.Pool(grown, self._start.mean, self._start.deviation)
            for i in range(m):
                if self._pool.taken(i):
                    pool.take(i)
            self._embeddings, self._pool = grown, pool
            self._budget = min(self.config.budget, len(grown))
            self._search.grown(pool, self._budget)
            self._log.append(["add", len(more)])
            return list(range(m, len(grown)))

    def _checked(self, index: int) -> int:
        m = len(self._embeddings)
        if type(index) is int and 0 <= index < m:  # the usual case, first: this is the hot path
            return index
        try:
            real(index)  # no array of one entry, which int() would take too
            checked = int(index)
        except (TypeError, ValueError, OverflowError) as error:
            raise UnknownIndexError(f"{short_repr(index)} is not a pool index") from error
        if checked != index or isinstance(index, bool) or not 0 <= checked < m:
            raise UnknownIndexError(f"prompt {short_repr(index)} is not in the pool of {m}")
        return checked

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue identically, as JSON values.

        It holds the ordered log of calls, from which from_state() rebuilds the object bit for bit.

        Raises:
            ConcurrentUseError: another thread is inside a call, or this one is: there is nothing whole to
                save in a signal handler that interrupts ask() or tell().
        """
        with self._access.read_only:
            self._access.require_consistent()
            return {
                "version": STATE_VERSION,
                "config": self.config.to_dict(),
                "kernel": kernel_state(self._kernels),
                "embeddings": pool_fingerprint(self._embeddings),
                "log": [list(entry) for entry in self._log],
                "pending": self.pending,
                "rng": self._rng.bit_generator.state,
            }

    @classmethod
    def from_state(cls, embeddings: Any, state: dict[str, Any]) -> Zopo:
        """Rebuild an optimiser from state_dict() and the same embeddings.

        Raises:
            EmbeddingMismatchError: other embeddings than those the state was made with.
            InputError: a state of another version, or damaged.
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
                warnings.simplefilter("ignore")  # said once, when the first object was made
                optimizer = cls(
                    Z[: len(Z) - sum(added)],
                    ZopoConfig.from_dict(state["config"]),
                    kernels_from_state(state["kernel"], Z.shape[1]),
                )
            for entry in state["log"]:
                optimizer._replay(entry, Z)
            if optimizer.pending != state["pending"] or optimizer._rng.bit_generator.state != state["rng"]:
                raise InputError("state: the log does not lead to the pending prompts it names")
        except InputError:
            raise
        except Exception as error:  # it is of anyone's making: what it breaks is its own fault
            raise InputError(
                f"state: damaged or not a state of this package ({short_repr(error, 200)})"
            ) from error
        return optimizer

    def _replay(self, entry: list[Any], Z: Any) -> None:
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
            again = self.ask(n)
            if (again if n is not None else [again]) != asked:
                raise InputError(
                    f"state: ask({n}) answered {short_repr(asked)} then and {short_repr(again)} now"
                )
        else:
            raise InputError(f"state: unknown entry {short_repr(kind)} in the log")

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
