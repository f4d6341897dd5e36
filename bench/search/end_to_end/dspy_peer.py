"""MIPROv2 of DSPy, on the shared scorer and writer.

DSPy sends messages of its own format and expects answers in it. The adapter here sends instruction,
demonstrations and input in the task's template instead, and takes the answer as it is. Its proposer fails on
an answer that does not parse; here such an answer is taken as the proposed text, which favours it.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.adapters.chat_adapter import ChatAdapter
from dspy.teleprompt import MIPROv2
from dspy.utils.exceptions import AdapterParseError

from zopo_fast.tasks import template

from .session import Run

FIELDS = ("input", "output")


class TemplateAdapter(ChatAdapter):
    """Adapter that leaves the messages of the task to the scorer; the proposer's are DSPy's own.

    Args:
        run: whose task has the template.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(use_json_adapter_fallback=False)
        self._run = run
        self._index = {example.input: index for index, example in enumerate(run.problem.task.train)}

    def format(self, signature: Any, demos: list[Any], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the pair of prompt and example for `ScoredModel`, or DSPy's messages."""
        if not _is_ours(signature):
            return list(super().format(signature, demos, inputs))
        pair = self._prompt(signature.instructions, demos), self._index[inputs["input"]]
        return [{"role": "user", "content": json.dumps(pair)}]

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Return the answer as it is; a proposed text without DSPy's headings counts as a whole."""
        if _is_ours(signature):
            return {"output": completion}
        try:
            return dict(super().parse(signature, completion))
        except AdapterParseError:
            return dict.fromkeys(signature.output_fields, completion.strip())

    def _prompt(self, instruction: str, demos: Sequence[Any]) -> str:
        """Return one text of an instruction and its demonstrations, as the template writes them."""
        block = template.resolve(self._run.problem.task.template).demonstration
        assert block is not None
        shown = [
            template.fill(block, {"{input}": str(demo["input"]), "{output}": str(demo["output"]).strip()})
            for demo in demos
        ]
        return f"{instruction}\n\n{''.join(shown)}".strip()


def _is_ours(signature: Any) -> bool:
    return (*signature.input_fields, *signature.output_fields) == FIELDS


class _Model(dspy.BaseLM):
    """Model of DSPy behind the shared client; a completion is not cached by DSPy but by the scorer."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(name, temperature=0.0, max_tokens=100, cache=False, num_retries=0)
        self.run = run

    def copy(self, **kwargs: Any) -> _Model:
        """Return the model itself: the session cannot be copied, and the writer varies its answers anyway."""
        return self


class ScoredModel(_Model):
    """The scored model.

    Args:
        run: with the scorer.
        scored: examples of an evaluation, in order. DSPy asks them one by one; after the second answer for a
            prompt the others are asked together, since it ends no evaluation early.
    """

    def __init__(self, run: Run, scored: Sequence[int]) -> None:
        super().__init__(run, "scored")
        self._scored = list(scored)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        """Answer the pair that `TemplateAdapter` made."""
        text, example = json.loads(messages[-1]["content"])
        first, second, *others = self._scored
        is_evaluation = example == second and first in self.run.scorer.scores.get(text, {})
        more = [(text, other) for other in others] if is_evaluation else []
        return _response(self.run.scorer.answers([(text, example), *more])[0][0])


class WritingModel(_Model):
    """The writer."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a meta prompt."""
        text = prompt if messages is None else "\n\n".join(str(each["content"]) for each in messages)
        return _response(self.run.write([text])[0])


def _response(text: str) -> Any:
    text = text or " "  # DSPy takes an empty answer for a failure of the model
    message = SimpleNamespace(content=text, role="assistant", tool_calls=None)
    choice = SimpleNamespace(message=message, index=0, finish_reason="stop")
    return SimpleNamespace(choices=[choice], usage={}, model="model", cache_hit=False)


def mipro(run: Run) -> None:
    """Run MIPROv2 with demonstrations: its own split, a fifth to bootstrap from and the rest to score on."""
    count = 6 if run.problem.budget < 1000 else 12  # sets of demonstrations, as its settings light and medium
    examples = run.problem.examples
    _compile(run, list(range(examples // 5, examples)), count, {})


def mipro_zero_shot(run: Run) -> None:
    """Run MIPROv2 without demonstrations, scored on all train examples."""
    examples = list(range(run.problem.examples))
    # A candidate costs its evaluation and three requests to the proposer.
    count = max(2, run.problem.budget // (len(examples) + 3) - 1)
    shots = {"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    _compile(run, examples, count, shots)


def _compile(run: Run, scored: Sequence[int], count: int, shots: dict[str, int]) -> None:
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    examples = [
        dspy.Example(input=example.input, output=example.outputs[0], index=index).with_inputs("input")
        for index, example in enumerate(run.problem.task.train)
    ]
    valset = [examples[index] for index in scored]
    trainset = examples if len(scored) == len(examples) else examples[: scored[0]]

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        run.take_best_complete(scored)
        return run.scorer.judge(prediction.output, example.index)

    program = dspy.Predict(dspy.Signature("input -> output", run.problem.initial[0]))
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),  # its progress bars have no switch
        redirect_stderr(io.StringIO()),
        dspy.context(lm=ScoredModel(run, scored), adapter=TemplateAdapter(run)),
    ):
        warnings.simplefilter("ignore")  # DSPy warns of its own coming interface
        optimizer = MIPROv2(
            metric,
            prompt_model=WritingModel(run, "writer"),
            task_model=dspy.settings.lm,
            auto=None,
            num_candidates=count,
            num_threads=1,  # in this thread: RefusedError must reach it
            max_errors=1,
            seed=run.problem.seed + 1,  # it takes 0 for none
        )
        # Repeated candidates cost no completion, so more trials than the budget pays for do no harm.
        trials = max(2 * count, 2 * run.problem.budget // len(scored))
        optimizer.compile(
            program, trainset=trainset, valset=valset, num_trials=trials, minibatch=False, **shots
        )
    run.notes.append("ended by itself")
