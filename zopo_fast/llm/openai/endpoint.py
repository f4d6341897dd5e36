"""Endpoint of a client: URLs, headers, and redaction of its secrets."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from typing import Any

from yarl import URL

from zopo_fast import __version__
from zopo_fast.errors import AuthenticationError, ConfigError
from zopo_fast.llm.openai.config import ClientConfig
from zopo_fast.llm.openai.redaction import (
    _SENSITIVE,
    LOOPBACK,
    MASK,
    _one_line,
    parse_base_url,
    parse_key,
    show_url,
    spellings,
    veil,
    veiled,
    visible_query,
    with_parts,
)

OPENAI_URL = "https://api.openai.com/v1"


class Endpoint:
    """Resolved endpoint of a configuration, with defaults from the environment.

    Raises:
        ConfigError: the base URL or the key cannot be used.
        AuthenticationError: OpenAI's own endpoint without a key.
    """

    def __init__(self, config: ClientConfig) -> None:
        url = base_url_of(config)
        variable = config.key_env or ""
        key = config.api_key or (os.environ.get(variable, "").strip() if variable else "")
        secrets = {url.password or "", *url.query.values()}
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"zopo_fast/{__version__}",
        }
        if key:
            headers["Authorization"] = f"Bearer {parse_key(variable or 'api_key', key)}"
        elif url.user is not None:
            login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        given = {name.lower() for name in config.headers}
        headers = {n: v for n, v in headers.items() if n.lower() not in given} | dict(config.headers)
        if url.host == "api.openai.com" and not any(_SENSITIVE.search(name) for name in headers):
            raise AuthenticationError(
                f"no API key for OpenAI's endpoint: set {variable or 'key_env'}, pass api_key, "
                "or point base_url (OPENAI_BASE_URL) at a server of your own"
            )
        for name, value in headers.items():
            if _SENSITIVE.search(name):
                secrets.update(with_parts(value))
        for body in (config.body, config.default_body, config.embedding_body):
            veil(body, secrets)
        secrets.add(key.strip())
        self.headers: Mapping[str, str] = headers
        self.key_name = variable or "key_env"
        """Name of the variable with the key, for messages."""
        self.is_bare = url.path in {"", "/"}
        """The base URL has no path: the API may be at the root or below /v1."""
        self.is_loopback = url.host in LOOPBACK
        self.server: Mapping[str, Any] = {"server.address": url.host, "server.port": url.port}
        """Attributes of spans."""
        self._base = url.with_user(None)
        self._secrets = spellings(secrets)

    def __repr__(self) -> str:
        return f"Endpoint({show_url(self._base)!r})"

    def url(self, path: str) -> URL:
        """Return the URL of `path` below the base URL."""
        return (self._base / path).with_query(self._base.query)

    def redact(self, text: str) -> str:
        """Return `text` with every secret masked."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def quote(self, body: bytes | str, limit: int = 200) -> str:
        """Return the beginning of a body for an error message: one line without secrets."""
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
        # Redact before truncating: half a key must not be shown either.
        text = self.redact(_one_line(text))
        text = text.encode("utf-8", "replace").decode()
        return text if len(text) <= limit else text[:limit] + "..."


def base_url_of(config: ClientConfig) -> URL:
    """Return the base URL of a configuration, that of the environment or OpenAI's own where it has none.

    Raises:
        ConfigError: the base URL cannot be used.
    """
    base = config.base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
    source = "base_url" if config.base_url else "OPENAI_BASE_URL"
    return parse_base_url(source, base or OPENAI_URL)


def require_key(setting: str, variable: str) -> None:
    """Check that the environment variable that a setting names holds a key.

    Raises:
        ConfigError: the variable is not set. Quotes no name that may be the key itself.
    """
    if os.environ.get(variable, "").strip():
        return
    name = variable if re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable) else "of that name"
    raise ConfigError(f"{setting}: the environment variable {name} is not set; set it to the API key")


def identity_of(config: ClientConfig, endpoint: Endpoint | None = None) -> dict[str, Any]:
    """Return what an answer depends on besides the messages: model, URL without secrets, body."""
    url = (endpoint or Endpoint(config)).url("chat/completions")
    where = [show_url(url), visible_query(url)]
    return {"model": config.model, "endpoint": where, "body": config.chat_body}


def description_of(config: ClientConfig) -> dict[str, Any]:
    """Return model name and body without secrets, as a study records them."""
    return {"model": config.model, "body": veiled(config.chat_body)}
