"""Proxy before an OpenAI-compatible endpoint that counts calls per key and enforces a budget of each.

Every method of a comparison gets a key of its own, so that its calls are counted by one meter, whatever the
method counts itself:

    async with MeteringProxy("http://127.0.0.1:8123/v1", {"gepa-0": 500}) as proxy:
        ...  # base URL proxy.url, API key "gepa-0"
        print(proxy.counts["gepa-0"], proxy.usage("gepa-0"))
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import aiohttp
from aiohttp import web

BUDGET_EXHAUSTED = "budget_exhausted"
NO_RETRY_HEADER = "x-should-retry"  # read by the openai package
_PASSED_ON = ("Content-Type", "Retry-After")


@dataclass(frozen=True)
class Tokens:
    """Tokens of the counted calls of one key."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True)
class ProxyCall:
    """One call, as a line of the log.

    Args:
        key: bearer token of the caller.
        number: place among the counted calls of the key, from 1; None: not counted.
        kind: path of the call, such as "chat/completions".
        outcome: "ok", "refused" or "failed".
        status: of the response to the caller.
        prompt_tokens: as the endpoint states them; None where it does not.
        completion_tokens: likewise.
        seconds: since the start of the proxy, at the response.
        latency: seconds from request to response.
        messages: hash of the messages.
    """

    key: str
    number: int | None
    kind: str
    outcome: str
    status: int
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    latency: float
    messages: str


class MeteringProxy:
    """HTTP proxy on the loopback interface; an async context manager that yields itself.

    `url` is the base URL for clients, `/v1` included. A completion is counted when its response has
    status 200; a failed call is free. Calls in flight reserve their place in the budget, so counted calls
    never exceed it. A call without budget gets status 429 with the error code "budget_exhausted" and the
    header `x-should-retry: false`, and reaches no model. All other paths pass through uncounted.

    Args:
        upstream: base URL of the endpoint, `/v1` included.
        budgets: completions by key. An unknown key gets status 401.
        log: JSONL file to append every completion call to; None: `calls` alone.
        upstream_key: bearer token for the endpoint; None: none is sent.
        timeout: seconds for one upstream call.
    """

    def __init__(
        self,
        upstream: str,
        budgets: Mapping[str, int],
        *,
        log: str | Path | None = None,
        upstream_key: str | None = None,
        timeout: float = 3600.0,
    ) -> None:
        self.upstream = upstream.rstrip("/")
        self.budgets = dict(budgets)
        self.counts: dict[str, int] = dict.fromkeys(budgets, 0)
        self.refused: dict[str, int] = dict.fromkeys(budgets, 0)
        self.calls: list[ProxyCall] = []
        self.url = ""
        self._reserved: dict[str, int] = dict.fromkeys(budgets, 0)
        self._usage: dict[str, Tokens] = dict.fromkeys(budgets, Tokens())
        self._log_path = None if log is None else Path(log)
        self._log: TextIO | None = None
        self._headers = {} if upstream_key is None else {"Authorization": f"Bearer {upstream_key}"}
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._start = 0.0

    def __str__(self) -> str:
        return self.url

    def usage(self, key: str) -> Tokens:
        """Return the tokens of the counted calls of a key."""
        return self._usage[key]

    def add_key(self, key: str, budget: int) -> None:
        """Admit a further key, or change the budget of one."""
        self.budgets[key] = budget
        for table in (self.counts, self.refused, self._reserved):
            table.setdefault(key, 0)
        self._usage.setdefault(key, Tokens())

    async def __aenter__(self) -> MeteringProxy:
        self._start = time.monotonic()
        if self._log_path is not None:
            self._log = self._log_path.open("a", encoding="utf-8")
        # No limit of connections: a queue here would lengthen the latencies of the log.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=self._timeout)
        )
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/v1/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        if self._log is not None:
            self._log.close()

    async def _handle(self, request: web.Request) -> web.Response:
        started = time.monotonic()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        path = request.match_info["path"]
        if key not in self.budgets:
            return _error(401, "unknown API key: it must be one of the proxy's budgets", "invalid_api_key")
        body = await request.read()
        if request.method != "POST" or not path.endswith("completions"):
            status, headers, answer = await self._forward(request, path, body)
            return web.Response(status=status, headers=headers, body=answer)
        document = _document(body)
        if reason := _unmetered(document):
            return _error(400, reason, "unsupported")
        return await self._metered(request, path, body, document, key, started)

    async def _metered(
        self,
        request: web.Request,
        path: str,
        body: bytes,
        document: Mapping[str, Any],
        key: str,
        started: float,
    ) -> web.Response:
        # Reserve before the first await of the call: concurrent calls must not share the last place.
        if self.counts[key] + self._reserved[key] >= self.budgets[key]:
            self.refused[key] += 1
            self._record(key, None, path, "refused", 429, None, started, document)
            text = f"the budget of {self.budgets[key]} calls of this key is spent"
            return _error(429, text, BUDGET_EXHAUSTED, {NO_RETRY_HEADER: "false"})
        self._reserved[key] += 1
        try:
            status, headers, answer = await self._forward(request, path, body)
        finally:
            self._reserved[key] -= 1
        if status != 200:
            self._record(key, None, path, "failed", status, None, started, document)
            return web.Response(status=status, headers=headers, body=answer)
        self.counts[key] += 1
        usage = _document(answer).get("usage")
        tokens = Tokens(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)) if usage else None
        self._usage[key] += tokens or Tokens()
        self._record(key, self.counts[key], path, "ok", status, tokens, started, document)
        return web.Response(status=status, headers=headers, body=answer)

    async def _forward(
        self, request: web.Request, path: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the endpoint; 502 where it cannot be reached."""
        if self._session is None:
            raise RuntimeError("the proxy is used outside its context")
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json"), **self._headers}
        url = f"{self.upstream}/{path}"
        try:
            async with self._session.request(
                request.method, url, params=request.query, data=body or None, headers=headers
            ) as response:
                answer = await response.read()
                passed = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
                return response.status, passed, answer
        except (aiohttp.ClientError, TimeoutError) as error:
            refusal = _error(502, f"the endpoint failed: {type(error).__name__}: {error}", "upstream_failed")
            return 502, {"Content-Type": "application/json"}, bytes(refusal.body or b"")  # type: ignore[arg-type]

    def _record(
        self,
        key: str,
        number: int | None,
        kind: str,
        outcome: str,
        status: int,
        tokens: Tokens | None,
        started: float,
        document: Mapping[str, Any],
    ) -> None:
        now = time.monotonic()
        call = ProxyCall(
            key,
            number,
            kind,
            outcome,
            status,
            tokens.prompt if tokens else None,
            tokens.completion if tokens else None,
            round(now - self._start, 4),
            round(now - started, 4),
            messages_hash(document.get("messages", document.get("prompt"))),
        )
        self.calls.append(call)
        if self._log is not None:
            self._log.write(json.dumps(asdict(call)) + "\n")
            self._log.flush()


def messages_hash(messages: Any) -> str:
    """Return a hash of messages, to find equal calls of a log."""
    text = json.dumps(messages, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unmetered(document: Mapping[str, Any]) -> str | None:
    """Return why a completion cannot be counted as one call, None where it can."""
    if document.get("stream"):
        return "the proxy does not meter streams: set stream to false"
    if document.get("n") not in (None, 1):
        return "a call must ask for one completion: several would count as one"
    return None


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _error(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": code, "code": code}}
    return web.json_response(body, status=status, headers=headers)
