"""Settings of a client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from zopo_fast._utils.checks import MOST
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.llm.openai.redaction import (
    MASK,
    _veiled,
    parse_base_url,
    parse_key,
    show_url,
)
from zopo_fast.llm.openai.retry import Bounds

_MOST_SECONDS = 1e9  # three decades

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, repr=False)
class ClientConfig:
    """Settings of an `OpenAIClient`; times in seconds. Raises `ConfigError` naming the field it refuses.

    `base_url` includes `/v1`, as with OpenAI's own SDK; a trailing slash, a query (`?api-version=...`) and
    a bare host whose API lies below `/v1` are fine too. Where it is not given it is `OPENAI_BASE_URL`, else
    OpenAI's own. `api_key` is `OPENAI_API_KEY` if not given; only OpenAI's own endpoint insists on one.

    `body` goes into every chat call (temperature, max_tokens, seed, stop, whatever the server takes),
    `embedding_body` into every embedding call, `headers` into both. What a body holds below a name such as
    `api_key` or `password`, at any depth, is kept out of whatever is shown, as the key and the headers are.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = None
    concurrency: int = 16
    timeout: float = 60.0
    """Of one attempt."""
    max_attempts: int = 6
    max_elapsed: float = 180.0
    """Of one call: its attempts and the pauses between them, not its wait for a free slot."""
    backoff_initial: float = 0.5
    backoff_max: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    embedding_model: str | None = None
    embedding_batch: int = 64
    embedding_body: Mapping[str, Any] = field(default_factory=dict)
    max_response_bytes: int = 16 * 2**20
    requests_per_minute: float | None = None
    """Sent at even distances; None: as many as the slots allow, until the endpoint answers 429."""
    tokens_per_minute: float | None = None
    breaker_failures: int = 30
    """Attempts in a row without an answer, over all calls, after which calls end at once; see `breaker`."""
    breaker_seconds: float = 30.0
    """Until one is tried again."""

    def __post_init__(self) -> None:
        _text("model", self.model)
        for name in ("base_url", "api_key", "embedding_model"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        if self.base_url is not None:
            parse_base_url("base_url", self.base_url)
        if self.api_key is not None:
            parse_key("api_key", self.api_key)
        counts = ("concurrency", "max_attempts", "embedding_batch", "max_response_bytes", "breaker_failures")
        for name in counts:
            _count(name, getattr(self, name))
        for name in ("timeout", "max_elapsed", "backoff_initial", "backoff_max", "breaker_seconds"):
            _positive(name, getattr(self, name), "number of seconds")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name), "number")
        if self.backoff_initial > self.backoff_max:
            raise ConfigError(
                f"backoff_initial={self.backoff_initial} is above backoff_max={self.backoff_max}"
            )
        # The caller's mappings may change later; the configuration does not.
        object.__setattr__(self, "headers", _headers(self.headers))
        object.__setattr__(self, "body", _body("body", self.body, {"model", "messages"}))
        object.__setattr__(
            self, "embedding_body", _body("embedding_body", self.embedding_body, {"model", "input"})
        )

    @property
    def bounds(self) -> Bounds:
        """What limits a call's retries."""
        return Bounds(
            self.timeout, self.max_attempts, self.max_elapsed, self.backoff_initial, self.backoff_max
        )

    def public(self) -> dict[str, Any]:
        """Return the settings as JSON values without keys, credentials and header values: fit for a log."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown["api_key"] = None if self.api_key is None else MASK
        shown["headers"] = dict.fromkeys(self.headers, MASK)
        for name in ("body", "embedding_body"):
            shown[name] = _veiled(shown[name], set())
        if self.base_url is not None:
            shown["base_url"] = show_url(parse_base_url("base_url", self.base_url))
        return shown

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.public().items())
        return f"ClientConfig({settings})"


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{name} must be a non-empty string")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ConfigError(f"{name} must be an integer of at least 1 (at most 2**53), not {short_repr(value)}")


def _positive(name: str, value: object, what: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= _MOST_SECONDS:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a positive {what}, not {short_repr(value)}")


def _headers(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigError("headers must be a mapping of strings to strings")
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigError(f"headers: {short_repr(name)} is not a header's name")
        if not isinstance(value, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ConfigError(f"headers: the value of {name!r} must be a string of one line")
    return dict(headers)


def _body(name: str, body: object, reserved: set[str]) -> dict[str, Any]:
    if not isinstance(body, Mapping) or not all(isinstance(key, str) for key in body):
        raise ConfigError(f"{name} must be a mapping with string keys")
    if taken := sorted(reserved & set(body)):
        raise ConfigError(f"{name} must not set {taken[0]!r}: the client does")
    if body.get("stream"):
        raise ConfigError(f"{name}: 'stream' is not supported, answers are read whole")
    temperature = body.get("temperature")
    if temperature is not None and (not isinstance(temperature, (int, float)) or not temperature >= 0):
        raise ConfigError(
            f"{name}: 'temperature' must be a number of at least 0, not {short_repr(temperature)}"
        )
    for limit in ("max_tokens", "max_completion_tokens"):
        if body.get(limit) is not None:
            _count(f"{name}: {limit!r}", body[limit])
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(body), allow_nan=False))
        _veiled(copy, set())  # so that what is nested too deeply is refused here, not where it is shown
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be sent as JSON: {error}") from None
    return copy
