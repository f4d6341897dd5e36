"""Work that is under way is not begun a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from zopo_fast.serve.http.problems import Problem

T = TypeVar("T")


class Once(Generic[T]):
    """Runs work to its end, also where the request that waits is cancelled, and once a key at a time."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[str, asyncio.Future[T]]] = {}
        self._all: set[asyncio.Future[T]] = set()

    async def __call__(self, key: tuple[str, str] | None, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or of the same request's that is under way.

        Args:
            key: idempotency key and digest of the request; a Problem where another request has the key.
        """
        if key is not None and key[0] in self._running:
            digest, task = self._running[key[0]]
            if digest != key[1]:
                raise Problem(422, "IdempotencyKeyReused", "this Idempotency-Key is used by another request")
            return await asyncio.shield(task)
        task = asyncio.ensure_future(work())
        self._all.add(task)
        task.add_done_callback(self._all.discard)
        if key is not None:
            name = key[0]
            self._running[name] = key[1], task
            task.add_done_callback(lambda _: self._running.pop(name, None))
        return await asyncio.shield(task)
