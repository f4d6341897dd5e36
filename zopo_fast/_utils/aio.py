"""Structured concurrency for asyncio, and blocking calls in a thread.

`asyncio.TaskGroup` would wrap the first failure in an ExceptionGroup; callers here need the failure itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from zopo_fast.errors import EventLoopError

T = TypeVar("T")


class AsyncCloseable:
    """Base of async context managers that close themselves at the end of their block."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release all resources."""
        raise NotImplementedError


def require_no_loop(what: str, instead: str) -> None:
    """Check that no event loop runs in this thread, because `what` would block it.

    Raises:
        EventLoopError: An event loop is running; the message ends with `instead`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopError(f"{what}: an event loop is running in this thread; {instead}")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own; where one runs, as in a notebook, in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, work).result()


def require_own_event(event: asyncio.Event, name: str) -> None:
    """Check that the running event loop can wait for an event.

    Raises:
        EventLoopError: The event belongs to another event loop.
    """
    waiting = event.wait()
    try:
        waiting.send(None)  # runs until the event would block, which binds it to the running loop
    except StopIteration:  # already set
        return
    except RuntimeError:
        raise EventLoopError(
            f"{name}: this asyncio.Event belongs to another event loop; make one in this loop, and set it "
            "from elsewhere by loop.call_soon_threadsafe(event.set)"
        ) from None
    finally:
        waiting.close()


async def gather_or_cancel(calls: Sequence[Awaitable[T]]) -> list[T]:
    """Return all results in order.

    On the first failure or a cancellation, cancel the remaining calls and wait for them before raising.
    """
    futures = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*futures))
    finally:
        await cancel_and_wait(futures)


async def cancel_and_wait(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel futures and wait until each one is done."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def shielded(work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]]) -> T:
    """Run a coroutine to its end even if the caller is cancelled.

    Args:
        work: The coroutine.
        tasks: Holds the task of the coroutine until its end.
    """
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return await asyncio.shield(task)


async def call_in_thread(function: Callable[[Any], T], argument: Any) -> T:
    """Call a blocking function in a new daemon thread.

    The event loop's executor is unsuitable: its few threads are shared, and it delays the exit of the
    process until the last call returns. Cancelling this coroutine leaves the thread running and drops its
    result. The thread has the context variables of the caller, as that of `asyncio.to_thread`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> None:
        value: T | None = None
        problem: BaseException | None = None
        try:
            value = context.run(function, argument)
        except StopIteration as error:  # a future cannot carry a StopIteration
            problem = RuntimeError(f"the function raised StopIteration: {error}")
        except BaseException as error:
            problem = error
        with suppress(RuntimeError):  # the loop is closed, so no coroutine awaits the result
            loop.call_soon_threadsafe(settle, value, problem)

    threading.Thread(target=work, name="zopo-fast-call", daemon=True).start()
    value, problem = await done
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]
