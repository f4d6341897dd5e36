"""HTTP server: the aiohttp application, its start and its graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from zopo_fast import __version__
from zopo_fast._utils import tracing
from zopo_fast.errors import ConfigError, ZopoError
from zopo_fast.llm.types import EmbeddingModel
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServeConfig
from zopo_fast.serve.http.auth import Authenticator
from zopo_fast.serve.http.problems import Problem, problem_from
from zopo_fast.serve.http.request import (
    check_length,
    decode_body,
    parse_key,
    parse_query,
    read_body,
    send_continue,
)
from zopo_fast.serve.http.response import PreformattedResponse
from zopo_fast.serve.http.routing import JSON, ParsedRequest, Route, RouteTable
from zopo_fast.serve.http.schemas import Health
from zopo_fast.serve.http.streams import EVENT_STREAM, EventStreams
from zopo_fast.serve.jobs.backend import JobBackend
from zopo_fast.serve.jobs.folders import FolderJobs
from zopo_fast.serve.jobs.routes import JobRoutes
from zopo_fast.serve.jobs.service import JobService
from zopo_fast.serve.metrics import CONTENT_TYPE, Metrics
from zopo_fast.serve.models import load_models
from zopo_fast.serve.pages.routes import PageRoutes
from zopo_fast.serve.studies.folder import StudyFolder
from zopo_fast.serve.studies.routes import StudyRoutes
from zopo_fast.serve.studies.service import StudyService
from zopo_fast.serve.studies.store import StudyStore

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

    from zopo_fast.serve.postgres.database import Database

_log = logging.getLogger(__name__)


class Server:
    """HTTP server of studies and jobs.

    Call `start` and `stop` in the same event loop. To run the application in an aiohttp server of your
    own, use `create_app` instead.

    Args:
        config: settings of the server.
        middlewares: aiohttp middlewares, the outermost first.

    Raises:
        ConfigError: the embedder is unknown, or the models file or the URL of the database is invalid.
        MissingDependencyError: the data is in a database, and its package is not installed.
    """

    def __init__(self, config: ServeConfig, middlewares: Iterable[Middleware] = ()) -> None:
        self.config = config
        self.metrics = Metrics()
        self.url = ""
        self.is_stopping = False
        self._embedder = _resolve_embedder(config)
        limits, self._changes = config.limits, Changes()
        models = load_models(config.models)
        self._database, studies, backend = self._stores(config, list(models))
        self.studies = StudyService(studies, limits, self.metrics, self._changes)
        self.jobs = JobService(backend, limits, models, self._embedder, self.metrics, self._changes)
        self._authenticator, streams = Authenticator(config), EventStreams(limits.max_streams)
        jobs = JobRoutes(self.jobs, streams)
        page = PageRoutes(self.studies, self.jobs, jobs, self._changes, self._authenticator, streams, limits)
        self.table = RouteTable(
            [
                *StudyRoutes(self.studies, self._embedder).routes(),
                *jobs.routes(),
                *self._routes(),
                *page.routes(),
            ]
        )
        self._in_flight = 0
        self.app = self._create_app(middlewares)
        self._runner = web.AppRunner(
            self.app,
            access_log=logging.getLogger("aiohttp.access") if config.access_log else None,
            auto_decompress=False,  # or a small body could expand beyond the limit
            lingering_time=2.0,
            keepalive_timeout=75.0,
            shutdown_timeout=1.0,
        )

    def _stores(
        self, config: ServeConfig, models: list[str]
    ) -> tuple[Database | None, StudyStore, JobBackend]:
        if config.database is None:
            folder = Path(config.data)
            return None, StudyFolder(folder), FolderJobs(folder / "jobs", config.limits)
        from zopo_fast.serve.postgres.database import Database
        from zopo_fast.serve.postgres.jobs import PostgresJobs
        from zopo_fast.serve.postgres.studies import StudyDatabase

        database, has_embedder = Database(config.database), self._embedder is not None
        jobs = PostgresJobs(database, config.limits, models, has_embedder, self._changes)
        return database, StudyDatabase(database, self._changes), jobs

    def _create_app(self, middlewares: Iterable[Middleware]) -> web.Application:
        app = web.Application(middlewares=middlewares, client_max_size=self.config.limits.max_body)
        # (?s:.*) also matches an encoded newline, so that every unknown path gets a problem as response.
        app.router.add_route("*", "/{path:(?s:.*)}", self._handle, expect_handler=self._expect)
        app.cleanup_ctx.append(self._lifespan)
        app.on_shutdown.append(self._begin_shutdown)
        return app

    # ---- start and stop ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Lock the data folder and listen; sets `url`.

        Raises:
            ConfigError: the address cannot be used.
            StoreBusyError: another server uses the data folder.
            StoreError: the data folder cannot be used.
        """
        try:
            await self._runner.setup()
            await self._listen()
        except BaseException:
            await self.stop()
            raise
        _log.info("listening", extra={"url": self.url, "studies": await self.studies.store.count()})

    async def _listen(self) -> None:
        config = self.config
        site = web.TCPSite(self._runner, config.host, config.port, backlog=512)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror or error}; "
                "choose another --host or --port"
            ) from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening, finish the requests in flight, and write everything to disk; bounded in time."""
        await self._begin_shutdown(self.app)
        for site in self._runner.sites:
            await site.stop()
        # Wait before the cleanup: from then on aiohttp drops what arrives, also the rest of a body.
        end = time.monotonic() + self.config.limits.stop_timeout
        while self._in_flight and time.monotonic() < end:
            await asyncio.sleep(0.01)
        await self._runner.cleanup()
        _log.info("stopped")

    async def _lifespan(self, app: web.Application) -> AsyncIterator[None]:
        try:
            if self._database is not None:
                await self._database.open()
            await self.studies.open()
            await self.jobs.open()
            yield
        finally:
            await self.jobs.close()
            await self.studies.close(self.config.limits.stop_timeout)
            if self._database is not None:
                await self._database.close()
            if self._embedder is not None:
                await self._embedder.aclose()

    async def _begin_shutdown(self, app: web.Application) -> None:
        self.is_stopping = True
        self.jobs.end_streams()
        self._changes.close()

    # ---- requests ----------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        try:
            with tracing.request_span(request.method, request.path, request.scheme, request.headers) as span:
                response = await self._respond_or_fail(request, span)
                span.respond(response.status)
        finally:
            self._in_flight -= 1
        if self.is_stopping and not response.prepared:
            response.force_close()
        return response

    async def _respond_or_fail(self, request: web.Request, span: tracing.Span) -> web.StreamResponse:
        try:
            return await self._respond(request, span)
        except Problem as problem:
            return self._problem(problem)
        except ZopoError as error:
            return self._problem(problem_from(error))
        except web.HTTPException:
            raise
        except Exception:
            _log.exception("request failed", extra={"method": request.method})
            return self._problem(Problem(500, "InternalError", "internal error; see the log of the server"))

    def _problem(self, problem: Problem) -> web.Response:
        self.metrics.problems.labels(problem.status).inc()
        return problem.response()

    async def _respond(self, request: web.Request, span: tracing.Span) -> web.StreamResponse:
        try:
            # Relative to the application, which can be a sub-application of another one.
            route, resource_id = self.table.find(request.method, "/" + request.match_info["path"])
        except Problem:
            self._authenticator.check(request)  # do not reveal to strangers which paths exist
            raise
        span.match(route.method, route.path)
        if route.is_page:
            page = await route.handler(ParsedRequest(request, resource_id, None, None, None))
            assert isinstance(page, web.StreamResponse)
            return page
        if not route.is_public:
            takes_session = route.method == "GET" and route.media_type == EVENT_STREAM
            self._authenticator.check(request, takes_session=takes_session)
        body = await read_body(request, self.config.limits)
        parsed = ParsedRequest(
            request,
            resource_id,
            await decode_body(route, body),
            parse_query(route, request),
            parse_key(route, request, body),
        )
        result = await route.handler(parsed)
        if isinstance(result, web.StreamResponse):
            return result
        if route.status == 204:
            return web.Response(status=204)
        if route.is_preformatted:
            return PreformattedResponse(result)
        return web.Response(status=route.status, body=result, headers={"Content-Type": route.media_type})

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        """Handle `Expect: 100-continue`: refuse a body above the limit before it is sent."""
        try:
            check_length(request, self.config.limits)
        except Problem as problem:
            return self._problem(problem)
        send_continue(request)
        return None

    # ---- health, metrics, document -----------------------------------------------------------------

    def _routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/healthz", self._health, "health", "Check the health of the server.",
                response=Health, is_public=True,
            ),
            Route(
                "GET", "/metrics", self._metrics, "metrics", "Get the metrics for Prometheus.",
                media_type=CONTENT_TYPE,
            ),
            Route("GET", "/openapi.json", self._document, "openapi", "Get this document.", media_type=JSON),
        ]  # fmt: skip

    async def _health(self, request: ParsedRequest) -> bytes:
        return msgspec.json.encode(Health("stopping" if self.is_stopping else "ok", __version__))

    async def _metrics(self, request: ParsedRequest) -> bytes:
        await asyncio.gather(self.studies.count(), self.jobs.count())  # other servers change them too
        return self.metrics.exposition()

    async def _document(self, request: ParsedRequest) -> bytes:
        from zopo_fast.serve.http.openapi import build_document

        document = build_document(self.table.documented, has_token=self.config.token is not None)
        return msgspec.json.encode(document)


def create_app(config: ServeConfig, middlewares: Iterable[Middleware] = ()) -> web.Application:
    """Create the server as an aiohttp application, to run it in a server of your own.

    The application opens the data folder when it starts and closes it when it is cleaned up. Its host and
    port settings are ignored. Add middlewares here or to `app.middlewares`.

    Args:
        config: settings of the server.
        middlewares: aiohttp middlewares, the outermost first.

    Returns:
        The application, for `aiohttp.web.run_app`, `aiohttp.web.AppRunner` or `add_subapp`.

    Raises:
        ConfigError: the embedder is unknown, or the models file is invalid.
    """
    return Server(config, middlewares).app


def _resolve_embedder(config: ServeConfig) -> EmbeddingModel | None:
    if config.embedder is None:
        return None
    from zopo_fast.prompts.embedders import embedding_config, resolve

    endpoint = embedding_config(
        base_url=config.embedding_base_url,
        key_env=config.embedding_key_env,
        batch=config.embedding_batch,
        body=config.embedding_body,
    )
    return resolve(config.embedder, config=endpoint)


async def run(config: ServeConfig, stop: asyncio.Event, ready: Callable[[str], object]) -> None:
    """Serve until an event is set.

    Args:
        config: settings of the server.
        stop: set this event to shut the server down.
        ready: called with the URL once the server listens.

    Raises:
        ConfigError: a setting is invalid, or the address cannot be used.
        StoreBusyError: another server uses the data folder.
        StoreError: the data folder cannot be used.
    """
    server = Server(config)
    await server.start()
    try:
        ready(server.url)
        await stop.wait()
    finally:
        await server.stop()
