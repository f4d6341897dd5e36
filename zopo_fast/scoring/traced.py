"""Scorer that records a span for each prompt it scores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from zopo_fast._utils import tracing
from zopo_fast.llm.types import Usage
from zopo_fast.scoring.scorer import OnScore, Score, Scorer

S = TypeVar("S", bound="Score | None")


class TracedScorer:
    """Scorer around another one, made inside the span of the run.

    Args:
        scorer: scores the prompts.
        prompts: returns the pool, whose indices name the prompts.
        metric: name of the score.
    """

    def __init__(self, scorer: Scorer, prompts: Callable[[], Sequence[str]], metric: str) -> None:
        self._scorer, self._metric, self._prompts = scorer, metric, prompts
        self._index: dict[str, int] = {}
        # A score starts the next prompt in the context of its own span: the parent is given.
        self._parent = tracing.context()
        self.perfect = scorer.perfect
        self.parts, self.heldout_parts = scorer.parts, scorer.heldout_parts

    @property
    def spent(self) -> Usage:
        """Usage so far, with the answers of cancelled prompts."""
        return self._scorer.spent

    @spent.setter
    def spent(self, usage: Usage) -> None:
        self._scorer.spent = usage

    async def score(self, prompt: str, examples: Sequence[int], on_score: OnScore) -> Score:
        """Score a prompt on the train examples at these indices."""
        scoring = self._scorer.score(prompt, examples, on_score)
        return await self._traced(scoring, prompt, "train", len(examples))

    async def heldout(self, prompt: str, on_score: OnScore | None = None) -> Score | None:
        """Score a prompt on the held-out examples; None where there are none."""
        scoring = self._scorer.heldout(prompt, on_score)
        return await self._traced(scoring, prompt, "heldout", self.heldout_parts)

    def input(self, example: int) -> str:
        """Return the input of a train example."""
        return self._scorer.input(example)

    def given(self, prompt: str, example: int) -> str:
        """Return the wrong answer of a prompt to a train example; "" where it is not remembered."""
        return self._scorer.given(prompt, example)

    async def _traced(self, scoring: Awaitable[S], prompt: str, part: str, examples: int) -> S:
        if prompt not in self._index:  # the pool may have grown
            self._index = {text: index for index, text in enumerate(self._prompts())}
        attributes = {
            "zopo_fast.prompt.index": self._index.get(prompt),
            "zopo_fast.part": part,
            "zopo_fast.examples": examples,
        }
        with tracing.span("zopo_fast.score_prompt", attributes, parent=self._parent) as span:
            score = await scoring
            if score is not None:
                span.score(self._metric, score.mean)
                span.set(
                    {
                        "zopo_fast.calls": score.usage.calls,
                        "zopo_fast.cached": score.usage.cached,
                        "zopo_fast.unanswered": len(score.unanswered),
                    }
                )
            return score
