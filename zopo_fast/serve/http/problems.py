"""Problem details (RFC 9457): the response to a request that failed."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from zopo_fast import errors
from zopo_fast.serve.http.schemas import ProblemDetails

MEDIA_TYPE = "application/problem+json"

# The first match counts: a subclass stands before its base class.
_STATUS: tuple[tuple[type[errors.ZopoError], int], ...] = (
    (errors.ConflictingScoreError, 409),
    (errors.EmbeddingMismatchError, 409),
    (errors.StudyMismatchError, 409),
    (errors.NothingToAsk, 409),
    (errors.UnknownIndexError, 422),
    (errors.InputError, 422),
    (errors.LimitReachedError, 429),
    (errors.StoreFullError, 507),
    (errors.StoreError, 503),
    (errors.OutputError, 507),
    (errors.MissingDependencyError, 503),
    (errors.RequestTimeoutError, 504),
    (errors.LLMError, 502),
)


class Problem(Exception):  # noqa: N818 - becomes a response; callers outside the server never see it
    """Failure of a request, to be sent as problem details.

    Args:
        status: HTTP status code.
        error: name of the error, stable across releases: programs compare it.
        detail: one sentence: what was wrong, where, and what to do.
        headers: additional response headers.
    """

    def __init__(
        self, status: int, error: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail = status, error, detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Encode the problem document as JSON."""
        details = ProblemDetails(
            type=f"urn:zopo-fast:{self.error}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            error=self.error,
        )
        return msgspec.json.encode(details)

    def response(self) -> web.Response:
        """Build the HTTP response."""
        headers = {"Content-Type": MEDIA_TYPE, **self.headers}
        return web.Response(status=self.status, body=self.body(), headers=headers)


def problem_from(error: errors.ZopoError) -> Problem:
    """Translate a typed error of the package to the problem that reports it."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": "1"} if status in (429, 503, 507) else None
    # A message can quote a study's text with a lone surrogate, which UTF-8 cannot encode.
    detail = str(error).encode("utf-8", "backslashreplace").decode()
    return Problem(status, type(error).__name__, detail, headers)


def not_found(what: str) -> Problem:
    """Build the 404 for a study, job or path that does not exist."""
    return Problem(404, "NotFound", f"{what} does not exist")
