"""Models that jobs may name, from a TOML file on the server.

A request names a model and cannot direct calls to an endpoint or choose a key. Example of a file:

[small]
model = "gpt-4o-mini"
base_url = "https://api.openai.com/v1"
key_env = "OPENAI_API_KEY"        # environment variable with the API key
body = { temperature = 0, max_tokens = 64 }   # "unset" leaves a key out
concurrency = 16
max_wait = 600                    # seconds for one call; also timeout, requests_per_minute, tokens_per_minute
price_in = 0.15                   # per million prompt tokens
price_out = 0.6                   # per million completion tokens; or price = "auto" for both

[local]                           # the embedded model; optional
path = "other.gguf"
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from zopo_fast.errors import ConfigError
from zopo_fast.llm.bodies import ANSWER_BODY, explicit_body, merged_body
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient

LOCAL = "local"

_log = logging.getLogger(__name__)


class _Settings(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    base_url: str | None = None
    key_env: str | None = None
    path: str | None = None
    body: dict[str, Any] = {}
    headers: dict[str, str] = {}
    concurrency: int | None = None
    timeout: float | None = None
    max_wait: float | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    price: Literal["auto"] | None = None


@dataclass(frozen=True, repr=False)
class NamedModel:
    """Model that jobs may name.

    Args:
        name: name in requests.
        client: settings of the client; None: the embedded model.
        path: GGUF file of the embedded model; None: the default file.
        slots: concurrent sequences of the embedded model.
        body: request parameters of the embedded model.
        prices: prices per million prompt and completion tokens; None: unknown.
    """

    name: str
    client: ClientConfig | None
    path: str | None = None
    slots: int = 1
    body: Any = None
    prices: tuple[float, float] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """Open the model while the context is open."""
        if self.client is None:
            from zopo_fast.llm.local import LocalModel

            async with LocalModel(self.path, slots=self.slots, body=self.body) as local:
                yield local
            return
        async with OpenAIClient(self.client) as client:
            yield client


def load_models(path: Path | None) -> dict[str, NamedModel]:
    """Read a file of models.

    Args:
        path: TOML file; None: the embedded model only.

    Returns:
        The models by name; "local" is always included.

    Raises:
        ConfigError: the file cannot be read, or a setting is invalid. Quotes no values, which may be secret.
    """
    table = {} if path is None else _read(path)
    models = {LOCAL: NamedModel(LOCAL, None, body=ANSWER_BODY)}
    for name, values in table.items():
        where = f"{path}: [{name}]"
        try:
            settings = msgspec.convert(values, _Settings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {error}") from None
        models[name] = _local(name, settings, where) if name == LOCAL else _remote(name, settings, where)
    return models


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"--models {path}: cannot be read: {error.strerror or error}; name a TOML file with a table for "
            "each model"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _local(name: str, settings: _Settings, where: str) -> NamedModel:
    of_endpoints = [settings.model, settings.base_url, settings.key_env, settings.headers, settings.timeout]
    of_endpoints += [settings.max_wait, settings.requests_per_minute, settings.tokens_per_minute]
    if any(of_endpoints):
        raise ConfigError(
            f"{where}: the embedded model has only path, body and concurrency; give an endpoint another name"
        )
    body = explicit_body(merged_body(ANSWER_BODY, settings.body))
    return NamedModel(name, None, settings.path, settings.concurrency or 1, body)


def _remote(name: str, settings: _Settings, where: str) -> NamedModel:
    if not settings.model or not settings.base_url or settings.path:
        raise ConfigError(f"{where}: needs model and base_url, and has no path")
    if (settings.price_in is None) != (settings.price_out is None):
        raise ConfigError(f"{where}: price_in and price_out go together; give both or neither")
    key = None
    if settings.key_env is not None:
        key = os.environ.get(settings.key_env, "").strip()
        if not key:
            raise ConfigError(
                f"{where}: key_env: the variable {settings.key_env} is not set; set it to the API key"
            )
    optional: dict[str, Any] = {
        "concurrency": settings.concurrency,
        "timeout": settings.timeout,
        "max_elapsed": settings.max_wait,
        "requests_per_minute": settings.requests_per_minute,
        "tokens_per_minute": settings.tokens_per_minute,
    }
    try:
        client = ClientConfig(
            settings.model,
            base_url=settings.base_url,
            api_key=key,
            body=settings.body,
            default_body=ANSWER_BODY,
            headers=settings.headers,
            **{option: value for option, value in optional.items() if value is not None},
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return NamedModel(name, client, prices=_prices(settings, where))


def _prices(settings: _Settings, where: str) -> tuple[float, float] | None:
    """Return the prices of a model, as given or from the price list."""
    if settings.price is not None:
        if settings.price_in is not None:
            raise ConfigError(f"{where}: price and price_in contradict each other; give one")
        from zopo_fast.llm.price_list import listed_prices

        try:
            found = listed_prices(settings.model or "", settings.base_url)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        _log.info("%s: prices of %s in %s", where, found.entry, found.source)
        return found.prices.prompt, found.prices.completion
    if settings.price_in is None or settings.price_out is None:
        return None
    return settings.price_in, settings.price_out
