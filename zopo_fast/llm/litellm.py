"""Chat model by the package `litellm`, which knows the interfaces of many providers.

    async with LiteLLMModel(ClientConfig("anthropic/claude-sonnet-4-5", body={"max_tokens": 64})) as model:
        answer = await model.chat([{"role": "user", "content": "hi"}])

LiteLLM translates and sends each attempt. Retries, rate limits, circuit breaker and the account are those of
`OpenAIClient`; the retries of LiteLLM are off, because an attempt behind the account's back could exceed a
hard limit.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from yarl import URL

from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError, MalformedAnswerError, MissingDependencyError, UnreachableError
from zopo_fast.llm.openai.client import OpenAIClient
from zopo_fast.llm.openai.config import KEY_ENV, ClientConfig
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import parse_base_url, show_url, spellings, veil, with_parts
from zopo_fast.llm.openai.responses import MAX_MALFORMED_ATTEMPTS, Response, read_response
from zopo_fast.llm.openai.retry import Failure
from zopo_fast.llm.openai.transport import Transport, timed_out

_PRICE_MAP = "LITELLM_LOCAL_MODEL_COST_MAP"
_SECRET_NAME = re.compile(r"key|token|secret|password", re.IGNORECASE)
_MIN_SECRET = 8  # characters of a value of the environment that is masked

# Arguments of litellm by which one call becomes several, or another one than the account reserved.
_REFUSED = frozenset(
    {
        "num_retries", "max_retries", "retry_policy", "retry_strategy", "fallbacks", "mock_response",
        "context_window_fallback_dict", "model_list", "timeout", "request_timeout", "client",
    }
)  # fmt: skip
# Exceptions of litellm that say more than their status.
_CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_filter",
    "AuthenticationError": "invalid_api_key",
    "NotFoundError": "model_not_found",
}
_DROPPED = frozenset({"APIConnectionError", "ReadError", "WriteError", "RemoteProtocolError"})
_loading = threading.Lock()


def load_litellm() -> Any:
    """Return the module `litellm`, imported without a request to another host.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    with _loading:
        is_first = "litellm" not in sys.modules
        before = os.environ.get(_PRICE_MAP)
        os.environ[_PRICE_MAP] = "True"  # else the import downloads a list of prices
        try:
            import litellm
        except ImportError as error:
            raise MissingDependencyError(
                f'LiteLLM cannot be loaded ({error}): pip install "zopo-fast[litellm]"'
            ) from error
        finally:
            if before is None:
                del os.environ[_PRICE_MAP]
            else:
                os.environ[_PRICE_MAP] = before
        litellm.suppress_debug_info = True  # else each error prints advice to stdout
        if is_first:
            # Load now what the first call would import in the event loop, at the expense of its timeout.
            litellm.completion("openai/m", [{"role": "user", "content": "hi"}], mock_response="hi")
        return litellm


class LiteLLMEndpoint(Endpoint):
    """Route of LiteLLM to a provider; its secrets are masked in messages."""

    def __init__(self, config: ClientConfig) -> None:
        variable = config.key_env if config.key_env != KEY_ENV else None
        self.api_key = config.api_key or (os.environ.get(variable, "").strip() if variable else None) or None
        self.api_base = None if config.base_url is None else parse_base_url("base_url", config.base_url)
        provider, _, name = config.model.rpartition("/")
        host = provider if re.fullmatch(r"[a-z0-9_.-]+", provider) else "model"
        self._base = URL.build(scheme="litellm", host=host, path=f"/{name}")
        self.headers = dict(config.headers)
        self.key_name = "the key of the provider, which LiteLLM reads from its environment variable"
        self.is_bare, self.is_loopback = False, False
        self.server = {"gen_ai.provider.name": provider.partition("/")[0]} if provider else {}
        if self.api_base is not None:
            self.server |= {"server.address": self.api_base.host, "server.port": self.api_base.port}
        secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
        secrets = {value for value in secrets if len(value) >= _MIN_SECRET}
        if self.api_base is not None:
            secrets |= {self.api_base.password or "", *self.api_base.query.values()}
        for value in (self.api_key or "", *config.headers.values()):
            secrets.update(with_parts(value))
        for body in (config.body, config.default_body):
            veil(body, secrets)
        self._secrets = spellings(secrets)

    def url(self, path: str) -> URL:
        """Return the route, whatever the path: LiteLLM chooses it."""
        return self._base


class LiteLLMTransport(Transport):
    """Transport that lets LiteLLM send an attempt, as one request without retries."""

    def __init__(self, endpoint: LiteLLMEndpoint, max_response_bytes: int) -> None:
        super().__init__(endpoint, None, max_response_bytes)
        self._route = endpoint

    async def post(self, path: str, body: bytes, timeout: float) -> Response | Failure:
        """Return the response of one attempt in the shape of OpenAI's interface, or its failure."""
        litellm = await asyncio.to_thread(load_litellm)  # seconds at the first call
        if litellm.model_fallbacks:
            raise ConfigError(
                "litellm.model_fallbacks is set: a fallback would exceed the limits of the run; unset it"
            )
        payload = json.loads(body)
        try:
            async with asyncio.timeout(timeout):  # of the whole attempt; the one below is for each read
                response = await litellm.acompletion(
                    **payload,
                    api_key=self._route.api_key,
                    api_base=None if self._route.api_base is None else str(self._route.api_base),
                    extra_headers=dict(self._route.headers) or None,
                    timeout=timeout,
                    num_retries=0,
                    max_retries=0,
                )
                content: bytes = response.model_dump_json(warnings=False).encode()
        except TimeoutError:
            return timed_out(self._where(path), timeout)
        except Exception as error:
            return self._failed(error, payload, timeout)
        if len(content) > self._limit:
            return Failure(
                MalformedAnswerError,
                f"{self._where(path)}: the response exceeds max_response_bytes={self._limit}",
                lost=True,
                max_attempts=MAX_MALFORMED_ATTEMPTS,
            )
        return Response(self._base_url, 200, {"Content-Length": str(len(content))}, content)

    async def get(self, path: str, timeout: float) -> Response | None:
        """Return None: LiteLLM has no model card."""
        return None

    @property
    def _base_url(self) -> URL:
        return self._route.url("")

    def _failed(self, error: Exception, payload: Mapping[str, Any], timeout: float) -> Response | Failure:
        """Return the failure of an attempt.

        XX
        """
        where, kind = self._where(""), type(error).__name__
        causes = {type(each).__name__ for each in _causes(error)}
        if causes & {"ConnectError", "ClientConnectorError"}:
            message = f"{where}: the provider cannot be reached; check base_url: {self._quoted(error)}"
            return Failure(UnreachableError, message, code="unreachable")
        if kind == "Timeout":
            return timed_out(where, timeout)
        if causes & _DROPPED:
            message = f"{where}: the connection was dropped: {self._quoted(error)}"
            return Failure(UnreachableError, message, lost=True, code="dropped", is_outage=True)
        status = getattr(error, "status_code", None)
        status = status if isinstance(status, int) and 400 <= status < 600 else 500
        document: dict[str, Any] = {"message": str(getattr(error, "message", error))}
        if (code := _CODES.get(kind)) is not None:
            document["code"] = code
        response = Response(self._base_url, status, _headers(error), json.dumps({"error": document}).encode())
        if status < 500:
            return response
        failure = read_response(response, self._route, payload)
        assert isinstance(failure, Failure)
        return replace(failure, lost=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _headers(error: Exception) -> dict[str, str]:
    """Return the headers of the response behind an error of litellm, in lower case."""
    response = getattr(error, "response", None)
    for found in (getattr(error, "litellm_response_headers", None), getattr(response, "headers", None)):
        if found:
            return {str(name).lower(): str(value) for name, value in found.items()}
    return {}


@public
class LiteLLMModel(OpenAIClient):
    """Chat model of any provider that LiteLLM knows; an async context manager.

    A setting of `ClientConfig` acts as it does for `OpenAIClient`. `model` is LiteLLM's name, such as
    "anthropic/claude-sonnet-4-5" or "bedrock/...", `base_url` its `api_base`, `body` holds parameters of
    `litellm.completion`. Without `api_key`, or a `key_env` other than the default, LiteLLM reads the
    environment variable of the provider. Embedding is that of an `OpenAIClient` or another embedder.

    Args:
        config: settings, or the name of a model.

    Raises:
        ConfigError: a setting is invalid, or the body sets retries or fallbacks.
        MissingDependencyError: the package `litellm` is not installed.
    """

    _endpoint_type = LiteLLMEndpoint
    _endpoint: LiteLLMEndpoint

    def __init__(self, config: ClientConfig | str, **more: Any) -> None:
        if importlib.util.find_spec("litellm") is None:
            raise MissingDependencyError('LiteLLM is not installed: pip install "zopo-fast[litellm]"')
        config = ClientConfig(config) if isinstance(config, str) else config
        if refused := sorted(_REFUSED & set(config.chat_body)):
            raise ConfigError(
                f"body: {refused[0]!r} would change the calls behind the limits of the run; leave it out"
            )
        if config.embedding_model is not None:
            raise ConfigError("embedding_model: a LiteLLMModel does not embed; use an OpenAIClient")
        super().__init__(config, **more)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, address without secrets and body: what an answer depends on besides the messages."""
        base = self._endpoint.api_base
        where = None if base is None else show_url(base)
        return {"client": "litellm", "model": self.config.model, "endpoint": where} | {
            "body": self.config.chat_body
        }

    def _new_transport(self) -> Transport:
        return LiteLLMTransport(self._endpoint, self.config.max_response_bytes)
