"""Concurrent work of which nothing outlives its caller."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from zopo_fast.errors import EventLoopError

T = TypeVar("T")
C = TypeVar("C", bound="AsyncCloseable")


class AsyncCloseable:
    """An async context manager that closes at the end of its block."""

    async def __aenter__(self: C) -> C:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Free what was opened."""
        raise NotImplementedError


def require_no_loop(what: str, instead: str) -> None:
    """EventLoopError where an event loop is running in this thread: `what` would have to block it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopError(f"{what}: an event loop is running in this thread; {instead}")


def require_own_event(event: asyncio.Event, name: str) -> None:
    """EventLoopError where an event belongs to another loop than the running one: it cannot be waited for."""
    waiting = event.wait()
    try:
        waiting.send(None)  # up to where it would wait, which binds it to the loop
    except StopIteration:  # set already
        return
    except RuntimeError:
        raise EventLoopError(
            f"{name}: this asyncio.Event belongs to another event loop; make one in this loop, and set it "
            "from elsewhere by loop.call_soon_threadsafe(event.set)"
        ) from None
    finally:
        waiting.close()


async def gather_or_cancel(calls: Sequence[Awaitable[T]]) -> list[T]:
    """Return all results in order; where one fails, or the caller is cancelled, the others end first."""
    futures = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*futures))
    finally:
        await cancel_and_wait(futures)


async def cancel_and_wait(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait until it has ended."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def call_in_thread(function: Callable[[Any], T], argument: Any) -> T:
    """Call a function that may block in a thread of its own.

    Not in the event loop's executor: that has few threads, shares them with others, and would hold up
    the end of the process until the last call returns. A cancelled call's thread runs on unheard.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> None:
        value: T | None = None
        problem: BaseException | None = None
        try:
            value = function(argument)
        except StopIteration as error:  # a future cannot carry it
            problem = RuntimeError(f"the function raised StopIteration: {error}")
        except BaseException as error:
            problem = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, problem)

    threading.Thread(target=work, name="zopo-fast-call", daemon=True).start()
    value, problem = await done
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]
