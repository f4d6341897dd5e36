"""GEPA (gepa.optimize) by an adapter on the shared scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gepa
from gepa.core.adapter import EvaluationBatch, GEPAAdapter

from zopo_fast.tasks.example import Example

from .session import Run

COMPONENT = "instruction"
# GEPA's own request, cut to what the scripted writer needs: the prompt.
REQUEST = "Improve this prompt:\n\n{prompt}"


class Adapter(GEPAAdapter):
    """Scores candidates by the scorer of a run; the examples are their indices."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def evaluate(
        self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch:
        """Score a candidate on examples."""
        found = self._run.scorer.answers((candidate[COMPONENT], example) for example in batch)
        return EvaluationBatch(
            outputs=[answer for answer, _ in found],
            scores=[score for _, score in found],
            trajectories=list(batch) if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return inputs, answers and feedback of the examples."""
        examples: list[Example] = [self._run.problem.task.train[i] for i in eval_batch.trajectories]
        records = [
            {
                "Inputs": example.input,
                "Generated Outputs": answer,
                "Feedback": f"Score: {score:g}. Accepted outputs: {' | '.join(example.outputs)}",
            }
            for example, answer, score in zip(examples, eval_batch.outputs, eval_batch.scores, strict=True)
        ]
        return dict.fromkeys(components_to_update, records)


class Watch:
    """GEPA callback that states the best candidate after each full evaluation."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        """Take the candidate if it is the best one on all examples."""
        if event["is_best_program"]:
            self._run.take(event["candidate"][COMPONENT])


class Silent:
    """Logger of GEPA that drops all messages."""

    def log(self, message: str) -> None:
        """Drop a message."""


def run(run: Run) -> None:
    """Optimise the first starting prompt until the proxy refuses."""
    problem = run.problem

    def reflect(prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else "\n\n".join(str(each["content"]) for each in prompt)
        return run.write([text])[0]

    def propose(candidate: dict[str, str], dataset: Any, components: list[str]) -> dict[str, str]:
        return {name: run.write([REQUEST.replace("{prompt}", candidate[name])])[0] for name in components}

    writer: dict[str, Any] = {"reflection_lm": reflect}
    if problem.track != "local":
        writer = {"custom_candidate_proposer": propose}
    indices = list(range(problem.examples))
    idle = Idle(run)
    gepa.optimize(
        {COMPONENT: problem.initial[0]},
        indices,
        indices,
        adapter=Adapter(run),
        seed=problem.seed,
        callbacks=[Watch(run)],
        # GEPA's own budget leaves out what the writer costs; the proxy counts all.
        stop_callbacks=[idle],
        logger=Silent(),
        **writer,
    )
    run.notes += idle.notes


class Idle:
    """Stopper after many iterations in a row without any completion, such as those of a perfect prompt."""

    MOST = 50

    def __init__(self, run: Run) -> None:
        self._run, self._calls, self._idle = run, -1, 0
        self.notes: list[str] = []

    def __call__(self, state: Any) -> bool:
        """Return True when GEPA should end."""
        self._idle = 0 if self._run.calls != self._calls else self._idle + 1
        self._calls = self._run.calls
        if self._idle < self.MOST:
            return False
        self.notes.append(f"ended after {self.MOST} iterations without a completion")
        return True
