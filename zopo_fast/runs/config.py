"""Settings of a run, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zopo_fast._utils.checks import as_integer, as_number
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError
from zopo_fast.llm.limits import Limits, Prices
from zopo_fast.scoring import metrics
from zopo_fast.scoring.race import BATCH, ERROR, FIRST, Race, check_settings
from zopo_fast.search.config import ZopoConfig
from zopo_fast.tasks.task import Task

LEAST_EXAMPLES = 10  # below, mini-batches leave little to save


@public
@dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    Args:
        budget: prompts scored in all, the incumbent and the initial ones included.
        initial: how many of them are chosen before the model of the scores is used.
        seed: of every random choice.
        concurrency: calls at once, where the model does not bring its own limit.
        prompts_in_flight: prompts scored at once; None: as many as keep the model's slots full, at
            least two; with a task function, two.
        incumbent: the prompt in use today; scored first, and what the winner is compared with.
        stop_at_perfect: end when a prompt scores 1.0 on every example of a Task.
        target: end when a score reaches this.
        heldout: score winner, seed prompt and pool median on the held-out examples.
        compare_random: also score an equally large random sample of the pool.
        racing: score prompts in mini-batches of examples and give up those unlikely to beat the best one
            scored in full, so that the same calls look at more prompts; `best_score` is a full one all
            the same. None: wherever it can be done, which takes a Task with at least 10 train examples
            and a metric with known bounds, and a search that is not the `official` one.
        calls: examples scored in all while racing; None: budget x train examples.
        race_error: probability, for each prompt and over the order of the examples, that it is given up
            although its full score exceeds that of the best one it was measured against.
        race_first: examples of a prompt's first mini-batch.
        race_batch: examples of each one after it; None: 2, or more where the model has more than 16 slots.
        score_range: least and greatest value of a metric of your own, without which it cannot be raced.
        rubric: message to the judge, with {input}, {references} and {answer}; None: the default one.
        max_failures: end after this many prompts in a row could not be scored.
        limits: what the whole run may take in calls, tokens, money and time, judge, comparison and earlier
            runs that it goes on from included; never exceeded, however many calls are in flight. Of a task
            function the time alone can be limited.
        prices: of a million tokens, for the limit of money.
        search: settings of the search; its budget and seed give way to those here, and its number of
            initial prompts too (a list of indices stands).

    Raises:
        ConfigError: a value out of range; names the setting.
    """

    budget: int = 50
    initial: int = 10
    seed: int = 0
    concurrency: int = 16
    prompts_in_flight: int | None = None
    incumbent: str | None = None
    stop_at_perfect: bool = True
    target: float | None = None
    heldout: bool = True
    compare_random: bool = False
    racing: bool | None = None
    calls: int | None = None
    race_error: float = ERROR
    race_first: int = FIRST
    race_batch: int | None = None
    score_range: tuple[float, float] | None = None
    rubric: str | None = None
    max_failures: int = 5
    limits: Limits | None = None
    prices: Prices | None = None
    search: ZopoConfig = field(default_factory=ZopoConfig)

    def __post_init__(self) -> None:
        least = {"budget": 1, "initial": 1, "seed": 0, "concurrency": 1, "max_failures": 1}
        optional = ("prompts_in_flight", "calls", "race_batch")
        least.update({name: 1 for name in optional if getattr(self, name) is not None})
        for name, low in least.items():
            value = as_integer(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value < low:
                raise ConfigError(f"{name} must be at least {low}, got {value}")
        if not isinstance(self.incumbent, (str, type(None))):
            raise ConfigError("incumbent: a prompt is a text")
        if self.target is not None and not math.isfinite(as_number("target", self.target)):
            raise ConfigError(f"target must be finite, got {self.target}")
        check_settings(self.race_error, self.race_first, self.race_batch or BATCH)
        for name, kind in (("limits", Limits), ("prices", Prices)):
            if not isinstance(getattr(self, name), (kind, type(None))):
                raise ConfigError(
                    f"{name}: expected {kind.__name__}, got {type(getattr(self, name)).__name__}"
                )
        if self.limits is not None and self.limits.cost is not None and self.prices is None:
            raise ConfigError("a limit of cost needs the prices of a million tokens in and out")

    def races(self, task: Task | Callable[[str], Any]) -> bool:
        """Whether prompts race on this task.

        Raises:
            ConfigError: asked to and it cannot be done; says why.
        """
        if self.racing is False:
            return False
        why = None
        if not isinstance(task, Task):
            why = "a function prompt -> score has no examples to stop after"
        elif self._bounds(task) is None:
            why = f"the metric {task.metric!r} has no known bounds: give them as score_range"
        elif self.search.official_settings is not None:
            why = "the official preset scores every prompt in full"
        if self.racing and why is not None:
            raise ConfigError(f"racing: {why}, or turn racing off")
        return why is None and (self.racing is True or len(task.train) >= LEAST_EXAMPLES)  # type: ignore[union-attr]

    def calls_of_race(self, task: Task) -> int:
        """Examples scored in all, where prompts race."""
        return self.calls or self.budget * len(task.train)

    def _bounds(self, task: Task) -> tuple[float, float] | None:
        return (0.0, 1.0) if task.metric in metrics.NAMES else self.score_range

    def race(self, task: Task, slots: int, initial: int) -> Race:
        """The race on a task with a model that runs so many calls at once."""
        batch = self.race_batch or max(BATCH, -(-slots // 8))
        return Race(
            len(task.train),
            self.calls_of_race(task),
            initial=initial,
            error=self.race_error,
            first=max(self.race_first, batch) if self.race_batch is None else self.race_first,
            batch=batch,
            bounds=self._bounds(task) or (0.0, 1.0),
            binary=task.metric in metrics.BINARY,
            seed=self.seed,
        )
