"""The pace of a client: limits that were set, and those that an endpoint's 429s let it guess.

Requests follow each other at even distances, so that in no minute more are sent than the limit says; tokens
alike, by what a request may take until it is known what it took. `Retry-After` stops everything for so long.

429s slow the requests down, once a second at most, to between 90 % and 50 % of their rate by the share of
429s among the answers since the last time. Good answers speed them up again, by a fortieth of that rate each
second and faster the longer no 429 comes, until nothing holds them back any more. At a limit nobody told, of
5 requests a second or more, all of it is used and 5 to 10 % of the requests are refused; of 1 a second, 80 %
and 20 %. A slowdown that costs good answers in proportion is undone: then 429s come whatever the rate (which
shows only where there are some 10 answers a second). A few calls alone never come this far; theirs is the
backoff of `retry`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from zopo_fast.llm.openai.retry import Clock

ROUND = 1.0
"""Seconds between two slowdowns: what was sent before one says nothing about it."""
LEAST_CUT = 0.1
RECOVERY = 40.0
"""Seconds in which the rate grows by what it was after the last slowdown, ..."""
ACCELERATION = 10.0
"""... and after which it grows twice as fast, three times, and so on."""
LEAST_SEEN = 8
ENOUGH_GOOD = 6.0
"""Good answers to be expected before their number says anything."""
TOLERANCE = 5.0
"""Seconds without a slowdown after one was undone."""
MEMORY = 10.0
"""LEAST_SEEN answers within so many seconds before the first slowdown."""
LEAST_RATE = 0.1
"""Requests a second: below that a 429 slows down no further."""
_RECENT = 64
_TOLD = 0.6  # of a rate: slower than that, the number of good answers tells whether it helped
_COST = 0.8  # of the good answers


@dataclass(frozen=True)
class Ticket:
    """A request that was sent: when, and with how many tokens expected."""

    sent: float
    tokens: int


class _Spacing:
    """Even distances: when the next may follow."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.next = -math.inf

    def take(self, now: float, amount: float) -> None:
        self.next = max(now, self.next) + amount / self.per_second


class RateLimiter:
    """When the next request may be sent; of one client.

    `now` is the clock. `patience`: seconds of nothing but 429s after which waiting is given up; a
    `Retry-After` of that length or more is not waited for.
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
        self._guess: _Spacing | None = None
        self._now = now
        self._patience = patience
        self._pause = -math.inf
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._first_rate = self._base = 0.0
        self._mark = (0.0, 0.0)  # a rate, and the good answers a second that came at it
        self._tolerant_until = -math.inf
        self._slowed = -math.inf
        self._grown = -math.inf
        self._good = self._bad = 0
        self._counting_since = -math.inf
        self._silent_since: float | None = None
        self._last_refusal = -math.inf

    @property
    def counts_tokens(self) -> bool:
        """Whether requests have to say how many tokens they may take."""
        return self._tokens is not None

    @property
    def rate(self) -> float | None:
        """Requests a second that 429s have led to; None where none hold them back."""
        return None if self._guess is None else self._guess.per_second

    def delay(self) -> float:
        """Return the seconds until the next request may be sent; 0: now."""
        spacings = [s.next for s in (self._requests, self._tokens, self._guess) if s is not None]
        return max(0.0, max([self._pause, *spacings]) - self._now())

    def is_hopeless(self) -> bool:
        """Whether there is nothing but 429s, and has been or will be for as long as anyone waits."""
        now = self._now()
        if self._silent_since is None or now - self._last_refusal > self._patience:
            return False
        return now + self.delay() - self._silent_since >= self._patience

    def take(self, tokens: int) -> Ticket:
        """Note that a request is sent now."""
        now = self._now()
        for spacing, amount in ((self._requests, 1.0), (self._guess, 1.0), (self._tokens, float(tokens))):
            if spacing is not None:
                spacing.take(now, amount)
        self._recent.append(now)
        return Ticket(now, tokens)

    def answered(self, ticket: Ticket, tokens: int | None = None) -> None:
        """Note a good answer, and the tokens that it took in all where that is known."""
        now = self._now()
        if self._tokens is not None and tokens is not None:
            self._tokens.next += (tokens - ticket.tokens) / self._tokens.per_second
        self._forget(now)
        self._good += 1
        self._silent_since = None
        if self._guess is not None:
            growth = self._base / RECOVERY * (1.0 + (now - self._slowed) / ACCELERATION)
            self._guess.per_second += growth * max(0.0, now - self._grown)
            self._grown = now
            if self._guess.per_second >= 2.0 * self._first_rate:
                self._guess = None

    def refused(self, ticket: Ticket, retry_after: float | None) -> None:
        """Note a 429."""
        now = self._now()
        if self._silent_since is None or now - self._last_refusal > self._patience:
            self._silent_since = now
        self._last_refusal = now
        self._forget(now)
        self._bad += 1
        if retry_after is not None:
            self._pause = max(self._pause, now + min(retry_after, self._patience))
        enough = self._guess is not None or self._good + self._bad >= LEAST_SEEN
        settled = now - self._slowed >= ROUND and now >= self._tolerant_until
        if enough and ticket.sent > self._slowed and settled:
            self._slow_down(now)

    def _forget(self, now: float) -> None:
        """Begin to count anew where requests are so few that they need no pace."""
        if self._guess is None and now - self._counting_since > MEMORY:
            self._good = self._bad = 0
            self._counting_since = now

    def _slow_down(self, now: float) -> None:
        share = self._bad / (self._good + self._bad)
        cut = 1.0 - max(LEAST_CUT, share / 2.0)
        seconds = max(ROUND, now - max(self._slowed, self._counting_since))
        good = self._good / seconds
        if self._guess is None:
            # Of the last seconds; those sent at once at the beginning are no rate.
            recent = max(1.0, now - self._recent[0]) if self._recent else 1.0
            self._first_rate = max(LEAST_RATE, len(self._recent) / recent)
            self._guess = _Spacing(self._first_rate)
            self._mark = (self._first_rate, good)
        rate, before = self._mark
        slowed_to = self._guess.per_second
        if slowed_to <= _TOLD * rate:
            self._mark = (slowed_to, good)
            if before * seconds >= ENOUGH_GOOD and good < _COST * before:
                # The server answered more when it was asked more.
                self._guess.per_second, self._tolerant_until, cut = rate, now + TOLERANCE, 1.0
                self._mark = (math.inf, 0.0)  # counted anew at the next
        self._guess.per_second = self._base = max(LEAST_RATE, self._guess.per_second * cut)
        self._slowed = self._grown = self._counting_since = now
        self._good = self._bad = 0
