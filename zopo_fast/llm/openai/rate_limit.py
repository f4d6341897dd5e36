"""Rate limiter with fixed limits and one that adapts to 429 responses.

Requests are sent at even intervals, so that no minute exceeds the limit. Tokens are spaced alike, by the
tokens a request may take until the response states them. `Retry-After` pauses all requests.

429 responses slow the requests down, at most once a second, to between 90 % and 50 % of their rate, by the
share of 429s among the responses since the last slowdown. Answers speed the requests up again: each second by
a fortieth of the rate after the last slowdown, faster the longer no 429 comes, until the limit is lifted.
Against an unknown limit of 5 requests a second or more this uses all of the limit, and 5 to 10 % of the
requests are refused; against 1 request a second, 80 % and 20 %. A slowdown that costs answers in proportion
is undone: then the endpoint sends 429s at any rate. Detecting this takes some 10 answers a second. A client
with a few calls never adapts; its limit is the backoff of `retry`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from zopo_fast.llm.openai.retry import Clock

MIN_SLOWDOWN_INTERVAL = 1.0
"""Seconds between two slowdowns: a 429 to a request sent before the last slowdown says nothing about it."""
MIN_CUT = 0.1
"""Smallest share by which a slowdown reduces the rate."""
RECOVERY_SECONDS = 40.0
"""Seconds in which the rate grows by its value after the last slowdown, ..."""
ACCELERATION_SECONDS = 10.0
"""... and after which the rate grows twice as fast, three times as fast, and so on."""
MIN_RESPONSES = 8
"""Responses within `COUNT_SECONDS` before the first slowdown."""
COUNT_SECONDS = 10.0
"""Window of the response counts while no adaptive limit is set."""
MIN_EXPECTED_ANSWERS = 6.0
"""Expected answers below which their number is no evidence."""
TOLERANCE_SECONDS = 5.0
"""Seconds without a slowdown after one was undone."""
MIN_RATE = 0.1
"""Requests a second below which a 429 slows down no further."""
_MAX_RECENT = 64
_JUDGED_BELOW = 0.6  # share of the marked rate below which the number of answers tells whether slowing helped
_MIN_KEPT = 0.8  # share of the answers that a slowdown must leave, else it is undone


@dataclass(frozen=True)
class Ticket:
    """A sent request: its time and its expected tokens."""

    sent: float
    tokens: int


class _Spacing:
    """Even spacing of amounts, such as requests or tokens."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.next = -math.inf
        """Time at which the next request may follow."""

    def take(self, now: float, amount: float) -> None:
        self.next = max(now, self.next) + amount / self.per_second


class RateLimiter:
    """Rate limiter of one client.

    Args:
        requests_per_minute: fixed limit; None: none.
        tokens_per_minute: fixed limit; None: none.
        now: time in seconds.
        patience: seconds of only 429 responses after which calls fail; also the longest pause that a
            `Retry-After` can cause.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        *,
        now: Clock,
        patience: float,
    ) -> None:
        self._requests = None if requests_per_minute is None else _Spacing(requests_per_minute / 60.0)
        self._tokens = None if tokens_per_minute is None else _Spacing(tokens_per_minute / 60.0)
        self._adaptive: _Spacing | None = None
        self._now = now
        self._patience = patience
        self._paused_until = -math.inf
        self._recent: deque[float] = deque(maxlen=_MAX_RECENT)
        self._first_rate = self._slowed_rate = 0.0
        self._mark = (0.0, 0.0)  # a rate, and the answers a second at that rate
        self._tolerant_until = -math.inf
        self._slowed_at = -math.inf
        self._grown_at = -math.inf
        self._answers = self._refusals = 0
        self._counting_since = -math.inf
        self._refused_since: float | None = None
        self._last_refusal = -math.inf

    @property
    def counts_tokens(self) -> bool:
        """True if requests must state the tokens they may take."""
        return self._tokens is not None

    @property
    def rate(self) -> float | None:
        """Adaptive limit in requests a second; None while no 429s require one."""
        return None if self._adaptive is None else self._adaptive.per_second

    def delay(self) -> float:
        """Return the seconds until the next request may be sent; 0 for now."""
        spacings = [s.next for s in (self._requests, self._tokens, self._adaptive) if s is not None]
        return max(0.0, max([self._paused_until, *spacings]) - self._now())

    def is_hopeless(self) -> bool:
        """Return whether the endpoint answers only 429, and does or will for `patience` seconds."""
        now = self._now()
        if self._refused_since is None or now - self._last_refusal > self._patience:
            return False
        return now + self.delay() - self._refused_since >= self._patience

    def take(self, tokens: int) -> Ticket:
        """Record that a request is sent now."""
        now = self._now()
        for spacing, amount in ((self._requests, 1.0), (self._adaptive, 1.0), (self._tokens, float(tokens))):
            if spacing is not None:
                spacing.take(now, amount)
        self._recent.append(now)
        return Ticket(now, tokens)

    def answered(self, ticket: Ticket, tokens: int | None = None) -> None:
        """Record an answer, and its total tokens where the response states them."""
        now = self._now()
        if self._tokens is not None and tokens is not None:
            self._tokens.next += (tokens - ticket.tokens) / self._tokens.per_second
        self._forget(now)
        self._answers += 1
        self._refused_since = None
        if self._adaptive is not None:
            acceleration = 1.0 + (now - self._slowed_at) / ACCELERATION_SECONDS
            growth = acceleration * self._slowed_rate / RECOVERY_SECONDS
            self._adaptive.per_second += growth * max(0.0, now - self._grown_at)
            self._grown_at = now
            if self._adaptive.per_second >= 2.0 * self._first_rate:
                self._adaptive = None

    def refused(self, ticket: Ticket, retry_after: float | None) -> None:
        """Record a 429 response."""
        now = self._now()
        if self._refused_since is None or now - self._last_refusal > self._patience:
            self._refused_since = now
        self._last_refusal = now
        self._forget(now)
        self._refusals += 1
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + min(retry_after, self._patience))
        enough = self._adaptive is not None or self._answers + self._refusals >= MIN_RESPONSES
        settled = now - self._slowed_at >= MIN_SLOWDOWN_INTERVAL and now >= self._tolerant_until
        if enough and ticket.sent > self._slowed_at and settled:
            self._slow_down(now)

    def _forget(self, now: float) -> None:
        """Reset the counts of a client whose requests are too few to need an adaptive limit."""
        if self._adaptive is None and now - self._counting_since > COUNT_SECONDS:
            self._answers = self._refusals = 0
            self._counting_since = now

    def _slow_down(self, now: float) -> None:
        share = self._refusals / (self._answers + self._refusals)
        cut = 1.0 - max(MIN_CUT, share / 2.0)
        seconds = max(MIN_SLOWDOWN_INTERVAL, now - max(self._slowed_at, self._counting_since))
        good = self._answers / seconds
        if self._adaptive is None:
            # The rate over at least a second: a burst at the start is no rate.
            recent = max(1.0, now - self._recent[0]) if self._recent else 1.0
            self._first_rate = max(MIN_RATE, len(self._recent) / recent)
            self._adaptive = _Spacing(self._first_rate)
            self._mark = (self._first_rate, good)
        rate, before = self._mark
        slowed_to = self._adaptive.per_second
        if slowed_to <= _JUDGED_BELOW * rate:
            self._mark = (slowed_to, good)
            if before * seconds >= MIN_EXPECTED_ANSWERS and good < _MIN_KEPT * before:
                # Slowing down cost answers in proportion: undo it.
                self._adaptive.per_second, self._tolerant_until, cut = rate, now + TOLERANCE_SECONDS, 1.0
                self._mark = (math.inf, 0.0)  # the next slowdown sets it again
        self._adaptive.per_second = self._slowed_rate = max(MIN_RATE, self._adaptive.per_second * cut)
        self._slowed_at = self._grown_at = self._counting_since = now
        self._answers = self._refusals = 0
