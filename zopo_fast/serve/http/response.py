"""An answer that costs little: a JSON body behind a head that is always the same, in one write."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11

from zopo_fast.serve.http.routing import JSON

_HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nDate: ".encode()


class _Date:
    """The head up to the length, with the time as HTTP has it; made once a second."""

    def __init__(self) -> None:
        self._second, self._head = 0, b""

    def head(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            date = formatdate(second, usegmt=True).encode()
            self._second, self._head = second, _HEAD + date + b"\r\nContent-Length: "
        return self._head


_date = _Date()


class WholeAnswer(web.StreamResponse):
    """A 200 to a request of a connection that stays open; the library's own response builds its head anew."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._whole = body

    @staticmethod
    def can(request: web.BaseRequest) -> bool:
        """Whether the request may be answered this way; not where its client reads slowly."""
        transport = request.transport
        return (
            transport is not None
            and request.keep_alive
            and request.version == HttpVersion11
            and not transport.get_write_buffer_size()
        )

    @property
    def keep_alive(self) -> bool | None:
        """The connection stays open."""
        return True

    @property
    def body_length(self) -> int:
        """Bytes of the body, for the access log."""
        return len(self._whole)

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Write it."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.write(b"%b%d\r\n\r\n%b" % (_date.head(), len(self._whole), self._whole))

    async def write_eof(self, data: bytes = b"") -> None:
        """All is written."""
