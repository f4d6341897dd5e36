"""Server-sent events: open streams within a limit."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from zopo_fast.serve.http.problems import Problem

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0  # a comment keeps a silent event stream open
KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
    "X-Content-Type-Options": "nosniff",
}


class EventStreams:
    """Event streams of a server.

    Args:
        limit: number of streams open at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._open = limit, 0

    async def send(self, request: web.BaseRequest, events: AsyncIterator[bytes]) -> web.StreamResponse:
        """Send events until there are no more, or the client disconnects.

        Raises:
            Problem: 429, as many streams are open as the limit allows.
        """
        if self._open >= self._limit:
            raise Problem(
                429,
                "TooManyStreams",
                f"the server has reached its limit of {self._limit} event streams; close some",
            )
        self._open += 1
        try:
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):  # the client disconnected: not a failure of the server
                async for event in events:
                    await response.write(event)  # waits for a slow client
                await response.write_eof()
            return response
        finally:
            self._open -= 1
