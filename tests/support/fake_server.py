"""OpenAI-compatible server on the loopback interface that fails on request.

    async with FakeServer(lambda messages: "cold", plan=[status(429, retry_after=2), dropped()]) as server:
        client = OpenAIClient(ClientConfig("m", base_url=server.url))
        ...                                     # the third attempt is answered with "cold"
    assert server.answered_total == 1 and len(server.requests) == 3

`plan` gives the behaviour of each request in turn:
  - nothing: every request is answered;
  - a list of behaviours: one a request, then every request is answered;
  - one behaviour: every request gets it;
  - a callable (Request) -> Behaviour: anything else, such as `random_faults(seed=0, share=0.3)`.

Behaviours: `ok()`, `status(...)`, `dropped()`, `truncated(...)`, `slow()`, `html()`, `broken_json()`,
`no_choices()`, `null_content()`, `no_usage()`, `absurd_usage()`, `huge(...)`, `redirect(...)`, and
`edited(...)` for any other change to a good answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from aiohttp import web
from server_behaviours import (
    Behaviour,
    Edit,
    Plan,
    Request,
    absurd_usage,
    broken_json,
    dropped,
    edited,
    hashed_vector,
    html,
    huge,
    key_of,
    no_choices,
    no_usage,
    null_content,
    ok,
    random_faults,
    redirect,
    slow,
    status,
    truncated,
)

__all__ = [
    "Behaviour",
    "Edit",
    "FakeServer",
    "Plan",
    "Request",
    "absurd_usage",
    "broken_json",
    "dropped",
    "edited",
    "hashed_vector",
    "html",
    "huge",
    "key_of",
    "no_choices",
    "no_usage",
    "null_content",
    "ok",
    "random_faults",
    "redirect",
    "slow",
    "status",
    "truncated",
]


VLLM_MODELS: Mapping[str, Any] = {
    "object": "list",
    "data": [{"id": "m", "object": "model", "owned_by": "vllm", "root": "org/model", "max_model_len": 4096}],
}


class FakeServer:
    """aiohttp server on a free port of 127.0.0.1; an async context manager.

    Set `gate` to an unset `asyncio.Event` to make all requests wait for it. Usage is counted in words.

    Args:
        answer: text of a good response to messages.
        plan: behaviour of each request.
        embed: vector of a text.
        latency: delay of good responses, in seconds.
        prefix: path of the API.
        models: response to `GET /models`, which is not counted in `requests`; None: 404.
        also: further paths that the plan answers.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Mapping[str, str]]], str] = lambda messages: messages[-1]["content"],
        *,
        plan: Plan = None,
        embed: Callable[[str], Sequence[float]] = hashed_vector,
        latency: float = 0.0,
        prefix: str = "/v1",
        models: Any = VLLM_MODELS,
        also: Sequence[str] = (),
    ) -> None:
        self.requests: list[Request] = []
        self.unrouted: list[str] = []
        """Requested paths that do not exist (404)."""
        self.models = models
        self.model_requests: list[Mapping[str, str]] = []
        """Headers of the requests for `GET /models`."""
        self.answered: Counter[str] = Counter()
        """Number of good responses, by `Request.key`."""
        self.in_flight = 0
        self.max_in_flight = 0
        """Maximum of `in_flight`, which does not count held requests."""
        self.gate: asyncio.Event | None = None
        self.unrouted_gate: asyncio.Event | None = None
        """Event that all 404 responses but the first wait for."""
        self.release = asyncio.Event()
        self.url = ""
        """Base URL with prefix."""
        self.connections: set[Any] = set()
        """Transports of all connections so far."""
        self._answer = answer
        self._plan = list(plan) if isinstance(plan, Sequence) else plan
        self._embed = embed
        self._latency = latency
        self._prefix = prefix
        self._also = also
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def answered_total(self) -> int:
        """Total number of good responses."""
        return self.answered.total()

    @property
    def open_connections(self) -> int:
        """Number of connections that the client has not closed."""
        return sum(not transport.is_closing() for transport in self.connections)

    async def wait_in_flight(self, count: int) -> None:
        """Wait until `count` requests are in flight."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.in_flight >= count)

    async def wait_requests(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def __aenter__(self) -> FakeServer:
        app = web.Application(client_max_size=2**26)
        app.router.add_post(f"{self._prefix}/chat/completions", self._handle)
        app.router.add_post(f"{self._prefix}/embeddings", self._handle)
        app.router.add_get(f"{self._prefix}/models", self._models)
        for path in self._also:
            app.router.add_post(path, self._handle)
        app.router.add_route("*", "/{path:.*}", self._unknown)
        # Cancel the handler of a client that disconnects, so that no handler is left.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}{self._prefix}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, http: web.Request) -> web.StreamResponse:
        self.model_requests.append(dict(http.headers))
        if self.models is None:
            raise web.HTTPNotFound
        models = self.models() if callable(self.models) else self.models
        return models if isinstance(models, web.StreamResponse) else web.json_response(models)

    async def _unknown(self, http: web.Request) -> web.StreamResponse:
        self.unrouted.append(http.path)
        if self.unrouted_gate is not None and len(self.unrouted) > 1:
            await self.unrouted_gate.wait()
        raise web.HTTPNotFound

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        seen = Request(len(self.requests), http.path, dict(http.headers), body)
        behaviour = self._next(seen)
        self.requests.append(Request(seen.index, seen.path, seen.headers, body, behaviour.name))
        self.connections.add(http.transport)
        if behaviour.hold:
            await self._notify()
            await self.release.wait()
            return await self._respond(http, self.requests[seen.index], behaviour)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await self._notify()
            if self.gate is not None:
                await self.gate.wait()
            if behaviour.good and self._latency:
                await asyncio.sleep(self._latency)
        finally:
            # Before the response is sent: the client may send its next request on receipt.
            self.in_flight -= 1
        return await self._respond(http, self.requests[seen.index], behaviour)

    def _next(self, request: Request) -> Behaviour:
        plan = self._plan
        if isinstance(plan, list):
            return plan.pop(0) if plan else ok()
        if isinstance(plan, Behaviour):
            return plan
        return ok() if plan is None else plan(request)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _respond(self, http: web.Request, request: Request, behaviour: Behaviour) -> web.StreamResponse:
        content = behaviour.raw
        if content is None:
            answer = self._good_response(request)
            content = json.dumps(answer if behaviour.edit is None else behaviour.edit(answer)).encode()
        if behaviour.cut is not None:
            return await self._cut(http, behaviour.cut, content)
        headers = {"Content-Type": behaviour.content_type, **behaviour.headers}
        response = web.Response(status=behaviour.status, body=content, headers=headers)
        await response.prepare(http)
        await response.write_eof()
        if behaviour.good:
            self.answered[request.key] += 1
        return response

    async def _cut(self, http: web.Request, how: str, content: bytes) -> web.StreamResponse:
        transport = http.transport
        assert transport is not None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        half = content[: len(content) // 2]
        if how == "close":
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
            transport.write(head + half)
        elif how != "before":
            if how == "chunked":
                response.enable_chunked_encoding()
            else:
                response.content_length = len(content)
            await response.prepare(http)
            await response.write(half)
        transport.close()
        return response

    def _good_response(self, request: Request) -> dict[str, Any]:
        body = request.body
        if request.path.endswith("/embeddings"):
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            data = [
                {"object": "embedding", "index": index, "embedding": list(self._embed(text))}
                for index, text in enumerate(texts)
            ]
            words = sum(len(text.split()) for text in texts)
            usage = {"prompt_tokens": max(1, words), "total_tokens": max(1, words)}
            return {"object": "list", "model": body["model"], "data": data, "usage": usage}
        text = self._answer(body["messages"])
        prompt = max(1, sum(len(message["content"].split()) for message in body["messages"]))
        completion = max(1, len(text.split()))
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{request.index}",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
