"""What tests of threads share: frequent switches, works at once, a thread held inside a call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Threads change a thousand times as often as usual, so that a missing lock shows."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


def at_once(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own, together; re-raise the first failure."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class Gate:
    """What is converted to an array, or called, stops here until it is let go on."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.entered, self.release = threading.Event(), threading.Event()

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.entered.set()
        assert self.release.wait(30), "nobody let it go on"
        return self.result

    __call__ = __array__


@contextmanager
def inside(call: Callable[[], object], gate: Gate) -> Iterator[None]:
    """Meanwhile another thread is in the middle of `call`, where it has come to the gate."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="first")
    thread.start()
    try:
        assert gate.entered.wait(30), failures
        yield
    finally:
        gate.release.set()
        thread.join(30)
    assert not thread.is_alive()
    if failures:
        raise failures[0]
