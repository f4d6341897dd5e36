"""HTTP transport: one aiohttp session per event loop, responses of bounded size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import aiohttp

from zopo_fast._utils import tracing
from zopo_fast.errors import LLMError, MalformedAnswerError, RequestTimeoutError, UnreachableError
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.responses import MAX_MALFORMED_ATTEMPTS, Response, undecoded
from zopo_fast.llm.openai.retry import MAX_TIMEOUTS, Failure

_ERROR_BODY_BYTES = 2**16
_UNDECODED = re.compile(r"decode content-encoding: (\w+).*please install", re.IGNORECASE | re.DOTALL)
_DROPPED = "the server cannot be reached or dropped the connection; check base_url"


class Transport:
    """HTTP transport of one event loop.

    Args:
        endpoint: URLs and headers.
        session: session of the caller, which is never closed; None: one is opened at the first request.
        max_response_bytes: limit of a response body.
    """

    def __init__(
        self, endpoint: Endpoint, session: aiohttp.ClientSession | None, max_response_bytes: int
    ) -> None:
        self._endpoint = endpoint
        self._session = session
        self._limit = max_response_bytes
        self._opened: AsyncGenerator[aiohttp.ClientSession, None] | None = None

    async def aclose(self) -> None:
        """Close the session, unless the caller gave it."""
        if self._opened is not None:
            await self._opened.aclose()

    async def post(self, path: str, body: bytes, timeout: float) -> Response | Failure:
        """Return the complete response to `POST path` within `timeout` seconds, or the failure."""
        where = self._where(path)
        attributes = {
            "http.request.method": "POST",
            "url.full": where.removeprefix("POST "),
            **self._endpoint.server,
        }
        with tracing.span("POST", attributes, kind="CLIENT") as span:
            outcome = await self._post(path, body, timeout, where)
            if isinstance(outcome, Failure):
                span.fail(outcome.error.__qualname__)
            else:
                span.set({"http.response.status_code": outcome.status})
                if outcome.status >= 400:
                    span.fail(str(outcome.status))
            return outcome

    async def _post(self, path: str, body: bytes, timeout: float, where: str) -> Response | Failure:
        session, url = await self._ready(), self._endpoint.url(path)
        if session.closed:
            return Failure(LLMError, f"{where}: the session of the client is closed", final=True)
        try:
            async with session.post(
                url,
                data=body,
                headers=tracing.with_context(self._endpoint.headers),
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,  # a redirect would send the Authorization header to another host
                raise_for_status=False,
            ) as response:
                good = response.status // 100 == 2
                limit = self._limit if good else min(self._limit, _ERROR_BODY_BYTES)
                content, complete = await _read(response, limit)
                if good and not complete:
                    return Failure(
                        MalformedAnswerError,
                        f"{where}: the response exceeds max_response_bytes={limit}",
                        lost=True,
                        max_attempts=MAX_MALFORMED_ATTEMPTS,
                    )
                return Response(url, response.status, response.headers, content)
        except (aiohttp.ClientError, aiohttp.InvalidURL, OSError) as error:  # TimeoutError is an OSError
            return self._failure(error, where, timeout)

    def _failure(self, error: Exception, where: str, timeout: float) -> Failure:
        """Return the failure of a request without a complete response."""
        if isinstance(error, TimeoutError):
            return timed_out(where, timeout)
        if isinstance(error, (aiohttp.ClientSSLError, aiohttp.InvalidURL)):
            problem = "no secure connection; check base_url and the server's certificate"
            message = f"{where}: {problem}: {self._quoted(error)}"
            return Failure(UnreachableError, message, final=True, code="no_secure_connection")
        if (coding := _UNDECODED.search(str(error))) is not None:
            return undecoded(where, coding[1])
        sent = not isinstance(error, aiohttp.ClientConnectorError)
        message = f"{where}: {_DROPPED}: {self._quoted(error)}"
        code = "dropped" if sent else "unreachable"
        return Failure(UnreachableError, message, lost=sent, code=code, is_outage=sent)

    async def get(self, path: str, timeout: float) -> Response | None:
        """Return the complete response to `GET path` within `timeout` seconds; None for any failure."""
        session, url = await self._ready(), self._endpoint.url(path)
        try:
            async with session.get(
                url,
                headers=self._endpoint.headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
                raise_for_status=False,
            ) as response:
                content, complete = await _read(response, self._limit)
                return Response(url, response.status, response.headers, content) if complete else None
        except (TimeoutError, aiohttp.ClientError, OSError, RuntimeError):  # a closed session too
            return None

    async def _ready(self) -> aiohttp.ClientSession:
        """Return the session, opened where it is not yet."""
        if self._session is None:
            self._opened = _open_session(proxies=not self._endpoint.is_loopback)
            self._session = await anext(self._opened)
        return self._session

    def _quoted(self, error: Exception) -> str:
        return self._endpoint.quote(f"{type(error).__name__}: {error}")

    def _where(self, path: str) -> str:
        return self._endpoint.redact(f"POST {show_url(self._endpoint.url(path))}")


def timed_out(where: str, timeout: float) -> Failure:
    """Return the failure of an attempt without a complete response in time."""
    problem = f"no complete response within {timeout:.3g} s; raise timeout if the model is that slow"
    return Failure(
        RequestTimeoutError,
        f"{where}: {problem}",
        lost=True,
        max_attempts=MAX_TIMEOUTS,
        code="timeout",
        is_outage=True,
    )


async def _open_session(proxies: bool) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Yield a session and close it at the end.

    An async generator, because an event loop closes its open generators at shutdown: a client used in several
    `asyncio.run` without `aclose` leaks no connection.
    """
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # `Admission` limits concurrency
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=proxies,
    )
    try:
        yield session
    finally:
        await session.close()
        await asyncio.sleep(0)  # lets the transports close


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """Return at most `limit` bytes of the body, and whether the body is complete."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            return bytes(content[:limit]), False
    return bytes(content), True
