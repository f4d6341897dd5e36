"""Tools for tests of threads: frequent switches, functions run in parallel, a thread held inside a call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from time_tools import HANG


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Switch threads a thousand times as often as usual, so that a missing lock shows."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


def at_once(*works: Callable[[], None]) -> None:
    """Run each function in a thread of its own, all in parallel; re-raise the first failure."""
    failures: list[BaseException] = []
    ready = threading.Barrier(len(works))

    def guarded(work: Callable[[], None]) -> None:
        try:
            ready.wait(HANG)  # starting a thread takes longer than some of the functions
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
    """A barrier in the middle of a call: whoever calls it or converts it to an array waits for `release`."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.entered, self.release = threading.Event(), threading.Event()

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.entered.set()
        assert self.release.wait(HANG), "the gate was not opened"
        return self.result

    __call__ = __array__


@contextmanager
def inside(call: Callable[[], object], gate: Gate) -> Iterator[None]:
    """Hold another thread in the middle of `call`, at the gate, for the duration of the block."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="first")
    thread.start()
    try:
        assert gate.entered.wait(HANG), failures
        yield
    finally:
        gate.release.set()
        thread.join(HANG)
    assert not thread.is_alive()
    if failures:
        raise failures[0]
