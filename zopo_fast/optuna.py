"""Optuna sampler that chooses prompts by the search of this package.

    import optuna
    import zopo_fast as zf
    from zopo_fast.optuna import ZopoSampler

    study = optuna.create_study(direction="maximize", sampler=ZopoSampler(embeddings))
    study.optimize(lambda trial: score(trial.suggest_categorical("prompt", prompts)), n_trials=30)

The sampler keeps nothing that the study does not hold, so that any number of workers can share a storage.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zopo_fast.errors import ConfigError, InputError, MissingDependencyError, NothingToAsk
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.search.problem import as_embeddings

try:
    from optuna import Study, TrialPruned
    from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
    from optuna.samplers import BaseSampler, RandomSampler
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise MissingDependencyError(
        "zopo_fast.optuna needs optuna 4 or later: pip install 'zopo-fast[optuna]'"
    ) from error

_log = logging.getLogger(__name__)
MAX_ROUNDS = 20  # reservations of one ask before a collision with another worker is accepted
FIXED_PARAMS = "fixed_params"  # where Optuna stores the parameters of an enqueued trial

# Calls of a search: a row and what is done with it, where a number is the score told.
Call = tuple[int, float | str]
ASK, DISCARD = "ask", "discard"


class ZopoSampler(BaseSampler):
    """Optuna sampler that chooses the parameter `name` by `zopo_fast.Zopo`, and others by another sampler.

    The parameter is categorical, with the prompts as its choices, or `suggest_int(name, 0, m - 1)`. Each ask
    rebuilds the search from the trials of the study, in order of their numbers. Completed trials are scores;
    running and waiting ones are pending; failed, pruned and non-finite ones are offered again after all
    others. Trials of other samplers count likewise. The mean of repeated scores counts.

    An ask stores its row as a system attribute of the trial and reads the trials again. Another worker with
    the same row makes it choose anew.

    When every prompt is asked, or the budget is spent, `study.optimize` stops, and the trial in which that
    happens is pruned. Outside of `study.optimize` the error is raised.

    Args:
        embeddings: (m, d) array, one row per prompt.
        config: Settings of the search; the budget counts the trials of all workers. Default: as many trials
            as prompts.
        prompts: Texts of the rows, for choices in another order. Default: the order of the choices.
        name: Name of the parameter.
        features: (m, q) array of a second description of the prompts, such as `word_features(prompts)`.
        other_sampler: Sampler of all other parameters. Default: optuna.samplers.RandomSampler().

    Raises:
        ArrayError: The embeddings or features are invalid.
        ConfigError: The prompts are not as many distinct texts as there are rows, or initial indices are
            outside the pool.
        InputError: In a trial, the study has several objectives, or the parameter does not have a value for
            each row.
        NothingToAsk: In a trial outside of `study.optimize`, no prompt is left.
    """

    def __init__(
        self,
        embeddings: Any,
        config: ZopoConfig | None = None,
        *,
        prompts: Sequence[str] | None = None,
        name: str = "prompt",
        features: Any | None = None,
        other_sampler: Any | None = None,
    ) -> None:
        self._embeddings = as_embeddings(embeddings)
        m = len(self._embeddings)
        config = config or ZopoConfig(budget=m)
        self._config = replace(config, budget=min(config.budget, m))
        self._features, self._name = features, name
        self._prompts = None if prompts is None else list(prompts)
        if self._prompts is not None and not len(set(self._prompts)) == len(self._prompts) == m:
            raise ConfigError(f"prompts: expected {m} distinct texts, one for each row of the embeddings")
        self._others = other_sampler or RandomSampler()
        self._search = self._new_search()
        self._done: list[Call] | None = []  # calls of the search; None: unknown after an error
        self._has_warned = False
        self._lock = threading.Lock()  # study.optimize(n_jobs=...) samples in several threads

    def _new_search(self) -> Zopo:
        return Zopo(self._embeddings, self._config, features=self._features)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    # ---- other parameters --------------------------------------------------------------------------

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the space of the other sampler, without the prompt."""
        space = dict(self._others.infer_relative_search_space(study, trial))
        space.pop(self._name, None)
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample by the other sampler."""
        sampled: dict[str, Any] = self._others.sample_relative(study, trial, search_space)
        return sampled

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Refuse a study of several objectives."""
        if len(study.directions) > 1:
            raise InputError(
                f"ZopoSampler: the study has {len(study.directions)} objectives; the search has one score: "
                "create the study with one direction"
            )
        self._others.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the end of the trial to the other sampler; note once that the parameter was not asked for."""
        if state == TrialState.COMPLETE and self._name not in trial.params and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "trial %d has no parameter %r, which this sampler chooses, but %s; pass its name as name=",
                trial.number, self._name, ", ".join(sorted(trial.params)) or "none",
            )  # fmt: skip
        self._others.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Reseed the other sampler; the choice of prompts depends on the trials alone."""
        self._others.reseed_rng()

    # ---- the prompt --------------------------------------------------------------------------------

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample the prompt by the search, and any other parameter by the other sampler."""
        if param_name != self._name:
            return self._others.sample_independent(study, trial, param_name, param_distribution)
        values = self._values(param_distribution)
        try:
            with self._lock:
                return values[self._reserved_row(study, trial, values)]
        except NothingToAsk as error:
            try:
                study.stop()
            except RuntimeError:  # outside of study.optimize
                raise error from None
            raise TrialPruned(str(error)) from error

    def _values(self, distribution: BaseDistribution) -> Sequence[Any]:
        """Return the value of the parameter for each row."""
        m = len(self._embeddings)
        if isinstance(distribution, CategoricalDistribution):
            if self._prompts is None and len(distribution.choices) == m:
                return distribution.choices  # type: ignore[no-any-return]
            if self._prompts is not None and set(distribution.choices) == set(self._prompts):
                return self._prompts
            raise InputError(
                f"{self._name}: the {len(distribution.choices)} choices are not the {m} prompts of the "
                "sampler; suggest all of them, and pass prompts= if their order is another"
            )
        if distribution == IntDistribution(0, m - 1):
            return range(m)
        raise InputError(
            f"{self._name}: expected suggest_categorical with {m} choices or suggest_int(name, 0, {m - 1}), "
            f"got {distribution}"
        )

    def _reserved_row(self, study: Study, trial: FrozenTrial, values: Sequence[Any]) -> int:
        """Ask for a row that no other worker has, and reserve it in the storage.

        A reservation is stored before the trials are read again. Of two workers with the same row, at least
        one therefore sees the other and chooses anew. If both do, their ranks make them choose differently.
        """
        reserve, row, rank = study._storage.set_trial_system_attr, -1, 0
        others = self._others_of(study, trial, values)
        for _ in range(MAX_ROUNDS):
            try:
                row = self._ask(_calls(others, _sign(study)), rank)
            except NothingToAsk:
                if row >= 0 and rank == 0:  # the other workers leave the last prompt to the first trial
                    return row
                reserve(trial._trial_id, self._key, None)
                raise
            reserve(trial._trial_id, self._key, row)
            others = self._others_of(study, trial, values)
            same = [other for other, taken in others if taken == row and not _has_failed(other)]
            if not same:
                break
            rank = sum(other.number < trial.number for other in same)
        return row

    @property
    def _key(self) -> str:
        """Return the name of the system attribute with the reserved row."""
        return f"zopo:{self._name}"

    def _others_of(
        self, study: Study, trial: FrozenTrial, values: Sequence[Any]
    ) -> list[tuple[FrozenTrial, int]]:
        """Return the other trials that have a row, in order of their numbers, with the row.

        `study.get_trials` would show only a part of the trials under some pruners.
        """
        found = []
        for other in study._storage.get_all_trials(study._study_id, deepcopy=False):
            row = None if other.number == trial.number else self._row(other, values)
            if row is not None:
                found.append((other, row))
        return sorted(found, key=lambda each: each[0].number)

    def _row(self, trial: FrozenTrial, values: Sequence[Any]) -> int | None:
        """Return the row that a trial has scored or will score; None if there is none."""
        given = trial.params
        if not trial.state.is_finished():
            given = {**trial.system_attrs.get(FIXED_PARAMS, {}), **given}
            if self._name not in given:
                row: int | None = trial.system_attrs.get(self._key)
                return row
        try:
            return values.index(given[self._name])
        except (LookupError, ValueError):
            return None

    def _ask(self, calls: list[Call], rank: int) -> int:
        """Ask the search after these calls; a rank above 0 takes a later one of its proposals.

        The search of the last ask is used again if its calls are the first ones of these.
        """
        counted = sum((what == ASK) - (what == DISCARD) for _, what in calls)
        if counted >= self._config.budget:
            raise NothingToAsk(
                f"the study is done: {counted} prompts asked, the budget is {self._config.budget} of "
                f"{len(self._embeddings)} prompts"
            )
        done, self._done = self._done, None
        if done is None or calls[: len(done)] != done:
            self._search, done = self._new_search(), []
        for row, what in calls[len(done) :]:
            if what == ASK:
                self._search.repeat_ask([row])
            elif what == DISCARD:
                self._search.discard(row)
            else:
                self._search.tell(row, float(what))
        row = self._search.ask(rank + 1)[-1]
        self._done = None if rank else [*calls, (row, ASK)]
        return row


def _sign(study: Study) -> float:
    return -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0


def _has_failed(trial: FrozenTrial) -> bool:
    """Return True if a trial has ended without a score."""
    return trial.state.is_finished() and not _has_score(trial)


def _has_score(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and math.isfinite(trial.value)


def _calls(trials: Sequence[tuple[FrozenTrial, int]], sign: float) -> list[Call]:
    """Return the calls of a search with these trials: each row is asked once, and told right after it."""
    scores: dict[int, list[float]] = {}
    failed: dict[int, bool] = {}
    for trial, row in trials:
        told = scores.setdefault(row, [])
        failed[row] = failed.get(row, True) and _has_failed(trial)
        if _has_score(trial):
            told.append(sign * trial.value)
    calls: list[Call] = []
    for row, told in scores.items():
        calls.append((row, ASK))
        if told:
            calls.append((row, math.fsum(told) / len(told)))
        elif failed[row]:
            calls.append((row, DISCARD))
    return calls
