"""Error responses as providers send them: modes of a `FakeServer`, with what each means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_behaviours import Behaviour

_FILE = Path(__file__).parent.parent / "golden" / "provider_errors.jsonl"


@dataclass(frozen=True)
class Mode:
    """Response of a provider, and the failure that it is."""

    behaviour: Behaviour
    error: str
    """Name of the class in `zopo_fast.errors`."""
    concerns: str
    code: str


def says(status: int, body: Any, headers: Mapping[str, str] | None = None, name: str = "") -> Behaviour:
    """Respond with an error status and a JSON body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Behaviour(name or f"says {status}", status=status, headers=headers or {}, raw=raw)


def openai(
    message: str, *, kind: str | None = "invalid_request_error", param: Any = None, code: Any = None
) -> Any:
    """Return an error body of OpenAI."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


GEMINI_QUOTA = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{"quotaValue": "15"}],
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27s"},
            ],
        }
    }
]


def _modes() -> dict[str, Mode]:
    """Read the errors of providers: one JSON object a line."""
    modes = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        raw = row["text"].encode() if "text" in row else json.dumps(row["json"]).encode()
        kind = row.get("content_type", "application/json")
        behaviour = Behaviour(row["name"], status=row["status"], raw=raw, content_type=kind)
        modes[row["name"]] = Mode(behaviour, row["error"], row["concerns"], row["code"])
    return modes


MODES = _modes()
"""Errors as providers send them, by name."""


def unsupported(field: str, advice: str = "") -> Any:
    """Return OpenAI's error for a parameter that a model does not know."""
    message = f"Unsupported parameter: '{field}' is not supported with this model.{advice}"
    return openai(message, param=field, code="unsupported_parameter")


PYDANTIC = "[{'type': 'extra_forbidden', 'loc': ('body', '%s'), 'msg': 'Extra inputs are not permitted'}]"


def refusals_of(field: str) -> dict[str, tuple[int, Any]]:
    """Return the status and the body by which providers refuse a parameter."""
    return {
        "openai": (400, unsupported(field)),
        "openai value": (
            400,
            openai(
                f"Unsupported value: '{field}' does not support 0 with this model. Only the "
                "default (1) value is supported.",
                param=field,
                code="unsupported_value",
            ),
        ),
        "openai without param": (400, openai(f"Unknown parameter: '{field}'.", code="unknown_parameter")),
        "old openai": (400, openai(f"Unrecognized request argument supplied: {field}")),
        "azure": (
            400,
            {"error": {"code": "BadRequest", "message": f"Unrecognized request argument: {field}"}},
        ),
        "anthropic": (
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": f"{field}: Extra inputs are not permitted",
                },
            },
        ),
        "anthropic deprecated": (
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": f"`{field}` is deprecated for this model.",
                },
            },
        ),
        "vllm": (
            400,
            {
                "object": "error",
                "message": PYDANTIC % field,
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
        ),
        "fastapi": (
            422,
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", field],
                        "msg": "Extra inputs are not permitted",
                        "input": 0,
                    }
                ]
            },
        ),
        "mistral": (
            422,
            {
                "object": "error",
                "message": {
                    "detail": [
                        {
                            "type": "extra_forbidden",
                            "loc": ["body", field],
                            "msg": "Extra inputs are not permitted",
                        }
                    ]
                },
                "type": "invalid_request_error",
                "code": None,
            },
        ),
        "gemini": (
            400,
            [
                {
                    "error": {
                        "code": 400,
                        "status": "INVALID_ARGUMENT",
                        "message": f'Invalid JSON payload. Unknown name "{field}": Cannot find field.',
                    }
                }
            ],
        ),
        "litellm": (
            400,
            openai(
                f"litellm.UnsupportedParamsError: gpt-5 models don't support {field}=0.0. Only {field}=1 is "
                "supported.",
                kind=None,
                code="400",
            ),
        ),
        "openrouter with status 200": (
            200,
            {
                "error": {
                    "code": 400,
                    "message": "Provider returned error",
                    "metadata": {"raw": json.dumps(unsupported(field))},
                }
            },
        ),
    }


def refuses(field: str, status: int, body: Any) -> Any:
    """Return a plan that refuses every request with `field` and answers the others."""
    from server_behaviours import ok

    refusal = says(status, body, name=f"refuses {field}")
    return lambda request: refusal if field in request.body else ok()


def reasoning_model(request: Any) -> Behaviour:
    """Plan: behave like an endpoint of reasoning models, which knows neither max_tokens nor a temperature."""
    from server_behaviours import ok

    if "max_tokens" in request.body:
        advice = " Use 'max_completion_tokens' instead."
        return says(400, unsupported("max_tokens", advice), name="refuses max_tokens")
    if "temperature" in request.body:
        return says(*refusals_of("temperature")["openai value"], name="refuses temperature")
    return ok()
