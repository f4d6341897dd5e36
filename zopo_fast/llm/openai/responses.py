"""HTTP responses: parsed into a document, or classified as a retryable or final failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarl import URL

from zopo_fast.errors import MalformedAnswerError, RequestTimeoutError
from zopo_fast.llm.answer_text import content_text
from zopo_fast.llm.finish_reasons import ending_of
from zopo_fast.llm.model_card import origin_of
from zopo_fast.llm.openai.config import KEY_ENV
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.refusals.error_body import parse_error
from zopo_fast.llm.openai.refusals.kinds import kind_of, status_of
from zopo_fast.llm.openai.refusals.stated_wait import stated_wait
from zopo_fast.llm.openai.retry import MAX_TIMEOUTS, Failure
from zopo_fast.llm.types import stated_completion_tokens, stated_tokens

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

    def malformed(self, problem: str, code: str = "malformed", *, final: bool = True) -> Failure:
        """Return the failure of a response that holds this document."""
        return malformed(self.where, problem, self.quoted, code, final=final)


@dataclass(frozen=True)
class ChatCompletion:
    """First choice of a chat response, with its stated token counts; None where a count is not credible."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    origin: str | None = None

    @property
    def span_attributes(self) -> dict[str, Any]:
        """Attributes of the call's span."""
        return {
            "gen_ai.response.model": json.loads(self.origin)[0] if self.origin else None,
            "gen_ai.response.finish_reasons": None if self.finish_reason is None else [self.finish_reason],
            "gen_ai.usage.input_tokens": self.prompt_tokens,
            "gen_ai.usage.output_tokens": self.completion_tokens,
        }


def read_response(
    response: Response, endpoint: Endpoint, sent: Mapping[str, Any] | None = None
) -> Document | Failure:
    """Return the JSON object of a response, or its failure.

    Args:
        response: the response.
        endpoint: redacts the messages.
        sent: parameters of the request, which an error may name.
    """
    where = endpoint.redact(f"POST {show_url(response.url)}")
    quoted = endpoint.quote(response.body) or "nothing"
    status = error_status(response)
    if status is not None:
        stated = "" if status == response.status else f" with an error of status {status}"
        where = f"{where}: HTTP {response.status}{stated}"
        return _refusal(response, status, endpoint, where, quoted, sent or {})
    try:
        values = json.loads(response.body)
    except (ValueError, RecursionError):
        return _not_json(response, where, quoted)
    if not isinstance(values, dict):
        return malformed(where, "the response is not a JSON object", quoted, "not_json")
    return Document(values, where, quoted)


def error_status(response: Response) -> int | None:
    """Return the status of a refusal; None for a response with an answer, or with no telling error.

    Proxies report a failure of their upstream with status 200 and {"error": ...}.
    """
    if response.status // 100 != 2:
        return response.status
    # Whitespace keeps the connection alive while the upstream works.
    if b'"error"' not in response.body.lstrip()[:_ERROR_PREFIX]:
        return None
    try:
        values = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    error: Any = values.get("error")
    choices = values.get("choices")
    if not error and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        error = choices[0].get("error")  # OpenRouter: the upstream failed while it wrote this choice
        choices = None
    return None if not error or choices or values.get("data") else status_of(parse_error({"error": error}))


def malformed(where: str, problem: str, quoted: str, code: str, *, final: bool = False) -> Failure:
    """Return the failure of a complete response that is billed and holds no answer."""
    return Failure(
        MalformedAnswerError,
        f"{where}: {problem}. The server said: {quoted}",
        final=final,
        lost=True,
        max_attempts=MAX_MALFORMED_ATTEMPTS,
        concerns="call" if code in _OF_THE_CALL else "endpoint",
        code=code,
        is_outage=code not in _OF_THE_CALL and not final,
    )


_ERROR_PREFIX = 4096
_FAILED = "generation_failed"
_OF_THE_CALL = frozenset(
    {"no_choices", "no_text", "refusal", "content_filter", "prompt_blocked", "malformed_output", _FAILED}
)


def _refusal(
    response: Response, status: int, endpoint: Endpoint, where: str, quoted: str, sent: Mapping[str, Any]
) -> Failure:
    suffix = f"The server said: {quoted}"
    if status // 100 == 3:
        target = endpoint.quote(_location(response))
        problem = (
            f"a redirect to {target}; the client follows no redirects, which would disclose the key: "
            "set base_url to the final address"
        )
        message = f"{where}, {problem}. {suffix}"
        return Failure(MalformedAnswerError, message, final=True, concerns="endpoint", code=f"HTTP {status}")
    error = parse_error(response.body)
    kind = kind_of(status, error, sent)
    wait = None if kind.is_final else stated_wait(response.headers, error)
    return Failure(
        kind.error,
        f"{where}, {kind.meaning.replace(KEY_ENV, endpoint.key_name)}. {suffix}",
        wait=wait,
        final=kind.is_final,
        lost=status in _MAYBE_BILLED or response.status // 100 == 2,
        max_attempts=MAX_TIMEOUTS if kind.error is RequestTimeoutError else None,
        concerns=kind.concerns,
        code=kind.code,
        is_outage=kind.is_outage,
    )


def _location(response: Response) -> str:
    try:
        return show_url(response.url.join(URL(response.headers.get("Location", ""))))
    except ValueError:
        return "an invalid address"


def undecoded(where: str, coding: str) -> Failure:
    """Return the failure of a response in a content coding that is not decodable here."""
    package = "backports.zstd" if coding.lower().startswith("zst") else "brotli"
    problem = (
        f"the response is compressed ({coding}), although the client did not ask for it, and no package here "
        f"decodes it: run pip install {package}"
    )
    message, code = f"{where}: {problem}", "content_encoding"
    return Failure(MalformedAnswerError, message, final=True, lost=True, concerns="endpoint", code=code)


_DECODED = frozenset({"", "identity", "gzip", "deflate"})


def _not_json(response: Response, where: str, quoted: str) -> Failure:
    coding = response.headers.get("Content-Encoding", "").lower()
    if coding not in _DECODED:  # aiohttp passes a coding that it does not know
        return undecoded(where, coding)
    if response.body.lstrip()[:1] == b"<":
        problem = "the response is a web page, not JSON; check that base_url includes /v1"
        return malformed(where, problem, quoted, "web_page")
    # Without a length and without chunks a dropped connection looks like the end of the response.
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if "Content-Length" in response.headers or chunked:
        return malformed(where, "the response is not JSON", quoted, "not_json")
    message = f"{where}: the response is truncated. The server said: {quoted}"
    return Failure(MalformedAnswerError, message, lost=True, is_outage=True, code="truncated")


def read_chat(document: Document) -> ChatCompletion | Failure:
    """Return the first choice of a chat response, or the failure of a response without text."""
    choices = document.values.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        if (reason := _blocked(document.values)) is not None:
            return document.malformed(f"the provider blocks this prompt ({reason})", "prompt_blocked")
        problem = "the response holds no choices; check that the server is OpenAI-compatible"
        code = "no_choices" if _is_chat(document.values) else "no_chat_completion"
        return document.malformed(problem, code, final=False)
    reason = first.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    message = first.get("message")
    message = message if isinstance(message, dict) else {}
    # Old completion servers have no message.
    content = message.get("content") if message else first.get("text")
    text = content_text(content)
    if (problem_and_code := _withheld(text, reason, message) or _no_text(text, reason, message)) is not None:
        # Final, except where the provider failed: a retry would give the same.
        return document.malformed(*problem_and_code, final=problem_and_code[1] != _FAILED)
    text = text or ""
    prompt = stated_tokens(document.values, "prompt_tokens", least=1)
    completion = stated_completion_tokens(document.values, least=1 if text else 0)
    # JSON can encode a lone surrogate, which no file or terminal accepts.
    whole = text.encode("utf-8", "replace").decode()
    return ChatCompletion(whole, reason, prompt, completion, origin_of(document.values))


def _is_chat(values: Mapping[str, Any]) -> bool:
    """Return whether a response without choices comes from a chat endpoint; another service knows no sign."""
    signs = (
        values.get("error"),
        values.get("usage"),
        values.get("model"),
    )  # a proxy states an upstream's error
    return isinstance(values.get("choices"), list) or any(signs) or values.get("object") == "chat.completion"


def _withheld(text: str | None, reason: str | None, message: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return problem and code of an answer that is withheld, broken or failed, else None."""
    stated = f"(finish_reason {reason!r})"
    ending = ending_of(reason)
    is_refusal = not text and _refusal_text(message)
    if is_refusal or (ending == "withheld" and "refus" in (reason or "").lower()):
        return f"the model refuses to answer {stated}", "refusal"
    if ending == "withheld":
        return f"the provider's content filter withholds the answer {stated}", "content_filter"
    if ending == "broken":
        return f"the model wrote a malformed answer {stated}", "malformed_output"
    if ending == "failed":
        return f"the provider failed while it wrote the answer {stated}", _FAILED
    return None


def _no_text(text: str | None, reason: str | None, message: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return problem and code of an answer without text, else None."""
    if text is not None and text.strip():
        return None
    ending = ending_of(reason)
    if ending != "cut" and _has_reasoning(message):
        return (
            f"the response holds reasoning and no text (finish_reason {reason!r}): raise max_tokens, "
            "--max-tokens on the command line",
            "no_text",
        )
    # Empty text at a regular end is an answer, and at a cut it may be cut inside hidden reasoning.
    if text is not None and ending in ("regular", "cut") and not _has_tool_calls(message):
        return None
    content = "empty" if text is not None else "null" if message.get("content") is None else "no text"
    return (
        f"the response holds no text (content is {content}, finish_reason {reason!r}); a larger max_tokens, "
        "or no tools in the body, may help",
        "no_text",
    )


def _has_reasoning(message: Mapping[str, Any]) -> bool:
    fields = (
        message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details", "thinking")
    )
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    kinds = (part.get("type") for part in parts if isinstance(part, Mapping))
    return any(fields) or any(kind in ("reasoning", "thinking") for kind in kinds)


def _has_tool_calls(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _blocked(values: Mapping[str, Any]) -> str | None:
    """Return why a response without choices was blocked; None where it does not say so."""
    for name in ("promptFeedback", "prompt_feedback"):
        feedback = values.get(name)
        if isinstance(feedback, Mapping):
            reason = feedback.get("blockReason", feedback.get("block_reason"))
            return str(reason) if reason else None
    results = values.get("prompt_filter_results")  # Azure
    return "prompt_filter_results" if '"filtered": true' in json.dumps(results) else None


def _refusal_text(message: Mapping[str, Any]) -> bool:
    """Return whether a message holds a refusal instead of content."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    refusals = [message.get("refusal"), *(part.get("refusal") for part in parts if isinstance(part, dict))]
    return any(isinstance(refusal, str) and refusal for refusal in refusals)
