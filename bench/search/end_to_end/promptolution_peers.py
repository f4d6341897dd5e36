"""CAPO, EvoPromptGA and OPRO of promptolution, on the shared scorer and writer.

promptolution's own predictors answer the first class where nothing parses, so that a prompt that gets no
answer at all scores as if it always gave that class. The predictor here hands the model's answer to the
metric of the task.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from promptolution.llms.base_llm import BaseLLM
from promptolution.optimizers.capo import CAPO
from promptolution.optimizers.evoprompt_ga import EvoPromptGA
from promptolution.optimizers.opro import OPRO
from promptolution.predictors.base_predictor import BasePredictor
from promptolution.tasks.reward_tasks import RewardTask
from promptolution.utils.callbacks import BaseCallback

from .session import RefusedError, Run

STEPS = 10_000  # more than any budget allows: the proxy ends a run
SHOTS = 4  # demonstrations at most; CAPO sets a tenth of the train examples aside for them
_SHOT = re.compile(r"(^|\n\n)Input:\n(.*?)\nOutput:\n", re.DOTALL)


def in_template(text: str) -> str:
    """Return a prompt of CAPO with its demonstrations as the task's template writes them."""
    return _SHOT.sub(r"\1Input: \2\n\nOutput: ", text.removesuffix("\n\nInput:"))


def population(run: Run) -> int:
    """Return the number of starting prompts.

    Scoring them in full takes at most two fifths of the budget, so that some generations follow.
    """
    most = int(0.4 * run.problem.budget / run.problem.examples)
    return max(3, min(len(run.problem.initial), most))


class Writer(BaseLLM):
    """The writer as promptolution's meta model."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        return self._run.write(prompts)


class Predictor(BasePredictor):
    """Answers examples by the shared scorer; a prediction is the score of the answer, as text."""

    def __init__(self, run: Run, watch: Callable[[], None]) -> None:
        super().__init__(Writer(run))
        self._run, self._watch = run, watch
        self._index = {example.input: index for index, example in enumerate(run.problem.task.train)}

    def predict(
        self, prompts: str | list[str], xs: Sequence[str], system_prompts: Any = None
    ) -> tuple[list[str], list[str]]:
        """Return score and sequence of each pair of prompt and input."""
        texts = [prompts] * len(xs) if isinstance(prompts, str) else list(prompts)
        found = self._run.scorer.answers(
            (in_template(text), self._index[x]) for text, x in zip(texts, xs, strict=True)
        )
        self._watch()
        return [str(score) for _, score in found], [
            f"{x}\n{text}" for x, (text, _) in zip(xs, found, strict=True)
        ]

    def _extract_preds(self, preds: list[str]) -> list[str]:
        raise NotImplementedError("predict is replaced")


def _task(run: Run, block: int) -> RewardTask:
    """Return the train examples as a task whose blocks have `block` examples."""
    examples = run.problem.task.train
    frame = pd.DataFrame(
        {"x": [example.input for example in examples], "y": [example.outputs[0] for example in examples]}
    )
    shown = "; ".join(f"{example.input} -> {example.outputs[0]}" for example in examples[:3])
    return RewardTask(
        frame,
        reward_function=float,
        x_column="x",
        y_column="y",
        task_description=f"Give the output that belongs to an input. Examples: {shown}",
        n_subsamples=block,
        seed=run.problem.seed,
    )


def _optimise(run: Run, make: Callable[[], Any]) -> None:
    random.seed(run.problem.seed)
    np.random.seed(run.problem.seed)
    logging.getLogger("promptolution").setLevel(logging.ERROR)
    make().optimize(STEPS)
    # promptolution ends quietly where a step raises; only the proxy should end it.
    raise RuntimeError("promptolution ended before its budget was spent; its log says why")


def evoprompt(run: Run) -> None:
    """Run EvoPromptGA with the parents chosen by their scores, as by default."""
    start = list(run.problem.initial[: population(run)])

    def make() -> Any:
        predictor = Predictor(run, run.take_best_complete)
        return EvoPromptGA(
            predictor, _task(run, run.problem.examples), meta_llm=predictor.llm, initial_prompts=start
        )

    _optimise(run, make)


def opro(run: Run) -> None:
    """Run OPRO, with half as many prompts a step where the budget allows few."""
    start = list(run.problem.initial[: population(run)])
    step = 8 if len(start) == len(run.problem.initial) else 4

    def make() -> Any:
        predictor = Predictor(run, run.take_best_complete)
        return OPRO(
            predictor,
            _task(run, run.problem.examples),
            meta_llm=predictor.llm,
            initial_prompts=start,
            num_instructions_per_step=step,
        )

    _optimise(run, make)


class _Watch(BaseCallback):
    """States the best prompt of the population after each step."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def on_step_end(self, optimizer: Any) -> bool:
        self._run.take(in_template(str(optimizer.prompts[0])))
        return True


def _capo(run: Run, shots: int) -> None:
    start = list(run.problem.initial[: population(run)])
    scored = run.problem.examples - (run.problem.examples // 10 if shots else 0)

    def make() -> Any:
        predictor = Predictor(run, lambda: None)
        return CAPO(
            predictor,
            _task(run, max(1, scored // 4)),
            meta_llm=predictor.llm,
            initial_prompts=start,
            upper_shots=shots,
            # Answers of a few tokens hold no reasoning: the given outputs are shown, which costs no call.
            create_fs_reasoning=False,
            df_few_shots=None if shots else pd.DataFrame({"x": [], "y": []}),
            callbacks=[_Watch(run)],
        )

    try:
        _optimise(run, make)
    except RefusedError:
        if not run.incumbents:  # refused within the first step: the most and best scored prompt
            scores = run.scorer.scores
            run.take(max(scores, key=lambda p: (len(scores[p]), sum(scores[p].values()))))
            run.notes.append("the first race did not end")
        raise


def capo(run: Run) -> None:
    """Run CAPO with up to SHOTS demonstrations in a prompt."""
    _capo(run, min(SHOTS, max(1, run.problem.examples // 10)))


def capo_zero_shot(run: Run) -> None:
    """Run CAPO without demonstrations."""
    _capo(run, 0)
