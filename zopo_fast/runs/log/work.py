"""Prompt in flight: the examples it is being scored on, and what they have given so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from zopo_fast.llm.types import Usage


@dataclass
class Work:
    """Prompt being scored: on all examples, or in a race on those of one look.

    Attributes:
        index: of the prompt in the pool.
        examples: indices of the train examples, in the order of asking.
        begun: start, in seconds into the run.
        scores: by example index.
        usage: of the answers so far.
        left_out: unanswered examples that have no score.
    """

    index: int
    examples: tuple[int, ...]
    begun: float
    scores: dict[int, float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    left_out: set[int] = field(default_factory=set)

    @property
    def waiting(self) -> int:
        """Number of examples that have no outcome yet."""
        return len(self.examples) - len(self.scores) - len(self.left_out)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the examples that have no outcome yet."""
        return tuple(
            example
            for example in self.examples
            if example not in self.scores and example not in self.left_out
        )
