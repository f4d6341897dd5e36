"""GEPA on the tasks and models of this package, and GEPA's candidates in its searches.

import gepa
import zopo_fast as zf
from zopo_fast.integrations.gepa import TaskAdapter, add_candidates

adapter = TaskAdapter(task, llm, account=zf.Account(zf.Limits(calls=500)))
result = gepa.optimize({"instruction": "Answer."}, list(task.train), adapter=adapter,
                       reflection_lm=adapter.language_model(writer), **adapter.stopping)
prompts = add_candidates(search, prompts, result, embed)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zopo_fast._utils.aio import run_to_end
from zopo_fast.errors import ConfigError, ConflictingScoreError, MissingDependencyError
from zopo_fast.llm.adapter import ModelLike, as_chat_model
from zopo_fast.llm.answer_text import answer_text
from zopo_fast.llm.budget import Account
from zopo_fast.llm.middleware import MeteredModel, ProbedModel
from zopo_fast.llm.types import ChatModel, Usage
from zopo_fast.prompts.pool import normalise
from zopo_fast.scoring import metrics
from zopo_fast.scoring.evaluator import Evaluation, Evaluator
from zopo_fast.search.optimizer import Zopo
from zopo_fast.tasks import template
from zopo_fast.tasks.example import Example
from zopo_fast.tasks.task import Task

try:
    from gepa.core.adapter import EvaluationBatch, GEPAAdapter
    from gepa.core.result import GEPAResult
except ImportError as error:
    raise MissingDependencyError(
        "zopo_fast.integrations.gepa needs gepa 0.1.4 or later: pip install 'zopo-fast[gepa]'"
    ) from error

MAX_IDLE = 10  # iterations in a row without an evaluation, such as those of a reflection model that fails

Feedback = Callable[[Example, str, float], str]
"""Function `example, answer, score -> text` that tells the reflection model what was right or wrong."""


def default_feedback(example: Example, answer: str, score: float) -> str:
    """Return the score of an answer with the accepted outputs of its example."""
    return f"Score: {score:g}. Accepted outputs: {' | '.join(example.outputs)}"


class TaskAdapter(GEPAAdapter):
    """GEPA adapter that scores a candidate on examples of a Task, by the metric of the task.

    GEPA's examples are those of the task, such as `list(task.train)`. An example whose single call fails
    scores `lowest`. Any other error, such as a limit that is reached, is kept in `error` and raised.

    Args:
        task: The task: template, metric and demonstrations.
        llm: Model that answers the examples, as in `zopo_fast.optimize`.
        account: Budget that every call is reserved in, which holds however many calls are in flight.
        component: Name of the text in a GEPA candidate.
        judge: Model of the metric "judge". Default: `llm`.
        rubric: Message to the judge. Default: the built-in rubric.
        feedback: Text for the reflection model on an answer. Default: score and accepted outputs.
        lowest: Score of an unanswered example.
        concurrency: Calls in flight at a time, where the model sets no limit of its own.

    Attributes:
        usage: Calls and tokens of all evaluations.
        error: Error that ended an evaluation; None if there was none.
    """

    def __init__(
        self,
        task: Task,
        llm: ModelLike,
        account: Account | None = None,
        *,
        component: str = "instruction",
        judge: ModelLike | None = None,
        rubric: str | None = None,
        feedback: Feedback = default_feedback,
        lowest: float = 0.0,
        concurrency: int = 16,
    ) -> None:
        self._task, self._llm, self._judge, self._rubric = task, llm, judge, rubric
        self._account, self._component, self._feedback = account, component, feedback
        self._lowest, self._slots = lowest, concurrency
        self._evaluator()  # raises before any call where it is impossible
        self.usage = Usage()
        self.error: Exception | None = None
        self._idle = 0

    def _evaluator(self) -> Evaluator:
        """Return an evaluator for one event loop, to which the semaphore of a model function belongs."""
        model = self._metered(self._llm, "llm")
        grader = model if self._judge is None else self._metered(self._judge, "judge")
        return Evaluator(
            model,
            metrics.resolve(self._task.metric, judge=grader, rubric=self._rubric),
            template.resolve(self._task.template),
            self._task.demonstrations,
            unanswered="zero",
            lowest=self._lowest,
        )

    def _metered(self, model: ModelLike, name: str) -> ChatModel:
        chat = as_chat_model(model, self._slots, name)
        return ProbedModel(chat if self._account is None else MeteredModel(chat, self._account))

    # ---- GEPA's interface --------------------------------------------------------------------------

    def evaluate(
        self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch:
        """Score a candidate on examples, all at once.

        Raises:
            ConfigError: The candidate has no text under the name of the component.
            LimitReachedError: The account has no room for a call.
            LLMError: The model is unavailable.
            MetricError: The metric failed.
        """
        self._idle = 0
        if self._component not in candidate:
            raise ConfigError(f"component: the candidate has {sorted(candidate)}, not {self._component!r}")
        done: Evaluation = self._kept(self._evaluator().evaluate(candidate[self._component], batch))
        self.usage += done.usage
        return EvaluationBatch(
            outputs=list(done.answers),
            scores=list(done.scores),
            trajectories=list(batch) if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return inputs, answers and feedback of the examples for the reflection model."""
        records = [
            {
                "Inputs": example.input,
                "Generated Outputs": answer,
                "Feedback": self._feedback(example, answer, score),
            }
            for example, answer, score in zip(
                eval_batch.trajectories, eval_batch.outputs, eval_batch.scores, strict=True
            )
        ]
        return dict.fromkeys(components_to_update, records)

    # ---- limits ------------------------------------------------------------------------------------

    def language_model(self, model: ModelLike) -> Callable[[Any], str]:
        """Return a reflection LM for GEPA whose calls the same account pays."""
        self._metered(model, "model")  # raises before any call where it is impossible

        def reflect(prompt: str | list[dict[str, Any]]) -> str:
            messages: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return answer_text(self._kept(self._metered(model, "model").chat(messages)))

        return reflect

    @property
    def stopping(self) -> dict[str, Any]:
        """Return arguments of `gepa.optimize` that end it with its results once a call is impossible."""
        return {"stop_callbacks": [self.is_over], "raise_on_exception": False}

    def is_over(self, state: Any = None) -> bool:
        """Return True after an error, or after iterations in a row without an evaluation."""
        self._idle += 1
        return self.error is not None or self._idle > MAX_IDLE

    def _kept(self, work: Any) -> Any:
        """Run a coroutine, and keep the error that it ends with."""
        try:
            return run_to_end(work)
        except Exception as error:
            self.error = error
            raise


# ---- candidates ------------------------------------------------------------------------------------------


def add_candidates(
    search: Zopo,
    prompts: Sequence[str],
    result: Any,
    embed: Callable[[list[str]], Any],
    component: str | None = None,
) -> list[str]:
    """Add GEPA's candidates to a search, with their scores as prior data, which no budget counts.

    A candidate that is in the pool already gets the score, unless the search knows another one. The mean
    counts where several candidates have one text.

    Args:
        search: The search.
        prompts: Texts of its pool in order.
        result: GEPAResult, or the GEPAState of a run.
        embed: Function `texts -> (k, d) array` that made the embeddings of the pool.
        component: Name of the text in a candidate. Default: the only one.

    Returns:
        The texts of the grown pool in order.

    Raises:
        ConfigError: The candidates have several components, or lack the named one.
        ArrayError: The embeddings of the candidates do not fit the pool.
    """
    scores = _scores(result, component)
    row = {normalise(prompt): index for index, prompt in enumerate(prompts)}
    new = [text for text in scores if text not in row]
    if new:
        row |= dict(zip(new, search.add(embed(new)), strict=True))
    for text, score in scores.items():
        try:
            search.tell(row[text], score)
        except ConflictingScoreError:
            continue  # the search's own score is of its own examples
    return [*prompts, *new]


def _scores(result: Any, component: str | None) -> dict[str, float]:
    """Return the mean validation score of each distinct text, without candidates that have none."""
    if hasattr(result, "program_candidates"):
        result = GEPAResult.from_state(result)
    found: dict[str, list[float]] = {}
    for candidate, score in zip(result.candidates, result.val_aggregate_scores, strict=True):
        name = next(iter(candidate)) if component is None and len(candidate) == 1 else component
        if name not in candidate:
            raise ConfigError(f"component: name one of {sorted(candidate)}, got {component!r}")
        text = normalise(candidate[name])
        if text and math.isfinite(score):
            found.setdefault(text, []).append(score)
    return {text: math.fsum(scores) / len(scores) for text, scores in found.items()}
