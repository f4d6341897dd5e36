"""HTTP responses: parsed into a document, or classified as a retryable or final failure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from yarl import URL

from zopo_fast.errors import (
    AuthenticationError,
    LLMError,
    MalformedAnswerError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
)
from zopo_fast.llm.answer_text import content_text
from zopo_fast.llm.model_card import origin_of
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.retry import Failure, retry_after
from zopo_fast.llm.types import stated_tokens

Vectors = np.ndarray[Any, np.dtype[np.float32]]

MAX_MALFORMED_ATTEMPTS = 4
"""Attempts of a call with complete but malformed responses. A good endpoint sends such a response now and
then; a wrong address, or a proxy in front of the endpoint, sends nothing else."""
# Statuses of gateways and proxies, which do not say whether the server behind them answered and bills.
_MAYBE_BILLED = frozenset({408, 499, 502, 504, *range(520, 528)})


@dataclass(frozen=True)
class Response:
    """HTTP response with its complete body."""

    url: URL
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Document:
    """JSON object of a response, with the endpoint and the quotation for error messages."""

    values: Mapping[str, Any]
    where: str
    quoted: str

    def malformed(self, problem: str, *, final: bool = True) -> Failure:
        """Return the failure of a response that holds this document."""
        return _malformed(self.where, problem, self.quoted, final=final)


@dataclass(frozen=True)
class ChatCompletion:
    """First choice of a chat response, with its stated token counts; None where a count is not credible."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    origin: str | None = None


@dataclass(frozen=True)
class Embeddings:
    """Vectors in the order of the texts, (count, d) float32, and the stated tokens of the texts."""

    vectors: Vectors
    prompt_tokens: int | None
    completion_tokens: int | None = 0


def read_response(response: Response, endpoint: Endpoint) -> Document | Failure:
    """Return the JSON object of a response, or its failure."""
    where = endpoint.redact(f"POST {show_url(response.url)}")
    quoted = endpoint.quote(response.body) or "nothing"
    if response.status // 100 != 2:
        return _refusal(response, endpoint, where, quoted)
    try:
        values = json.loads(response.body)
    except (ValueError, RecursionError):
        return _not_json(response, where, quoted)
    if not isinstance(values, dict):
        return _malformed(where, "the response is not a JSON object", quoted)
    return Document(values, where, quoted)


def _malformed(where: str, problem: str, quoted: str, *, final: bool = False) -> Failure:
    """Return the failure of a complete response that is billed and holds no answer."""
    message = f"{where}: {problem}. The server said: {quoted}"
    return Failure(MalformedAnswerError, message, final=final, lost=True, max_attempts=MAX_MALFORMED_ATTEMPTS)


def _refusal(response: Response, endpoint: Endpoint, where: str, quoted: str) -> Failure:
    status = response.status
    prefix, suffix = f"{where}: HTTP {status}", f"The server said: {quoted}"
    if status == 429 and b"insufficient_quota" in response.body:
        return Failure(
            RateLimitError, f"{prefix}, the account's quota is used up; top it up. {suffix}", final=True
        )
    if status in {408, 429} or status >= 500:
        error, meaning = _RETRIED.get(status, (ServerError, "the server failed; try again later"))
        lost = status in _MAYBE_BILLED
        return Failure(error, f"{prefix}, {meaning}. {suffix}", retry_after(response.headers), lost=lost)
    error, meaning = _REFUSED.get(status, (RequestRejectedError, "the endpoint refuses the request"))
    if status // 100 == 3:
        target = endpoint.quote(_location(response))
        error, meaning = (
            MalformedAnswerError,
            f"a redirect to {target}; the client follows no redirects, which would disclose the key: "
            "set base_url to the final address",
        )
    return Failure(error, f"{prefix}, {meaning}. {suffix}", final=True)


_RETRIED: Mapping[int, tuple[type[LLMError], str]] = {
    408: (RequestTimeoutError, "the endpoint timed out"),
    429: (RateLimitError, "too many requests or tokens; lower concurrency or raise max_elapsed"),
}
_REFUSED: Mapping[int, tuple[type[LLMError], str]] = {
    401: (AuthenticationError, "the endpoint refuses the key; check OPENAI_API_KEY"),
    403: (AuthenticationError, "the key may not do this; check OPENAI_API_KEY and the model's permissions"),
    404: (ModelNotFoundError, "no such model or path; check model, and that base_url includes /v1"),
    413: (RequestRejectedError, "the request is too large"),
}


def _location(response: Response) -> str:
    try:
        return show_url(response.url.join(URL(response.headers.get("Location", ""))))
    except ValueError:
        return "an invalid address"


def _not_json(response: Response, where: str, quoted: str) -> Failure:
    if response.body.lstrip()[:1] == b"<":
        problem = "the response is a web page, not JSON; check that base_url includes /v1"
        return _malformed(where, problem, quoted)
    # Without a length and without chunks a dropped connection looks like the end of the response.
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if "Content-Length" in response.headers or chunked:
        return _malformed(where, "the response is not JSON", quoted)
    message = f"{where}: the response is truncated. The server said: {quoted}"
    return Failure(MalformedAnswerError, message, lost=True)


def read_chat(document: Document) -> ChatCompletion | Failure:
    """Return the first choice of a chat response, or the failure of a response without text."""
    choices = document.values.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        # Some proxies report a failure of their upstream like this: {"error": ...} with status 200.
        problem = "the response holds no choices; check that the server is OpenAI-compatible"
        return document.malformed(problem, final=False)
    reason = first.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    message = first.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    text = content_text(content)
    if text is None:
        # Final: a content filter or too few tokens; a retry would give the same.
        return document.malformed(
            f"the response holds no text (content is {'null' if content is None else 'no text'}, "
            f"finish_reason {reason!r}); a larger max_tokens, or no tools in the body, may help"
        )
    prompt = stated_tokens(document.values, "prompt_tokens", least=1)
    completion = stated_tokens(document.values, "completion_tokens", least=1 if text else 0)
    # JSON can encode a lone surrogate, which no file or terminal accepts.
    whole = text.encode("utf-8", "replace").decode()
    return ChatCompletion(whole, reason, prompt, completion, origin_of(document.values))


def read_embeddings(document: Document, count: int) -> Embeddings | Failure:
    """Return `count` vectors, or the failure of a response that does not hold them."""
    data = document.values.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        return document.malformed(
            "the response holds no embeddings; check that the server serves /embeddings"
        )
    order = [item.get("index", place) for place, item in enumerate(data)]
    if (problem := _disorder(order, count)) is not None:
        return document.malformed(problem)
    rows = [row for item in data if (row := _vector(item.get("embedding"))) is not None]
    if len(rows) < count:
        return document.malformed("an embedding is missing or not a list of numbers")
    if len({len(row) for row in rows}) > 1:
        return document.malformed("the embeddings have different dimensions")
    vectors: Vectors = np.empty((count, len(rows[0]) if rows else 0), dtype=np.float32)
    with np.errstate(over="ignore"):
        vectors[order] = rows
    if not np.isfinite(vectors).all():
        return document.malformed("an embedding holds NaN, infinity or a number beyond float32")
    return Embeddings(vectors, stated_tokens(document.values, "prompt_tokens", least=1))


def _disorder(order: list[Any], count: int) -> str | None:
    """Return the problem with the indices of `count` embeddings; None: they are complete."""
    if len(order) != count:
        return f"the response holds {len(order)} embeddings for {count} texts"
    if any(type(index) is not int for index in order) or sorted(order) != list(range(count)):
        return f"the indices of the embeddings are not 0 to {count - 1}, each once"
    return None


def _vector(values: object) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    try:
        row = np.asarray(values)
    except ValueError:  # rows of different lengths inside
        return None
    if not isinstance(values, Sequence) or row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iuf":
        return None
    return row.astype(np.float64)
