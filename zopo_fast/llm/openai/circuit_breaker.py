"""Circuit breaker: one attempt at a time to an endpoint that is down, with growing pauses between them.

With the defaults of `ClientConfig` the breaker opens after 30 failed attempts in a row (no connection, a
dropped one, a timeout, 5xx), counted over all calls of a client, and at least 5 s after the first of them.
Where 30 % of the attempts fail at random, 30 in a row have a probability of 2e-16.

While the breaker is open, calls queue. The first in the queue is sent as a probe after 1 s, the next after
another 2 s, then 4 s and so on up to 30 s. An answer closes the breaker and releases the queue. The
time that a call waits here counts towards its `max_elapsed` (600 s), after which the call fails. So a run
whose endpoint is down ends after ten minutes, and one whose endpoint restarts loses at most 30 s.

A 429 and the other 4xx responses come from an endpoint that is up: they neither open the breaker nor count.
"""

from __future__ import annotations

import enum
import math

from zopo_fast.llm.openai.retry import Clock

MIN_FAILING_SHARE = 1 / 6
"""Share of the longest pause for which the failures in a row must have lasted before the breaker opens."""
FIRST_PAUSE_SHARE = 1 / 32
"""First pause before a probe as a share of the longest; each later one doubles."""


class Outcome(enum.Enum):
    """Outcome of an attempt, as far as it tells about the endpoint."""

    ANSWERED = "answered"
    DOWN = "no answer"
    UNKNOWN = "refused, malformed, or cancelled here"


class CircuitBreaker:
    """Counts failed attempts in a row; while open, admits one probe at a time.

    Args:
        failures: failed attempts in a row that open the breaker.
        seconds: longest pause between probes.
        now: time in seconds.
    """

    def __init__(self, failures: int, seconds: float, *, now: Clock) -> None:
        self._max_failures = failures
        self._max_pause = seconds
        self._now = now
        self._failed = 0
        self._first_failure = math.inf
        self._opened_at: float | None = None
        self._open_before = 0.0
        self._pause = 0.0
        self._next_probe = -math.inf
        self.is_probing = False
        """True while a probe is in flight."""

    @property
    def is_open(self) -> bool:
        """True while only probes are sent."""
        return self._opened_at is not None

    @property
    def failed(self) -> int:
        """Number of failed attempts in a row."""
        return self._failed

    @property
    def open_seconds(self) -> float:
        """Seconds for which the breaker has been open, over all outages."""
        return self._open_before + (0.0 if self._opened_at is None else self._now() - self._opened_at)

    def delay(self) -> float:
        """Return the seconds until the next probe may be sent; 0 for now."""
        return max(0.0, self._next_probe - self._now()) if self.is_open else 0.0

    def enter(self) -> bool:
        """Return whether an attempt may be sent now; if so, end it with `leave`."""
        if not self.is_open:
            return True
        if self.is_probing or self.delay() > 0.0:
            return False
        self.is_probing = True
        return True

    def leave(self, outcome: Outcome, *, was_probe: bool) -> None:
        """Record the outcome of an attempt; `was_probe`: the breaker was open when it entered."""
        now = self._now()
        if was_probe:
            self.is_probing = False
        if outcome is Outcome.ANSWERED:
            self._open_before = self.open_seconds
            self._failed, self._first_failure, self._opened_at = 0, math.inf, None
        elif outcome is Outcome.DOWN:
            self._failed += 1
            self._first_failure = min(self._first_failure, now)
            lasted = now - self._first_failure
            if self.is_open:
                if was_probe:
                    self._pause = min(2.0 * self._pause, self._max_pause)
                    self._next_probe = now + self._pause
            elif self._failed >= self._max_failures and lasted >= MIN_FAILING_SHARE * self._max_pause:
                self._opened_at = now
                self._pause = FIRST_PAUSE_SHARE * self._max_pause
                self._next_probe = now + self._pause
