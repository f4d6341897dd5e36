"""The OpenAPI 3.1 document, made of the table of routes and the types that the handlers read and write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from zopo_fast import __version__
from zopo_fast.serve.http.problems import MEDIA_TYPE
from zopo_fast.serve.http.routing import JSON, Route
from zopo_fast.serve.http.schemas import ProblemDetails

_REFERENCE = "#/components/schemas/{name}"
_MEANINGS = {
    400: "Not what HTTP and JSON promise.",
    401: "No valid token.",
    403: "Without a token, a request of a browser or under another name than loopback's.",
    404: "There is no such study, job or path.",
    408: "The body took too long to arrive.",
    409: "Not in the state that the study or the job is in.",
    413: "The body or the pool is too large.",
    415: "The body is not JSON as it is.",
    422: "The values cannot be used, or the idempotency key was used for another request.",
    429: "A limit of the server is reached.",
    502: "The embedding model failed.",
    503: "Not now: the disk, or a package, is not there; nothing that was acknowledged is lost.",
    504: "The embedding model took too long.",
    507: "No room left on the disk; nothing that was acknowledged is lost.",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeated request with the same key gets the same answer and has no second effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_ID = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that was received.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}


def document(routes: Sequence[Route], *, secured: bool) -> dict[str, Any]:
    """Return the document as JSON values; `secured`: a token is needed."""
    types: list[Any] = [ProblemDetails]
    for route in routes:
        types += [kind for kind in (route.body, route.answer) if kind is not None and kind not in types]
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, secured)
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "zopo-fast serve",
            "version": __version__,
            "description": "Studies by ask and tell, and whole optimisations. What is answered is on disk.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if secured:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}  # type: ignore[index]
    return made


def _operation(route: Route, secured: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": _responses(route),
    }
    if parameters := _parameters(route):
        made["parameters"] = parameters
    if route.body is not None:
        content = {JSON: {"schema": _schema(route.body)}}
        made["requestBody"] = {"required": not route.body_optional, "content": content}
    if secured and not route.open:
        made["security"] = [{"token": []}]
    return made


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{" in route.path:
        name = route.path.split("{")[1].split("}")[0]
        found.append({"name": name, "in": "path", "required": True, "schema": _ID})
    if route.query is not None:
        _, components = msgspec.json.schema_components([route.query])
        for name, schema in components[route.query.__name__]["properties"].items():
            found.append({"name": name, "in": "query", "schema": schema})
    if route.keyed:
        found.append(_KEY)
    if route.media == "text/event-stream":
        found.append(_LAST_EVENT)
    return found


def _responses(route: Route) -> dict[str, Any]:
    schema = {"type": "string"} if route.answer is None else _schema(route.answer)
    if route.path == "/openapi.json":
        schema = {"type": "object"}
    success: dict[str, Any] = {"description": "Done."}
    if route.status != 204:
        success["content"] = {route.media.partition(";")[0]: {"schema": schema}}
    general = (400, 408, 413, 415, 422) if route.body is not None else (400, 413)
    statuses = {*route.problems, *general} | (set() if route.open else {401, 403})
    problem = {"content": {MEDIA_TYPE: {"schema": _schema(ProblemDetails)}}}
    return {
        str(route.status): success,
        **{str(status): {"description": _MEANINGS[status], **problem} for status in sorted(statuses)},
    }


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
