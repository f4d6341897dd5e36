"""Circuit breaker: stops calls to an endpoint that is down.

With the defaults of `ClientConfig` the breaker opens after 30 failed attempts in a row (no connection, a
dropped one, a timeout, 5xx), counted over all calls of a client, and at least 5 s after the first of them.
The retries of the calls bridge a restart of less than 5 s. Where 30 % of the attempts fail at random, 30 in a
row have a probability of 2e-16.

Time until a run ends whose endpoint is down: a call takes at most `max_elapsed` (180 s), attempts and pauses
together. With refused connections and at least 8 concurrent calls the breaker opens after 5 s; a single call
uses up its six attempts after at most 15.5 s of pauses. With a server that accepts and never answers, and at
least 15 concurrent calls, the breaker opens after two timeouts (121 s), else after 180 s. A 429 and the other
4xx responses come from an endpoint that is up: they neither open the breaker nor count.
"""

from __future__ import annotations

import enum
import math

from zopo_fast.llm.openai.retry import Clock

MIN_FAILING_SHARE = 1 / 6
"""Share of the open time for which the failures in a row must have lasted before the breaker opens."""


class Outcome(enum.Enum):
    """Outcome of an attempt, as far as it tells about the endpoint."""

    ANSWERED = "answered"
    DOWN = "no answer"
    UNKNOWN = "refused, malformed, or cancelled here"


class CircuitBreaker:
    """Counts failed attempts in a row; while open, admits one probe at a time.

    Args:
        failures: failed attempts in a row that open the breaker.
        seconds: time until the first probe, and between probes.
        now: time in seconds.
    """

    def __init__(self, failures: int, seconds: float, *, now: Clock) -> None:
        self._max_failures = failures
        self._seconds = seconds
        self._now = now
        self._failed = 0
        self._first_failure = math.inf
        self._opened_at: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """True while calls fail at once, except for probes."""
        return self._opened_at is not None

    @property
    def failed(self) -> int:
        """Number of failed attempts in a row."""
        return self._failed

    def enter(self) -> bool:
        """Return whether an attempt may be sent now; if so, end it with `leave`."""
        if self._opened_at is None:
            return True
        if self._is_probing or self._now() - self._opened_at < self._seconds:
            return False
        self._is_probing = True
        return True

    def leave(self, outcome: Outcome) -> None:
        """Record the outcome of an attempt."""
        now = self._now()
        self._is_probing = False
        if outcome is Outcome.ANSWERED:
            self._failed, self._first_failure, self._opened_at = 0, math.inf, None
        elif outcome is Outcome.DOWN:
            self._failed += 1
            self._first_failure = min(self._first_failure, now)
            lasted = now - self._first_failure
            if self.is_open or (
                self._failed >= self._max_failures and lasted >= MIN_FAILING_SHARE * self._seconds
            ):
                self._opened_at = now
