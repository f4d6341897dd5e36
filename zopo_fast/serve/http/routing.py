"""What there is to call: the table by which requests are dispatched, and from which the document is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from zopo_fast.serve.http.problems import Problem, not_found

JSON = "application/json"


@dataclass
class Call:
    """A request, read and checked.

    `target`: the id in the path, or "". `key`: its Idempotency-Key with a digest of path and body.
    """

    request: web.BaseRequest
    target: str
    body: Any
    query: Any
    key: tuple[str, str] | None


Reply = bytes | web.StreamResponse
Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """One operation.

    Args:
        path: with at most one parameter, its third part: "/v1/studies/{study}/ask".
        name, summary: in the document.
        body, query, answer: their types; a body with defaults for everything may be left out.
        status: of success.
        problems: other statuses than those that any request can have.
        keyed: whether Idempotency-Key is understood.
        open: whether it needs no token.
        media: of the answer.
        hot: whether it is called so often that its 200 is written with as little ado as can be.
    """

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | None = None
    status: int = 200
    problems: tuple[int, ...] = ()
    keyed: bool = False
    open: bool = False
    media: str = JSON
    body_optional: bool = False
    hot: bool = False
    decode: Callable[[bytes], Any] | None = field(init=False)

    def __post_init__(self) -> None:
        decode = None if self.body is None else msgspec.json.Decoder(self.body).decode
        object.__setattr__(self, "decode", decode)


class Table:
    """The routes, found by method and path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._found = {(route.method, _general(route.path)[0]): route for route in routes}
        self._methods: dict[str, list[str]] = {}
        for method, path in self._found:
            self._methods.setdefault(path, []).append(method)

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route and the id in the path; a Problem where there is none."""
        route = self._found.get((method, path))
        if route is not None and "{" not in path:
            return route, ""
        general, target = _general(path)
        route = self._found.get((method, general))
        if route is not None:
            if not target.isalnum() or not target.isascii():
                raise not_found("such path")
            return route, target
        allowed = self._methods.get(path if path in self._methods else general)
        if allowed is not None:
            methods = ", ".join(sorted(allowed))
            raise Problem(405, "MethodNotAllowed", f"there is only {methods} here", {"Allow": methods})
        raise not_found("such path")


def _general(path: str) -> tuple[str, str]:
    """A path with its parameter left out, and that."""
    parts = path.split("/", 4)
    if len(parts) < 4:
        return path, ""
    target, parts[3] = parts[3], "{}"
    return "/".join(parts), target
