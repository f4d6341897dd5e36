"""Error bodies of providers as one shape: codes, message, parameters, details."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_CODES = ("code", "type", "status", "error_type", "reason", "error_code", "__type")
_MESSAGES = ("message", "msg", "detail", "error", "title")
_NESTED = (
    "error",
    "innererror",
    "inner_error",
    "detail",
    "details",
    "errors",
    "metadata",
    "provider_specific_fields",
    "message",
)
_MAX_DEPTH = 6
_MAX_CODE = 100
_MAX_MESSAGE = 4000


@dataclass(frozen=True)
class ErrorBody:
    """Error of a provider, from its JSON.

    `codes` are all codes and types, the outermost first, in lower case; numbers are left out. `params` are
    the request fields that the error names, with their path, such as `messages[0].role`.
    """

    codes: tuple[str, ...] = ()
    message: str = ""
    params: tuple[str, ...] = ()
    status: int | None = None
    """HTTP status that the body states, as proxies do in a response with status 200."""
    objects: tuple[Mapping[str, Any], ...] = ()
    """All JSON objects of the error, the outermost first."""
    is_page: bool = False
    """True for a web page, which states nothing."""

    def value(self, *names: str) -> Any:
        """Return the first value under one of `names` in any object of the error; None without one."""
        return next((one[name] for one in self.objects for name in names if one.get(name) is not None), None)


def parse_error(body: bytes | Any) -> ErrorBody:
    """Return the error that a response body, or its JSON value, states; empty where it states none."""
    values = _json(body) if isinstance(body, bytes) else body
    if isinstance(body, bytes) and values is None:
        return ErrorBody(is_page=body.lstrip()[:1] == b"<")
    if isinstance(values, str):
        return ErrorBody(message=values[:_MAX_MESSAGE])
    found = tuple(_objects(values))
    codes = [
        text.strip().lower().rpartition("#")[2]  # AWS: com.amazon.coral.service#ThrottlingException
        for one in found
        for name in _CODES
        if isinstance(text := one.get(name), str) and _is_code(text.strip())
    ]
    texts = [text for one in found for name in _MESSAGES if isinstance(text := one.get(name), str)]
    return ErrorBody(
        tuple(dict.fromkeys(codes)),
        " ".join(dict.fromkeys(text.strip() for text in texts if text.strip()))[:_MAX_MESSAGE],
        tuple(dict.fromkeys(_params(found))),
        _status(found),
        found,
    )


def _is_code(text: str) -> bool:
    return 0 < len(text) <= _MAX_CODE and not text.isdigit()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace") if body.lstrip()[:1] != b"<" else None


def _objects(values: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of an error, outermost first; some are JSON or Python literals inside a message."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(values, list):
        for value in values[:16]:
            yield from _objects(value, depth + 1)
    elif isinstance(values, Mapping):
        yield values
        for name in _NESTED:
            yield from _objects(values.get(name), depth + 1)
        metadata = values.get("metadata")
        if isinstance(metadata, Mapping):  # OpenRouter: the error of its upstream
            yield from _objects(metadata.get("raw"), depth + 1)
    elif isinstance(values, str) and values.lstrip()[:1] in ("{", "["):
        yield from _objects(_literal(values), depth + 1)


def _literal(text: str) -> Any:
    """Return the JSON or Python literal that `text` is, as vLLM puts a list of pydantic errors; else None."""
    if len(text) > 10_000:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, (list, Mapping)) else None


def _params(found: tuple[Mapping[str, Any], ...]) -> Iterator[str]:
    for one in found:
        if isinstance(param := one.get("param"), str) and param:
            yield param.removeprefix("body.")
        loc = one.get("loc")  # pydantic: ["body", "max_tokens"]
        if isinstance(loc, (list, tuple)):
            parts = [str(part) for part in loc]
            if parts[:1] == ["body"]:
                parts = parts[1:]
            if parts:
                yield ".".join(parts)


def _status(found: tuple[Mapping[str, Any], ...]) -> int | None:
    for one in found:
        for name in ("code", "status", "statusCode", "status_code"):
            value = one.get(name)
            if isinstance(value, str) and value.isdigit():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
                return value
    return None
