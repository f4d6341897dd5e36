"""Where a model is reached and with which settings; keeps the key out of whatever is shown."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import quote, quote_plus

from yarl import URL

from zopo_fast._utils.checks import MOST
from zopo_fast._utils.text import shown
from zopo_fast.errors import AuthenticationError, ConfigError
from zopo_fast.retry import Bounds

OPENAI_URL = "https://api.openai.com/v1"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MASK = "***"
_MOST_SECONDS = 1e9  # three decades

_SENSITIVE = re.compile(
    r"auth|key|token|secret|cookie|pass(w|_?phrase|$)|pwd|credential|bearer|jwt", re.IGNORECASE
)
# Names that say token and mean a model's: their numbers are settings.
_COUNTED = re.compile(r"tokens|token_?(id|count|limit|budget)|max_?token", re.IGNORECASE)
# In a JSON schema the names below these are of fields to come, not of values.
_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


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


class Endpoint:
    """A configuration with the environment's part filled in: URLs and headers to send, secrets to hide."""

    def __init__(self, config: ClientConfig) -> None:
        base = config.base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        source = "base_url" if config.base_url else "OPENAI_BASE_URL"
        url = parse_base_url(source, base or OPENAI_URL)
        key = config.api_key or os.environ.get("OPENAI_API_KEY", "").strip()
        secrets = {url.password or "", *url.query.values()}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {parse_key('OPENAI_API_KEY', key)}"
        elif url.user is not None:
            login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        given = {name.lower() for name in config.headers}
        headers = {n: v for n, v in headers.items() if n.lower() not in given} | dict(config.headers)
        if url.host == "api.openai.com" and not any(_SENSITIVE.search(name) for name in headers):
            raise AuthenticationError(
                "no API key: OpenAI's endpoint needs one; set OPENAI_API_KEY, pass api_key, "
                "or point base_url (OPENAI_BASE_URL) at a server of your own"
            )
        for name, value in headers.items():
            if _SENSITIVE.search(name):
                secrets.update(_with_parts(value))
        for body in (config.body, config.embedding_body):
            _veiled(body, secrets)
        secrets.add(key.strip())
        self.headers: Mapping[str, str] = headers
        # A bare host: the API may lie at its root or below /v1, see `OpenAIClient`.
        self.bare = url.path in {"", "/"}
        self.loopback = url.host in LOOPBACK
        self._base = url.with_user(None)
        self._secrets = _spellings(secrets)

    def __repr__(self) -> str:
        return f"Endpoint({show_url(self._base)!r})"

    def url(self, path: str) -> URL:
        """Return the address of `path` below the base URL."""
        return (self._base / path).with_query(self._base.query)

    def redact(self, text: str) -> str:
        """Return `text` with every secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def quote(self, body: bytes | str, limit: int = 200) -> str:
        """Return an answer's beginning as errors may show it: one line, no secrets, no controls."""
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
        # Redacted before it is cut: half a key is still too much of it.
        text = self.redact(_one_line(text))
        text = text.encode("utf-8", "replace").decode()
        return text if len(text) <= limit else text[:limit] + "..."


def parse_base_url(source: str, value: str) -> URL:
    """Return `value` as a URL; raises `ConfigError` naming `source` and quoting no password."""
    problem = f"{source} is not an http(s) URL such as http://localhost:8000/v1"
    try:
        url = URL(value.strip())
        usable = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        usable = False
    if not usable or _CONTROL.search(value.strip()):
        raise ConfigError(problem)
    if url.path.rstrip("/").endswith(("/chat/completions", "/embeddings")):
        raise ConfigError(f"{source} must end before /chat/completions, e.g. {show_url(url.parent.parent)}")
    return url.with_fragment(None)


def show_url(url: URL) -> str:
    """Return a URL without credentials, query and fragment."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def visible_query(url: URL) -> list[list[str]]:
    """Return the parameters of a URL's query that hold no secret, by their names."""
    return sorted([name, value] for name, value in url.query.items() if not _SENSITIVE.search(name))


def parse_key(source: str, value: str) -> str:
    """Return a key without surrounding blanks; raises `ConfigError` where it cannot be sent in a header."""
    key = value.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{source} holds blanks or characters no key has: paste it again, on one line")
    return key


def _spellings(secrets: set[str]) -> tuple[str, ...]:
    """Return each secret as it may be spelled in a URL, in JSON or on one line too, longest first."""
    found: set[str] = set()
    for secret in secrets:
        if len(secret) >= 4:  # shorter ones would blank out half of every message
            found |= {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
            for ascii_only in (True, False):
                spelled = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
                found |= {spelled, spelled.replace("/", "\\/")}
    found |= {_one_line(spelled) for spelled in found}
    return tuple(sorted((one for one in found if len(one) >= 4), key=len, reverse=True))


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def _with_parts(value: str) -> list[str]:
    """Return a secret and its longer words: the scheme of `Bearer ...` may be left out where it is quoted."""
    return [value, *(part for part in value.split() if len(part) >= 8)]


def _veiled(value: Any, secrets: set[str], name: str = "", *, hidden: bool = False) -> Any:
    """Return a copy of the JSON `value` with what lies below sensitive names masked and put into `secrets`.

    `name` is what `value` lies below, `hidden` whether that or one further up is sensitive.
    """
    if isinstance(value, dict):
        veiled = {}
        for below, part in value.items():
            field_to_come = name in _SCHEMAS and isinstance(part, dict)
            sensitive = not field_to_come and _SENSITIVE.search(below) is not None
            veiled[below] = _veiled(part, secrets, below, hidden=hidden or sensitive)
        return veiled
    if isinstance(value, list):
        return [_veiled(part, secrets, name, hidden=hidden) for part in value]
    if not hidden or value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        secrets.update(_with_parts(value))
    elif _COUNTED.search(name):
        return value
    else:
        secrets.add(json.dumps(value))
    return MASK


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{name} must be a non-empty string")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ConfigError(f"{name} must be an integer of at least 1 (at most 2**53), not {shown(value)}")


def _positive(name: str, value: object, what: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= _MOST_SECONDS:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a positive {what}, not {shown(value)}")


def _headers(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigError("headers must be a mapping of strings to strings")
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigError(f"headers: {shown(name)} is not a header's name")
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
        raise ConfigError(f"{name}: 'temperature' must be a number of at least 0, not {shown(temperature)}")
    for limit in ("max_tokens", "max_completion_tokens"):
        if body.get(limit) is not None:
            _count(f"{name}: {limit!r}", body[limit])
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(body), allow_nan=False))
        _veiled(copy, set())  # so that what is nested too deeply is refused here, not where it is shown
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be sent as JSON: {error}") from None
    return copy
