"""Spans of one test: a provider that keeps them in memory, and the tree that they form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


class Spans:
    """Ended spans of a test, in the order of their end."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def all(self) -> tuple[Any, ...]:
        """Return all spans so far."""
        spans: tuple[Any, ...] = self._exporter.get_finished_spans()
        return spans

    def named(self, name: str) -> list[Any]:
        """Return the spans of a name."""
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> Any:
        """Return the only span of a name."""
        (span,) = self.named(name)
        return span

    def of(self, parent: Any) -> list[Any]:
        """Return the children of a span."""
        own = parent.context.span_id
        return [span for span in self.all() if span.parent is not None and span.parent.span_id == own]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Set a provider for this test alone; `set_tracer_provider` would set it for the whole process."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield Spans(exporter)
    provider.shutdown()


def traceparent(span: Any) -> str:
    """Return the header that names a span."""
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
