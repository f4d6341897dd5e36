"""A circuit breaker: an endpoint that is down is not asked again and again.

With the defaults of `ClientConfig` it opens after 30 attempts in a row that came to nothing (no connection,
a dropped one, a timeout, 5xx), over all calls of a client, and at least 5 s after the first of them: a server
that restarts in less is waited for by the calls' own retries. Where 30 % of the attempts fail, 30 in a row
are one case in 5e15.

How soon a run ends whose endpoint is down: no call takes longer than its `max_elapsed` (180 s), attempts and
pauses together. Refused connections: the breaker opens after 5 s with 8 calls at once or more; one call at a
time has used up its six attempts after at most 15.5 s of pauses. A server that accepts and never answers:
after two timeouts, 121 s, with 15 calls at once or more, else after 180 s. 429 and the other 4xx come from an
endpoint that is there: they neither open it nor count.
"""

from __future__ import annotations

import enum
import math

from zopo_fast.llm.openai.retry import Clock

PATIENCE = 1 / 6
"""Seconds that the failures in a row have to last before it opens, as a share of those it stays open."""


class Outcome(enum.Enum):
    """What an attempt says about the endpoint."""

    GOOD = "answered"
    DOWN = "no answer"
    NEITHER = "refused, useless, or broken off here"


class CircuitBreaker:
    """Counts attempts in a row that came to nothing; open, it lets one through every so many seconds.

    `failures`: as many in a row open it. `seconds`: until the first probe, and between probes. `now`: clock.
    """

    def __init__(self, failures: int, seconds: float, *, now: Clock) -> None:
        self._most = failures
        self._seconds = seconds
        self._now = now
        self._failed = 0
        self._first = math.inf
        self._opened: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls end at once, but for a probe now and then."""
        return self._opened is not None

    @property
    def failed(self) -> int:
        """Attempts in a row that came to nothing."""
        return self._failed

    def enter(self) -> bool:
        """Whether an attempt may be made now; one that may has to `leave`."""
        if self._opened is None:
            return True
        if self._probing or self._now() - self._opened < self._seconds:
            return False
        self._probing = True
        return True

    def leave(self, outcome: Outcome) -> None:
        """Note what an attempt came to."""
        now = self._now()
        self._probing = False
        if outcome is Outcome.GOOD:
            self._failed, self._first, self._opened = 0, math.inf, None
        elif outcome is Outcome.DOWN:
            self._failed += 1
            self._first = min(self._first, now)
            lasted = now - self._first
            if self._opened is not None or (
                self._failed >= self._most and lasted >= PATIENCE * self._seconds
            ):
                self._opened = now
