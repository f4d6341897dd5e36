"""What a run gives back: its trials, the winner, and how that does on examples it was not chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from zopo_fast._utils.public import public
from zopo_fast.llm.types import Usage


@public
@dataclass(frozen=True)
class Trial:
    """One prompt that was scored, or whose scoring failed."""

    number: int  # from 1, in the order of ending
    index: int  # in the pool
    prompt: str
    score: float | None  # None: failed
    scores: tuple[float, ...]  # one an example scored, in the order of the task's train examples
    usage: Usage
    seconds: float
    best_score: float | None  # of the run, this trial included; never a partial one
    total: Usage  # of the run so far
    error: str | None = None
    examples: tuple[int, ...] = ()  # places of those scored, where a race gave the prompt up; else empty

    @property
    def partial(self) -> bool:
        """Whether `score` is a mean over a part of the examples only."""
        return bool(self.examples)


class Interval(NamedTuple):
    """A mean difference with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def paired_interval(
    winner: Sequence[float], other: Sequence[float], *, seed: int = 0, resamples: int = 10_000
) -> Interval:
    """Bootstrap interval (percentile, 95 %) of mean(winner - other) over the same examples, in order.

    Resampling pairs keeps what the two have in common, an example hard for both, out of the spread
    (Efron & Tibshirani 1993, ch. 13).
    """
    difference = np.asarray(winner, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(difference), size=(resamples, len(difference)))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


@dataclass(frozen=True)
class HeldOut:
    """A prompt on the held-out examples."""

    role: str  # "winner", "seed prompt", "pool median", "random sample"
    prompt: str
    train_score: float | None  # None: not scored on the train examples in this run
    score: float
    scores: tuple[float, ...]
    winner_ahead: Interval | None = None  # winner's score minus this one's; None for the winner itself


@public
@dataclass
class Result:
    """Outcome of a run.

    `stopped_by`: "budget", "pool" (every prompt scored), "perfect" (a score that cannot be beaten),
    "target", "interrupted", "failures" (too many prompts could not be scored) or "error" (the model
    could not be reached any more; `error` says why), or the limit that left no room for the next call:
    "calls", "tokens", "cost" or "time".
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
    in_part: bool = False  # a limit left room for no full score: `best_score` is a mean over some examples

    def prompts_scored(self, in_full: bool = False) -> set[int]:
        """Indices of the prompts with a score, or of those scored on all examples."""
        return {t.index for t in self.trials if t.score is not None and not (in_full and t.partial)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, without the trials: those are lines of their own."""
        return {
            "best_prompt": self.best_prompt,
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
            "heldout": [
                {
                    **asdict(h),
                    "winner_ahead": None if h.winner_ahead is None else h.winner_ahead._asdict(),
                }
                for h in self.heldout
            ],
        }
