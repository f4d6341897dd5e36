"""Settings of a client of an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.checks import as_count
from zopo_fast._utils.public import public
from zopo_fast._utils.settings import check, described, document, setting
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.llm.bodies import merged_body
from zopo_fast.llm.openai.redaction import (
    MASK,
    parse_base_url,
    parse_key,
    show_url,
    veil,
)

if TYPE_CHECKING:
    from zopo_fast.llm.openai.retry import Bounds

MAX_SECONDS = 10**9  # three decades
KEY_ENV = "OPENAI_API_KEY"

_BODIES = ("body", "default_body", "embedding_body")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@public
@document
@dataclass(frozen=True, repr=False)
class ClientConfig:
    """Settings of an `OpenAIClient`; times in seconds.

    The representation, `public()` and messages mask the key, header values and whatever lies in a body below
    a name such as `api_key` or `password`, at any depth.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    model: str = field(metadata=described("Name of the chat model at the endpoint.", minimum=1))
    base_url: str | None = setting(
        None,
        "URL of the endpoint, /v1 included; accepted too are a trailing slash, a query such as "
        "?api-version=... and a bare host whose API lies below /v1.",
        minimum=1,
        may_change=True,
        default_text="$OPENAI_BASE_URL, else OpenAI's own endpoint",
    )
    api_key: str | None = setting(
        None,
        "Bearer token; required by OpenAI's own endpoint only.",
        minimum=1,
        default_text="$OPENAI_API_KEY",
    )
    concurrency: int = setting(16, "Calls in flight at a time.", minimum=1, may_change=True)
    timeout: float = setting(
        60.0, "Seconds for one attempt of a call.", above=0, maximum=MAX_SECONDS, may_change=True
    )
    max_attempts: int | None = setting(
        None,
        "Attempts of one call, the first included.",
        minimum=1,
        default_text="as many as max_elapsed allows",
    )
    max_elapsed: float = setting(
        600.0,
        "Seconds for one call: its attempts, the pauses between them and the time that the endpoint is down, "
        "without the wait for a free slot.",
        above=0,
        maximum=MAX_SECONDS,
        may_change=True,
    )
    backoff_initial: float = setting(
        0.5, "Seconds before the first retry; each later pause doubles.", above=0, maximum=MAX_SECONDS
    )
    backoff_max: float = setting(30.0, "Longest pause before a retry.", above=0, maximum=MAX_SECONDS)
    headers: Mapping[str, str] = field(
        default_factory=dict, metadata=described("Headers of every call, by name.")
    )
    body: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=described(
            "Body parameters of every chat call, such as temperature, max_tokens, seed and stop; None or "
            '"unset" leaves a parameter out.'
        ),
    )
    default_body: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=described(
            "Body parameters of every chat call that body does not state; the client leaves out or renames "
            "one that the endpoint refuses, and logs that."
        ),
    )
    embedding_model: str | None = setting(None, "Name of the embedding model at the endpoint.", minimum=1)
    embedding_batch: int = setting(64, "Texts in one embedding call.", minimum=1)
    embedding_body: Mapping[str, Any] = field(
        default_factory=dict, metadata=described("Body parameters of every embedding call.")
    )
    max_response_bytes: int = setting(16 * 2**20, "Largest response that is read.", minimum=1)
    requests_per_minute: float | None = setting(
        None,
        "Requests per minute, evenly spaced.",
        above=0,
        maximum=MAX_SECONDS,
        may_change=True,
        default_text="no limit until the endpoint answers 429",
    )
    tokens_per_minute: float | None = setting(
        None,
        "Tokens per minute, prompt and completion together.",
        above=0,
        maximum=MAX_SECONDS,
        may_change=True,
        default_text="no limit",
    )
    breaker_failures: int = setting(
        30, "Attempts in a row, over all calls, whose failure opens the circuit breaker.", minimum=1
    )
    breaker_seconds: float = setting(
        30.0,
        "Longest pause between two attempts while the circuit breaker is open; the first is a 32nd of it.",
        above=0,
        maximum=MAX_SECONDS,
    )
    key_env: str | None = setting(
        KEY_ENV, "Environment variable of the key, read where api_key is not given; None: no key.", minimum=1
    )

    def __post_init__(self) -> None:
        check(self)
        if self.base_url is not None:
            parse_base_url("base_url", self.base_url)
        if self.api_key is not None:
            parse_key("api_key", self.api_key)
        if self.backoff_initial > self.backoff_max:
            raise ConfigError(
                f"backoff_initial must be at most backoff_max={self.backoff_max}, got {self.backoff_initial}"
            )
        # Copy the mappings: the caller may change them later, the configuration must not.
        object.__setattr__(self, "headers", _headers(self.headers))
        for name in ("body", "default_body"):
            object.__setattr__(self, name, _body(name, getattr(self, name), {"model", "messages"}))
        object.__setattr__(
            self, "embedding_body", _body("embedding_body", self.embedding_body, {"model", "input"})
        )

    @property
    def chat_body(self) -> dict[str, Any]:
        """Return the body parameters of a chat call: `default_body` with those of `body` in their place."""
        return merged_body(self.default_body, self.body)

    @property
    def bounds(self) -> Bounds:
        """Return the bounds of the retries of a call."""
        from zopo_fast.llm.openai.retry import Bounds  # loads email and logging

        return Bounds(
            self.timeout, self.max_attempts, self.max_elapsed, self.backoff_initial, self.backoff_max
        )

    def public(self) -> dict[str, Any]:
        """Return the settings as JSON values without keys, credentials and header values, fit for a log."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown["api_key"] = None if self.api_key is None else MASK
        shown["headers"] = dict.fromkeys(self.headers, MASK)
        for name in _BODIES:
            shown[name] = veil(shown[name], set())
        if self.base_url is not None:
            shown["base_url"] = show_url(parse_base_url("base_url", self.base_url))
        return shown

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.public().items())
        return f"ClientConfig({settings})"


def _headers(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigError("headers must be a mapping of strings to strings")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"headers: {short_repr(name)} is not the name of a header")
        if not isinstance(value, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ConfigError(f"headers: the value of {name!r} must be a string on one line")
    return dict(headers)


def _body(name: str, body: object, reserved: set[str]) -> dict[str, Any]:
    if not isinstance(body, Mapping) or not all(isinstance(key, str) for key in body):
        raise ConfigError(f"{name} must be a mapping with string keys")
    if taken := sorted(reserved & set(body)):
        raise ConfigError(f"{name} must not set {taken[0]!r}: the client sets it")
    if body.get("stream"):
        raise ConfigError(f"{name}: 'stream' is not supported, leave it out")
    given = merged_body({}, body)
    temperature = given.get("temperature")
    if temperature is not None and (not isinstance(temperature, (int, float)) or not temperature >= 0):
        raise ConfigError(
            f"{name}: 'temperature' must be a number of at least 0, got {short_repr(temperature)}"
        )
    for limit in ("max_tokens", "max_completion_tokens"):
        if limit in given:
            as_count(f"{name}: {limit!r}", given[limit], 1)
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(body), allow_nan=False))
        veil(copy, set())  # refuse a body nested too deeply here, not where it is shown
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be sent as JSON: {error}") from None
    return copy
