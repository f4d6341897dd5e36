"""The server: it listens, dispatches requests by the table of routes, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
from aiohttp import web

from zopo_fast import __version__
from zopo_fast.errors import ConfigError, ZopoError
from zopo_fast.serve.config import ServeConfig
from zopo_fast.serve.http import request as bodies
from zopo_fast.serve.http.auth import Guard
from zopo_fast.serve.http.problems import MEDIA_TYPE, Problem, problem_of
from zopo_fast.serve.http.response import WholeAnswer
from zopo_fast.serve.http.routing import JSON, Call, Route, Table
from zopo_fast.serve.http.schemas import Health
from zopo_fast.serve.jobs.routes import JobRoutes
from zopo_fast.serve.jobs.service import Jobs
from zopo_fast.serve.metrics import CONTENT_TYPE, Metrics
from zopo_fast.serve.models import load as load_models
from zopo_fast.serve.studies.routes import StudyRoutes
from zopo_fast.serve.studies.service import Studies

_log = logging.getLogger(__name__)


class Server:
    """One server; `start` it and `stop` it in the same event loop.

    Raises:
        ConfigError: no such embedder, a file of models that cannot be used, from start: no place to listen.
        StoreError: from start: the data folder cannot be used; StoreBusyError: another server uses it.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.url = ""
        self.stopping = False
        self._embedder = _embedder(config)
        self.studies = Studies(config.data, config.limits, self.metrics)
        models = load_models(config.models)
        self.jobs = Jobs(config.data, config.limits, models, self._embedder, self.metrics)
        self.table = Table(
            [
                *StudyRoutes(self.studies, self._embedder).routes(),
                *JobRoutes(self.jobs, config.limits).routes(),
                *self._own_routes(),
            ]
        )
        self._guard = Guard(config)
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._in_flight = 0

    async def start(self) -> None:
        """Take the data folder and listen; `url` says where."""
        try:
            await self.studies.open()
            await self.jobs.open()
            await self._listen()
        except BaseException:
            await self.stop()
            raise
        _log.info("listening", extra={"url": self.url, "studies": len(self.studies)})

    async def _listen(self) -> None:
        config = self.config
        server = web.Server(
            self._handle,
            access_log=logging.getLogger("aiohttp.access") if config.access_log else None,
            auto_decompress=False,  # so that a body is no larger than it says
            lingering_time=2.0,
            keepalive_timeout=75.0,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.host, config.port, backlog=512)
        try:
            await site.start()
            self._site = site
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror or error}"
            ) from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Listen no more, let requests in flight finish, write everything down; bounded in time."""
        self.stopping = True
        self.jobs.end_streams()
        if self._site is not None:
            await self._site.stop()
            end = time.monotonic() + self.config.limits.stop_timeout
            while self._in_flight and time.monotonic() < end:
                await asyncio.sleep(0.01)
        if self._runner is not None:
            await self._runner.cleanup()
        await self.jobs.close()
        await self.studies.close(self.config.limits.stop_timeout)
        if self._embedder is not None:
            await self._embedder.aclose()
        _log.info("stopped")

    # ---- requests ----------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        try:
            response = await self._response(request)
        finally:
            self._in_flight -= 1
        if self.stopping and not response.prepared:
            response.force_close()  # the last one on its connection
        return response

    async def _response(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except Problem as error:
            problem = error
        except ZopoError as error:
            problem = problem_of(error)
        except Exception:
            _log.exception("request failed", extra={"method": request.method})
            problem = Problem(500, "InternalError", "a fault of the server's; its log says where")
        self.metrics.problems.labels(problem.status).inc()
        return web.Response(
            status=problem.status,
            body=problem.body(),
            headers={"Content-Type": MEDIA_TYPE, **problem.headers},
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            route, target = self.table.find(request.method, request.path)
        except Problem:
            self._guard.admit(request)  # what there is, is not for everyone to find out
            raise
        if not route.open:
            self._guard.admit(request)
        body = await bodies.read_body(request, self.config.limits)
        call = Call(
            request,
            target,
            await bodies.decoded(route, body),
            bodies.query_of(route, request),
            bodies.key_of(route, request, body),
        )
        reply = await route.handler(call)
        if isinstance(reply, web.StreamResponse):
            return reply
        if route.status == 204:
            return web.Response(status=204)
        if route.hot and not self.stopping and WholeAnswer.can(request):
            return WholeAnswer(reply)
        return web.Response(status=route.status, body=reply, headers={"Content-Type": route.media})

    # ---- the server's own --------------------------------------------------------------------------

    def _own_routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/healthz", self._health, "health", "Whether the server answers.",
                answer=Health, open=True,
            ),
            Route("GET", "/metrics", self._metrics, "metrics", "For Prometheus.", media=CONTENT_TYPE),
            Route("GET", "/openapi.json", self._document, "openapi", "This document.", media=JSON),
        ]  # fmt: skip

    async def _health(self, call: Call) -> bytes:
        return msgspec.json.encode(Health("stopping" if self.stopping else "ok", __version__))

    async def _metrics(self, call: Call) -> bytes:
        return self.metrics.text()

    async def _document(self, call: Call) -> bytes:
        from zopo_fast.serve.http.openapi import document

        return msgspec.json.encode(document(self.table.routes, secured=self.config.token is not None))


def _embedder(config: ServeConfig) -> Any:
    """What turns texts into vectors; None where pools have to bring embeddings."""
    if config.embedder is None:
        return None
    from zopo_fast.prompts.embedders import resolve

    return resolve(config.embedder)


async def run(config: ServeConfig, stop: asyncio.Event, ready: Any = None) -> None:
    """Serve until `stop` is set; `ready(url)` is called once it listens."""
    server = Server(config)
    await server.start()
    try:
        if ready is not None:
            ready(server.url)
        await stop.wait()
    finally:
        await server.stop()
