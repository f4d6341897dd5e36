"""Server under test, in a thread of this process or as a process that can be killed; HTTP client."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from aiohttp import web
from time_tools import HANG

from zopo_fast.serve.config import ServeConfig, ServerLimits
from zopo_fast.serve.http.routing import Route
from zopo_fast.serve.server import Server, create_app

TOKEN = "a-token-for-the-tests-0123456789"
SECONDS = HANG


class Reply(NamedTuple):
    """HTTP response; `body` is parsed if it is JSON."""

    status: int
    body: Any
    headers: dict[str, str]


class Client:
    """HTTP client with one keep-alive connection."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.host = urlsplit(url).netloc
        self._token = token
        self._connection = http.client.HTTPConnection(self.host, timeout=SECONDS)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a request; a body that is not bytes is sent as JSON. In header names, _ stands for -."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body=data, headers=sent)
        response = self._connection.getresponse()
        raw = response.read()
        kind = response.getheader("Content-Type", "")
        parsed = json.loads(raw) if "json" in kind else raw
        return Reply(response.status, parsed, dict(response.getheaders()))

    def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request that must succeed; return the body of the response."""
        reply = self(method, path, body, **headers)
        assert reply.status // 100 == 2, reply
        return reply.body

    def study(self, m: int = 30, d: int = 6, seed: int = 0, **config: Any) -> str:
        """Create a study of `pool(m, d, seed)`; return its id."""
        settings = {"budget": m, "initial": 5, "seed": seed, **config}
        made = self.ok("POST", "/v1/studies", {"embeddings": packed(pool(m, d, seed)), "config": settings})
        return str(made["id"])


def pool(m: int = 30, d: int = 6, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return random embeddings, (m, d) float32."""
    return np.random.default_rng(seed).standard_normal((m, d)).astype(np.float32)


def packed(rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Encode embeddings as a packed array."""
    data = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).tobytes()
    return {"base64": base64.b64encode(data).decode(), "dtype": rows.dtype.name, "shape": list(rows.shape)}


class InThread(NamedTuple):
    """Server that runs in a thread."""

    server: Server
    url: str
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the event loop of the server."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS)


@contextmanager
def served(
    folder: Path | str, limits: ServerLimits | None = None, middlewares: Iterable[Any] = (), **settings: Any
) -> Iterator[InThread]:
    """Run a server on a free port while the context is open; shut it down gracefully."""
    given = {"port": 0, "limits": limits or ServerLimits(stop_timeout=5), **settings}
    config = ServeConfig(data=folder, **given)
    found: list[Any] = []
    ready = threading.Event()

    async def work() -> None:
        stop = asyncio.Event()
        try:
            server = Server(config, middlewares)
            await server.start()
            found.append((server, asyncio.get_running_loop(), stop))
        except BaseException as error:
            found.append(error)
            raise
        finally:
            ready.set()
        await stop.wait()
        await server.stop()

    problems: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(SECONDS)
    if isinstance(found[0], BaseException):
        thread.join(SECONDS)
        raise found[0]
    server, loop, stop = found[0]
    try:
        yield InThread(server, server.url, loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SECONDS)
    assert not thread.is_alive()
    if problems:
        raise problems[0]


@contextmanager
def mounted(folder: Path, prefix: str, **settings: Any) -> Iterator[str]:
    """Run the server as a part of another application below a prefix; the value is its URL."""
    found: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def work() -> None:
        outer = web.Application()
        outer.add_subapp(f"{prefix}/", create_app(ServeConfig(data=folder, **settings)))
        runner = web.AppRunner(outer)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}")
        ready.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(work()), daemon=True)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield found[0]
    finally:
        stop.set()
        thread.join(SECONDS)


class Process:
    """`zopo-fast serve` in a process of its own."""

    def __init__(
        self,
        folder: Path | str,
        *options: str,
        wrapped: tuple[str, ...] = (),
        log: Path | None = None,
        **environment: str,
    ) -> None:
        command = [sys.executable, "-c", "from zopo_fast.cli.group import main; main()", "serve"]
        command = [*wrapped, *command, "--data", str(folder), "--port", "0", *options]
        self._log = (log or Path(f"{folder}.log")).open("ab")
        self.log = Path(self._log.name)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # signals then reach a wrapping program too
            env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"Listening on (\S+)", line)
        if found is None:
            self.process.wait(SECONDS)
            raise AssertionError(f"the server does not listen: {self.log.read_text()}")
        self.url = found.group(1)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def kill(self) -> None:
        """Kill the process."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)

    def stop(self) -> int:
        """Shut the process down gracefully; return its exit code."""
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(SECONDS)


def table() -> tuple[Route, ...]:
    """Return the routes of a server's API without starting it."""
    return Server(ServeConfig(data=Path("unused"))).table.documented
