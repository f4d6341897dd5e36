"""Revisions of the studies and jobs, which the server's page follows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable


class Changes:
    """Revision of each run and of the whole list, for any number of followers.

    A run is a study or a job. Call every method in the event loop of the server.
    """

    def __init__(self) -> None:
        # Revisions of an earlier process are smaller, so a page that it served notices the restart.
        self._first = self._newest = time.time_ns() // 1000
        self._of: dict[str, int] = {}
        self._waiting: asyncio.Event | None = None
        self._closed = asyncio.Event()

    def touch(self, run: str) -> None:
        """Record a change of a run."""
        self._newest += 1
        self._of[run] = self._newest
        self._wake()

    def forget(self, run: str) -> None:
        """Record that a run was deleted."""
        self._newest += 1
        self._of.pop(run, None)
        self._wake()

    def revision(self, run: str = "") -> int:
        """Return the revision of a run, or of the whole list."""
        return self._of.get(run, self._first) if run else self._newest

    @property
    def is_followed(self) -> bool:
        """A follower waits for the next change."""
        return self._waiting is not None

    def close(self) -> None:
        """End all followers."""
        self._closed.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    async def follow(
        self, run: str, after: int, pause: Callable[[], float], keep_alive: float
    ) -> AsyncIterator[int | None]:
        """Iterate over the revisions of a run, or of the whole list, until `close`.

        Changes in quick succession count as one, and the last of them is never left out.

        Args:
            run: id of the run; "": the whole list.
            after: revision that the follower has seen.
            pause: returns the least number of seconds to the next revision.
            keep_alive: seconds without a change after which None is returned.
        """
        while not self._closed.is_set():
            newest = self.revision(run)
            if newest != after:
                after = newest
                yield newest
                await self._sleep(pause())
                continue
            self._waiting = self._waiting or asyncio.Event()
            try:
                await asyncio.wait_for(self._waiting.wait(), keep_alive)
            except TimeoutError:
                yield None

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
