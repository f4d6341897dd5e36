"""Reading what a request brings: its body within the limits, its query, its key."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec
from aiohttp import web

from zopo_fast.serve.config import Limits
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.routing import JSON, Route

_LONG = 256 * 1024  # bytes: what takes longer to read than others should wait
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(request: web.BaseRequest, limits: Limits) -> bytes:
    """The body; a Problem where it is too large, takes too long, or does not say that it is JSON."""
    content = request.content
    length = request.content_length
    if length is not None and length > limits.max_body:
        raise _too_large(limits)
    if content.is_eof():  # the usual case: it came with the head
        body = content.read_nowait(-1)
    else:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(_CONTINUE)
        try:
            body = await asyncio.wait_for(_collect(content, limits), limits.body_timeout)
        except TimeoutError:
            close = {"Connection": "close"}
            raise Problem(
                408, "BodyTimeout", f"no whole body within {limits.body_timeout:g} s", close
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise Problem(400, "BadBody", "the body broke off or is malformed") from error
    if len(body) > limits.max_body:
        raise _too_large(limits)
    if not body:
        return body
    kind = request.headers.get("Content-Type", "")
    if kind != JSON and kind.partition(";")[0].strip().lower() != JSON:
        raise Problem(415, "NotJSON", f"Content-Type has to be {JSON}")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Problem(415, "Encoded", "a body is sent as it is, without Content-Encoding")
    return body


async def _collect(content: Any, limits: Limits) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_any():
        size += len(part)
        if size > limits.max_body:
            raise _too_large(limits)
        parts.append(part)
    return b"".join(parts)


def _too_large(limits: Limits) -> Problem:
    return Problem(413, "BodyTooLarge", f"at most {limits.max_body} bytes", {"Connection": "close"})


async def decoded(route: Route, body: bytes) -> Any:
    """The body as the route's type; a Problem says where it is not that."""
    if route.decode is None:
        if body:
            raise Problem(400, "UnexpectedBody", "this takes no body")
        return None
    if not body:
        if not route.body_optional:
            raise Problem(400, "NoBody", "a JSON body is needed")
        body = b"{}"
    try:
        return await asyncio.to_thread(route.decode, body) if len(body) > _LONG else route.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, "ValidationError", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "NotJSON", str(error)) from None
    except RecursionError:
        raise Problem(400, "NotJSON", "nested too deeply") from None


def query_of(route: Route, request: web.BaseRequest) -> Any:
    """The query as the route's type; a Problem says where it is not that."""
    given = request.rel_url.query
    if route.query is None:
        return None
    if len(set(given)) != len(given):
        raise Problem(422, "ValidationError", "a query parameter is given twice")
    try:
        return msgspec.convert(dict(given), route.query, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(422, "ValidationError", str(error)) from None


def key_of(route: Route, request: web.BaseRequest, body: bytes) -> tuple[str, str] | None:
    """The idempotency key and a digest of what it was sent with; None without one."""
    if not route.keyed:
        return None
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise Problem(400, "BadIdempotencyKey", "Idempotency-Key: 1 to 255 printable ASCII characters")
    digest = hashlib.blake2b(request.path.encode("utf-8", "surrogateescape") + b"\0" + body, digest_size=16)
    return key, digest.hexdigest()
