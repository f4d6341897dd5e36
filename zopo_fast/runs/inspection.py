"""Scores and answers of a study for readers: the best prompts, and the examples of one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast.errors import ConfigError, InputError, TaskError
from zopo_fast.llm.answer_text import without_reasoning
from zopo_fast.llm.finish_reasons import is_cut
from zopo_fast.llm.middleware import recorded_key
from zopo_fast.llm.types import CallKey, Usage
from zopo_fast.prompts.writing.demonstrations import layout_of
from zopo_fast.runs.cost.front import FrontPoint, points
from zopo_fast.runs.cost.tokens import tokens_per_call
from zopo_fast.runs.growth.record import growth_record
from zopo_fast.runs.log.entries import ASK, FAILED, SCORE

if TYPE_CHECKING:
    from zopo_fast.llm.limits import Prices
    from zopo_fast.llm.types import Answer
    from zopo_fast.storage.store import Store
    from zopo_fast.tasks.task import Example, Task


@dataclass
class PromptScore:
    """Scores of one prompt so far.

    Attributes:
        index: of the prompt in the pool.
        prompt: its text.
        score: mean over the examples with a score; None without any.
        scores: by example index.
        unanswered: reason by example index.
        examples: number of examples of a full score.
        usage: of all its calls.
        tokens_per_call: mean prompt and completion tokens of its calls, as `tokens_per_call` fits them; None
            without a count.
        error: why the prompt failed; None if it did not.
        rank: from 1; None for a prompt that failed or has no score.
        order: place in the order of the first asks, from 1; None for a prompt that was not asked.
        total: usage of the run until the last score of this prompt.
        began: seconds into the run of the first ask.
        ended: seconds into the run of the last score.
    """

    index: int
    prompt: str
    examples: int
    scores: dict[int, float] = field(default_factory=dict)
    unanswered: dict[int, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    tokens_per_call: float | None = None
    error: str | None = None
    rank: int | None = None
    order: int | None = None
    total: Usage = field(default_factory=Usage)
    began: float = 0.0
    ended: float = 0.0

    @property
    def score(self) -> float | None:
        return math.fsum(self.scores.values()) / len(self.scores) if self.scores else None

    @property
    def tried(self) -> int:
        """Number of examples asked, unanswered ones included."""
        return len(self.scores.keys() | self.unanswered.keys())

    @property
    def is_full(self) -> bool:
        """True when every example was asked."""
        return self.tried >= self.examples


@dataclass(frozen=True)
class ScoredAnswer:
    """Answer of the model to one example.

    Attributes:
        part: "train" or "heldout".
        index: of the example in its part.
        input: of the example; "" if the study does not hold the task.
        expected: accepted outputs.
        answer: text of the model; None if the study holds none.
        reduced: the answer without its reasoning, as the metric got it; None if it is cut inside.
        score: None if unknown or left out.
        unanswered: reason why there is no answer; None if there is one.
        is_cut: the answer ends at the length limit.
    """

    part: str
    index: int
    input: str
    expected: tuple[str, ...]
    answer: str | None
    reduced: str | None
    score: float | None
    unanswered: str | None
    is_cut: bool = False


class Inspection:
    """Scores and answers of a study.

    Args:
        store: the study.
        task: its task; None: unknown, so that inputs and answers cannot be shown.
        heldout: rows of the held-out comparison as in result.json.

    Attributes:
        prompts: texts of the pool: those it began with, then those that entered it.
        given: number of prompts that the pool began with.
        growth: rounds of writing, and the prompts that entered.
    """

    def __init__(self, store: Store, task: Task | None, heldout: Sequence[Mapping[str, Any]] = ()) -> None:
        self._store, self._task, self._heldout = store, task, heldout
        self._counts: dict[int, dict[int, tuple[int, int]]] = {}
        pool = store.pool()
        self.prompts: tuple[str, ...] = () if pool is None else pool.prompts
        incumbent = store.config.get("options", {}).get("incumbent")
        if incumbent is not None and incumbent not in self.prompts:
            self.prompts = (*self.prompts, incumbent)
        self.given = len(self.prompts)
        self.growth = growth_record(store.events(), self.given)
        self.prompts += tuple(one.prompt for one in self.growth.grown)
        self._read = self._read_log()
        for rank, row in enumerate(self.ranked(), start=1):
            row.rank = rank
        self._keys: dict[bytes, list[int]] | None = None

    def ranked(self) -> list[PromptScore]:
        """Return the prompts with a score that did not fail: those scored in full first, best first.

        Of equal scores the earlier one is first, as for the winner of a run.
        """
        rows = [row for row in self._read.values() if row.score is not None and row.error is None]
        return sorted(rows, key=lambda row: (not row.is_full, -(row.score or 0.0)))

    def measured(self, prices: Prices | None = None) -> list[FrontPoint]:
        """Return score and tokens of the prompts scored in full, by ascending index.

        Args:
            prices: of a million tokens.
        """
        full = [row for row in self.ranked() if row.is_full]
        scores = {row.index: (row.score or 0.0, list(row.scores.values())) for row in full}
        return points(self.prompts, scores, self._counts, prices)

    def failed(self) -> list[PromptScore]:
        """Return the prompts that failed."""
        return [row for row in self._read.values() if row.error is not None]

    def prompt(self, index: int) -> PromptScore:
        """Return the scores of a prompt.

        Raises:
            InputError: the pool has no such prompt.
        """
        if not 0 <= index < len(self.prompts):
            raise InputError(f"prompt {index}: the pool has {len(self.prompts)} prompts, counted from 0")
        return self._read.get(index) or PromptScore(index, self.prompts[index], self._parts({}))

    def answers(self, index: int) -> list[ScoredAnswer]:
        """Return the answers of a prompt, held-out ones last, in each part the worst scores first.

        Raises:
            InputError: the pool has no such prompt.
        """
        row = self.prompt(index)
        places = sorted(
            row.scores.keys() | row.unanswered.keys(), key=lambda i: (row.scores.get(i, -math.inf), i)
        )
        found = [self._answer(row, "train", i, row.scores.get(i), row.unanswered.get(i)) for i in places]
        for held in self._heldout:
            if held["prompt"] == row.prompt and held["scores"]:
                return found + self._heldout_answers(row, held)
        return found

    # ---- internals ---------------------------------------------------------------------------------

    def _read_log(self) -> dict[int, PromptScore]:
        rows: dict[int, PromptScore] = {}
        asked: dict[int, set[int]] = {}
        began: dict[int, float] = {}
        total = Usage()
        for event in self._store.events():
            entry = event.data
            if event.kind == ASK:
                asked.setdefault(entry["prompt"], set()).update(entry["examples"])
                began.setdefault(entry["prompt"], entry["at"])
            if event.kind not in (SCORE, FAILED):
                continue
            index = entry["prompt"]
            if index not in rows:
                rows[index] = PromptScore(index, self.prompts[index], 0)
            row = rows[index]
            if event.kind == FAILED:
                row.error = entry["error"]
                continue
            usage = Usage(**entry["usage"])
            total += usage
            row.usage += usage
            row.total, row.ended = total, entry["at"]
            if entry["score"] is not None:
                row.scores[entry["example"]] = entry["score"]
            if entry.get("unanswered") is None and (counts := usage.answer_tokens) is not None:
                self._counts.setdefault(index, {})[entry["example"]] = counts
            if (why := entry.get("unanswered")) is not None:
                row.unanswered[entry["example"]] = f"{why['code']}: {why['message']}"
        parts = self._parts(asked)
        for index, tokens in tokens_per_call(self._counts).items():
            rows[index].tokens_per_call = tokens.total
        order = {index: place for place, index in enumerate(asked, start=1)}
        for row in rows.values():
            row.examples, row.order = parts, order.get(row.index)
            row.began = began.get(row.index, 0.0)
        return rows

    def _parts(self, asked: Mapping[int, set[int]]) -> int:
        """Return the number of train examples; without the task, as many as any prompt was asked on."""
        if self._task is not None:
            return len(self._task.train)
        return max((len(examples) for examples in asked.values()), default=0)

    def _heldout_answers(self, row: PromptScore, held: Mapping[str, Any]) -> list[ScoredAnswer]:
        examples = 0 if self._task is None else len(self._task.heldout)
        unanswered = {int(i): why for i, why in (held.get("unanswered") or {}).items()}
        is_left_out = len(held["scores"]) < examples
        counted = [i for i in range(examples) if not (is_left_out and i in unanswered)]
        scores = dict(zip(counted, held["scores"], strict=False))
        places = sorted(range(examples), key=lambda i: (scores.get(i, -math.inf), i))
        return [self._answer(row, "heldout", i, scores.get(i), unanswered.get(i)) for i in places]

    def _answer(
        self, row: PromptScore, part: str, index: int, score: float | None, unanswered: str | None
    ) -> ScoredAnswer:
        example = self._example(part, index)
        answer = None if example is None else self._recorded(part, row.prompt, index)
        text = None if answer is None else answer.text
        return ScoredAnswer(
            part,
            index,
            "" if example is None else example.input,
            () if example is None else example.outputs,
            text,
            None if text is None else without_reasoning(text),
            score,
            unanswered,
            answer is not None and is_cut(answer.finish_reason),
        )

    def _example(self, part: str, index: int) -> Example | None:
        if self._task is None:
            return None
        examples = self._task.train if part == "train" else self._task.heldout
        return examples[index] if index < len(examples) else None

    def _recorded(self, part: str, prompt: str, index: int) -> Answer | None:
        if self._task is None:
            return None
        if self._keys is None:
            self._keys = self._store.answers()
        return recorded_answer(self._store, self._keys, self._task, part, prompt, index)


def recorded_answer(
    store: Store, keys: Mapping[bytes, Sequence[int]], task: Task, part: str, prompt: str, index: int
) -> Answer | None:
    """Return the recorded answer of a prompt to an example; None where the study holds none.

    The key of an answer is a hash of its call, which is made again.

    Args:
        store: the study.
        keys: of its answers.
        task: of the study.
        part: "train" or "heldout".
        prompt: text of the prompt.
        index: of the example in its part.
    """
    try:
        layout = layout_of(task)
    except (ConfigError, TaskError):  # the template was a file that is gone
        return None
    example = (task.train if part == "train" else task.heldout)[index]
    messages = layout.render(prompt, example.input, task.demonstrations, example.columns)
    numbers = keys.get(recorded_key("model", CallKey(part, prompt, index), messages))
    return store.answer(numbers[0]) if numbers else None


def mean_variances(rows: Sequence[PromptScore]) -> list[float]:
    """Return the variance of each mean score as an estimate of the full one; 0 for a full score.

    Of N examples, n were scored: the variance of the mean is that of an example times (1/n - 1/N) (Cochran
    1977, eq. 2.8). One example of the spread of all scores is added, so that few equal scores are not exact.
    """
    everything = np.array([score for row in rows for score in row.scores.values()])
    spread = float(everything.var()) if len(everything) else 0.0
    variances = []
    for row in rows:
        scores = np.array(list(row.scores.values()))
        n = len(scores)
        one = (float(np.square(scores - scores.mean()).sum()) + spread) / n
        variances.append(one * max(0.0, 1.0 / n - 1.0 / max(row.examples, n)))
    return [variance if math.isfinite(variance) else 0.0 for variance in variances]
