"""Idempotency keys: one execution per key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from zopo_fast.serve.http.problems import Problem

T = TypeVar("T")


class IdempotencyKey(NamedTuple):
    """Idempotency-Key of a request, with the digest of the path and body sent with it."""

    value: str
    digest: str


def key_reused() -> Problem:
    """Build the 422 for a key that was sent with a different request."""
    return Problem(
        422,
        "IdempotencyKeyReused",
        "Idempotency-Key: the key belongs to a different request; send each request with a key of its own",
    )


class Deduplicator(Generic[T]):
    """Runs each operation to its end, and joins requests with the key of one in flight."""

    def __init__(self) -> None:
        self._in_flight: dict[str, tuple[str, asyncio.Future[T]]] = {}
        self._tasks: set[asyncio.Future[T]] = set()

    async def run(self, key: IdempotencyKey | None, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation, or join the same request if it is in flight.

        The operation runs to its end even if the waiting request is cancelled.

        Args:
            key: key of the request; None: always run.
            operation: called at most once.

        Returns:
            The result of the operation.

        Raises:
            Problem: 422, a different request with this key is in flight.
        """
        if key is not None and key.value in self._in_flight:
            digest, task = self._in_flight[key.value]
            if digest != key.digest:
                raise key_reused()
            return await asyncio.shield(task)
        task = asyncio.ensure_future(operation())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if key is not None:
            self._in_flight[key.value] = key.digest, task
            task.add_done_callback(lambda _: self._in_flight.pop(key.value, None))
        return await asyncio.shield(task)
