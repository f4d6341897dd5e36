"""Ask/tell optimizer over a pool of embeddings, without I/O or event loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, overload

from zopo_fast import _core
from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.exclusive import ExclusiveAccess
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import (
    ConfigError,
    ConflictingScoreError,
    InputError,
    NothingToAsk,
)
from zopo_fast.search.arguments import finite, pool_index
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.official import OfficialSearch
from zopo_fast.search.prediction import PointPrediction, Prediction, predicted
from zopo_fast.search.problem import Kernel, SearchProblem, as_embeddings
from zopo_fast.search.sources import checked_source
from zopo_fast.search.state import STATE_VERSION, SavedSearch, kernel_state, pool_fingerprint
from zopo_fast.search.trends import Trends, opening

MAX_ASKED = 2**62  # prompts of one ask, within the range of int64
KNOWN, CONFLICT = 2, 3  # outcomes of a native tell that record nothing


@public
class Zopo:
    """Localized zeroth-order search over a pool of embedded prompts, by ask and tell.

        import numpy as np
        import zopo_fast as zf

        embeddings = np.random.default_rng(0).normal(size=(500, 16))
        opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=50))
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
        features: (m, q) array of a second description of the prompts, such as `word_features(texts)`, for the
            default search. The model finds out from the scores how far each description applies.

    Attributes:
        config: The settings.

    Raises:
        ArrayError: The embeddings or features are empty, not two-dimensional, not real, or hold NaN or
            infinity, the kernel has another dimension, or the features are not of as many prompts.
        ConfigError: Initial indices are outside the pool or exceed the budget, or the search cannot use the
            kernel or features.
        ConcurrentUseError: In any method, another thread is using the optimizer.
    """

    def __init__(
        self,
        embeddings: Any,
        config: ZopoConfig | None = None,
        kernel: Kernel | Sequence[Kernel] | None = None,
        features: Any | None = None,
    ) -> None:
        problem = SearchProblem(embeddings, config or ZopoConfig(), kernel, features)
        self._bind(problem, _core.Search([problem.native_inputs()]), 0, ExclusiveAccess("Zopo"))

    def _bind(
        self,
        problem: SearchProblem,
        native: _core.Search | _core.CudaSearch,
        number: int,
        access: ExclusiveAccess,
    ) -> None:
        """Set the native search that this object stands for: one of its own, or one of a batch."""
        self._problem, self.config = problem, problem.config
        self._native, self._number, self._access = native, number, access
        official = problem.config.official_settings
        self._official = (
            OfficialSearch(problem.pool(), problem.kernel, problem.initial, problem.budget, official)
            if official
            else None
        )

    @classmethod
    def _of_batch(
        cls,
        problem: SearchProblem,
        native: _core.Search | _core.CudaSearch,
        number: int,
        access: ExclusiveAccess,
    ) -> Zopo:
        """Return the optimizer of a search in a batch."""
        optimizer = cls.__new__(cls)
        optimizer._bind(problem, native, number, access)
        return optimizer

    # ---- ask ---------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Return True if nothing is pending and the budget or the pool is exhausted."""
        with self._access.read_only:
            return self._native.done(self._number)

    @property
    def pending(self) -> list[int]:
        """Return the indices asked and neither told nor discarded, in order of asking."""
        with self._access.read_only:
            return self._native.pending(self._number)

    @property
    def best(self) -> tuple[int, float]:
        """Return index and score of the best prompt so far; any final score beats a partial one.

        Raises:
            NothingToAsk: No score was told yet.
        """
        with self._access.read_only:
            index, score = self._native.best(self._number)
        if index < 0:
            raise NothingToAsk("best: no score was told yet")
        return index, score

    @property
    def incumbent_value(self) -> float:
        """Return the score that the search improves on.

        The default search improves on the best final score without noise, or on the best score where every
        score is partial or noisy.

        Raises:
            NothingToAsk: No score was told yet.
        """
        with self._access.read_only:
            value = self._native.incumbent(self._number)
        if math.isnan(value):
            raise NothingToAsk("incumbent_value: no score was told yet")
        return value

    @overload
    def predict(
        self, embeddings: None = None, features: None = None, *, latent: bool = False
    ) -> Prediction | None: ...
    @overload
    def predict(
        self, embeddings: Any, features: Any | None = None, *, latent: bool = False
    ) -> PointPrediction | None: ...
    def predict(
        self, embeddings: Any | None = None, features: Any | None = None, *, latent: bool = False
    ) -> Prediction | PointPrediction | None:
        """Predict the scores of candidates of the pool, or of others.

        Without embeddings, the candidates are those that the search considers. The prediction of a scored
        prompt leaves out its own score (leave-one-out; Rasmussen & Williams 2006, eq. 5.12), so it can serve
        as a prior for that score. With embeddings, the prediction of each row is what `add` and then
        `predict` would give for it as an unscored candidate, up to rounding in single precision. After
        `learn_from`, `add` also rescales what the search has learned, so its predictions differ slightly.

        Args:
            embeddings: (k, d) array of candidates outside the pool, converted to the precision of the pool.
            features: (k, q) array, where the pool has features.
            latent: False for the variance of a score without noise. True for that of the smooth part of the
                score alone, without the misfit of the model, from which the search takes its expected
                improvement.

        Returns:
            The prediction; None for a gradient search and the official preset, before there is a score, and
            between an `add` that rebuilds the model and the next `ask` or `tell`. An `add` rebuilds the model
            where the pool outgrows a region, and after `learn_from`.

        Raises:
            ArrayError: As for `add`; features without embeddings.
        """
        with self._access.read_only:
            return predicted(self._problem, self._native, self._number, embeddings, features, bool(latent))

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
        n = None if n is None else min(n, MAX_ASKED)
        self._access.acquire()  # faster than `with`: this is the hot path
        try:
            if self._official:
                asked = self._official.ask(self._native, self._number, n)
                index = asked[0] if asked else -1
            elif n is None:
                index = self._native.ask(self._number)
            else:
                asked = self._native.ask_up_to(self._number, n)
                index = asked[0] if asked else -1
            if index < 0:
                raise self._nothing_to_ask()
            return index if n is None else asked
        finally:
            self._access.release()

    def _nothing_to_ask(self) -> NothingToAsk:
        pending, counted = self._native.pending(self._number), self._native.counted(self._number)
        reason = "all that is left is pending" if pending else "the run is done"
        return NothingToAsk(f"{reason}: {counted} of {self._problem.budget} asked, {len(pending)} pending")

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
        limit = 1 if n is None else min(n, MAX_ASKED)
        indices = [self._checked(index) for index in asked]
        with self._access:
            if not 1 <= len(indices) <= limit:
                raise InputError(f"ask({n}) cannot return {len(indices)} prompts")
            if self._official:  # the native search has no proposal of its own to compare with
                different = self._official.repeat(self._native, self._number, indices)
                self._native.log_ask(self._number, indices, -1 if n is None else limit)
            else:
                different = self._native.ask_for(self._number, indices, -1 if n is None else limit)
            if len(indices) < limit and self._native.can_offer(self._number):
                raise InputError(f"ask({n}) would return more than {len(indices)} prompts")
            return different

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
        score = finite("score", score)
        if noise is not None and (noise := finite("noise", noise)) < 0:
            raise InputError(f"noise: expected a variance of at least 0, got {noise}")
        self._access.acquire()  # faster than `with`: this is the hot path
        try:
            told = self._native.tell(self._number, index, score, noise, final)
            if told == CONFLICT:
                known = self._native.score_of(self._number, index)
                raise ConflictingScoreError(f"prompt {index} was given the score {known} and now {score}")
            if self._official and told != KNOWN:
                self._official.on_tell(index, score, final)
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
            self._native.discard(self._number, index)
            if self._official:
                self._official.on_discard(index)

    def add(self, embeddings: Any, features: Any | None = None) -> list[int]:
        """Add candidates to the pool during the search.

        New candidates are standardized by the statistics of the first pool, so that the model stays valid. A
        budget that was clipped to the pool grows with it. To restore a state later, pass all embeddings to
        `from_state`, with the added rows below the first ones.

        Args:
            embeddings: (k, d) array, converted to the precision of the pool.
            features: (k, q) array, where the first pool has features.

        Returns:
            Indices of the new candidates, following the last index of the pool.

        Raises:
            ArrayError: Wrong shape or dtype, NaN or infinity (also after conversion to the precision of the
                pool), or an embedding too far from the first pool.
        """
        more = as_embeddings(embeddings)
        with self._access:
            problem = self._problem
            m = len(problem.embeddings)
            problem.grow(more, features)
            known = {}
            if problem.sources:
                problem.trends = Trends(problem, problem.sources.values())
                known["trend"] = problem.trends.over_pool
            self._native.add(self._number, problem.native_pool() | known)
            if self._official:
                self._official.on_add(problem.pool(), problem.budget)
            return list(range(m, len(problem.embeddings)))

    def learn_from(
        self, indices: Sequence[int], scores: Any, noise: Any | None = None, source: str | None = None
    ) -> None:
        """Use scores of an earlier search on these prompts, such as one with another model.

        The model of this search finds out from its own scores how far those of the source apply. Without a
        list of initial prompts in the settings, the best prompt of each source is asked first. A source with
        fewer than two scores, or with equal ones, contributes nothing.

        Args:
            indices: n distinct pool indices.
            scores: n scores, higher is better, in any unit.
            noise: Variance of each score, or of all, in squared units of the scores. Default: 0 beside the
                misfit, which is estimated.
            source: Name of the source; the same name again replaces its scores. Default: a new name.

        Raises:
            UnknownIndexError: An index is outside the pool.
            InputError: A prompt occurs twice, the lengths differ, a value is NaN or infinite, a variance is
                negative, or the search has begun.
            ConfigError: The gradient search and the official preset cannot use sources.
        """
        problem = self._problem
        if problem.config.official_settings or problem.config.search == "gradient":
            raise ConfigError(
                "learn_from: the gradient search and the official preset cannot use other scores; use "
                "search='improvement'"
            )
        known = [self._checked(index) for index in indices]
        name = f"source {len(problem.sources) + 1}" if source is None else source
        given = checked_source(known, scores, noise, name)
        with self._access:
            if self._native.log(self._number):
                raise InputError(
                    "learn_from: the search has begun; call it before the first ask, tell or add"
                )
            sources = {**problem.sources, name: given}
            trends = Trends(problem, sources.values())
            self._native.learn(self._number, trends.over_pool, opening(problem, sources.values()))
            problem.sources, problem.trends = sources, trends

    def _checked(self, index: int) -> int:
        m = len(self._problem.embeddings)
        return index if type(index) is int and 0 <= index < m else pool_index(index, m)  # the hot path

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
            sources = [source.to_dict() for source in self._problem.sources.values()]
            return {
                "version": STATE_VERSION,
                "config": self.config.to_dict(),
                "kernel": kernel_state(self._problem.kernels),
                "embeddings": pool_fingerprint(self._problem.embeddings),
                "log": self._native.log(self._number),
                "pending": self.pending,
                **({"features": self._problem.features} if self._problem.features else {}),
                **({"sources": sources} if sources else {}),
            }

    @classmethod
    def from_state(cls, embeddings: Any, state: dict[str, Any], features: Any | None = None) -> Zopo:
        """Rebuild an optimizer from `state_dict()`.

        Args:
            embeddings: The same embeddings, with added rows below the first ones.
            state: The state.
            features: The same features, if any, likewise.

        Raises:
            EmbeddingMismatchError: The embeddings are not those of the state.
            InputError: The state is damaged or of another version.
        """
        try:
            saved = SavedSearch(embeddings, state, features)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the first object has already warned
                optimizer = cls(saved.first_rows, saved.config, saved.kernels, saved.first_features)
            saved.repeat(optimizer)
        except InputError:
            raise
        except Exception as error:  # a state is untrusted: whatever fails, it is invalid
            raise InputError(
                f"state: damaged or not a state of this package ({short_repr(error, 200)})"
            ) from error
        return optimizer

    def __getstate__(self) -> dict[str, Any]:
        embeddings, features = self._problem.described()
        return {"embeddings": embeddings, "features": features, "state": self.state_dict()}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__ = Zopo.from_state(
            pickled["embeddings"], pickled["state"], pickled.get("features")
        ).__dict__
