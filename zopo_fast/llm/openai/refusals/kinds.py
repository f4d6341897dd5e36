"""Kinds of refusals: whom an error of a provider concerns, by its code first and its status second.

| kind | recognised by | concerns | retried |
|---|---|---|---|
| blocked | codes such as account_deactivated, messages about a disabled account | the account | no |
| content | codes such as content_filter, a message about moderation or policy, 451 | the call | no |
| length | codes such as context_length_exceeded, messages of vLLM, llama.cpp, Ollama | the call | no |
| quota | codes such as insufficient_quota, 402 | the account | no |
| key | codes such as invalid_api_key, 401, 403 | the account | no |
| model | codes such as model_not_found, 404 | the endpoint | no |
| field | an error that names a parameter of the body, since every call has it | the endpoint | no |
| rate | rate-limit codes, 429 | the account | yes |
| mode | messages about the API version or streams | the endpoint | no |
| outage | overload codes, an unloaded model, 408, 409, 425, 498, 499, 5xx | the endpoint, or the call | yes |
| other | any other 4xx | the call | no |

An outage concerns the call if other calls are answered meanwhile.
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
from zopo_fast.llm.openai.refusals import patterns
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


QUOTA_HELP = "the account's quota is used up; top it up"


def kind_of(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind:
    """Return the kind of a refusal.

    Args:
        status: HTTP status.
        error: error of the response body.
        body: parameters of the request, which the error may name.
    """
    for rule in _RULES:
        if (kind := rule(status, error, body)) is not None:
            return kind
    return _by_status(status, error)


def _code(error: ErrorBody, pattern: re.Pattern[str]) -> str | None:
    """Return the first code of the error that matches in full."""
    return next((code for code in error.codes if pattern.fullmatch(code)), None)


def _account_error(status: int) -> type[LLMError]:
    if status == 429:
        return RateLimitError
    return AuthenticationError if status in (401, 403) else RequestRejectedError


def _rejected(status: int, error: ErrorBody, meaning: str, code: str) -> Kind:
    return Kind(RequestRejectedError, meaning, "call", code)


def _by_blocked_account(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a refusal of the whole account, whose message may mention policies all the same."""
    if status not in (400, 401, 403, 422, 429, 451):
        return None
    code = _code(error, patterns.BLOCKED_CODES)
    # An account may be suspended until it is paid for: then its quota is the reason.
    is_unpaid = _code(error, patterns.QUOTA_CODES) or patterns.QUOTA_TEXT.search(error.message)
    if code is None and not is_unpaid and patterns.BLOCKED_TEXT.search(error.message):
        code = "account_disabled"
    meaning = "the provider has closed or restricted this account; ask the provider"
    if code is None and patterns.PLACE_TEXT.search(error.message):
        code = _first_code(error) or "unsupported_location"
        meaning = "the provider does not serve this location"
    if code is None:
        return None
    return Kind(_account_error(status), meaning, "account", code)


def _by_rate(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a refusal for too many tokens in a time, which may sound like a length."""
    if status not in (400, 413, 422, 429) and not 500 <= status < 600:
        return None
    if _TOO_LARGE.search(error.message) or _code(error, patterns.LENGTH_CODES) is not None:
        return None
    if status == 429 and (_code(error, patterns.QUOTA_CODES) or patterns.QUOTA_TEXT.search(error.message)):
        return None
    code = _code(error, patterns.RATE_CODES)
    if code is None and not patterns.RATE_TEXT.search(error.message):
        return None
    code = code or _first_code(error) or f"HTTP {status}"
    return Kind(RateLimitError, _RATE_HELP, "account", code, is_final=False)


_TOO_LARGE = re.compile(r"request too large for", re.IGNORECASE)
_RATE_HELP = "too many requests or tokens; lower concurrency or raise max_elapsed (--max-wait)"


def _by_content(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 403, 406, 422, 451) and not 500 <= status < 600:
        return None
    meaning = "the provider's content filter refuses this input"
    if (code := _code(error, patterns.CONTENT_CODES)) is not None:
        return _rejected(status, error, meaning, code)
    if status >= 500:  # the text of a server that fails may mention anything
        return None
    reasons = error.value("reasons", "flagged_input")  # OpenRouter's moderation
    if status == 451 or reasons is not None:
        return _rejected(status, error, meaning, "moderation")
    filtered = error.value("content_filter_result", "content_filter_results", "contentFilter")
    if filtered or patterns.CONTENT_TEXT.search(error.message):
        return _rejected(status, error, meaning, "content_filter")
    return None


def _by_length(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 413, 422, 429) and not 500 <= status < 600:
        return None
    if status != 429 and patterns.CUT_TEXT.search(error.message):
        return _rejected(status, error, "the answer was cut at its limit; raise max_tokens", "length")
    meaning = "the prompt is too long for the model; shorten it or raise the server's context"
    code = _code(error, patterns.LENGTH_CODES)
    if code is None and status in (413, 429) and _TOO_LARGE.search(error.message):
        code = "request_too_large"  # one request alone exceeds the tokens per minute
    if (code is None or code.startswith("string_")) and _is_about_a_setting(error, body):
        return None
    # The text of a server that fails or is busy may mention anything.
    text = patterns.LENGTH_TEXT if status in (400, 413, 422) else patterns.FAILED_LENGTH_TEXT
    if code is None and status in (400, 413, 422, 500) and text.search(error.message):
        code = "context_length_exceeded"
    if code is None:
        return None
    if code.startswith(("exceed_context", "context_")):
        code = "context_length_exceeded"
    return _rejected(status, error, meaning, code)


def _is_about_a_setting(error: ErrorBody, body: Mapping[str, Any]) -> bool:
    """Return whether an error about lengths refuses a parameter of `body`, whatever the input."""
    if patterns.ABOUT_INPUT.search(error.message):
        return False
    params = (re.split(r"[.\[]", param)[0] for param in error.params)
    if any(name in body and name != "model" and not patterns.DATA_PARAMS.match(name) for name in params):
        return True
    return _limit_of(error, body) is not None


def _limit_of(error: ErrorBody, body: Mapping[str, Any]) -> str | None:
    """Return the parameter of `body` that limits the answer, if the error names one by any of its names."""
    params = {re.split(r"[.\[]", param)[0] for param in error.params}
    named = [
        n for n in patterns.LIMITS if n in params or re.search(rf"(?<![\w-]){n}(?![\w-])", error.message)
    ]
    ours = [name for name in patterns.LIMITS if name in body]
    return next((name for name in named if name in ours), ours[0] if named and ours else None)


def _by_account(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status >= 500:
        return None
    quota = _code(error, patterns.QUOTA_CODES)
    if quota is None and patterns.QUOTA_TEXT.search(error.message):
        quota = "insufficient_quota" if _USED_UP.search(error.message) else "insufficient_funds"
    if status == 429 and quota is not None and patterns.PER_TIME_TEXT.search(error.message):
        return None  # a quota per minute is a rate limit
    if quota is not None or status == 402:
        code = quota or _first_code(error) or "HTTP 402"
        return Kind(_account_error(status), QUOTA_HELP, "account", code)
    key = _code(error, patterns.KEY_CODES)
    if key is None and status == 400 and patterns.KEY_TEXT.search(error.message):
        key = "invalid_api_key"
    if key is not None and status in (400, 401, 403):
        return Kind(AuthenticationError, "the endpoint refuses the key; check OPENAI_API_KEY", "account", key)
    return None


_USED_UP = re.compile(r"insufficient_quota|(?:usage|spend\w*) limit", re.IGNORECASE)


def _by_unloaded(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a refusal by a server whose model is being loaded, or has crashed."""
    if not patterns.UNLOADED_TEXT.search(error.message) or not 400 <= status < 500:
        return None
    meaning = "the server's model is not loaded; try again later"
    return Kind(ServerError, meaning, "endpoint", "model_unloaded", is_final=False, is_outage=True)


def _by_model(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 403, 404, 410, 422):
        return None
    code = _code(error, patterns.MODEL_CODES)
    if code is None and (
        status == 404 or "model" in error.params or patterns.MODEL_TEXT.search(error.message)
    ):
        code = _first_code(error) or ("HTTP 404" if status == 404 else "model_not_found")
    if code is None:
        return None
    meaning = "no such model or path; check model, and that base_url includes /v1"
    return Kind(ModelNotFoundError, meaning, "endpoint", code)


def _by_role(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 422, 500) or not patterns.ROLE_TEXT.search(error.message):
        return None
    meaning = "the model does not take these roles; choose another template, such as --template user"
    return Kind(
        RequestRejectedError, meaning, "endpoint", _code(error, patterns.FIELD_CODES) or "unsupported_role"
    )


def _by_field(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if status not in (400, 422):
        return None
    field = refused_field(error, body)
    if field is None:
        return _by_mode(error)
    option = _OPTIONS.get(field, "")
    meaning = (
        f"the endpoint refuses {field!r} in the request; set another value in {option}the body, "
        f'or leave it out with {{"{field}": "unset"}} in the body (--body)'
    )
    return Kind(
        RequestRejectedError, meaning, "endpoint", _code(error, patterns.FIELD_CODES) or "refused_field"
    )


def _by_mode(error: ErrorBody) -> Kind | None:
    """Return the kind of a refusal of all requests of this client, which name no parameter of their body."""
    if patterns.VERSION_TEXT.search(error.message):
        meaning = "the endpoint does not serve the model by this API version; set another in base_url"
        return Kind(RequestRejectedError, meaning, "endpoint", "api_version")
    if patterns.STREAM_TEXT.search(error.message):
        meaning = (
            "the model answers streams alone, which the client does not read; choose another model, or set "
            "the parameter that the server names in the body (--body)"
        )
        return Kind(RequestRejectedError, meaning, "endpoint", "stream_only")
    return None


def _by_page(status: int, error: ErrorBody, body: Mapping[str, Any]) -> Kind | None:
    if not error.is_page or not 400 <= status < 500 or status in _PAGE_STATUSES:
        return None
    meaning = "the response is a web page: no API answers here; check base_url"
    return Kind(RequestRejectedError, meaning, "endpoint", "web_page")


_OPTIONS = {"temperature": "--temperature or ", "max_tokens": "--max-tokens or "}


def refused_field(error: ErrorBody, body: Mapping[str, Any]) -> str | None:
    """Return the parameter of `body` that the error refuses by its `param` or in its message; None: none."""
    for param in error.params:
        name = re.split(r"[.\[]", param)[0]
        if name in body and not patterns.DATA_PARAMS.match(param):
            return name
    # An error about the messages may quote any word of them.
    if any(patterns.DATA_PARAMS.match(param) for param in error.params):
        return None
    if not (_code(error, patterns.FIELD_CODES) or patterns.FIELD_TEXT.search(error.message)):
        return None
    names = (name for name in sorted(body, key=len, reverse=True) if not patterns.DATA_PARAMS.match(name))
    named = next((name for name in names if _names(error.message, name)), None)
    return named or _limit_of(error, body)


def mentioned_field(status: int, error: ErrorBody, names: Collection[str]) -> str | None:
    """Return one of `names` that a refusal mentions; None also for a refusal of another kind."""
    if any(patterns.DATA_PARAMS.match(param) for param in error.params):
        return None
    body = dict.fromkeys(names)
    if any(rule(status, error, body) is not None for rule in _RULES if rule is not _by_field):
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
    if status == 429 or (status < 500 and _code(error, patterns.RATE_CODES) is not None):
        return Kind(RateLimitError, _RATE_HELP, "account", first, is_final=False)
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
    if status >= 500 or status in _TRY_AGAIN or _code(error, patterns.OVERLOAD_CODES) is not None:
        meaning = "the server failed; try again later"
        return Kind(ServerError, meaning, "endpoint", f"HTTP {status}", is_final=False, is_outage=True)
    if status in (401, 403):
        return Kind(AuthenticationError, _KEY_HELP[status], "account", first)
    meaning = "the request is too large" if status == 413 else "the endpoint refuses the request"
    concerns: Concern = "call" if status in _OF_THE_CALL else "endpoint"
    return Kind(RequestRejectedError, meaning, concerns, first)


_PAGE_STATUSES = frozenset({401, 403, 404, 405, 407, 408, 410, 413, 425, 429, 451, 498, 499})
# A conflict, too early, Groq's full capacity, and a connection that a proxy closed.
_TRY_AGAIN = frozenset({409, 425, 498, 499})
_OF_THE_CALL = frozenset({400, 413, 422, 424, 451})
_NOT_IMPLEMENTED = frozenset({501, 505})
_KEY_HELP: Mapping[int, str] = {
    401: "the endpoint refuses the key; check OPENAI_API_KEY",
    403: "the key may not do this; check OPENAI_API_KEY and the model's permissions",
}
_UNTELLING = frozenset(
    {
        "error",
        "badrequesterror",
        "bad_request",
        "invalid_request_error",
        "invalid_argument",
        "value_error",
        "failed_precondition",
    }
)


def _first_code(error: ErrorBody) -> str | None:
    """Return the first code that says more than the status does."""
    return next((code for code in error.codes if code not in _UNTELLING and len(code) <= 60), None)


_RULES = (
    _by_blocked_account,
    _by_rate,
    _by_content,
    _by_length,
    _by_account,
    _by_unloaded,
    _by_role,
    _by_model,
    _by_field,
    _by_page,
)


def status_of(error: ErrorBody) -> int | None:
    """Return the HTTP status of an error that arrives with status 200; None where the error tells none."""
    if error.status is not None:
        return error.status
    if re.search(r"unexpected endpoint or method", error.message, re.IGNORECASE):  # LM Studio
        return 404
    tests: tuple[tuple[Callable[[ErrorBody], bool], int], ...] = (
        (lambda e: _code(e, patterns.BLOCKED_CODES) is not None, 403),
        (lambda e: bool(patterns.BLOCKED_TEXT.search(e.message)), 403),
        (lambda e: _code(e, patterns.CONTENT_CODES) is not None, 400),
        (lambda e: _code(e, patterns.LENGTH_CODES) is not None, 400),
        (lambda e: _code(e, patterns.QUOTA_CODES) is not None, 402),
        (lambda e: _code(e, patterns.KEY_CODES) is not None, 401),
        (lambda e: _code(e, patterns.MODEL_CODES) is not None, 404),
        (lambda e: _code(e, patterns.RATE_CODES) is not None, 429),
        (lambda e: _code(e, patterns.OVERLOAD_CODES) is not None, 529),
        (lambda e: _code(e, patterns.SERVER_CODES) is not None, 500),
        (lambda e: bool(patterns.RATE_TEXT.search(e.message)), 429),
        (lambda e: _code(e, patterns.FIELD_CODES) is not None or "invalid_request_error" in e.codes, 400),
        (
            lambda e: bool(patterns.CONTENT_TEXT.search(e.message) or patterns.LENGTH_TEXT.search(e.message)),
            400,
        ),
    )
    texts = (
        (patterns.QUOTA_TEXT, 402),
        (patterns.KEY_TEXT, 401),
        (patterns.UNLOADED_TEXT, 503),
        (patterns.ROLE_TEXT, 400),
        (patterns.MODEL_TEXT, 404),
    )
    by_text = (status for pattern, status in texts if pattern.search(error.message))
    return next((status for test, status in tests if test(error)), next(by_text, None))
