"""Kinds of log entries, and the replay of an entry on a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zopo_fast.errors import InputError
from zopo_fast.llm.types import Usage
from zopo_fast.scoring.unanswered import Unanswered

if TYPE_CHECKING:
    from zopo_fast.runs.log.work import Work

ASK, SCORE, FAILED, AGAIN, LATE = "ask", "score", "failed", "again", "late"
"""Kinds of entries of the search."""
WRITE, GROW = "write", "grow"
"""Kinds of entries of a growing pool: a round begins, and what it wrote."""


class Replayable(Protocol):
    """State that the entries of a log change, one method an entry."""

    @property
    def reason(self) -> str | None:
        """Why the search has ended; None while it runs."""

    def ask(self, at: float, logged: int | None = None, examples: Sequence[int] | None = None) -> Work | None:
        """Start the next prompt, or its next look."""

    def record_score(
        self,
        index: int,
        example: int,
        score: float | None,
        usage: Usage,
        at: float,
        unanswered: Unanswered | None = None,
    ) -> bool:
        """Record the score of one example."""

    def record_failure(self, index: int, error: str, at: float) -> None:
        """Record that a prompt cannot be scored."""

    def reset_failures(self) -> None:
        """Continue after too many failures in a row."""

    def record_late(self, usage: Usage) -> None:
        """Count the usage of an answer that arrived after the end of the search."""

    def begin_round(self, entry: Mapping[str, Any]) -> None:
        """Begin a round of writing."""

    def grow(self, entry: Mapping[str, Any]) -> None:
        """Add the prompts of a round to the pool."""


def replay(state: Replayable, kind: str, entry: Mapping[str, Any]) -> None:
    """Apply an entry of the log to a state.

    Args:
        state: of the run before the entry.
        kind: of the entry, such as ASK.
        entry: its fields.

    Raises:
        InputError: the entry does not follow from those before it, or is damaged.
    """
    try:
        if kind == AGAIN:
            state.reset_failures()
        elif kind == LATE:
            state.record_late(Usage(**entry["usage"]))
        elif state.reason is not None:
            raise InputError(f"{kind!r} after the end of the search ({state.reason})")
        elif kind == ASK:
            work = state.ask(entry["at"], entry["prompt"], entry["examples"])
            asked = (entry["prompt"], tuple(entry["examples"]))
            if work is None or (work.index, work.examples) != asked:
                now = "nothing" if work is None else (work.index, work.examples)
                raise InputError(f"asked for {asked} then and for {now} now")
        elif kind == SCORE:
            usage = Usage(**entry["usage"])
            why = entry.get("unanswered")
            unanswered = None if why is None else Unanswered(str(why["code"]), str(why["message"]))
            state.record_score(
                entry["prompt"], entry["example"], entry["score"], usage, entry["at"], unanswered
            )
        elif kind == FAILED:
            state.record_failure(entry["prompt"], entry["error"], entry["at"])
        elif kind == WRITE:
            state.begin_round(entry)
        elif kind == GROW:
            state.grow(entry)
        else:
            raise InputError(f"unknown entry {kind!r}")
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"damaged entry {kind!r} ({error!r})") from error
