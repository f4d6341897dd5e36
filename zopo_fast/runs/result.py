"""Result of a run: trials, winner, held-out scores with confidence intervals, and its view in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from zopo_fast._utils.markup import escaped, table
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import MissingDependencyError
from zopo_fast.llm.types import Usage
from zopo_fast.runs.cost.front import FrontPoint
from zopo_fast.runs.growth.state import Grown
from zopo_fast.runs.log.unanswered import UnansweredExample

_MAX_BEST, _MAX_PROMPT, _TOP = 2_000, 200, 10  # characters of the winner and of others, prompts in the HTML


@public
@dataclass(frozen=True)
class Trial:
    """Scoring of one prompt.

    Attributes:
        number: from 1, in order of the end.
        index: of the prompt in the pool.
        prompt: its text.
        score: mean over the scored examples; None if the prompt failed.
        scores: one a scored example, in the order of the train examples of the task.
        usage: calls and tokens of this trial.
        seconds: from the first call to the last answer.
        best_score: best full score of the run, this trial included; None before there is one.
        total: usage of the run so far.
        error: why the prompt failed; None if it did not.
        examples: indices of the scored examples if a race stopped the prompt; else empty.
        unanswered: reason of each example without an answer, by index. Such an example has the lowest score,
            or none with `unanswered="skip"`.
    """

    number: int
    index: int
    prompt: str
    score: float | None
    scores: tuple[float, ...]
    usage: Usage
    seconds: float
    best_score: float | None
    total: Usage
    error: str | None = None
    examples: tuple[int, ...] = ()
    unanswered: dict[int, str] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"unanswered": {}, **state})  # a pickle of an older version lacks fields

    @property
    def partial(self) -> bool:
        """True when `score` is a mean over some of the examples only."""
        return bool(self.examples)

    def __repr__(self) -> str:
        partial = " (over some examples only)" * self.partial
        return f"<Trial {self.number}: score {_score(self.score)}{partial}, {short_repr(self.prompt)}>"


class Interval(NamedTuple):
    """Mean difference with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def paired_interval(
    winner: Sequence[float], other: Sequence[float], *, seed: int = 0, resamples: int = 10_000
) -> Interval:
    """Return the 95 % percentile bootstrap interval of mean(winner - other).

    Pairs are resampled, so an example that is hard for both prompts does not widen the interval (Efron &
    Tibshirani 1993, ch. 13).

    Args:
        winner: (n,), scores of one prompt.
        other: (n,), scores of the other prompt on the same examples in the same order.
        seed: of the resampling.
        resamples: number of bootstrap samples.
    """
    difference = np.asarray(winner, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(difference), size=(resamples, len(difference)))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


@dataclass(frozen=True)
class HeldOut:
    """Scores of a prompt on the held-out examples.

    Attributes:
        role: "winner", "seed prompt", "best score" (of a winner chosen for its length), "pool median" or
            "random sample".
        prompt: its text.
        train_score: mean over the train examples; None if not scored in full.
        score: mean over the held-out examples; None if the prompt could not be scored.
        scores: one a held-out example; with `unanswered="skip"` one an answered example.
        winner_ahead: score of the winner minus `score`, over the examples that count for both; None for the
            winner itself and where either has no score.
        error: why the prompt could not be scored; None if it was.
        unanswered: reason of each held-out example without an answer, by index.
    """

    role: str
    prompt: str
    train_score: float | None
    score: float | None
    scores: tuple[float, ...]
    winner_ahead: Interval | None = None
    error: str | None = None
    unanswered: dict[int, str] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"error": None, "unanswered": {}, **state})

    def __repr__(self) -> str:
        return f"<HeldOut {self.role}: score {_score(self.score)}, {short_repr(self.prompt)}>"


@public
@dataclass
class Result:
    """Outcome of a run.

    Attributes:
        best_prompt: text of the winner: the prompt of the best score, or with `prefer_short` the shortest one
            near it.
        best_score: its mean over the train examples; see `in_part`.
        best_index: its pool index.
        trials: in order of their end.
        usage: calls and tokens of the study, earlier runs included.
        stopped_by: "budget", "pool" (every prompt is scored), "perfect" (the highest possible score),
            "target", "interrupted", "failures" (too many prompts in a row failed), "error" (the model is
            unavailable), or the limit that the next call would exceed: "calls", "tokens", "cost" or "time".
        seconds: duration of the study, earlier runs included.
        heldout: scores on the held-out examples, the winner's first; empty without a comparison.
        error: why the run ended early; None if it did not.
        unanswered: train examples that some calls could not get an answer for.
        comparison_notes: statements on what the held-out comparison lacks, and why.
        in_part: True if a limit ended the run before any full score; `best_score` is then a partial mean.
        front: prompts scored in full that no other one beats in both score and tokens per call, by ascending
            tokens; the last has the best score of them.
        prefer_short: score that could be given up for a shorter prompt; None: the best score decided.
        grown: prompts that entered the pool during the run, by ascending index; empty without growth.
        best_messages: messages that send the winner, each with "role" and "content"; `{input}`, or the name
            of a column in braces, stands for the example. Empty for a task function.
    """

    best_prompt: str
    best_score: float
    best_index: int
    trials: list[Trial]
    usage: Usage
    stopped_by: str
    seconds: float
    heldout: list[HeldOut] = field(default_factory=list)
    error: Exception | None = None
    in_part: bool = False
    unanswered: list[UnansweredExample] = field(default_factory=list)
    comparison_notes: list[str] = field(default_factory=list)
    front: list[FrontPoint] = field(default_factory=list)
    prefer_short: float | None = None
    grown: list[Grown] = field(default_factory=list)
    best_messages: list[dict[str, str]] = field(default_factory=list)

    def __setstate__(self, state: dict[str, Any]) -> None:
        defaults: dict[str, Any] = {
            "unanswered": [],
            "comparison_notes": [],
            "front": [],
            "prefer_short": None,
            "grown": [],
            "best_messages": [],
        }
        self.__dict__.update({**defaults, **state})

    @property
    def given_up(self) -> FrontPoint | None:
        """Prompt of a better score that `prefer_short` gave up for a shorter one; None without one."""
        best = self.front[-1] if self.front and self.prefer_short is not None else None
        return best if best is not None and best.score > self.best_score and not self.in_part else None

    def prompts_scored(self, in_full: bool = False) -> set[int]:
        """Return the indices of the prompts with a score.

        Args:
            in_full: only of prompts scored on all examples.
        """
        return {t.index for t in self.trials if t.score is not None and not (in_full and t.partial)}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, without the trials, which trials.jsonl holds."""
        return {
            "best_prompt": self.best_prompt,
            "best_messages": self.best_messages,
            "best_score": self.best_score,
            "best_index": self.best_index,
            "in_part": self.in_part,
            "stopped_by": self.stopped_by,
            "error": None if self.error is None else str(self.error),
            "prompts_scored": len(self.prompts_scored()),
            "prompts_in_full": len(self.prompts_scored(in_full=True)),
            "prompts_failed": sum(t.score is None for t in self.trials),
            "usage": {**asdict(self.usage), "total_tokens": self.usage.total_tokens},
            "seconds": round(self.seconds, 3),
            "unanswered": [asdict(example) for example in self.unanswered],
            "heldout": [
                {
                    **asdict(h),
                    "winner_ahead": None if h.winner_ahead is None else h.winner_ahead._asdict(),
                }
                for h in self.heldout
            ],
            "comparison_notes": self.comparison_notes,
            "front": [point.to_dict() for point in self.front],
            "prefer_short": self.prefer_short,
            "grown": [
                {"index": one.index, "writer": one.writer, "parents": list(one.parents), "round": one.round}
                for one in self.grown
            ],
        }

    def to_frame(self) -> Any:
        """Return the trials as a pandas DataFrame, one row a trial.

        Columns are fields of `Trial`; `examples` is the number of scored examples, `calls`, `prompt_tokens`
        and `completion_tokens` are its usage. A score that does not exist is NaN.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingDependencyError('needs pandas: pip install "zopo-fast[notebook]"') from None
        rows = [
            (
                t.number, t.index, t.prompt, t.score, t.partial, len(t.scores), t.seconds,
                t.usage.calls, t.usage.prompt_tokens, t.usage.completion_tokens, t.best_score, t.error,
            )
            for t in self.trials
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=list(_FRAME)).astype(_FRAME)

    def __repr__(self) -> str:
        best = self.given_up
        short = "" if best is None else f" (chosen for its length; the best is {_score(best.score)})"
        return (
            f"<Result {short_repr(self.best_prompt)}: score {_score(self.best_score)}{short}, "
            f"stopped by {self.stopped_by}; {len(self.prompts_scored())} prompts scored, "
            f"{self.usage.calls} calls, {self.seconds:.1f} s>"
        )

    def _repr_html_(self) -> str:
        """Return the winner, the held-out scores, the best prompts and the usage for a notebook."""
        usage = self.usage
        partial = " over some examples only" * self.in_part
        parts = [
            f"<p><b>Best prompt</b>, train score {_score(self.best_score)}{partial}:</p>",
            f'<pre style="white-space: pre-wrap">{escaped(_cut(self.best_prompt, _MAX_BEST))}</pre>',
        ]
        if self.heldout:
            header = ("Held-out examples", "train", "held-out", "winner ahead by (95 % CI)", "")
            parts.append(table(header, [_heldout_cells(row) for row in self.heldout], numbers=3))
        if len(self.front) > 1:
            header = ("Score against tokens", "score", "95 % CI", "tokens", "95 % CI")
            parts.append(table(header, [_front_cells(point) for point in self.front], numbers=4))
        parts += [f"<p>Note: {escaped(_cut(note, _MAX_PROMPT))}</p>" for note in self.comparison_notes]
        rows = [
            (_cut(t.prompt, _MAX_PROMPT), _score(t.score), str(len(t.scores))) for t in self._ranked()[:_TOP]
        ]
        best = table(("Prompt", "score", "examples"), rows, numbers=2)
        parts += [
            f"<details><summary>Best {len(rows)} of {len(self.prompts_scored())} prompts scored</summary>"
            f"{best}</details>",
            f"<p>Stopped by {escaped(self.stopped_by)} after {usage.calls} calls, "
            f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out, {self.seconds:.1f} s.</p>",
        ]
        return f'<div style="max-width: 60em">{"".join(parts)}</div>'

    def _ranked(self) -> list[Trial]:
        """Return the trials with a score: those over all examples first, best first."""
        scored = [(t.partial, -t.score, t.number, t) for t in self.trials if t.score is not None]
        return [t for *_, t in sorted(scored, key=lambda row: row[:3])]


_FRAME = {
    "number": "int64", "index": "int64", "prompt": "string", "score": "float64", "partial": "bool",
    "examples": "int64", "seconds": "float64", "calls": "int64", "prompt_tokens": "int64",
    "completion_tokens": "int64", "best_score": "float64", "error": "string",
}  # fmt: skip
"""Columns of the data frame and their types, which are the same without a trial."""


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}... ({len(text)} characters)"


def _front_cells(point: FrontPoint) -> tuple[str, ...]:
    score, tokens = point.score_interval, point.tokens_interval
    return (
        _cut(point.prompt, _MAX_PROMPT),
        _score(point.score),
        "-" if score is None else f"[{score.low:.3f}, {score.high:.3f}]",
        f"{point.tokens:.1f}",
        "-" if tokens is None else f"[{tokens.low:.1f}, {tokens.high:.1f}]",
    )


def _heldout_cells(row: HeldOut) -> tuple[str, ...]:
    ahead = "" if row.winner_ahead is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row.winner_ahead)
    notes = [f"{len(row.unanswered)} unanswered"] if row.unanswered else []
    notes += [f"not scored: {_cut(row.error, _MAX_PROMPT)}"] if row.error is not None else []
    return row.role, _score(row.train_score), _score(row.score), ahead, "; ".join(notes)
