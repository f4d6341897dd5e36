"""Export of a fully scored pool, on which a search can be replayed without calls.

`NAME.json` holds prompts and scores (m x examples) with the task, model, template and metric behind them.
`NAME.npy` holds the embeddings (m, d). `bench/landscapes/README.md` describes the format.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zopo_fast._utils.files import write_atomic
from zopo_fast._utils.text import json_line
from zopo_fast.errors import PoolError
from zopo_fast.runs.result import Trial
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Task


class LandscapeFiles(NamedTuple):
    """Paths of one landscape; the study is there while its pool is being scored."""

    scores: Path
    embeddings: Path
    study: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> LandscapeFiles:
        """Name the files of the landscape `name` in a folder."""
        return cls(*(folder / f"{name}{ending}" for ending in (".json", ".npy", ".study.sqlite3")))


def export(
    files: LandscapeFiles,
    task: Task,
    model: str,
    prompts: Sequence[str],
    trials: Sequence[Trial],
    embeddings: np.ndarray[Any, Any],
    failed: Mapping[int, str],
) -> list[float]:
    """Write scores and embeddings of the prompts that were scored, each file atomically.

    Args:
        files: where to write.
        task: what the prompts were scored on.
        model: name of the model, as the landscape states it.
        prompts: the pool.
        trials: of the run that scored the pool, each prompt on all examples.
        embeddings: (m, d), one row a prompt; written as float16 where all entries fit its range.
        failed: error by pool index; these prompts are left out and listed under "failed".

    Returns:
        Mean score of each exported prompt, in the order of the pool.

    Raises:
        PoolError: fewer than two prompts were scored.
        OutputError: a file cannot be written.
    """
    complete = {trial.index: trial for trial in trials if trial.error is None and not trial.partial}
    rows = {index: trial.scores for index, trial in complete.items()}
    scored = sorted(rows)
    if len(scored) < 2:
        raise PoolError(f"only {len(scored)} of {len(prompts)} prompts could be scored")
    document = {
        "task": task.name,
        "model": model,
        "template": _template_text(task),
        "metric": task.metric_name,
        "examples": [example.to_dict() for example in task.train],
        "prompts": [prompts[index] for index in scored],
        "scores": [[_shortest(score) for score in rows[index]] for index in scored],
    }
    if task.demonstrations:
        document["demonstrations"] = [example.to_dict() for example in task.demonstrations]
    unanswered = [
        [row, example, reason]
        for row, index in enumerate(scored)
        for example, reason in complete[index].unanswered.items()
    ]
    if unanswered:
        document["unanswered"] = unanswered
    if failed:
        document["failed"] = [{"prompt": prompts[i], "error": error} for i, error in sorted(failed.items())]
    # Embeddings first: a reader that finds the JSON file must find both.
    write_atomic(files.embeddings, _npy(embeddings[scored]))
    write_atomic(files.scores, json_line(document).encode())
    return [sum(rows[index]) / len(rows[index]) for index in scored]


def _npy(embeddings: np.ndarray[Any, Any]) -> bytes:
    with np.errstate(over="ignore"):
        half = embeddings.astype(np.float16)
    data = io.BytesIO()
    rows = half if np.isfinite(half).all() else embeddings
    np.save(data, np.ascontiguousarray(rows), allow_pickle=False)
    return data.getvalue()


def _template_text(task: Task) -> Any:
    """Return the text of a template with one user message, else the list of its messages."""
    messages = template.resolve(task.template).messages
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return [{"role": role, "content": content} for role, content in messages]


def _shortest(score: float) -> float:
    """Return whole scores as integers, which JSON writes without a fraction."""
    return int(score) if score.is_integer() else score
