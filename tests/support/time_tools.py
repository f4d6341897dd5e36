"""Time limits that turn a hang into a failure."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HANG = 60.0
"""Seconds after which a wait counts as a hang, on a busy machine too; no test measures time with it."""


@contextmanager
def time_limit(seconds: float = HANG) -> Iterator[None]:
    """Raise AssertionError inside the block once it has run for `seconds`: ends endless Python loops."""

    def expired(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def until(condition: Callable[[], Any], seconds: float = HANG) -> None:
    """Poll a condition of another thread or process until it holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition does not hold after {seconds} s"
        time.sleep(0.005)
