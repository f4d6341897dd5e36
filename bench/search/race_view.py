"""Race of `zf.optimize` without models and event loop: the only file here that knows how a run is built.

A RunState is the whole run apart from its calls: the search, the race, and the order of their decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import zopo_fast as zf
from zopo_fast.runs import optimize
from zopo_fast.runs.growth.describe import Description
from zopo_fast.runs.log.work import Work
from zopo_fast.runs.result import Trial
from zopo_fast.runs.state import RunState
from zopo_fast.scoring.two_way import MIN_VARIANCE, TwoWayModel

from .replay import Problem


def start(problem: Problem, slots: int = 1, **settings: Any) -> RunState:
    """Build the run that `zf.optimize` builds for a pool and a budget of calls.

    Args:
        problem: pool, number of examples, and budget.
        slots: number of calls that the model answers at a time.
        settings: of RunConfig, beside budget, calls and seed.

    Returns:
        A state that races the prompts. The initial prompts are those of the run's own settings.
    """
    config = zf.RunConfig(
        budget=problem.prompts,
        calls=max(problem.calls, problem.examples),
        seed=problem.seed,
        score_range=None if problem.is_binary else (0.0, 1.0),
        **{"racing": True, **settings},
    )
    example = zf.Example("input", ("output",))
    metric = "exact_match" if problem.is_binary else _share
    task = zf.Task("replay", (example,) * problem.examples, metric=metric)
    pool = zf.Pool.from_texts([f"prompt {index}" for index in range(len(problem.Z))])
    scorer = cast(Any, SimpleNamespace(parts=problem.examples, perfect=1.0))
    Z = np.asarray(problem.Z)
    initial = optimize._initial(pool, Z, None, config)
    return optimize._state(task, pool, Z, _Texts(problem), None, config, initial, scorer, slots, None, ())


class _Texts(Description):
    """Description of the prompts of a problem by their texts, where it has any."""

    def __init__(self, problem: Problem) -> None:
        super().__init__((), words=False)
        self._of_problem = zf.word_features(problem.texts) if problem.texts else None

    def features(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        return self._of_problem


class OneDifficulty(TwoWayModel):
    """Model in which all examples are equally difficult: partial means are not corrected."""

    def _refit(self) -> None:
        super()._refit()
        self._b[:] = 0.0
        self._vb = MIN_VARIANCE
        self._b_variance[:] = MIN_VARIANCE
        self._share = 1.0


def ignore_difficulty(state: RunState) -> None:
    """Make a race that has not begun take all examples as equally difficult."""
    assert state.race is not None
    state.race._model = OneDifficulty(state.race.examples, state.race._model._seed)


def _share(answer: str, references: tuple[str, ...]) -> float:
    raise NotImplementedError("the replay looks scores up")  # marks a metric that is not binary


class Flight:
    """Calls in flight of a run, answered in the order of asking.

    Args:
        state: of the run.
        slots: number of calls in flight.
    """

    def __init__(self, state: RunState, slots: int) -> None:
        self.state, self._slots = state, slots
        self._waiting: deque[tuple[Work, int]] = deque()  # asked, not yet sent to the model

    def calls(self) -> Iterator[tuple[Work, tuple[int, ...]]]:
        """Yield a prompt and its next examples until the run ends; the caller records their scores.

        One slot answers a mini-batch at a time; several slots answer one call at a time.
        """
        while self.state.reason is None:
            while work := self.state.ask(0.0):
                self._waiting.extend((work, example) for example in work.examples)
            if not self._waiting:
                return
            first, example = self._waiting.popleft()
            batch = [example]
            while self._slots == 1 and self._waiting and self._waiting[0][0] is first:
                batch.append(self._waiting.popleft()[1])
            yield first, tuple(batch)


def dropped(state: RunState, since: int) -> list[Trial]:
    """Return the trials from number `since` on whose prompts the race has dropped."""
    return [trial for trial in state.trials[since:] if trial.examples and trial.error is None]


def incumbent(state: RunState) -> int | None:
    """Return the prompt that the run would return now; the most promising one before any is complete."""
    best = state.best or state.best_partial
    return None if best is None else best[0]


def complete(state: RunState) -> int | None:
    """Return the best prompt scored on all examples; None before there is one."""
    return None if state.best is None else state.best[0]


def check_error(error: float) -> None:
    """Check the stated error of a race.

    Raises:
        ConfigError: the error is not a probability from 0 to below 1.
    """
    zf.RunConfig(race_error=error)
