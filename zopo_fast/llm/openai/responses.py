"""What an HTTP answer means: a document to read, a failure worth repeating, or one that is not."""

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
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.retry import Failure, retry_after
from zopo_fast.llm.types import stated_tokens

Vectors = np.ndarray[Any, np.dtype[np.float32]]

MAX_MALFORMED_ATTEMPTS = 4
"""Attempts of a call whose answers come whole and are useless: now and then a good endpoint sends one, a
wrong address or a proxy in front of it sends nothing else."""
# Of a gateway or a proxy: what the server behind it did, and bills, they do not say.
_UNKNOWN_BEHIND = frozenset({408, 499, 502, 504, *range(520, 528)})


@dataclass(frozen=True)
class Response:
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

    def malformed(self, problem: str, *, final: bool = True) -> Failure:
        """Return the failure of an answer that is this document."""
        return _useless(f"{self.where}: {problem}. It said: {self.quoted}", final=final)


@dataclass(frozen=True)
class ChatCompletion:
    """The first choice of a chat's answer, and the tokens it states; None where they cannot be believed."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Embeddings:
    """Vectors in the order of the texts, (count, d) float32, and the tokens of the texts where stated."""

    vectors: Vectors
    prompt_tokens: int | None
    completion_tokens: int | None = 0


def read_response(response: Response, endpoint: Endpoint) -> Document | Failure:
    """Return the response's JSON object, or what is wrong with it."""
    where = endpoint.redact(f"POST {show_url(response.url)}")
    quoted = endpoint.quote(response.body) or "nothing"
    if response.status // 100 != 2:
        return _refusal(response, endpoint, where, quoted)
    try:
        values = json.loads(response.body)
    except (ValueError, RecursionError):
        return _not_json(response, where, quoted)
    if not isinstance(values, dict):
        return _useless(f"{where}: the answer is not a JSON object. It said: {quoted}")
    return Document(values, where, quoted)


def _useless(message: str, *, final: bool = False) -> Failure:
    """An answer that came whole, is billed and is of no use."""
    return Failure(MalformedAnswerError, message, final=final, lost=True, most=MAX_MALFORMED_ATTEMPTS)


def _refusal(response: Response, endpoint: Endpoint, where: str, quoted: str) -> Failure:
    status = response.status
    said = f"{where}: HTTP {status}"
    told = f"It said: {quoted}"
    if status == 429 and b"insufficient_quota" in response.body:
        return Failure(
            RateLimitError, f"{said}, the account's quota is used up; top it up. {told}", final=True
        )
    if status in {408, 429} or status >= 500:
        error, meaning = _REPEATED.get(status, (ServerError, "the server failed; try again later"))
        lost = status in _UNKNOWN_BEHIND
        return Failure(error, f"{said}, {meaning}. {told}", retry_after(response.headers), lost=lost)
    error, meaning = _REFUSED.get(status, (RequestRejectedError, "the endpoint refuses the request"))
    if status // 100 == 3:
        target = endpoint.quote(_location(response))
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


def _location(response: Response) -> str:
    try:
        return show_url(response.url.join(URL(response.headers.get("Location", ""))))
    except ValueError:
        return "an address that cannot be read"


def _not_json(response: Response, where: str, quoted: str) -> Failure:
    if response.body.lstrip()[:1] == b"<":
        problem = "the answer is a web page, not JSON; check that base_url includes /v1"
        return _useless(f"{where}: {problem}. It said: {quoted}")
    # With neither a length nor chunks a dropped connection looks like the answer's end.
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if "Content-Length" in response.headers or chunked:
        return _useless(f"{where}: the answer is not JSON. It said: {quoted}")
    return Failure(MalformedAnswerError, f"{where}: the answer breaks off. It said: {quoted}", lost=True)


def read_chat(document: Document) -> ChatCompletion | Failure:
    """Return the first choice of a chat's answer, or the failure of one that has no text."""
    choices = document.values.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        # An upstream's failure is told like this too, as {"error": ...} with status 200.
        problem = "the answer holds no choices; is this an OpenAI-compatible server?"
        return document.malformed(problem, final=False)
    reason = first.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        # Final: a filter, or too few tokens, and both would be the same again.
        return document.malformed(
            f"the answer holds no text (content is {'null' if text is None else 'no string'}, finish_reason "
            f"{reason!r}); a larger max_tokens, or no tools in the body, may help"
        )
    prompt = stated_tokens(document.values, "prompt_tokens", least=1)
    completion = stated_tokens(document.values, "completion_tokens", least=1 if text else 0)
    # JSON can spell half a surrogate pair, which no file or terminal takes.
    return ChatCompletion(text.encode("utf-8", "replace").decode(), reason, prompt, completion)


def read_embeddings(document: Document, count: int) -> Embeddings | Failure:
    """Return `count` vectors, or the failure of an answer that does not hold them."""
    data = document.values.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        return document.malformed("the answer holds no embeddings; does this server serve /embeddings?")
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
    """Return what is wrong with the indices of `count` embeddings."""
    if len(order) != count:
        return f"{len(order)} embeddings came back for {count} texts"
    if any(type(index) is not int for index in order) or sorted(order) != list(range(count)):
        return f"the embeddings' indices are not 0 to {count - 1}, each once"
    return None


def _vector(values: object) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    try:
        row = np.asarray(values)
    except ValueError:  # rows of different lengths inside
        return None
    if not isinstance(values, Sequence) or row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iuf":
        return None
    return row.astype(np.float64)
