"""Response with a preformatted head, for the operations called most."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11

from zopo_fast.serve.http.routing import JSON

_HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nDate: ".encode()


class _HeadCache:
    """Response head up to the value of Content-Length, formatted once a second for its Date header."""

    def __init__(self) -> None:
        self._second, self._head = 0, b""

    def get(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            date = formatdate(second, usegmt=True).encode()
            self._second, self._head = second, _HEAD + date + b"\r\nContent-Length: "
        return self._head


_head_cache = _HeadCache()


class PreformattedResponse(web.Response):
    """JSON response with status 200 that writes head and body in one call, without formatting headers.

    It is a complete `web.Response` for middlewares and signals. If one of them changed the response, or if
    the connection does not stay open, the response is sent the standard way.
    """

    _is_written = False

    def __init__(self, body: bytes) -> None:
        super().__init__(body=body, content_type=JSON)
        self._original = body

    @property
    def prepared(self) -> bool:
        """The head was sent."""
        return self._is_written or super().prepared

    @property
    def keep_alive(self) -> bool | None:
        """The connection stays open after this response; None: as the request says."""
        return True if self._is_written else super().keep_alive

    @property
    def body_length(self) -> int:
        """Bytes of the body that were sent."""
        return len(self._original) if self._is_written else super().body_length

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send the response, or only its head where the standard way is needed."""
        transport = request.transport
        if transport is None or not self._is_unchanged() or not _is_plain(request, transport):
            return await super().prepare(request)
        self._is_written = True
        body = self._original
        transport.write(b"%b%d\r\n\r\n%b" % (_head_cache.get(), len(body), body))
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Finish the response; sends nothing if `prepare` sent all."""
        if not self._is_written:
            await super().write_eof(data)

    def _is_unchanged(self) -> bool:
        return (
            self._status == 200
            and self._reason == "OK"
            and self._body is self._original
            and len(self._headers) == 1
            and self._headers.get("Content-Type") == JSON
            and not self._cookies
            and not self._compression
            and not self._chunked
            and self._keep_alive is None
        )


def _is_plain(request: web.BaseRequest, transport: Any) -> bool:
    """Check that the preformatted head suits the connection, and that no signal handler is to see it."""
    if not isinstance(request, web.Request):
        return False
    for app in request.match_info.apps:
        if app.on_response_prepare:
            return False
    # The standard way waits for a client that reads slowly.
    return request.keep_alive and request.version == HttpVersion11 and not transport.get_write_buffer_size()
