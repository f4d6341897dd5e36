"""Route table: dispatches requests, and describes them in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from zopo_fast.serve.http.idempotency import IdempotencyKey
from zopo_fast.serve.http.problems import Problem, not_found

JSON = "application/json"


@dataclass
class ParsedRequest:
    """Request with its parts decoded and validated.

    Attributes:
        http: the request as aiohttp has it.
        resource_id: id of the study or job in the path; "" if the path has none.
        body: instance of the route's body type, or None.
        query: instance of the route's query type, or None.
        key: idempotency key, or None.
    """

    http: web.Request
    resource_id: str
    body: Any
    query: Any
    key: IdempotencyKey | None


Handler = Callable[[ParsedRequest], Awaitable[bytes | web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One operation of the server.

    Args:
        method: HTTP method.
        path: has at most one parameter, in third place: "/v1/studies/{study}/ask".
        handler: coroutine function; returns the response, or its body.
        operation_id: name in the OpenAPI document.
        summary: summary in the OpenAPI document.
        body: type of the request body; None: no body.
        query: type of the query parameters; None: ignored.
        response: type of the response body; None: text, or empty.
        status: status code of a successful response.
        problem_statuses: status codes of failures, beside those of every request.
        media_type: media type of the response.
        accepts_key: the Idempotency-Key header has an effect.
        is_public: needs no authentication.
        is_body_optional: a missing body means the defaults of its type.
        is_preformatted: send a successful response with the preformatted head.
        is_page: part of the server's page, not of the API; the handler checks the sender and reads the body.
    """

    method: str
    path: str
    handler: Handler
    operation_id: str
    summary: str
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    response: type[msgspec.Struct] | None = None
    status: int = 200
    problem_statuses: tuple[int, ...] = ()
    media_type: str = JSON
    accepts_key: bool = False
    is_public: bool = False
    is_body_optional: bool = False
    is_preformatted: bool = False
    is_page: bool = False
    decode: Callable[[bytes], Any] | None = field(init=False)

    def __post_init__(self) -> None:
        decode = None if self.body is None else msgspec.json.Decoder(self.body).decode
        object.__setattr__(self, "decode", decode)


class RouteTable:
    """Routes, looked up by method and path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._by_pattern = {(route.method, _split_id(route.path)[0]): route for route in routes}
        self._methods: dict[str, list[str]] = {}
        for method, pattern in self._by_pattern:
            self._methods.setdefault(pattern, []).append(method)

    @property
    def documented(self) -> tuple[Route, ...]:
        """Routes of the API, without those of the server's page."""
        return tuple(route for route in self.routes if not route.is_page)

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """Find the route of a request.

        Returns:
            The route, and the id in the path ("" if there is none).

        Raises:
            Problem: 404 for an unknown path; 405 for a known path with another method.
        """
        route = self._by_pattern.get((method, path))
        if route is not None and "{" not in path:
            return route, ""
        pattern, resource_id = _split_id(path)
        route = self._by_pattern.get((method, pattern))
        if route is not None:
            if not resource_id.isalnum() or not resource_id.isascii():
                raise not_found("the path")
            return route, resource_id
        allowed = self._methods.get(path if path in self._methods else pattern)
        if allowed is not None:
            methods = ", ".join(sorted(allowed))
            raise Problem(
                405,
                "MethodNotAllowed",
                f"the path does not support this method; use {methods}",
                {"Allow": methods},
            )
        raise not_found("the path")


def _split_id(path: str) -> tuple[str, str]:
    """Replace the third part of a path by "{}"; return the pattern and that part."""
    parts = path.split("/", 4)
    if len(parts) < 4:
        return path, ""
    resource_id, parts[3] = parts[3], "{}"
    return "/".join(parts), resource_id
