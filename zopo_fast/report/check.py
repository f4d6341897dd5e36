"""Regression check of one prompt: its score on a task, with the confidence interval and the wrong answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from zopo_fast._utils.aio import require_no_loop
from zopo_fast._utils.checks import real
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, LimitReachedError
from zopo_fast.llm.adapter import ModelLike, as_chat_model
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.config import RunConfig
from zopo_fast.runs.optimize import RunModels, account_of
from zopo_fast.scoring import metrics
from zopo_fast.scoring.evaluator import Evaluation, Evaluator, ScoredExample
from zopo_fast.scoring.intervals import Bounds, score_interval
from zopo_fast.scoring.unanswered import cannot_be_answered, failure_text
from zopo_fast.tasks import template
from zopo_fast.tasks.example import Example
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.budget import Account
    from zopo_fast.runs.progress import OnProgress

Part = Literal["heldout", "all"]
"""Examples of a check: the held-out ones, or all of the task."""
SHOWN = 3
"""Wrong answers that the text of a check shows."""


@public
@dataclass(frozen=True)
class CheckedAnswer:
    """Answer to one example.

    Attributes:
        example: the example.
        answer: text of the answer; "" for an unanswered example.
        score: of the answer, by the metric of the task.
    """

    example: Example
    answer: str
    score: float

    def __str__(self) -> str:
        expected = " or ".join(short_repr(output, 80) for output in self.example.outputs[:3])
        return (
            f"{short_repr(self.example.input, 80)}: expected {expected}, got {short_repr(self.answer, 80)} "
            f"(score {self.score:g})"
        )


@public
@dataclass(frozen=True)
class Check:
    """Score of one prompt against a threshold; `str` shows score, interval and the first wrong answers.

    Attributes:
        prompt: the prompt, normalised like those of a pool.
        score: mean over `answers`.
        at_least: threshold of the score.
        answers: one an example, in the order of the examples; without those that are left out.
        usage: calls and tokens.
        unanswered: reason of each unanswered example, by its index among the examples of the check.
    """

    prompt: str
    score: float
    at_least: float
    answers: tuple[CheckedAnswer, ...]
    usage: Usage
    unanswered: dict[int, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True where the score is at or above the threshold."""
        # A mean such as 0.1 + 0.2 may miss its threshold by a rounding error.
        return self.score >= self.at_least or math.isclose(self.score, self.at_least, rel_tol=1e-12)

    @property
    def interval(self) -> Bounds | None:
        """95 % interval of the score on examples like these; None for fewer than two answers."""
        return score_interval([each.score for each in self.answers])

    @property
    def is_clear(self) -> bool:
        """True where the threshold lies outside the interval, so that the verdict is no matter of chance."""
        interval = self.interval
        return interval is not None and not interval.low <= self.at_least <= interval.high

    @property
    def wrong(self) -> tuple[CheckedAnswer, ...]:
        """Answers below a full score of 1."""
        return tuple(each for each in self.answers if each.score < 1)

    def __str__(self) -> str:
        lines = [self.verdict]
        if not self.is_clear:
            lines.append(f"Note: {self.caution}")
        lines += [f"Wrong: {each}" for each in self.wrong[:SHOWN]]
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """Score, interval and threshold in one line."""
        interval = self.interval
        bounds = "" if interval is None else f", 95 % interval {interval.low:.3f} to {interval.high:.3f}"
        side = "at or above" if self.passed else "below"
        return (
            f"Score: {self.score:.3f} on {len(self.answers)} examples{bounds}; {side} the threshold of "
            f"{self.at_least:g}"
        )

    @property
    def caution(self) -> str:
        """Statement that the examples are too few for a clear verdict."""
        if self.interval is None:
            return "one example gives no interval; check on more examples"
        return "the interval contains the threshold: other examples may change the verdict; check on more"


@public
async def check(
    task: Task,
    prompt: str,
    llm: ModelLike,
    config: RunConfig | None = None,
    *,
    at_least: float = 0.0,
    part: Part = "heldout",
    judge: ModelLike | None = None,
    on_progress: OnProgress | None = None,
    cache: AnswerCache | None = None,
    account: Account | None = None,
) -> Check:
    """Score one prompt on a task and compare the score with a threshold.

    Args:
        task: the task.
        prompt: the prompt.
        llm: model that answers the examples, as for `optimize`.
        config: limits, prices, concurrency, rubric and treatment of unanswered examples; else unused.
        at_least: threshold of the score.
        part: "heldout" scores the held-out examples, which a search did not fit the prompt to, and all
            examples of a task without any; "all" scores the train examples too.
        judge: model of the metric "judge"; None: `llm`.
        on_progress: called with "check", the examples scored and their number.
        cache: answers shared with other runs; a hit makes no call and costs nothing.
        account: budget shared with other work; None: one with `config.limits`.

    Raises:
        ConfigError: an argument cannot be used.
        PoolError: the prompt is empty.
        LLMError: the model fails for good, or answers no example.
        MetricError: the metric failed.
        LimitReachedError: a limit does not allow all examples.
    """
    config = config or RunConfig()
    threshold = _threshold(at_least)
    is_own = not isinstance(task.metric, str) or ":" in task.metric  # whose range is unknown
    if threshold > 1 and not is_own:
        raise ConfigError(
            f"at_least={at_least:g}: the metric {task.metric} scores from 0 to 1; for 80 % write 0.8"
        )
    examples = examples_of(task, part)
    text = Pool.from_texts([prompt]).prompts[0]
    model = as_chat_model(llm, config.concurrency)
    grader = model if judge is None else as_chat_model(judge, config.concurrency, "judge")
    account = account or account_of(config, None)
    models = RunModels(None, cache, account)
    scored = 0

    def on_answer(_: ScoredExample) -> None:
        nonlocal scored
        scored += 1
        if on_progress is not None:
            on_progress("check", scored, len(examples))

    metric = metrics.resolve(task.metric, judge=models.wrap(grader, "judge"), rubric=config.rubric)
    evaluator = Evaluator(
        models.wrap(model, "model"),
        metric,
        template.resolve(task.template),
        task.demonstrations,
        on_answer,
        config.unanswered,
        config.lowest_score(task),
    )
    try:
        evaluation = await _in_time(evaluator.evaluate(text, examples, part=part), account)
    finally:
        await models.written()
    failed = list(evaluation.unanswered.values())
    if cannot_be_answered(len(examples), len(failed), len(examples)):
        raise failed[-1].as_error(failure_text(failed))
    answers = zip(evaluation.indices, evaluation.answers, evaluation.scores, strict=True)
    return Check(
        text,
        evaluation.mean,
        threshold,
        tuple(CheckedAnswer(examples[i], answer, score) for i, answer, score in answers),
        evaluation.usage,
        {i: why.code for i, why in evaluation.unanswered.items()},
    )


@public
def check_sync(*args: Any, **kwargs: Any) -> Check:
    """Run check() in an event loop of its own; same arguments.

    Raises:
        EventLoopError: an event loop is already running in this thread.
    """
    require_no_loop("check_sync", "await check() in it")
    return asyncio.run(check(*args, **kwargs))


def examples_of(task: Task, part: Part) -> tuple[Example, ...]:
    """Return the examples of a check.

    Raises:
        ConfigError: the task has none, or `part` is unknown.
    """
    if part not in ("heldout", "all"):
        raise ConfigError(f"part: expected 'heldout' or 'all', got {short_repr(part)}")
    examples = (*task.train, *task.heldout) if part == "all" else task.heldout or task.train
    if not examples:
        raise ConfigError(f"task {short_repr(task.name)}: no examples to check the prompt on")
    return examples


def scored_task(task: Task, part: Part) -> Task:
    """Return the task with the examples of a check as its train examples, for estimates."""
    return replace(task, train=examples_of(task, part), heldout=())


async def _in_time(work: Coroutine[Any, Any, Evaluation], account: Account | None) -> Evaluation:
    """Return the evaluation, cancelled where the limit of time is reached."""
    seconds = None if account is None else account.left().seconds
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():  # a call timed out, whose error is a TimeoutError too
            raise
        assert account is not None
        raise LimitReachedError(f"the limit of {account.limits.seconds:g} s is reached", "time") from None


def _threshold(value: float) -> float:
    try:
        number = real(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"at_least: expected a finite number, got {short_repr(value)}")
    return number
