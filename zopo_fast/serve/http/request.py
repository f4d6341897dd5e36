"""Request parsing: body within the limits, query parameters, idempotency key."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.routing import JSON, Route

MIN_THREAD_BYTES = 256 * 1024  # decode larger bodies in a thread: decoding would delay other requests
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameters of a list: the page to return."""

    after: Annotated[
        str, Meta(max_length=100, description="Return ids after this one: `next` of the previous page.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of entries.")] = 100


async def read_body(request: web.Request, limits: ServerLimits) -> bytes:
    """Read the body of a request.

    Raises:
        Problem: 400 for an interrupted body, 408 for a slow one, 413 for a large one, 415 for a body that
            is not declared as plain JSON.
    """
    check_length(request, limits)
    content = request.content
    if content.at_eof():  # no body, or a middleware has read it
        body = await request.read()
    elif content.is_eof():  # usual: the body arrived with the head
        body = content.read_nowait(-1)
    else:
        try:
            body = await asyncio.wait_for(_collect(content, limits), limits.body_timeout)
        except TimeoutError:
            raise Problem(
                408,
                "BodyTimeout",
                f"body: not complete within {limits.body_timeout:g} s; send it again, faster or in less data",
                {"Connection": "close"},
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise Problem(
                400, "BadBody", "body: interrupted or malformed; send the whole body again"
            ) from error
    if len(body) > limits.max_body:
        raise _too_large(limits)
    if body:
        _check_content_type(request)
    return body


def check_length(request: web.BaseRequest, limits: ServerLimits) -> None:
    """Raise a Problem (413) if the declared length of the body is above the limit."""
    length = request.content_length
    if length is not None and length > limits.max_body:
        raise _too_large(limits)


def send_continue(request: web.BaseRequest) -> None:
    """Send "100 Continue" if the client waits for it before it sends the body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)


async def _collect(content: Any, limits: ServerLimits) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_any():
        size += len(part)
        if size > limits.max_body:
            raise _too_large(limits)
        parts.append(part)
    return b"".join(parts)


def _too_large(limits: ServerLimits) -> Problem:
    return Problem(
        413,
        "BodyTooLarge",
        f"body: larger than {limits.max_body} bytes; send less, or start the server with a larger --max-body",
        {"Connection": "close"},
    )


def _check_content_type(request: web.BaseRequest) -> None:
    media_type = request.headers.get("Content-Type", "")
    if media_type != JSON and media_type.partition(";")[0].strip().lower() != JSON:
        raise Problem(415, "NotJSON", f"Content-Type: not JSON; send {JSON}")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Problem(415, "Encoded", "Content-Encoding: not supported; send the body uncompressed")


async def decode_body(route: Route, body: bytes) -> Any:
    """Decode a body as the route's type; None if the route has none.

    Raises:
        Problem: 400 for a body that is missing, unexpected or not JSON; 422 for JSON of another type.
    """
    if route.decode is None:
        if body:
            raise Problem(400, "UnexpectedBody", "body: this operation has none; send the request without")
        return None
    if not body:
        if not route.is_body_optional:
            raise Problem(400, "NoBody", "body: missing; send JSON as /openapi.json describes it")
        body = b"{}"
    try:
        if len(body) > MIN_THREAD_BYTES:
            return await asyncio.to_thread(route.decode, body)
        return route.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, "ValidationError", f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "NotJSON", f"body: {error}; send valid JSON in UTF-8") from None
    except RecursionError:
        raise Problem(400, "NotJSON", "body: nested too deeply; send JSON of the documented type") from None


def parse_query(route: Route, request: web.BaseRequest) -> Any:
    """Convert the query parameters to the route's type; None if the route has none.

    Raises:
        Problem: 422 for unknown, repeated or invalid parameters.
    """
    if route.query is None:
        return None
    given = request.rel_url.query
    if len(set(given)) != len(given):
        raise Problem(422, "ValidationError", "query: a parameter is repeated; send each one once")
    try:
        return msgspec.convert(dict(given), route.query, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(422, "ValidationError", f"query: {error}") from None


def parse_key(route: Route, request: web.BaseRequest, body: bytes) -> IdempotencyKey | None:
    """Read the idempotency key of a request; None if there is none or the route ignores it.

    Raises:
        Problem: 400 for a malformed key.
    """
    if not route.accepts_key:
        return None
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise Problem(
            400, "BadIdempotencyKey", "Idempotency-Key: malformed; send 1 to 255 printable ASCII characters"
        )
    digest = hashlib.blake2b(request.path.encode("utf-8", "surrogateescape") + b"\0" + body, digest_size=16)
    return IdempotencyKey(key, digest.hexdigest())
