"""OpenAPI 3.1 document, generated from the route table and the types of its bodies."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from zopo_fast import __version__
from zopo_fast.serve.http.problems import MEDIA_TYPE
from zopo_fast.serve.http.routing import JSON, Route
from zopo_fast.serve.http.schemas import ProblemDetails

_REFERENCE = "#/components/schemas/{name}"
_DESCRIPTION = (
    "Studies by ask and tell, and jobs that run a whole optimization. "
    "The server writes every change of a study to disk before it responds."
)
_PROBLEMS = {
    400: "The request is not valid HTTP or JSON.",
    401: "The bearer token is missing or wrong.",
    403: "The server has no token, and the request comes from a browser or names another host than loopback.",
    404: "The study, job or path does not exist.",
    408: "The body did not arrive in time.",
    409: "The study or job is in a state that does not allow the operation.",
    413: "The body or the pool is larger than the limit.",
    415: "The body is not uncompressed JSON.",
    422: "A value is invalid, or the idempotency key belongs to a different request.",
    429: "A limit of the server is reached.",
    502: "The embedding model failed.",
    503: "The disk or a package is unavailable; acknowledged changes are safe.",
    504: "The embedding model timed out.",
    507: "The disk is full; acknowledged changes are safe.",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Key of this request. A retry with the same key returns the first response "
    "and has no second effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_ID = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Id of the last event received; the stream resumes after it.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}


def build_document(routes: Sequence[Route], *, has_token: bool) -> dict[str, Any]:
    """Build the OpenAPI document.

    Args:
        routes: operations to describe.
        has_token: the server requires a bearer token.

    Returns:
        The document as JSON values.
    """
    types: list[Any] = [ProblemDetails]
    for route in routes:
        types += [kind for kind in (route.body, route.response) if kind is not None and kind not in types]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, has_token)
    components: dict[str, Any] = {"schemas": schemas}
    if has_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "zopo-fast serve", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": components,
    }


def _operation(route: Route, has_token: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "responses": _responses(route),
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.body is not None:
        content = {JSON: {"schema": _schema(route.body)}}
        operation["requestBody"] = {"required": not route.is_body_optional, "content": content}
    if has_token and not route.is_public:
        operation["security"] = [{"token": []}]
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if "{" in route.path:
        name = route.path.split("{")[1].split("}")[0]
        parameters.append({"name": name, "in": "path", "required": True, "schema": _ID})
    if route.query is not None:
        _, components = msgspec.json.schema_components([route.query])
        for name, schema in components[route.query.__name__]["properties"].items():
            parameters.append({"name": name, "in": "query", "schema": schema})
    if route.accepts_key:
        parameters.append(_KEY)
    if route.media_type == "text/event-stream":
        parameters.append(_LAST_EVENT_ID)
    return parameters


def _responses(route: Route) -> dict[str, Any]:
    schema = {"type": "string"} if route.response is None else _schema(route.response)
    if route.path == "/openapi.json":
        schema = {"type": "object"}
    success: dict[str, Any] = {"description": f"{HTTPStatus(route.status).phrase}."}
    if route.status != 204:
        success["content"] = {route.media_type.partition(";")[0]: {"schema": schema}}
    general = (400, 408, 413, 415, 422) if route.body is not None else (400, 413)
    statuses = {*route.problem_statuses, *general} | (set() if route.is_public else {401, 403})
    problem = {"content": {MEDIA_TYPE: {"schema": _schema(ProblemDetails)}}}
    return {
        str(route.status): success,
        **{str(status): {"description": _PROBLEMS[status], **problem} for status in sorted(statuses)},
    }


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
