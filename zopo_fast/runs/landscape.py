"""A landscape: every prompt of a pool scored once on every example, for searches to be replayed on.

`NAME.json` holds prompts and scores (m x examples) with what they were made with, `NAME.npy` the embeddings
(m, d). While a pool is being scored there is `NAME.journal.jsonl`, from which a later run goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast._utils.files import (
    MAX_DATA_BYTES,
    UnreadableFileError,
    error_reason,
    exists,
    read_bytes,
    write_atomic,
)
from zopo_fast._utils.text import json_line, parse_json, short_repr
from zopo_fast.errors import InputError, LLMError, OutputError, PoolError
from zopo_fast.llm.types import ChatModel, Usage
from zopo_fast.runs.result import Trial
from zopo_fast.scoring import metrics
from zopo_fast.scoring.evaluator import Evaluator, Scored
from zopo_fast.scoring.scorer import OF_THE_PROMPT, calls_at_once, prompts_at_once
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Example, Task

DEFAULT_CALLS = 16  # at once, of a model that does not say how many it takes

Row = list[float | None]
"""Scores of one prompt, one an example; None: not answered yet."""


def fingerprint(values: Any) -> str:
    """Twelve hexadecimal digits of the hash of JSON values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


class Journal:
    """What was answered so far, a line a prompt, on disk when `add` returns; a later line replaces a former.

    Args:
        path: the file; made where it is missing, continued where it is there.
        settings: all that the scores depend on, as JSON values.
        prompts, examples: how many.

    Raises:
        InputError: the file was begun with other settings, or is no journal. OutputError: it cannot be
            written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], prompts: int, examples: int) -> None:
        self.path = path
        self.rows: list[Row] = [[None] * examples for _ in range(prompts)]
        self.errors: dict[int, str] = {}  # of prompts that failed in this run
        try:
            self._made_folder = not path.parent.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            there = exists(path)
            data = read_bytes(path, MAX_DATA_BYTES) if there else b""
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: cannot be used: {error_reason(error)}") from error
        except UnreadableFileError as error:
            raise OutputError(f"{path}: cannot be used: {error}") from error
        whole = data[: data.rfind(b"\n") + 1]  # the end of a line may be missing after a crash
        if whole:
            self._read(whole, settings)
        try:
            self._file = path.open("r+b" if there else "xb")
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: cannot be written: {error_reason(error)}") from error
        if not whole:
            self._write({"settings": dict(settings)})

    @property
    def done(self) -> list[bool]:
        """Which prompts have all their scores."""
        return [None not in row for row in self.rows]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered at all."""
        return all(score is None for row in self.rows for score in row)

    def add(self, index: int, row: Row, error: str | None = None) -> None:
        """Write down what prompt `index` was answered, and why there is no more."""
        self.rows[index] = list(row)
        line: dict[str, Any] = {"index": index, "scores": [_plain(score) for score in row]}
        if error is not None:
            self.errors[index] = line["error"] = error
        self._write(line)

    def close(self, remove: bool = False) -> None:
        """Close the file; remove it where it has served, or holds no answer."""
        self._file.close()
        if remove or self.is_empty:
            with suppress(OSError):
                self.path.unlink()
                if self._made_folder and not remove:
                    self.path.parent.rmdir()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _read(self, data: bytes, settings: Mapping[str, Any]) -> None:
        for number, text in enumerate(data.splitlines(), start=1):
            try:
                line = parse_json(text.decode())
                if number == 1:
                    self._compare(dict(line["settings"]), json.loads(json.dumps(dict(settings))))
                    continue
                index, row = line["index"], line["scores"]
                if not isinstance(index, int) or index < 0 or len(row) != len(self.rows[index]):
                    raise ValueError(f"index {short_repr(index)}")
                self.rows[index] = [None if score is None else float(score) for score in row]
            except InputError:
                raise
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                raise InputError(
                    f"{self.path}:{number}: not a line of a journal ({short_repr(error, 200)}); "
                    "delete it to begin anew"
                ) from None

    def _compare(self, there: dict[str, Any], now: dict[str, Any]) -> None:
        differ = [name for name in {**there, **now} if there.get(name) != now.get(name)]
        if differ:
            what = "; ".join(
                f"{name:.80}: {_brief(there.get(name))} then, {_brief(now.get(name))} now"
                for name in differ[:20]
            )
            raise InputError(
                f"{self.path} was begun with something else: {what}. Give what it was begun with, "
                "another --name, or delete it"
            )


class PoolScorer:
    """Scores the prompts that `journal` has no scores of.

    Args:
        task: its train examples are what prompts are scored on.
        prompts: the pool.
        model, judge, rubric: as in `optimize`.
        journal: where answers are kept.
        max_failed: the share of the pool that may fail.
        on_trial: called with each Trial as it ends.
    """

    def __init__(
        self,
        task: Task,
        prompts: Sequence[str],
        model: ChatModel,
        journal: Journal,
        *,
        judge: ChatModel | None = None,
        rubric: str | None = None,
        max_failed: float = 0.1,
        on_trial: Callable[[Trial], object] = lambda _: None,
    ) -> None:
        self.spent = Usage()
        self._examples: tuple[Example, ...] = task.train
        self._demonstrations = task.demonstrations
        self._prompts, self._model, self._journal = prompts, model, journal
        self._metric = metrics.resolve(task.metric, judge=judge or model, rubric=rubric)
        self._template = template.resolve(task.template)
        self._max_failed, self._on_trial = max_failed, on_trial
        self._number = 0
        means = [float(np.mean(row)) for row, done in zip(journal.rows, journal.done, strict=True) if done]  # type: ignore[arg-type]
        self._best: float | None = max(means, default=None)

    async def run(self) -> None:
        """Score what is left, a few prompts at a time, in the order of the pool.

        What is wrong with one prompt is noted and passed over; any other failure ends the run. All that was
        answered is in the journal however this ends.

        Raises:
            LLMError: the model cannot be had any more, or more than `max_failed` of the prompts failed.
            MetricError: the metric failed.
        """
        left = iter([index for index, done in enumerate(self._journal.done) if not done])

        async def work() -> None:
            for index in left:
                await self._score(index)

        calls = calls_at_once(self._model) or DEFAULT_CALLS
        at_once = prompts_at_once(calls, len(self._examples))
        await gather_or_cancel([work() for _ in range(at_once)])

    async def _score(self, index: int) -> None:
        row = list(self._journal.rows[index])
        spent, began = Usage(), time.monotonic()
        error: str | None = None

        def answered(one: Scored) -> None:
            nonlocal spent
            row[one.index] = one.score
            spent += one.usage
            self.spent += one.usage

        evaluator = Evaluator(
            self._model, self._metric, self._template, self._demonstrations, on_answer=answered
        )
        missing = [place for place, score in enumerate(row) if score is None]
        try:
            await evaluator.evaluate(self._prompts[index], self._examples, indices=missing)
        except OF_THE_PROMPT as refused:
            error = str(refused)
        finally:
            if error is not None or row != self._journal.rows[index]:
                self._journal.add(index, row, error)
        self._report(index, row, spent, time.monotonic() - began, error)
        failed = len(self._journal.errors)
        if failed > self._max_failed * len(self._prompts):
            raise LLMError(
                f"{failed} of {len(self._prompts)} prompts failed, more than --max-failed "
                f"{self._max_failed:g} allows; the last one: {error}"
            )

    def _report(self, index: int, row: Row, spent: Usage, seconds: float, error: str | None) -> None:
        scores = () if error else tuple(score for score in row if score is not None)
        mean = float(np.mean(scores)) if scores else None
        if mean is not None and (self._best is None or mean > self._best):
            self._best = mean
        self._number += 1
        self._on_trial(
            Trial(
                self._number,
                index,
                self._prompts[index],
                mean,
                scores,
                spent,
                seconds,
                self._best,
                self.spent,
                error,
            )
        )


def save(
    stem: Path,
    task: Task,
    model: str,
    prompts: Sequence[str],
    journal: Journal,
    embeddings: np.ndarray[Any, Any],
) -> int:
    """Write `stem`.json and `stem`.npy, each whole or not at all; return how many prompts they hold.

    Prompts without all their scores are left out, and named under "failed". Embeddings are float16 where
    they fit into its range. Raises PoolError for fewer than two prompts, OutputError.
    """
    kept = [index for index, done in enumerate(journal.done) if done]
    if len(kept) < 2:
        raise PoolError(f"only {len(kept)} of {len(prompts)} prompts could be scored")
    document = {
        "task": task.name,
        "model": model,
        "template": _template_text(task),
        "metric": task.metric,
        "examples": [asdict(example) for example in task.train],
        "prompts": [prompts[index] for index in kept],
        "scores": [[_plain(score) for score in journal.rows[index]] for index in kept],
    }
    if task.demonstrations:
        document["demonstrations"] = [asdict(example) for example in task.demonstrations]
    if journal.errors:
        document["failed"] = [{"prompt": prompts[i], "error": e} for i, e in sorted(journal.errors.items())]
    with np.errstate(over="ignore"):
        half = embeddings[kept].astype(np.float16)
    rows = half if np.isfinite(half).all() else embeddings[kept]
    array = io.BytesIO()
    np.save(array, np.ascontiguousarray(rows), allow_pickle=False)
    write_atomic(_with(stem, ".npy"), array.getvalue())  # first: whoever sees the JSON finds both
    write_atomic(_with(stem, ".json"), json_line(document, default=str).encode())
    return len(kept)


def _brief(value: object) -> str:
    return value[:200] if isinstance(value, str) else short_repr(value)


def paths(stem: Path) -> tuple[Path, Path, Path]:
    """Where scores, embeddings and journal of a landscape lie."""
    return _with(stem, ".json"), _with(stem, ".npy"), _with(stem, ".journal.jsonl")


def _template_text(task: Task) -> Any:
    """The template's text where it is one message of the user's, else its messages."""
    layout = template.resolve(task.template)
    if len(layout.messages) == 1 and layout.messages[0][0] == "user":
        return layout.messages[0][1]
    return [{"role": role, "content": content} for role, content in layout.messages]


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _plain(score: float | None) -> float | None:
    """The score, 0 and 1 as integers."""
    return int(score) if score is not None and float(score).is_integer() else score
