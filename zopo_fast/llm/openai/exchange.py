"""Requests of one client: the path below its base URL, and the parameters that the endpoint accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zopo_fast.llm.openai.config import ClientConfig
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.redaction import show_url
from zopo_fast.llm.openai.refusals.error_body import parse_error
from zopo_fast.llm.openai.refusals.request_fields import Changes, RequestFields
from zopo_fast.llm.openai.responses import Document, Response, error_status, read_response
from zopo_fast.llm.openai.retry import Failure
from zopo_fast.llm.openai.transport import Transport

# LM Studio answers an unknown path with status 200.
_NO_PATH = re.compile(rb"unexpected endpoint or method", re.IGNORECASE)
# AWS API Gateway answers an unknown path with status 403; an API's own refusals have a code.
_GATEWAY_NO_PATH = re.compile(rb'\A\s*{\s*"message"\s*:\s*"(?:Missing Authentication Token|Forbidden)"\s*}')
_NO_PATH_STATUSES = frozenset({404, 405, 410, 501})
_API_FIELDS = frozenset(
    {
        "choices", "data", "embeddings", "embedding", "error", "usage", "promptFeedback", "prompt_feedback",
        "prompt_filter_results",
    }
)  # fmt: skip
"""Fields of answers and errors of an API; a page about the state of a server has none."""
_VERSION = "v1/"


@dataclass
class EndpointFacts:
    """Facts about an endpoint that its responses tell; clients of one endpoint and model share them."""

    prefix: str = ""
    """Path of the API below a bare base URL."""
    is_at_root: bool = False
    """True once the API has answered a call at the root of a bare base URL."""
    has_response: bool = False
    """True once the endpoint has sent any response."""
    changes: dict[str, str | None] = field(default_factory=dict)
    """New names of refused default parameters; None: the parameter is left out."""


class Exchange:
    """Requests to one endpoint.

    Args:
        endpoint: URLs, headers and secrets.
        config: model and body of the requests.
        facts: facts about the endpoint, which the responses complete.
    """

    def __init__(self, endpoint: Endpoint, config: ClientConfig, facts: EndpointFacts) -> None:
        where = f"{config.model} at {endpoint.redact(show_url(endpoint.url('')))}".rstrip("/")
        self.facts = facts
        defaults = frozenset(config.default_body) - frozenset(config.body)
        self.fields = RequestFields(defaults, config.chat_body, facts.changes, where)
        self._endpoint = endpoint

    async def post_chat(
        self, transport: Transport, payload: Mapping[str, Any], timeout: float, *, keep_limit: bool = False
    ) -> Document | Failure:
        """Send a chat request; a refused default parameter is left out or renamed, and the request repeated.

        Args:
            transport: sends the request.
            payload: model and messages.
            timeout: seconds until each response.
            keep_limit: keep the limit of the answer's length, which a budget needs.
        """
        changes: Changes = dict(self.facts.changes)
        while True:
            body = self.fields.changed(changes)
            response = await self._post(transport, "chat/completions", {**payload, **body}, timeout)
            if isinstance(response, Failure):
                return response
            further = self._further(response, changes, keep_limit)
            if further is None:
                break
            changes = further
        if error_status(response) is None:
            self.fields.accepted(changes)
        return read_response(response, self._endpoint, body)

    async def post_embeddings(
        self, transport: Transport, payload: Mapping[str, Any], timeout: float
    ) -> Document | Failure:
        """Send a request for embeddings."""
        response = await self._post(transport, "embeddings", payload, timeout)
        if isinstance(response, Failure):
            return response
        return read_response(response, self._endpoint, payload)

    def _further(self, response: Response, changes: Changes, keep_limit: bool) -> Changes | None:
        status = error_status(response)
        if status not in (400, 422):
            return None
        return self.fields.further(status, parse_error(response.body), changes, keep_limit=keep_limit)

    async def _post(
        self, transport: Transport, path: str, payload: Mapping[str, Any], timeout: float
    ) -> Response | Failure:
        """Send a request to `path`; the API of a bare host may be at its root or, more often, below /v1."""
        body = json.dumps(payload).encode()
        prefix = self.facts.prefix
        response = await self._sent(transport, prefix + path, body, timeout)
        if prefix or not self._endpoint.is_bare or self.facts.is_at_root:
            return response
        if not _is_missing(response):
            self.facts.is_at_root = isinstance(response, Response) and error_status(response) is None
            return response
        # Also where another call has learned the prefix since this request was sent.
        second = await self._sent(transport, _VERSION + path, body, timeout)
        if isinstance(second, Failure):
            return second
        if not _is_missing(second):
            self.facts.prefix = _VERSION
            return second
        # The API is below /v1 and lacks the model: its own words help more than those of the root.
        return second if parse_error(second.body).message and second.body[:1] == b"{" else response

    async def _sent(self, transport: Transport, path: str, body: bytes, timeout: float) -> Response | Failure:
        response = await transport.post(path, body, timeout)
        if isinstance(response, Response) or not issubclass(response.error, (OSError, TimeoutError)):
            self.facts.has_response = True
        return response


def _is_missing(response: Response | Failure) -> bool:
    """Return whether a response comes from something other than the API, such as a web site at the root."""
    if isinstance(response, Failure):
        return False
    status = response.status
    if status in _NO_PATH_STATUSES or status // 100 == 3:
        return True
    is_page = response.body.lstrip()[:1] == b"<"
    if status == 403:
        return is_page or _GATEWAY_NO_PATH.search(response.body[:500]) is not None
    if status // 100 != 2:
        return False
    return is_page or _NO_PATH.search(response.body[:500]) is not None or _is_other_service(response.body)


def _is_other_service(body: bytes) -> bool:
    """Return whether a body is complete JSON or a text, without any field of an answer or an error."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return body.lstrip()[:1] not in (b"{", b"[")  # else the start of a JSON response
    return not isinstance(values, Mapping) or _API_FIELDS.isdisjoint(values)
