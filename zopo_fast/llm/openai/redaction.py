"""Redaction of secrets in messages, URLs and representations."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, quote_plus

from yarl import URL

from zopo_fast.errors import ConfigError

_OPERATION = re.compile(r"(?<=/)(chat/completions|completions|embeddings)/*$")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

MASK = "***"

_SENSITIVE = re.compile(
    r"auth|key|token|secret|cookie|pass(w|_?phrase|$)|pwd|credential|bearer|jwt", re.IGNORECASE
)

# Names with "token" that mean tokens of a model: their numbers are settings, not secrets.
_COUNTED = re.compile(r"tokens|token_?(id|count|limit|budget)|max_?token", re.IGNORECASE)

# Keys of a JSON schema: the names below them declare fields and hold no values.
_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


def parse_base_url(source: str, value: str) -> URL:
    """Return `value` as a URL without fragment and without the path of an operation, as documents show it.

    Raises:
        ConfigError: `value` is no base URL; names `source` and quotes no password.
    """
    problem = f"{source} is not an http(s) URL such as http://localhost:8000/v1"
    try:
        url = URL(value.strip())
        usable = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        usable = False
    if not usable or _CONTROL.search(value.strip()):
        raise ConfigError(problem)
    path = _OPERATION.sub("", url.path)
    return url.with_path(path).with_query(url.query) if path != url.path else url.with_fragment(None)


def show_url(url: URL) -> str:
    """Return a URL without credentials, query and fragment."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def visible_query(url: URL) -> list[list[str]]:
    """Return the query parameters whose names do not indicate a secret, as sorted [name, value] pairs."""
    return sorted([name, value] for name, value in url.query.items() if not _SENSITIVE.search(name))


def parse_key(source: str, value: str) -> str:
    """Return an API key without surrounding blanks.

    Raises:
        ConfigError: the key cannot be sent in a header; names `source`.
    """
    key = value.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{source} holds blanks or characters that no key has: paste the key again, on one line"
        )
    return key


def spellings(secrets: set[str]) -> tuple[str, ...]:
    """Return the spellings of all secrets: plain, in a URL, in JSON, on one line; longest first."""
    found: set[str] = set()
    for secret in secrets:
        if len(secret) >= 4:  # a shorter one would mask half of every message
            found |= {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
            for ascii_only in (True, False):
                spelled = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
                found |= {spelled, spelled.replace("/", "\\/")}
    found |= {_one_line(spelled) for spelled in found}
    return tuple(sorted((one for one in found if len(one) >= 4), key=len, reverse=True))


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def with_parts(value: str) -> list[str]:
    """Return a secret and its longer words: a quotation may omit the scheme of `Bearer ...`."""
    return [value, *(part for part in value.split() if len(part) >= 8)]


def veiled(value: Any) -> Any:
    """Return a copy of a JSON value with its secrets masked."""
    return veil(value, set())


def veil(value: Any, secrets: set[str], name: str = "", *, hidden: bool = False) -> Any:
    """Return a copy of a JSON value whose parts below sensitive names are masked.

    Args:
        value: the JSON value.
        secrets: receives the masked parts.
        name: key of `value` in its parent.
        hidden: whether that key, or one further up, is sensitive.
    """
    if isinstance(value, dict):
        veiled = {}
        for below, part in value.items():
            field_to_come = name in _SCHEMAS and isinstance(part, dict)
            sensitive = not field_to_come and _SENSITIVE.search(below) is not None
            veiled[below] = veil(part, secrets, below, hidden=hidden or sensitive)
        return veiled
    if isinstance(value, list):
        return [veil(part, secrets, name, hidden=hidden) for part in value]
    if not hidden or value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        secrets.update(with_parts(value))
    elif _COUNTED.search(name):
        return value
    else:
        secrets.add(json.dumps(value))
    return MASK
