"""Kinds of refusals: whom an error of a provider concerns, by its code first and its status second.

| kind | recognised by | concerns | retried |
|---|---|---|---|
| content | codes such as content_filter, a message about moderation or policy, 451 | the call | no |
| length | codes such as context_length_exceeded, messages of vLLM, llama.cpp, Ollama | the call | no |
| quota | codes such as insufficient_quota, 402 | the account | no |
| key | codes such as invalid_api_key, 401, 403 | the account | no |
| model | codes such as model_not_found, 404 | the endpoint | no |
| field | an error that names a parameter of the body, since every call has it | the endpoint | no |
| rate | rate-limit codes, 429 | the account | yes |
| outage | overload codes, 408, 5xx | the endpoint, or the call if other calls are answered | yes |
| other | any other 4xx | the call | no |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import (
    AuthenticationError,
    LLMError,
    ModelNotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
)
from zopo_fast.llm.openai.refusals.error_body import ErrorBody

if TYPE_CHECKING:
    from zopo_fast.errors import Concern


@dataclass(frozen=True)
class Kind:
    """Kind of a refusal.

    Attributes:
        error: Class of the error.
        meaning: Part of the error's message.
        concerns: Whom the refusal concerns.
        code: Short reason.
        is_final: A retry cannot help.
        is_outage: A lasting failure concerns the call if other calls are answered meanwhile.
    """

    error: type[LLMError]
    meaning: str
    concerns: Concern
    code: str
    is_final: bool = True
    is_outage: bool = False


_CONTENT_CODES = re.compile(
    r"content_?filter\w*|content_?policy\w*|responsibleai\w*|\w*moderation\w*|safety|recitation|"
    r"prompt_?blocked|blocked|blocklist|prohibited_content|spii|content_?blocked|invalid_prompt|"
    r"data_?inspection_?failed|\w*policy_?violation\w*|sensitive\w*|jailbreak|flagged|content_violation"
)
_CONTENT_TEXT = re.compile(
    r"content management policy|content[ _]filter|content polic|usage polic|flagged|moderation|"
    r"safety (?:system|setting|reason|filter)|content exists risk|inappropriate content|"
    r"blocked by (?:the )?(?:safety|content)|responsible ai|prohibited content|sensitive (?:words|content)|"
    r"violat\w+ [\w ]{0,30}(?:polic|guideline)",
    re.IGNORECASE,
)
_LENGTH_CODES = re.compile(
    r"context_(?:length|window)_exceeded\w*|exceed_context_size\w*|string_above_max_length|string_too_long|"
    r"request_too_large|prompt_too_long|input_too_long|tokens_limit_reached|\w*max_prompt_tokens\w*|"
    r"token_limit_exceeded|context_too_long"
)
_LENGTH_TEXT = re.compile(
    r"context[ _]?(?:length|window|size|limit)|maximum (?:model|input|prompt|sequence|context) length|"
    r"(?:prompt|input|request|message)s? (?:is|are) too (?:long|large)|prompt too long|"
    r"input token count|reduce the length|too large for model with|max_?model_?len|"
    r"must have less than \d+ tokens|`?max_new_tokens`? must be|maximum number of (?:input )?tokens|"
    r"(?:input|prompt) length .{0,40}exceeds|request too large for|context the overflows|"
    r"too many tokens|exceeds? the (?:maximum|max)\w* (?:number of )?(?:input )?tokens|longer than the model",
    re.IGNORECASE,
)
_CUT_TEXT = re.compile(r"max_(?:completion_)?tokens or model output limit was reached", re.IGNORECASE)
_QUOTA_CODES = re.compile(
    r"insufficient_\w*(?:quota|balance|credits?|funds)|billing\w*|account_?(?:deactivated|suspended)|"
    r"payment_required|credits?_exhausted|arrearage|budget_exceeded"
)
_QUOTA_TEXT = re.compile(
    r"insufficient_quota|credit balance|insufficient (?:balance|credits|funds|quota)|"
    r"(?:more|out of|enough) credits|billing (?:hard limit|not active)",
    re.IGNORECASE,
)
_KEY_CODES = re.compile(
    r"(?:invalid|incorrect|missing|expired)_api_?key|api_?key_(?:invalid|expired)|authentication_error|"
    r"invalid_authentication\w*|unauthenticated|unauthorized"
)
_KEY_TEXT = re.compile(
    r"api key not valid|(?:invalid|incorrect|missing|expired) api[ -]?key|no auth credentials", re.IGNORECASE
)
_MODEL_CODES = re.compile(
    r"\w*model_?not_?(?:found|available|supported|exist)\w*|deployment_?not_?found|unknown_model|"
    r"invalid_model\w*|no_such_model|model_decommissioned|model_terms_required|operation_?not_?supported"
)
_MODEL_TEXT = re.compile(
    r"not a valid model|invalid model\b|model \S+ (?:does not exist|not found|is not supported)|"
    r"the model .{1,80} has been decommissioned|no such model|unknown model|model_not_found|"
    r"no models? loaded|not a chat model|does not support chat|chat template",
    re.IGNORECASE,
)
_RATE_CODES = re.compile(
    r"rate_?limit\w*|too_?many_?requests|resource_?exhausted|throttl[\w.]+|limit_requests|limit_tokens|"
    r"tokens_per_\w+|requests_per_\w+"
)
_OVERLOAD_CODES = re.compile(r"overloaded\w*|server_overloaded|engine_overloaded\w*|unavailable")
_SERVER_CODES = re.compile(r"api_error|server_error|internal(?:_server)?_?error|upstream_error")
_FIELD_CODES = re.compile(
    r"un(?:supported|known|recognized)_(?:parameter|value|field|argument)|extra_forbidden|invalid_parameter\w*"
)
_FIELD_TEXT = re.compile(
    r"un(?:supported|known|recogni[sz]ed|expected)|invalid|extra (?:inputs|data)|not (?:a )?recogni[sz]ed|"
    r"not (?:supported|permitted|allowed|accept\w*|available)|deprecated|cannot (?:be|both) |only |"
    r"(?:does not|doesn't|don't|cannot) (?:support|accept)|must (?:be|have)|should be|range of|out of range|"
    r"cannot find field|maximum allowed|at the same time|too (?:large|small|high|low)",
    re.IGNORECASE,
)
_ROLE_TEXT = re.compile(
    r"system role (?:is )?not supported|"
    r"(?:role|'?system'?|developer).{0,40}(?:does not support|not supported)|"
    r"does not support '?(?:system|developer)|roles must alternate",
    re.IGNORECASE,
)
_DATA_PARAMS = re.compile(r"(?:messages|input|prompt|contents?)(?:$|[.\[])")

QUOTA_HELP = "the account's quota is used up; top it up"


def kind_of(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind:
    """Return the kind of a refusal.

    Args:
        status: HTTP status.
        error: error of the response body.
        body: parameters of the request, which the error may name.
    """
    for rule in (_by_content, _by_length, _by_account, _by_model, _by_field):
        if (kind := rule(status, error, body)) is not None:
            return kind
    return _by_status(status, error)


def _code(error: ErrorBody, pattern: re.Pattern[str]) -> str | None:
    """Return the first code of the error that matches in full."""
    return next((code for code in error.codes if pattern.fullmatch(code)), None)


def _rejected(status: int, error: ErrorBody, meaning: str, code: str) -> Kind:
    return Kind(RequestRejectedError, meaning, "call", code)


def _by_content(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 403, 406, 422, 451) and not 500 <= status < 600:
        return None
    meaning = "the provider's content filter refuses this input"
    if (code := _code(error, _CONTENT_CODES)) is not None:
        return _rejected(status, error, meaning, code)
    if status >= 500:  # the text of a server that fails may mention anything
        return None
    reasons = error.value("reasons", "flagged_input")  # OpenRouter's moderation
    if status == 451 or reasons is not None:
        return _rejected(status, error, meaning, "moderation")
    filtered = error.value("content_filter_result", "content_filter_results", "contentFilter")
    if filtered or _CONTENT_TEXT.search(error.message):
        return _rejected(status, error, meaning, "content_filter")
    return None


def _by_length(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 413, 422, 429) and not 500 <= status < 600:
        return None
    if status != 429 and _CUT_TEXT.search(error.message):
        return _rejected(status, error, "the answer was cut at its limit; raise max_tokens", "length")
    meaning = "the prompt is too long for the model; shorten it or raise the server's context"
    code = _code(error, _LENGTH_CODES)
    if code is None and status in (413, 429) and re.search(r"request too large for", error.message, re.I):
        code = "request_too_large"  # one request alone exceeds the tokens per minute
    if code is None and status != 429 and _LENGTH_TEXT.search(error.message):
        code = "context_length_exceeded"
    if code is None:
        return None
    if code.startswith(("exceed_context", "context_")):
        code = "context_length_exceeded"
    return _rejected(status, error, meaning, code)


def _by_account(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status >= 500:
        return None
    quota = _code(error, _QUOTA_CODES)
    if quota is None and _QUOTA_TEXT.search(error.message):
        quota = (
            "insufficient_quota" if "insufficient_quota" in error.message.lower() else "insufficient_funds"
        )
    if quota is not None or status == 402:
        kind = RateLimitError if status == 429 else AuthenticationError if status in (401, 403) else None
        return Kind(
            kind or RequestRejectedError, QUOTA_HELP, "account", quota or _first_code(error) or "HTTP 402"
        )
    key = _code(error, _KEY_CODES)
    if key is None and status == 400 and _KEY_TEXT.search(error.message):
        key = "invalid_api_key"
    if key is not None and status in (400, 401, 403):
        return Kind(AuthenticationError, "the endpoint refuses the key; check OPENAI_API_KEY", "account", key)
    return None


def _by_model(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 403, 404, 410, 422):
        return None
    code = _code(error, _MODEL_CODES)
    if code is None and (status == 404 or "model" in error.params or _MODEL_TEXT.search(error.message)):
        code = _first_code(error) or ("HTTP 404" if status == 404 else "model_not_found")
    if code is None:
        return None
    meaning = "no such model or path; check model, and that base_url includes /v1"
    return Kind(ModelNotFoundError, meaning, "endpoint", code)


def _by_field(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 422):
        return None
    if _ROLE_TEXT.search(error.message):
        meaning = "the model does not take these roles; choose another template, such as --template user"
        return Kind(RequestRejectedError, meaning, "endpoint", _first_code(error) or "unsupported_role")
    field = refused_field(error, body)
    if field is None:
        return None
    option = _OPTIONS.get(field, "")
    meaning = (
        f"the endpoint refuses {field!r} in the request; set another value in {option}the body, "
        f'or leave it out with {{"{field}": "unset"}} in the body (--body)'
    )
    return Kind(RequestRejectedError, meaning, "endpoint", _code(error, _FIELD_CODES) or "refused_field")


_OPTIONS = {"temperature": "--temperature or ", "max_tokens": "--max-tokens or "}


def refused_field(error: ErrorBody, body: Mapping[str, Any]) -> str | None:
    """Return the parameter of `body` that the error refuses by its `param` or in its message; None: none."""
    for param in error.params:
        name = re.split(r"[.\[]", param)[0]
        if name in body and not _DATA_PARAMS.match(param):
            return name
    # An error about the messages may quote any word of them.
    if any(_DATA_PARAMS.match(param) for param in error.params):
        return None
    if not (_code(error, _FIELD_CODES) or _FIELD_TEXT.search(error.message)):
        return None
    names = (name for name in sorted(body, key=len, reverse=True) if not _DATA_PARAMS.match(name))
    return next((name for name in names if _names(error.message, name)), None)


def mentioned_field(status: int, error: ErrorBody, names: Collection[str]) -> str | None:
    """Return one of `names` that a refusal mentions; None also for a refusal of another kind."""
    if any(_DATA_PARAMS.match(param) for param in error.params):
        return None
    if any(rule(status, error, {}) is not None for rule in (_by_content, _by_length, _by_account, _by_model)):
        return None
    params = {re.split(r"[.\[]", param)[0] for param in error.params}
    mentioned = (n for n in names if re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", error.message))
    return next((name for name in names if name in params), next(mentioned, None))


def _names(message: str, name: str) -> bool:
    """Return whether a message names a parameter, quoted or where a plain word can only be its name."""
    escaped = re.escape(name)
    if re.search(rf"['\"`\u2018\u201c\[]{escaped}['\"`\u2019\u201d\]]", message):
        return True
    if "_" in name:
        return re.search(rf"(?<![\w-]){escaped}(?![\w-])", message) is not None
    before = r"(?:^|[.:;,(]\s*|(?:parameter|argument|field|invalid|propert\w+)s?:?\s+)"
    after = r"(?=\s*[=:,]|\s+(?:parameter|field|value|is|may|must|can|should|has|was)\b)"
    pattern = rf"{before}{escaped}(?![\w-])|(?<![\w-]){escaped}{after}"
    return re.search(pattern, message, re.IGNORECASE) is not None


def _by_status(status: int, error: ErrorBody) -> Kind:
    first = _first_code(error) or f"HTTP {status}"
    if status == 429 or (status < 500 and _code(error, _RATE_CODES) is not None):
        meaning = "too many requests or tokens; lower concurrency or raise max_elapsed (--max-wait)"
        return Kind(RateLimitError, meaning, "account", first, is_final=False)
    if status == 408:
        return Kind(
            RequestTimeoutError,
            "the endpoint timed out",
            "endpoint",
            "HTTP 408",
            is_final=False,
            is_outage=True,
        )
    if status in _NOT_IMPLEMENTED:
        return Kind(ServerError, "the server does not support this request", "endpoint", first)
    if status >= 500 or _code(error, _OVERLOAD_CODES) is not None:
        meaning = "the server failed; try again later"
        return Kind(ServerError, meaning, "endpoint", f"HTTP {status}", is_final=False, is_outage=True)
    if status in (401, 403):
        return Kind(AuthenticationError, _KEY_HELP[status], "account", first)
    meaning = "the request is too large" if status == 413 else "the endpoint refuses the request"
    concerns: Concern = "call" if status in _OF_THE_CALL else "endpoint"
    return Kind(RequestRejectedError, meaning, concerns, first)


_OF_THE_CALL = frozenset({400, 409, 413, 422, 424, 451})
_NOT_IMPLEMENTED = frozenset({501, 505})
_KEY_HELP: Mapping[int, str] = {
    401: "the endpoint refuses the key; check OPENAI_API_KEY",
    403: "the key may not do this; check OPENAI_API_KEY and the model's permissions",
}
_UNTELLING = frozenset(
    {"error", "badrequesterror", "bad_request", "invalid_request_error", "invalid_argument", "value_error"}
)


def _first_code(error: ErrorBody) -> str | None:
    """Return the first code that says more than the status does."""
    return next((code for code in error.codes if code not in _UNTELLING and len(code) <= 60), None)


def status_of(error: ErrorBody) -> int | None:
    """Return the HTTP status of an error that arrives with status 200; None where the error tells none."""
    if error.status is not None:
        return error.status
    if re.search(r"unexpected endpoint or method", error.message, re.IGNORECASE):  # LM Studio
        return 404
    tests: tuple[tuple[Callable[[ErrorBody], bool], int], ...] = (
        (lambda e: _code(e, _CONTENT_CODES) is not None, 400),
        (lambda e: _code(e, _LENGTH_CODES) is not None, 400),
        (lambda e: _code(e, _QUOTA_CODES) is not None, 402),
        (lambda e: _code(e, _KEY_CODES) is not None, 401),
        (lambda e: _code(e, _MODEL_CODES) is not None, 404),
        (lambda e: _code(e, _RATE_CODES) is not None, 429),
        (lambda e: _code(e, _OVERLOAD_CODES) is not None, 529),
        (lambda e: _code(e, _SERVER_CODES) is not None, 500),
        (lambda e: _code(e, _FIELD_CODES) is not None or "invalid_request_error" in e.codes, 400),
        (lambda e: bool(_CONTENT_TEXT.search(e.message) or _LENGTH_TEXT.search(e.message)), 400),
    )
    return next((status for test, status in tests if test(error)), None)
