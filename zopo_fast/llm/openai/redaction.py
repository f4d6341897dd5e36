"""Redaction of secrets in messages, URLs and representations."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, quote_plus

from yarl import URL

from zopo_fast.errors import ConfigError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

MASK = "***"

_SENSITIVE = re.compile(
    r"auth|key|token|secret|cookie|pass(w|_?phrase|$)|pwd|credential|bearer|jwt", re.IGNORECASE
)

# Names that say token and mean a model's: their numbers are settings.
_COUNTED = re.compile(r"tokens|token_?(id|count|limit|budget)|max_?token", re.IGNORECASE)

# In a JSON schema the names below these are of fields to come, not of values.
_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


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
