"""Health of an endpoint as all calls of one client see it, which tells whom a lasting failure concerns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LONE_SHARE = 0.5
"""Share of the slots up to which calls that get HTTP 500 count as single ones, without an answer between."""
MIN_LONE = 3
"""Least such number of calls."""
MAX_LONE_TIMEOUTS = 2
"""Number of calls without an answer between that count as single ones where they time out."""

_INTERNAL_ERROR, _TIMEOUT = "HTTP 500", "timeout"


class Health:
    """Answers and failures of all calls of one client.

    Args:
        slots: calls in flight at most.
    """

    def __init__(self, slots: int) -> None:
        self.answered = 0
        """Number of answered calls so far."""
        self._given_up = 0  # calls given up since the last answer
        self._max_lone = max(MIN_LONE, int(LONE_SHARE * slots))
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

    def add_answer(self) -> None:
        """Record the answer of a call."""
        self.answered += 1
        self._given_up = 0

    def add_given_up(self) -> None:
        """Record that a call ends without an answer."""
        self._given_up += 1

    def only_few_fail(self) -> bool:
        """Return whether the open calls fail by themselves, and few have done so since the last answer."""
        if not self.answered or not all(call.fails_by_itself for call in self._open):
            return False
        times_out = any(call.times_out for call in self._open)
        return self._given_up + len(self._open) <= (MAX_LONE_TIMEOUTS if times_out else self._max_lone)


class Failing(Protocol):
    """Failure of an attempt, as far as `CallHealth` needs it."""

    @property
    def code(self) -> str | None: ...


class CallHealth:
    """Failures of one call beside the other calls of its client."""

    def __init__(self, health: Health) -> None:
        self.fails_by_itself = False
        """True if the call had enough attempts, and each ended in HTTP 500 or a timeout."""
        self._health = health
        self._answered_before: int | None = None
        self._codes: set[str | None] = set()

    @property
    def times_out(self) -> bool:
        """True if an attempt timed out."""
        return _TIMEOUT in self._codes

    def answered(self) -> None:
        """Record the answer of the call."""
        self._health.add_answer()

    def given_up(self) -> None:
        """Record that the call ends without an answer."""
        self._health.add_given_up()

    def failed(self, failure: Failing, *, enough: bool) -> None:
        """Record a failed attempt; `enough` says that the call has had its attempts."""
        if self._answered_before is None:
            self._answered_before = self._health.answered
        self._codes.add(failure.code)
        self.fails_by_itself = enough and self._codes <= {_INTERNAL_ERROR, _TIMEOUT}

    @property
    def others_are_answered(self) -> bool:
        """True if the endpoint answered another call since the first failure of this one."""
        return self._answered_before is not None and self._health.answered > self._answered_before

    def is_single(self) -> bool:
        """Return whether the failures concern this call alone.

        They do if the endpoint answers other calls meanwhile. Without another call to compare, an internal
        error (HTTP 500) or a timeout of a few calls counts too, if calls were answered before: a server that
        is down or restarts answers 502 and 503, or not at all, and fails every call.
        """
        return self.others_are_answered or (self.fails_by_itself and self._health.only_few_fail())
