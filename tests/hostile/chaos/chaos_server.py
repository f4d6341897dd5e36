"""Chat endpoint on the loopback interface with reproducible faults in a share of its requests.

The fault of a request depends on the seed, on its messages and on the number of earlier attempts, not on the
order of the requests. The server records what it would bill and which answers it delivered, to be compared
with the account of the client.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

HUGE = 2**20
IDLE = 20  # iterations of the loop without a new request or an answer
FAULTS = (
    "429",
    "429 with Retry-After",
    "500",
    "503",
    "dropped",
    "truncated",
    "truncated JSON",
    "slow",
    "web page",
    "wrong content type",
    "no choices",
    "huge",
    "no usage",
    "absurd usage",
)
HARMLESS = frozenset({"wrong content type", "no usage", "absurd usage"})  # the answer is still good
UNBILLED = frozenset({"429", "429 with Retry-After", "500", "503", "dropped"})
ABSURD: tuple[Any, ...] = (-5, 10**15, "many", None, 2.5, True, [1])


def dice(*of: object) -> float:
    """Return a number in [0, 1) that depends on the arguments only."""
    digest = hashlib.sha256(repr(of).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def right_answer(prompt: int, example: int) -> str:
    """Return the answer to an example under a prompt: "yes" (correct) more often for later prompts."""
    return "yes" if dice("answer", prompt, example) < 0.2 + 0.02 * prompt else "no"


@dataclass
class Books:
    """Records of a server during one run."""

    requests: int = 0
    billed_calls: int = 0
    billed_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    """Number of good answers written completely."""
    expired: int = 0
    """Number of the last request that was in flight when the clock last advanced by the timeout."""


class ChaosServer:
    """Server as an async context manager; `begin` selects the faults of the next run."""

    def __init__(self) -> None:
        self.url = ""
        self.timeout = 0.0
        """Timeout of the client, in seconds."""
        self.books = Books()
        self._faults: tuple[str, ...] = ()
        self._share = 0.0
        self._seed = 0
        self._runner: web.AppRunner | None = None
        self._transports: set[Any] = set()

    def begin(self, faults: tuple[str, ...], share: float, seed: int) -> Books:
        """Start a run with one of `faults` in a `share` of its requests; return its records."""
        self._faults, self._share, self._seed = faults, share, seed
        self.books = Books()
        return self.books

    @property
    def open_connections(self) -> int:
        """Number of connections that the client has not closed."""
        self._transports = {one for one in self._transports if not one.is_closing()}
        return len(self._transports)

    async def __aenter__(self) -> ChaosServer:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        try:
            return await self._reply(http)
        except ConnectionError:  # the client has disconnected
            return web.Response()

    async def _reply(self, http: web.Request) -> web.StreamResponse:
        books = self.books
        body = await http.json()
        self._transports.add(http.transport)
        content = body["messages"][-1]["content"]
        attempt = books.asked[content]
        books.asked[content] += 1
        books.requests += 1
        fault = ""
        if self._faults and dice(self._seed, content, attempt) < self._share:
            fault = self._faults[int(dice(self._seed, content, attempt, "which") * len(self._faults))]
            books.faults[fault] += 1
        answer = _good(body, content)
        if fault not in UNBILLED:
            books.billed_calls += 1
            books.billed_tokens += answer["usage"]["total_tokens"]
        if fault and fault not in HARMLESS:
            return await self._fail(http, fault, json.dumps(answer).encode())
        content_type = "application/json"
        if fault == "wrong content type":
            content_type = "application/octet-stream"
        elif fault == "no usage":
            del answer["usage"]
        elif fault == "absurd usage":
            odd = ABSURD[int(dice(self._seed, content, attempt, "odd") * len(ABSURD))]
            answer["usage"] = {"prompt_tokens": odd, "completion_tokens": odd, "total_tokens": odd}
        response = web.Response(body=json.dumps(answer).encode(), headers={"Content-Type": content_type})
        await response.prepare(http)
        await response.write_eof()
        books.answered += 1
        return response

    async def _hold(self) -> None:
        """Hold a request until its client times out, without waiting.

        When nothing but held requests is left, the clock of the loop, which is the client's, advances by the
        timeout.
        """
        books, idle, seen = self.books, 0, (0, 0)
        number = books.requests
        while idle < IDLE:
            await asyncio.sleep(0)
            now = (books.requests, books.answered)
            idle, seen = (idle + 1 if now == seen else 0), now
        if number > books.expired:
            books.expired = books.requests
            loop = asyncio.get_running_loop()
            time = loop.time
            loop.time = lambda: time() + self.timeout  # type: ignore[method-assign]
        await asyncio.Event().wait()  # cancelled as the client closes the connection

    async def _fail(self, http: web.Request, fault: str, good: bytes) -> web.StreamResponse:
        if fault == "slow":
            await self._hold()
        if fault in ("dropped", "truncated"):
            return await _cut(http, good if fault == "truncated" else b"")
        if fault == "huge":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.enable_chunked_encoding()
            await response.prepare(http)
            for _ in range(HUGE // 2**14):
                await response.write(b" " * 2**14)
            return response
        code = int(fault[:3]) if fault[:3].isdigit() else 200
        headers = {"Retry-After": "1"} if fault == "429 with Retry-After" else {}
        raw = {
            "truncated JSON": good[: len(good) // 2],
            "web page": b"<!DOCTYPE html><html><body>Welcome</body></html>",
            "no choices": b'{"id": "x", "choices": [], "usage": {"prompt_tokens": 9}}',
        }.get(fault, b'{"error": {"message": "no"}}')
        content_type = "text/html" if fault == "web page" else "application/json"
        return web.Response(status=code, body=raw, headers={"Content-Type": content_type, **headers})


async def _cut(http: web.Request, content: bytes) -> web.StreamResponse:
    """Drop the connection, in the middle of the content if there is any."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    if content:
        response.content_length = len(content)
        await response.prepare(http)
        await response.write(content[: len(content) // 2])
    if http.transport is not None:
        http.transport.close()
    return response


def _good(body: dict[str, Any], content: str) -> dict[str, Any]:
    found = re.search(r"way (\d+)\..*question (\d+)", content, re.DOTALL)
    text = "what?" if found is None else right_answer(int(found[1]), int(found[2]))
    # One token per two characters: fewer than bytes, and more than with most vocabularies.
    prompt, completion = 10 + len(content) // 2, 1 + len(text) // 2
    completion = min(completion, body.get("max_tokens", completion))
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }
