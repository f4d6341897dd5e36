"""Spans of OpenTelemetry where the application has set a tracer provider; elsewhere calls that do nothing.

    with tracing.span("zopo_fast.score_prompt", {"zopo_fast.examples": 20}) as span:
        ...
        span.set({"zopo_fast.cached": 3})

A span holds neither prompts nor answers, and of an error its type alone: messages may quote an input.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

from zopo_fast import __version__

Attributes = Mapping[str, Any]
"""Attributes by name; one of None is left out."""
Kind = Literal["INTERNAL", "CLIENT", "SERVER"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


class Described(Protocol):
    """Result of an operation that has a span."""

    @property
    def span_attributes(self) -> Attributes:
        """Attributes of the span."""
        ...


class Span:
    """Span in progress; without a provider it records nothing."""

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        """End the span."""

    def set(self, attributes: Attributes) -> None:
        """Set attributes."""

    def describe(self, result: Described) -> None:
        """Set the attributes of a result, which are not computed without a provider."""

    def fail(self, error_type: str) -> None:
        """Mark the operation as failed."""

    def match(self, method: str, route: str) -> None:
        """Name the span of a request after its route."""

    def respond(self, status: int) -> None:
        """Record the status of the response that the server sends."""

    def score(self, metric: str, value: float) -> None:
        """Add the event of an evaluation."""


_OFF = Span()


class _RecordedSpan(Span):
    """Span of OpenTelemetry."""

    def __init__(self, api: Any, span: Any) -> None:
        self._api, self._span = api, span

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(_stated(attributes))

    def describe(self, result: Described) -> None:
        self.set(result.span_attributes)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(self._api.Status(self._api.StatusCode.ERROR))

    def match(self, method: str, route: str) -> None:
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.route", route)

    def respond(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.fail(str(status))

    def score(self, metric: str, value: float) -> None:
        result = {"gen_ai.evaluation.name": metric, "gen_ai.evaluation.score.value": value}
        self._span.add_event("gen_ai.evaluation.result", result)


def is_on() -> bool:
    """Return whether the application has set a tracer provider."""
    return _api() is not None


def span(
    name: str, attributes: Attributes, *, kind: Kind = "INTERNAL", parent: Any = None
) -> AbstractContextManager[Span]:
    """Return a context manager that records a span.

    Args:
        name: name without variable parts.
        attributes: first attributes.
        kind: relation of the operation to other processes.
        parent: context that `context` returned; None: the current one.
    """
    api = _api()
    return _OFF if api is None else _recorded(api, name, attributes, kind, parent)


def context() -> Any:
    """Return the current context, as parent of spans that other tasks start; None without a provider."""
    if _api() is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


def detached_span(name: str, attributes: Attributes) -> AbstractContextManager[Span]:
    """Return a context manager that records the first span of a new trace, with a link to the current span.

    For work that outlives the request that started it.
    """
    api = _api()
    if api is None:
        return _OFF
    from opentelemetry.context import Context

    cause = api.get_current_span().get_span_context()
    links = [api.Link(cause)] if cause.is_valid else []
    return _recorded(api, name, attributes, "INTERNAL", Context(), links)


def request_span(
    method: str, path: str, scheme: str, headers: Mapping[str, str]
) -> AbstractContextManager[Span]:
    """Return a context manager that records the span of an HTTP request to this server.

    Its parent is the current span, such as that of a middleware, else the one that the headers name.
    """
    api = _api()
    if api is None:
        return _OFF
    from opentelemetry.propagate import extract

    known = method if method in _METHODS else "_OTHER"  # as the conventions bound the number of names
    attributes = {"http.request.method": known, "url.path": path, "url.scheme": scheme}
    parent = None if api.get_current_span().get_span_context().is_valid else extract(headers)
    return _recorded(api, "HTTP" if known == "_OTHER" else known, attributes, "SERVER", parent)


def with_context(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of an outgoing request with those that name the current span."""
    if _api() is None:
        return headers
    from opentelemetry.propagate import inject

    named = dict(headers)
    inject(named)
    return named


def _api() -> Any:
    """Return `opentelemetry.trace`; None before the application has set a provider.

    An application that has set one has imported the package, so this module never does so for others.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    return api


@functools.lru_cache(maxsize=1)
def _tracer(provider: Any) -> Any:
    return provider.get_tracer("zopo_fast", __version__)


@contextmanager
def _recorded(
    api: Any, name: str, attributes: Attributes, kind: Kind, parent: Any, links: Any = ()
) -> Iterator[Span]:
    with _tracer(api.get_tracer_provider()).start_as_current_span(
        name,
        parent,
        api.SpanKind[kind],
        _stated(attributes),
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as started:
        recorded = _RecordedSpan(api, started)
        try:
            yield recorded
        except BaseException as error:
            recorded.fail(type(error).__qualname__)
            raise


def _stated(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
