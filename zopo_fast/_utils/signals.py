"""Orderly end of asynchronous work at SIGINT and SIGTERM."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class TerminatedError(KeyboardInterrupt):
    """SIGTERM ended the work; like KeyboardInterrupt, but with another exit code."""


def run_until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in an event loop of its own; SIGTERM cancels it, as asyncio.run does at SIGINT.

    Raises:
        TerminatedError: SIGTERM was received, and the work has ended after its cancellation.
        KeyboardInterrupt: the same for SIGINT.
    """
    import asyncio  # here, because the command line needs the exception at every start

    terminated = False

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        with _handled(signal.SIGTERM, terminate):
            return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if terminated:
            raise TerminatedError from None
        raise


@contextlib.contextmanager
def stopped_by_signals(on_signal: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `on_signal` once at the first SIGINT or SIGTERM in a block; the next one ends the process.

    Without signal handlers of the event loop, as on Windows, a signal acts as usual.
    """

    def first(number: signal.Signals) -> None:
        stack.close()
        on_signal(number)

    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.enter_context(_handled(number, functools.partial(first, number)))
        yield


@contextlib.contextmanager
def _handled(number: signal.Signals, handler: Callable[[], None]) -> Iterator[None]:
    """Install a handler for a block; afterwards the signal acts as by default."""
    import asyncio

    loop = asyncio.get_running_loop()
    unsupported = (NotImplementedError, RuntimeError, ValueError)  # Windows, or not the main thread
    with contextlib.suppress(*unsupported):
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        with contextlib.suppress(*unsupported):
            loop.remove_signal_handler(number)
