"""Health of an endpoint as all calls of one client see it, which tells whom a lasting failure concerns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LONE_SHARE = 0.5
"""Share of the slots up to which calls that fail alike, without another call to compare, count as single."""


class Health:
    """Answers and failures of all calls of one client.

    Args:
        slots: calls in flight at most.
    """

    def __init__(self, slots: int) -> None:
        self.answered = 0
        """Number of answered calls so far."""
        self.last_was_answered = False
        """True if the call that ended last was answered."""
        self._few = max(1, int(LONE_SHARE * slots))
        self._open: set[CallHealth] = set()

    @contextmanager
    def call(self) -> Iterator[CallHealth]:
        """Open a call; the block ends with its answer or its error."""
        call = CallHealth(self)
        self._open.add(call)
        try:
            yield call
        finally:
            self._open.discard(call)

    def only_few_fail(self) -> bool:
        """Return whether all open calls are few, failed by themselves, and come after an answered call."""
        return (
            self.last_was_answered
            and len(self._open) <= self._few
            and all(call.fails_by_itself for call in self._open)
        )


class Failing(Protocol):
    """Failure of an attempt, as far as `CallHealth` needs it."""

    @property
    def code(self) -> str | None: ...


class CallHealth:
    """Failures of one call beside the other calls of its client."""

    def __init__(self, health: Health) -> None:
        self.fails_by_itself = False
        """True if the call got HTTP 500 in `enough` attempts or more, and nothing else."""
        self._health = health
        self._answered_before: int | None = None
        self._only_500 = True

    def answered(self) -> None:
        """Record the answer of the call."""
        self._health.answered += 1
        self._health.last_was_answered = True

    def given_up(self) -> None:
        """Record that the call ends without an answer."""
        self._health.last_was_answered = False

    def failed(self, failure: Failing, *, enough: bool) -> None:
        """Record a failed attempt; `enough` says that the call has had its attempts."""
        if self._answered_before is None:
            self._answered_before = self._health.answered
        self._only_500 = self._only_500 and failure.code == "HTTP 500"
        self.fails_by_itself = enough and self._only_500

    def is_single(self) -> bool:
        """Return whether the failures concern this call: the endpoint answered others since the first one.

        An internal error (HTTP 500) of one call, or of few, that come after an answered one counts too: a
        server that is down or restarts answers 502 and 503, or not at all.
        """
        others = self._answered_before is not None and self._health.answered > self._answered_before
        return others or (self.fails_by_itself and self._health.only_few_fail())
