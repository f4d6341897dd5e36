"""Settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from zopo_fast._utils.public import public
from zopo_fast._utils.settings import check, described, document, setting
from zopo_fast.errors import ConfigError
from zopo_fast.llm.limits import Limits, Prices
from zopo_fast.runs.growth.config import Growth
from zopo_fast.scoring import metrics
from zopo_fast.scoring.race import DEFAULT_ERROR, MAX_FIRST, Race
from zopo_fast.scoring.scorer import FunctionTask
from zopo_fast.scoring.unanswered import Policy
from zopo_fast.search.config import MAX_SEED, ZopoConfig
from zopo_fast.tasks.task import Task

MIN_RACE_EXAMPLES = 10  # looks save little on fewer


@public
@document
@dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    budget: int = setting(
        50, "Prompts scored in total, the incumbent and the initial ones included.", minimum=1
    )
    initial: int | None = setting(
        None,
        "Random prompts scored before the search proposes any.",
        minimum=1,
        default_text="up to 5, or 8 for a local search, spread over the pool"
        "; 10 random ones with the official preset",
    )
    seed: int = setting(0, "Seed of every random choice.", minimum=0, maximum=MAX_SEED)
    concurrency: int = setting(
        16, "Calls in flight at a time, where the model sets no limit of its own.", minimum=1, may_change=True
    )
    prompts_in_flight: int | None = setting(
        None,
        "Prompts scored at a time.",
        minimum=1,
        may_change=True,
        default_text="as many as fill the slots of the model, at least 2; 2 for a task function",
    )
    incumbent: str | None = setting(
        None, "Prompt in use today; it is scored first, and the winner is compared with it.", minimum=1
    )
    demonstrations: Literal["search"] | None = setting(
        None,
        "Search over sets of few-shot examples together with the prompts; they are the reserve of the task, "
        "else its demonstrations, else a third of its train examples, which are then not scored on.",
        default_text="search where the task has a reserve",
    )
    stop_at_perfect: bool = setting(
        True, "End of the run at a prompt that scores 1.0 on every example of a Task."
    )
    target: float | None = setting(None, "Score that ends the run.")
    prefer_short: float | None = setting(
        None,
        "Score given up for a shorter prompt: the best prompt is the one with the fewest tokens per call "
        "among those scored in full that are at most this far below the best score.",
        minimum=0,
        may_change=True,
        default_text="the best score decides",
    )
    heldout: bool = setting(
        True, "Comparison of winner, incumbent and pool median on the held-out examples.", may_change=True
    )
    compare_random: bool = setting(
        False, "Comparison with an equally large random sample of the pool.", may_change=True
    )
    racing: bool | None = setting(
        None,
        "Scoring in looks of a few examples, each at the prompt whose scores help the choice most; needs a "
        "metric with known bounds, and not the official preset.",
        default_text=f"where possible, from {MIN_RACE_EXAMPLES} train examples",
    )
    calls: int | None = setting(
        None, "Examples scored in total while racing.", minimum=1, default_text="budget x train examples"
    )
    race_error: float = setting(
        DEFAULT_ERROR,
        "Probability that racing gives up a prompt whose full score would beat the best one; a prompt that "
        "merely waits is not given up.",
        minimum=0,
        below=1,
    )
    race_first: int | None = setting(
        None,
        "Examples in the first look at a prompt.",
        minimum=1,
        default_text=f"a tenth of all, from 1 to {MAX_FIRST}",
    )
    race_batch: int | None = setting(
        None,
        "Least number of examples in each later look.",
        minimum=1,
        default_text="1, more with over 16 slots",
    )
    score_range: tuple[float, float] | None = setting(
        None, "Least and greatest value of a custom metric, which racing needs."
    )
    rubric: str | None = setting(
        None,
        "Message to the judge, with {input}, {references} and {answer}.",
        minimum=1,
        default_text="the built-in rubric",
    )
    unanswered: Policy = setting(
        "zero",
        "Treatment of an example that a single call cannot get an answer for, such as a refused one: its "
        "score is zero (the low end of score_range), it is left out of the mean of that prompt (skip; no "
        "racing), or the prompt fails.",
    )
    max_failures: int = setting(5, "Prompts in a row that may fail before the run ends.", minimum=1)
    grow: bool | None = setting(
        None,
        "Growth of the pool: writers propose prompts near the best ones, and those that the model of the "
        "scores expects to be better than the pool's own enter it.",
        default_text="where a writer is given, or the prompts are composed of known parts",
    )
    growth: Growth = field(default_factory=Growth, metadata=described("Settings of a growing pool."))
    limits: Limits | None = setting(
        None,
        "Limits of the whole run, earlier runs of a resumed study included; never exceeded, however many "
        "calls are in flight. A task function can be limited in time only.",
        may_change=True,
    )
    prices: Prices | None = setting(
        None, "Prices of a million tokens; a limit of cost needs them.", may_change=True
    )
    search: ZopoConfig = field(
        default_factory=ZopoConfig,
        metadata=described(
            "Settings of the search; its budget, seed and number of initial prompts are replaced by those "
            "above, a list of initial indices is kept."
        ),
    )

    def __post_init__(self) -> None:
        check(self)
        if self.limits is not None and self.limits.cost is not None and self.prices is None:
            raise ConfigError("a limit of cost needs prices: give the prices of a million tokens in and out")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"growth": Growth(), **state})  # a pickle of an older version lacks it

    def races(self, task: Task | FunctionTask | Callable[[str], Any]) -> bool:
        """Return whether prompts race on this task.

        Raises:
            ConfigError: Racing was requested and is impossible; the message says why.
        """
        if self.racing is False:
            return False
        obstacle = None
        if not isinstance(task, Task | FunctionTask):
            obstacle = "a function prompt -> score has no examples to stop after; give it some as examples="
        elif self._bounds(task) is None:
            obstacle = f"the metric {task.metric_name!r} has no known bounds: give them as score_range"
        elif self.search.official_settings is not None:
            obstacle = "the official preset scores every prompt in full"
        elif self.unanswered == "skip":
            obstacle = "unanswered='skip' would compare prompts on different examples: use 'zero'"
        if self.racing and obstacle is not None:
            raise ConfigError(f"racing: {obstacle}, or turn racing off")
        return obstacle is None and (self.racing is True or len(task.train) >= MIN_RACE_EXAMPLES)  # type: ignore[union-attr]

    def calls_of_race(self, task: Task | FunctionTask) -> int:
        """Return the examples scored in total, where prompts race."""
        return self.calls or self.budget * len(task.train)

    def lowest_score(self, task: Task | FunctionTask | Callable[[str], Any]) -> float:
        """Return the score of an unanswered example: the low end of the metric's range, 0 if unknown."""
        bounds = self._bounds(task) if isinstance(task, Task) else None
        return 0.0 if bounds is None else bounds[0]

    def _bounds(self, task: Task | FunctionTask) -> tuple[float, float] | None:
        is_built_in = isinstance(task, Task) and task.metric in metrics.NAMES
        return (0.0, 1.0) if is_built_in else self.score_range

    def race(self, task: Task | FunctionTask, slots: int, initial: int) -> Race:
        """Return the race on a task with a model of `slots` concurrent calls."""
        batch = self.race_batch or -(-slots // 16)
        return Race(
            len(task.train),
            self.calls_of_race(task),
            initial=initial,
            error=self.race_error,
            first=self.race_first,
            batch=batch,
            bounds=self._bounds(task) or (0.0, 1.0),
            binary=isinstance(task, Task) and task.metric in metrics.BINARY,
            seed=self.seed,
        )
