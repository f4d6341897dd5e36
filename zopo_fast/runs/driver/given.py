"""Answers that a study holds of a prompt, for writers that learn from wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zopo_fast.llm.answer_text import without_reasoning
from zopo_fast.runs.inspection import recorded_answer
from zopo_fast.scoring.scorer import MAX_GIVEN

if TYPE_CHECKING:
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Task


class GivenAnswers:
    """Answers of the model to train examples, read from the study.

    The study is read rather than the memory of the process: a resumed run asks no answered example again,
    and its writers must see what those of the uninterrupted run see.

    Args:
        study: of the run.
        task: of the run.
    """

    def __init__(self, study: Store, task: Task) -> None:
        self._study, self._task = study, task

    def __call__(self, prompt: str, example: int) -> str:
        """Return the answer of a prompt to a train example, cut to `MAX_GIVEN`; "" for none."""
        keys = self._study.answers()
        answer = recorded_answer(self._study, keys, self._task, "train", prompt, example)
        text = None if answer is None else without_reasoning(answer.text)
        return (text or "")[:MAX_GIVEN]
