"""What an HTTP answer means: a document to read, a failure worth repeating, or one that is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from yarl import URL

from .endpoint import Endpoint, show_url
from .errors import (
    AuthenticationError,
    LLMError,
    MalformedAnswerError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
)
from .retry import Failure, retry_after

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, read whole."""

    url: URL
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Document:
    """A JSON object the endpoint answered with, and how to speak of it in an error."""

    values: Mapping[str, Any]
    where: str
    quoted: str

    def malformed(self, problem: str) -> MalformedAnswerError:
        """Return the error to raise for what is wrong with this document."""
        return MalformedAnswerError(f"{self.where}: {problem}. It said: {self.quoted}")


def judge(reply: Reply, endpoint: Endpoint) -> Document | Failure:
    """Return the reply's JSON object, or what is wrong with it."""
    where = endpoint.redact(f"POST {show_url(reply.url)}")
    quoted = endpoint.quote(reply.body) or "nothing"
    if reply.status // 100 != 2:
        return _refusal(reply, endpoint, where, quoted)
    try:
        values = json.loads(reply.body)
    except (ValueError, RecursionError):
        return _not_json(reply, where, quoted)
    if not isinstance(values, dict):
        return Failure(
            MalformedAnswerError, f"{where}: the answer is not a JSON object. It said: {quoted}", final=True
        )
    return Document(values, where, quoted)


def _refusal(reply: Reply, endpoint: Endpoint, where: str, quoted: str) -> Failure:
    status = reply.status
    said = f"{where}: HTTP {status}"
    told = f"It said: {quoted}"
    if status == 429 and b"insufficient_quota" in reply.body:
        return Failure(
            RateLimitError, f"{said}, the account's quota is used up; top it up. {told}", final=True
        )
    if status in {408, 429} or status >= 500:
        error, meaning = _REPEATED.get(status, (ServerError, "the server failed; try again later"))
        return Failure(error, f"{said}, {meaning}. {told}", retry_after(reply.headers))
    error, meaning = _REFUSED.get(status, (RequestRejectedError, "the endpoint refuses the request"))
    if status // 100 == 3:
        target = endpoint.quote(_location(reply))
        error, meaning = (
            MalformedAnswerError,
            f"it redirects to {target}; redirects are not followed, the key would travel along: "
            "set base_url to the final address",
        )
    return Failure(error, f"{said}, {meaning}. {told}", final=True)


_REPEATED: Mapping[int, tuple[type[LLMError], str]] = {
    408: (RequestTimeoutError, "the endpoint gave up waiting"),
    429: (RateLimitError, "too many requests or tokens; lower concurrency or raise max_elapsed"),
}
_REFUSED: Mapping[int, tuple[type[LLMError], str]] = {
    401: (AuthenticationError, "the endpoint refuses the key; check OPENAI_API_KEY"),
    403: (AuthenticationError, "the key may not do this; check OPENAI_API_KEY and the model's permissions"),
    404: (ModelNotFoundError, "no such model or path; check model, and that base_url includes /v1"),
    413: (RequestRejectedError, "the request is too large"),
}


def _location(reply: Reply) -> str:
    try:
        return show_url(reply.url.join(URL(reply.headers.get("Location", ""))))
    except ValueError:
        return "an address that cannot be read"


def _not_json(reply: Reply, where: str, quoted: str) -> Failure:
    if reply.body.lstrip()[:1] == b"<":
        problem = "the answer is a web page, not JSON; check that base_url includes /v1"
        return Failure(MalformedAnswerError, f"{where}: {problem}. It said: {quoted}", final=True)
    # With neither a length nor chunks a dropped connection looks like the answer's end.
    chunked = "chunked" in reply.headers.get("Transfer-Encoding", "").lower()
    cut = "Content-Length" not in reply.headers and not chunked
    problem = "the answer breaks off" if cut else "the answer is not JSON"
    return Failure(MalformedAnswerError, f"{where}: {problem}. It said: {quoted}", final=not cut)


def read_chat(document: Document) -> tuple[str, str | None]:
    """Return text and finish reason of the first choice; raises `MalformedAnswerError` without a text."""
    choices = document.values.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        raise document.malformed("the answer holds no choices; is this an OpenAI-compatible server?")
    reason = first.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise document.malformed(
            f"the answer holds no text (content is {'null' if text is None else 'no string'}, finish_reason "
            f"{reason!r}); a larger max_tokens, or no tools in the body, may help"
        )
    # JSON can spell half a surrogate pair, which no file or terminal takes.
    return text.encode("utf-8", "replace").decode(), reason


def read_embeddings(document: Document, count: int) -> Vectors:
    """Return the vectors in the order of the texts, (count, d) float32; raises `MalformedAnswerError`."""
    data = document.values.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise document.malformed("the answer holds no embeddings; does this server serve /embeddings?")
    if len(data) != count:
        raise document.malformed(f"{len(data)} embeddings came back for {count} texts")
    order = [item.get("index", place) for place, item in enumerate(data)]
    if any(type(index) is not int for index in order) or sorted(order) != list(range(count)):
        raise document.malformed(f"the embeddings' indices are not 0 to {count - 1}, each once")
    rows = [_vector(item.get("embedding"), document) for item in data]
    if len({len(row) for row in rows}) > 1:
        raise document.malformed("the embeddings have different dimensions")
    vectors: Vectors = np.empty((count, len(rows[0])), dtype=np.float32)
    with np.errstate(over="ignore"):
        vectors[order] = rows
    if not np.isfinite(vectors).all():
        raise document.malformed("an embedding holds NaN, infinity or a number beyond float32")
    return vectors


def _vector(values: object, document: Document) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        row = np.asarray(values)
    except ValueError:  # rows of different lengths inside
        row = np.empty(0)
    if not isinstance(values, Sequence) or row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iuf":
        raise document.malformed("an embedding is missing or not a list of numbers")
    return row.astype(np.float64)
