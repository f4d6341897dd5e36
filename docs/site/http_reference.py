"""Reference of the HTTP API in Markdown, from the OpenAPI document of the server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from command_reference import escaped

from zopo_fast.serve.config import ServeConfig
from zopo_fast.serve.http.openapi import build_document
from zopo_fast.serve.server import Server

_BOUNDS = {
    "minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}",
    "minLength": "length ≥ {}", "maxLength": "length ≤ {}",
    "minItems": "items ≥ {}", "maxItems": "items ≤ {}",
    "pattern": "pattern `{}`", "contentEncoding": "{}",
}  # fmt: skip
_MAX_SHOWN = 2**53  # bounds of every JSON number say nothing


def document() -> dict[str, Any]:
    """Build the OpenAPI document of a server with a token; nothing is opened."""
    routes = Server(ServeConfig(data=Path("studies"))).table.documented
    return build_document(routes, has_token=True)


def reference() -> str:
    """Return operations, problems and schemas."""
    built = document()
    operations = [
        (method, path, operation)
        for path, methods in built["paths"].items()
        for method, operation in methods.items()
    ]
    parts = ["## Operations", *(_operation(*each) for each in operations)]
    parts += ["## Problems", _problems(operation for _, _, operation in operations)]
    parts += ["## Schemas", *(_schema(*each) for each in built["components"]["schemas"].items())]
    return "\n\n".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### {operation['summary'].rstrip('.')} {{ #{operation['operationId']} }}", ""]
    lines += [f"`{method.upper()} {path}`", ""]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        for each in parameters:
            said = escaped(each.get("description") or each["schema"].get("description", ""))
            lines.append(f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {said} |")
        lines.append("")
    lines += ["| | status | content |", "|---|---|---|"]
    if body := operation.get("requestBody"):
        lines.append(f"| request | {'' if body['required'] else 'optional'} | {_content(body)} |")
    problems = []
    for status, response in operation["responses"].items():
        if int(status) < 400:
            lines.append(f"| response | {status} {HTTPStatus(int(status)).phrase} | {_content(response)} |")
        else:
            problems.append(f"[{status}](#problem-{status})")
    lines.append(f"| problems | {', '.join(problems)} | [ProblemDetails](#problemdetails) |")
    if "security" not in operation:
        lines += ["", "Needs no token."]
    return "\n".join(lines)


def _content(body: Mapping[str, Any]) -> str:
    found = body.get("content", {}).items()
    return ", ".join(f"{_type(each['schema'])} as `{media}`" for media, each in found) or "none"


def _problems(operations: Iterable[Mapping[str, Any]]) -> str:
    found = {
        status: response["description"]
        for operation in operations
        for status, response in operation["responses"].items()
        if int(status) >= 400
    }
    lines = ["| status | meaning |", "|---|---|"]
    for status, meaning in sorted(found.items()):
        phrase = HTTPStatus(int(status)).phrase
        lines.append(f'| <span id="problem-{status}">{status} {phrase}</span> | {escaped(meaning)} |')
    return "\n".join(lines)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"### {name} {{ #{name.lower()} }}", "", escaped(schema.get("description", "")), ""]
    if not (properties := schema.get("properties")):
        return "\n".join([*lines, _type(schema)])
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field, each in properties.items():
        default = "required" if field in schema.get("required", ()) else _default(each)
        lines.append(f"| `{field}` | {_type(each)} | {default} | {escaped(each.get('description', ''))} |")
    return "\n".join(lines)


def _default(schema: Mapping[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if schema.get("default") not in (None, {}, []) else ""


def _type(schema: Mapping[str, Any]) -> str:
    """Return a type in words, with links to schemas."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    bounds = [
        words.format(f"{value:g}" if isinstance(value, float) else value)
        for key, words in _BOUNDS.items()
        if (value := schema.get(key)) is not None
        and not (isinstance(value, int | float) and abs(value) >= _MAX_SHOWN)
    ]
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"array of {_type(schema['items'])}" if "items" in schema else kind
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"object of {_type(schema['additionalProperties'])}"
    return f"{kind} ({', '.join(bounds)})" if bounds else kind
