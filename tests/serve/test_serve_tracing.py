"""Spans of requests and jobs of the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from model_stub import PROMPTS
from serve_tools import SECONDS, Client, packed, pool, served
from tracing_tools import Spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REMOTE = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
JOB = {
    "task": {"examples": [{"input": f"q{i}", "output": "yes"} for i in range(2)], "metric": "exact_match"},
    "pool": PROMPTS,
    "model": "small",
    "embeddings": packed(pool(20, 4)),
    "config": {"budget": 3, "initial": 2, "stop_at_perfect": False},
}


def ended(spans: Spans, name: str) -> Any:
    """Wait for the only span of a name: a span ends after the response to its request is sent."""
    end = time.monotonic() + SECONDS
    while not spans.named(name) and time.monotonic() < end:
        time.sleep(0.01)
    return spans.one(name)


@pytest.fixture
def with_models(spans: Spans, tmp_path: Path, models: Path) -> Iterator[Client]:
    with served(tmp_path / "data", models=models) as running, Client(running.url) as client:
        yield client


def test_a_request_joins_the_trace_of_its_headers(spans: Spans, call: Client) -> None:
    study = call.study()
    call.ok("POST", f"/v1/studies/{study}/ask", {}, **REMOTE)
    span = ended(spans, "POST /v1/studies/{study}/ask")
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.parent.is_remote
    assert span.context.trace_state.get("vendor") == "1"
    assert span.kind.name == "SERVER"
    assert dict(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/studies/{study}/ask",
        "http.response.status_code": 200,
        "url.path": f"/v1/studies/{study}/ask",
        "url.scheme": "http",
    }
    assert ended(spans, "POST /v1/studies").parent is None


def test_failed_requests_state_their_status(spans: Spans, call: Client) -> None:
    assert call("GET", "/v1/unknown").status == 404
    assert call("PROPFIND", "/v1/studies").status == 405
    unknown, brewed = ended(spans, "GET"), ended(spans, "HTTP")
    assert "http.route" not in unknown.attributes
    assert unknown.attributes["http.response.status_code"] == 404
    assert unknown.status.is_unset  # the fault of the sender
    assert brewed.attributes["http.request.method"] == "_OTHER"


def test_an_internal_error_fails_the_span(
    spans: Spans,
    call: Client,
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server.server.studies, "get", None)
    assert call("GET", "/v1/studies/abc").status == 500
    span = ended(spans, "GET /v1/studies/{study}")
    assert span.attributes["error.type"] == "500"
    assert span.status.status_code.name == "ERROR"


def test_a_job_is_a_trace_linked_to_its_request(spans: Spans, with_models: Client) -> None:
    job = with_models.ok("POST", "/v1/jobs", JOB, **REMOTE)["id"]
    span = ended(spans, "zopo_fast.job")
    request = ended(spans, "POST /v1/jobs")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert span.parent is None
    assert span.context.trace_id != request.context.trace_id
    assert [link.context.span_id for link in span.links] == [request.context.span_id]
    assert span.attributes["zopo_fast.job"] == job
    (run,) = spans.of(span)
    assert run.name == "zopo_fast.optimize"
    assert {each.name for each in spans.of(run)} == {"zopo_fast.score_prompt"}
    assert len(spans.named("chat m")) == 6


def test_a_middleware_of_the_application_is_the_parent(spans: Spans, tmp_path: Path) -> None:
    from aiohttp import web
    from opentelemetry import trace

    @web.middleware
    async def traced(request: web.Request, handler: Any) -> web.StreamResponse:
        with trace.get_tracer_provider().get_tracer("app").start_as_current_span("outer"):
            response: web.StreamResponse = await handler(request)
            return response

    with served(tmp_path / "data", middlewares=[traced]) as running, Client(running.url) as client:
        client.ok("GET", "/healthz", **REMOTE)
        outer = ended(spans, "outer")
    assert [span.name for span in spans.of(outer)] == ["GET /healthz"]
