"""Routes of the page."""

from __future__ import annotations

import asyncio
import html
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from zopo_fast.errors import MissingDependencyError, ZopoError
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.auth import Authenticator
from zopo_fast.serve.http.problems import Problem, problem_from
from zopo_fast.serve.http.routing import ParsedRequest, Route
from zopo_fast.serve.http.session import is_encrypted
from zopo_fast.serve.http.streams import KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStreams
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.routes import JobRoutes
from zopo_fast.serve.jobs.service import JobService
from zopo_fast.serve.pages import assets
from zopo_fast.serve.pages.forms import METRICS, TEMPLATES, Form, defaults, job_request, key_of, read_form
from zopo_fast.serve.pages.render import HEADERS, plain, render
from zopo_fast.serve.pages.runs import Filter, Runs
from zopo_fast.serve.pages.summaries import STATES
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.service import StudyService

LIST_SECONDS = 1.0  # between two updates of a page
REPORT_SECONDS = 2.0
_NEXT = re.compile(r"(ui/new|ui/(jobs|studies)/[0-9a-f]{16})?")  # pages that a sign-in returns to
Handler = Callable[[ParsedRequest], Awaitable[web.StreamResponse]]
Run = StudyRecord | JobRecord
Find = Callable[[str], Awaitable[Run]]


class PageRoutes:
    """Handlers of `/`, of the paths below /ui and of the static files.

    Args:
        studies: the studies of the server.
        jobs: the jobs of the server.
        job_routes: creates jobs as the API does.
        changes: revisions of studies and jobs.
        authenticator: check of requests.
        streams: event streams of the server.
        limits: limits of the server.
    """

    def __init__(
        self,
        studies: StudyService,
        jobs: JobService,
        job_routes: JobRoutes,
        changes: Changes,
        authenticator: Authenticator,
        streams: EventStreams,
        limits: ServerLimits,
    ) -> None:
        self._studies, self._jobs, self._job_routes = studies, jobs, job_routes
        self._changes, self._authenticator, self._streams, self._limits = (
            changes,
            authenticator,
            streams,
            limits,
        )
        self._runs = Runs(studies, jobs, changes)

    def routes(self) -> list[Route]:
        """List the routes, for the route table; without the extra `page` there is only one."""
        try:
            assets.require()
        except MissingDependencyError as error:
            return [self._route("GET", "/", partial(_missing, str(error)), is_public=True)]
        add = self._route
        runs = [
            route for kind, find in self._finders() for route in self._run_routes(f"/ui/{kind}/{{run}}", find)
        ]
        job = "/ui/jobs/{run}"
        return [
            add("GET", "/", self.index),
            add("GET", "/sign-in", self.ask_token, is_public=True),
            add("POST", "/sign-in", self.sign_in, is_public=True),
            add("POST", "/sign-out", self.sign_out),
            add("GET", "/ui/runs", self.rows),
            add("GET", "/ui/changes", self.list_changes),
            add("GET", "/ui/new", self.new_job),
            add("POST", "/ui/new", self.create_job),
            *runs,
            add("POST", job + "/stop", self.stop_job),
            add("POST", job + "/resume", self.resume_job),
            *(add("GET", f"/static/{name}", partial(_static, name), is_public=True) for name in assets.NAMES),
        ]

    def _finders(self) -> list[tuple[str, Find]]:
        return [("jobs", self._jobs.get), ("studies", self._studies.get)]

    def _run_routes(self, one: str, find: Find) -> list[Route]:
        add = self._route
        return [
            add("GET", one, partial(self.run, find)),
            add("GET", one + "/summary", partial(self.summary, find)),
            add("GET", one + "/report", partial(self.report, find)),
            add("GET", one + "/changes", partial(self.run_changes, find)),
            add("GET", one + "/delete", partial(self.ask_delete, find)),
            add("POST", one + "/delete", partial(self.delete, find)),
        ]

    def _route(self, method: str, path: str, handler: Handler, *, is_public: bool = False) -> Route:
        guarded = partial(self._guarded, handler, is_public)
        return Route(method, path, guarded, "", "", is_public=is_public, is_page=True)

    async def _guarded(self, handler: Handler, is_public: bool, request: ParsedRequest) -> web.StreamResponse:
        """Check the sender of a request, and render a problem as a page."""
        try:
            if not is_public and not self._authenticator.check_page(request.http):
                response: web.StreamResponse = self._to_sign_in(request)
            else:
                response = await handler(request)
        except Problem as problem:
            response = self._problem(request, problem)
        except ZopoError as error:
            response = self._problem(request, problem_from(error))
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _to_sign_in(self, request: ParsedRequest) -> web.Response:
        if "HX-Request" in request.http.headers:  # a part of a page: load the page, and sign in there
            return web.Response(status=401, headers={"HX-Refresh": "true"})
        if request.http.headers.get("Accept", "").startswith("text/event-stream"):
            return web.Response(status=401)
        path = _path(request)[1:]
        target = path if request.http.method == "GET" and _NEXT.fullmatch(path) else ""
        return _redirect(f"{_root(request)}sign-in" + (f"?next={target}" if target else ""))

    def _problem(self, request: ParsedRequest, problem: Problem) -> web.Response:
        values = {"detail": problem.detail, "status": problem.status, "session": self._session(request)}
        part = "HX-Request" in request.http.headers
        return self._render(
            request, "problem_part" if part else "problem", values, problem.status, problem.headers
        )

    def _session(self, request: ParsedRequest) -> bool:
        sessions = self._authenticator.sessions
        return sessions is not None and sessions.is_valid(request.http)

    def _render(
        self,
        request: ParsedRequest,
        template: str,
        values: dict[str, Any],
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        values = {"session": self._session(request), **values}
        return render(template, values, root=_root(request), status=status, headers=headers)

    # ---- session -----------------------------------------------------------------------------------

    async def ask_token(self, request: ParsedRequest) -> web.StreamResponse:
        self._authenticator.check_sender(request.http)
        if self._authenticator.sessions is None or self._session(request):
            return _redirect(_root(request))
        target = request.http.rel_url.query.get("next", "")
        return self._render(request, "sign_in", {"problem": "", "next": _next(target)})

    async def sign_in(self, request: ParsedRequest) -> web.StreamResponse:
        self._authenticator.check_sender(request.http)
        sessions = self._authenticator.sessions
        form = await read_form(request.http, self._limits)
        target = _next(form["next"])
        if sessions is None:
            return _redirect(_root(request))
        if not await sessions.sign_in(form["token"]):
            values = {"problem": "token: wrong; enter the token the server was started with", "next": target}
            return self._render(request, "sign_in", values, 401)
        response = _redirect(_root(request) + target)
        # Without a path, the cookie is for the folder of /sign-in as the browser sees it: the root of the
        # server, wherever it is mounted.
        response.set_cookie(
            sessions.cookie,
            sessions.issue(),
            path="",
            httponly=True,
            samesite="Strict",
            secure=is_encrypted(request.http),
        )
        return response

    async def sign_out(self, request: ParsedRequest) -> web.StreamResponse:
        response = _redirect(f"{_root(request)}sign-in")
        sessions = self._authenticator.sessions
        if sessions is not None:
            response.set_cookie(sessions.cookie, "", path="", max_age=0)
        return response

    # ---- list --------------------------------------------------------------------------------------

    async def index(self, request: ParsedRequest) -> web.StreamResponse:
        return self._render(request, "index", await self._list_values(request))

    async def rows(self, request: ParsedRequest) -> web.StreamResponse:
        return self._render(request, "rows", {**await self._list_values(request), "root": "./"})

    async def _list_values(self, request: ParsedRequest) -> dict[str, Any]:
        query = request.http.rel_url.query
        state = query.get("state", "")
        number = query.get("page", "1")
        wanted = Filter(
            query.get("name", "").strip()[:200],
            state if state in STATES else "",
            int(number) if number.isdecimal() and len(number) < 6 else 1,
        )
        revision = self._changes.revision()
        return {
            "runs": await self._runs.list(wanted),
            "wanted": wanted,
            "states": STATES,
            "revision": revision,
        }

    async def list_changes(self, request: ParsedRequest) -> web.StreamResponse:
        return await self._streams.send(request.http, self._follow(request, "", self._list_pause))

    @staticmethod
    def _list_pause() -> float:
        return LIST_SECONDS

    async def _follow(
        self, request: ParsedRequest, run: str, pause: Callable[[], float]
    ) -> AsyncIterator[bytes]:
        given = request.http.headers.get("Last-Event-ID", request.http.rel_url.query.get("after", ""))
        after = int(given) if given.isdecimal() and len(given) < 20 else 0
        async for revision in self._changes.follow(run, after, pause, KEEP_ALIVE_SECONDS):
            yield (
                KEEP_ALIVE
                if revision is None
                else b"id: %d\nevent: change\ndata: %d\n\n" % (revision, revision)
            )

    # ---- one run -----------------------------------------------------------------------------------

    async def _run_values(self, run: Run, problem: str = "") -> dict[str, Any]:
        name = run.saved.id if isinstance(run, JobRecord) else run.id
        revision = self._changes.revision(name)
        return {"run": await self._runs.summary(run), "revision": revision, "problem": problem}

    async def run(self, find: Find, request: ParsedRequest) -> web.StreamResponse:
        return self._render(request, "run", await self._run_values(await find(request.resource_id)))

    async def summary(self, find: Find, request: ParsedRequest) -> web.StreamResponse:
        values = await self._run_values(await find(request.resource_id))
        seen = request.http.rel_url.query.get("state", "")
        values |= {"is_news": seen != values["run"].state, "root": "../../"}
        return self._render(request, "summary", values)

    async def report(self, find: Find, request: ParsedRequest) -> web.StreamResponse:
        body = await self._runs.report(await find(request.resource_id))
        part = "HX-Request" in request.http.headers
        values = {"body": body, "id": request.resource_id}
        return self._render(request, "report" if part else "report_page", values)

    async def run_changes(self, find: Find, request: ParsedRequest) -> web.StreamResponse:
        await find(request.resource_id)

        def pause() -> float:
            # A report that takes long to render must not keep the server busy.
            return max(REPORT_SECONDS, 4 * self._runs.seconds(request.resource_id))

        return await self._streams.send(request.http, self._follow(request, request.resource_id, pause))

    async def stop_job(self, request: ParsedRequest) -> web.StreamResponse:
        return await self._act(request, self._jobs.cancel)

    async def resume_job(self, request: ParsedRequest) -> web.StreamResponse:
        return await self._act(request, self._jobs.resume)

    async def _act(
        self, request: ParsedRequest, action: Callable[[JobRecord], Awaitable[None]]
    ) -> web.StreamResponse:
        job = await self._jobs.get(request.resource_id)
        try:
            await action(job)
        except Problem as problem:
            values = await self._run_values(job, problem.detail)
            return self._render(request, "run", values, problem.status)
        return _redirect(f"../{request.resource_id}")

    async def ask_delete(self, find: Find, request: ParsedRequest) -> web.StreamResponse:
        return self._render(request, "delete", await self._run_values(await find(request.resource_id)))

    async def delete(self, find: Find, request: ParsedRequest) -> web.StreamResponse:
        run = await find(request.resource_id)
        try:
            if isinstance(run, JobRecord):
                await self._jobs.delete(run)
            else:
                await self._studies.delete(run)
        except Problem as problem:
            values = await self._run_values(run, problem.detail)
            return self._render(request, "delete", values, problem.status)
        return _redirect(_root(request))

    # ---- new job -----------------------------------------------------------------------------------

    async def new_job(self, request: ParsedRequest) -> web.StreamResponse:
        return self._form(request, Form(defaults(self._jobs.models)), "")

    def _form(self, request: ParsedRequest, form: Form, problem: str, status: int = 200) -> web.Response:
        values = {
            "form": form,
            "problem": problem,
            "models": sorted(self._jobs.models),
            "metrics": METRICS,
            "templates": TEMPLATES,
            "has_embedder": self._jobs.has_embedder,
            "has_prices": any(model.prices is not None for model in self._jobs.models.values()),
            "nonce": form["nonce"] or secrets.token_hex(8),
        }
        return self._render(request, "new", values, status)

    async def create_job(self, request: ParsedRequest) -> web.StreamResponse:
        form = await read_form(request.http, self._limits)
        is_part = "HX-Request" in request.http.headers
        try:
            wanted = await asyncio.to_thread(job_request, form)
            job = await self._job_routes.create_once(wanted, key_of(form))
        except (Problem, ZopoError) as error:
            problem = error if isinstance(error, Problem) else problem_from(error)
            if is_part:
                return self._problem(request, problem)
            return self._form(request, form, problem.detail, problem.status)
        target = f"{_root(request)}ui/jobs/{job.saved.id}"
        return web.Response(status=204, headers={"HX-Redirect": target}) if is_part else _redirect(target)


def _path(request: ParsedRequest) -> str:
    """Return the path below the server's root."""
    return "/" + request.http.match_info["path"]


def _root(request: ParsedRequest) -> str:
    """Return the relative address of the server's root, which can be mounted below a prefix."""
    return "../" * (_path(request).count("/") - 1) or "./"


def _next(target: str) -> str:
    return target if _NEXT.fullmatch(target) else ""


def _redirect(target: str) -> web.Response:
    # 303: the browser continues with a GET, and reloading the page sends no form again.
    return web.Response(status=303, headers={"Location": target, "Cache-Control": "no-store"})


async def _static(name: str, request: ParsedRequest) -> web.StreamResponse:
    return await asyncio.to_thread(assets.response, request.http, name)


async def _missing(text: str, request: ParsedRequest) -> web.StreamResponse:
    return plain("zopo-fast", f"{html.escape(text)}. The API works without it.", 503)
