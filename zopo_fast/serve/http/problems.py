"""What a client is told when a request fails: problem details (RFC 9457) with the typed error's name."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from zopo_fast import errors
from zopo_fast.serve.http.schemas import ProblemDetails

MEDIA_TYPE = "application/problem+json"

# The first that fits: special ones before the general.
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
_TITLES = {
    400: "Not what HTTP and JSON promise",
    401: "No valid token",
    403: "Not from here",
    404: "Nothing there",
    405: "Not with this method",
    408: "The body took too long to arrive",
    409: "Not in this state",
    413: "Too large",
    415: "Not JSON",
    422: "Not usable",
    429: "Too many",
    500: "A fault of the server",
    502: "The model failed",
    503: "Not now",
    504: "The model took too long",
    507: "No room left",
}


class Problem(Exception):  # noqa: N818 - an answer, which no caller outside the server sees
    """A request that is answered with a problem: its status, the error's name, and a sentence."""

    def __init__(
        self, status: int, error: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail = status, error, detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The problem document."""
        details = ProblemDetails(
            type=f"urn:zopo-fast:{self.error}",
            title=_TITLES[self.status],
            status=self.status,
            detail=self.detail,
            error=self.error,
        )
        return msgspec.json.encode(details)


def problem_of(error: errors.ZopoError) -> Problem:
    """The answer to a request that raised a typed error."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": "1"} if status in (429, 503, 507) else None
    # What a study's text holds may be half a character, which UTF-8 has no bytes for.
    detail = str(error).encode("utf-8", "backslashreplace").decode()
    return Problem(status, type(error).__name__, detail, headers)


def not_found(what: str) -> Problem:
    """404: no such study, job or path."""
    return Problem(404, "NotFound", f"there is no {what}")
