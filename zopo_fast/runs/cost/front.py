"""Front of score and tokens per call, and the choice of a shorter prompt on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.runs.cost.tokens import Counts, tokens_of_texts, tokens_per_call
from zopo_fast.scoring.intervals import Bounds, normal_interval, score_interval

if TYPE_CHECKING:
    from zopo_fast.llm.limits import Prices

_ROUNDING = 1e-9  # of a difference of two scores


@public
@dataclass(frozen=True)
class FrontPoint:
    """Prompt scored in full, with its score and its tokens per call.

    Attributes:
        index: of the prompt in the pool.
        prompt: its text.
        score: mean over the train examples.
        score_interval: 95 % interval of the score on examples like these: Wilson for scores of 0 and 1, else
            normal. None for fewer than two scores. Prompts share their examples, so intervals that overlap
            do not mean that their scores are equal.
        tokens: mean prompt and completion tokens of a call, answers from a cache included, a judge's calls
            excluded. Unanswered examples count as the fit of `tokens_per_call` says.
        tokens_interval: 95 % normal interval of these tokens on examples like these; None for fewer than two
            examples.
        cost: of a call, in the unit of the prices; None without prices.
        estimated: True if `tokens` are those of the prompt's text alone, since no call has a count: those of
            a task function, and of a study of an older version.
    """

    index: int
    prompt: str
    score: float
    score_interval: Bounds | None
    tokens: float
    tokens_interval: Bounds | None
    cost: float | None = None
    estimated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the point as JSON values."""
        intervals = {
            name: None if interval is None else interval._asdict()
            for name, interval in (
                ("score_interval", self.score_interval),
                ("tokens_interval", self.tokens_interval),
            )
        }
        return {**vars(self), **intervals}

    def __repr__(self) -> str:
        about = "about " * self.estimated
        return (
            f"<FrontPoint {self.index}: score {self.score:.3f}, {about}{self.tokens:.1f} tokens, "
            f"{short_repr(self.prompt)}>"
        )


def points(
    prompts: Sequence[str],
    scores: Mapping[int, tuple[float, Sequence[float]]],
    counts: Counts,
    prices: Prices | None = None,
) -> list[FrontPoint]:
    """Return the prompts that have a score in full and a count of tokens, by ascending index.

    Without any count, that is with a task function, all prompts have the estimated tokens of their texts.

    Args:
        prompts: texts of the pool.
        scores: mean and scores of each prompt scored in full, by pool index.
        counts: tokens of the answers, also those of prompts that are scored in part.
        prices: of a million tokens.
    """
    tokens = tokens_per_call(counts)
    is_counted = any(index in tokens for index in scores)
    if not is_counted:
        tokens = tokens_of_texts({index: prompts[index] for index in scores})
    found = []
    for index in sorted(scores.keys() & tokens.keys()):
        mean, of_examples = scores[index]
        call = tokens[index]
        found.append(
            FrontPoint(
                index,
                prompts[index],
                mean,
                score_interval(of_examples),
                call.total,
                normal_interval(call.by_example),
                prices.of(call.prompt, call.completion) if prices is not None and is_counted else None,
                not is_counted,
            )
        )
    return found


def front(measured: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Return the points that no other one beats, by ascending tokens, and so by ascending score.

    A point is beaten by another with a score at least as high and at most as many tokens, unless both are
    equal; of equal points the one of the lowest index is kept.
    """
    kept: list[FrontPoint] = []
    for point in sorted(measured, key=lambda each: (each.tokens, -each.score, each.index)):
        if not kept or point.score > kept[-1].score:
            kept.append(point)
    return kept


def shortest(measured: Sequence[FrontPoint], best: tuple[int, float], within: float) -> tuple[int, float]:
    """Return index and score of the prompt with the fewest tokens among those near the best score.

    Of equally short prompts, the one of the higher score is chosen, then the one of the lower index. A best
    prompt without tokens, whose score was known before the run, stays: nothing says that another is shorter.

    Args:
        measured: the prompts scored in full.
        best: index and score of the best prompt.
        within: greatest loss of score.
    """
    near = [each for each in measured if each.score >= best[1] - within - _ROUNDING]
    if not any(each.index == best[0] for each in measured):
        return best
    chosen = min(near, key=lambda each: (each.tokens, -each.score, each.index))
    return chosen.index, chosen.score


class Standing(NamedTuple):
    """Outcome of a search.

    Attributes:
        best: index and score of the best prompt, or of the shortest one near it; None without a full score.
        front: of score and tokens.
    """

    best: tuple[int, float] | None
    front: list[FrontPoint]


def standing(
    measured: Sequence[FrontPoint], best: tuple[int, float] | None, prefer_short: float | None
) -> Standing:
    """Return the outcome of a search.

    Args:
        measured: the prompts scored in full.
        best: index and score of the best prompt; None without a full score.
        prefer_short: greatest loss of score for a shorter prompt; None: the best score decides.
    """
    if best is not None and prefer_short is not None:
        best = shortest(measured, best, prefer_short)
    return Standing(best, front(measured))
