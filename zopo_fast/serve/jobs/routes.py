"""HTTP operations on jobs."""

from __future__ import annotations

import contextlib

import msgspec
from aiohttp import web

from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import Deduplicator
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.request import PageQuery
from zopo_fast.serve.http.routing import ParsedRequest, Route
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.schemas import CreateJob, Job, JobList, JobResult
from zopo_fast.serve.jobs.service import JobService

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0  # a comment keeps a silent event stream open
_encode = msgspec.json.Encoder().encode


class JobRoutes:
    """Handlers of the paths below /v1/jobs.

    Args:
        jobs: the jobs of the server.
        limits: limits of the server.
    """

    def __init__(self, jobs: JobService, limits: ServerLimits) -> None:
        self._jobs, self._limits = jobs, limits
        self._creations: Deduplicator[JobRecord] = Deduplicator()
        self._streams = 0

    def routes(self) -> list[Route]:
        """List the routes, for the route table."""
        one = "/v1/jobs/{job}"
        return [
            Route(
                "POST", "/v1/jobs", self.create, "createJob", "Create a job: a whole optimisation.",
                body=CreateJob, response=Job, status=201, accepts_key=True,
                problem_statuses=(409, 422, 429, 503, 507),
            ),
            Route(
                "GET", "/v1/jobs", self.list, "listJobs", "List the jobs, ordered by id.",
                query=PageQuery, response=JobList, problem_statuses=(422,),
            ),
            Route(
                "GET", one, self.show, "getJob", "Get the state and progress of a job.",
                response=Job, problem_statuses=(404,),
            ),
            Route(
                "DELETE", one, self.delete, "deleteJob", "Delete a job that is not running.", status=204,
                problem_statuses=(404, 409),
            ),
            Route(
                "POST", one + "/cancel", self.cancel, "cancelJob", "Stop a job and keep its results so far.",
                response=Job, status=202, problem_statuses=(404, 409),
            ),
            Route(
                "POST", one + "/resume", self.resume, "resumeJob",
                "Resume a job that was interrupted, was cancelled or failed.",
                response=Job, status=202, problem_statuses=(404, 409, 503),
            ),
            Route(
                "GET", one + "/result", self.result, "getResult", "Get the result of a job.",
                response=JobResult, problem_statuses=(404, 409),
            ),
            Route(
                "GET", one + "/events", self.events, "followJob",
                "Follow the progress of a job by server-sent events; Last-Event-ID resumes a broken stream.",
                media_type=EVENT_STREAM, problem_statuses=(404, 422, 429),
            ),
        ]  # fmt: skip

    async def create(self, request: ParsedRequest) -> bytes:
        job = None if request.key is None else self._jobs.find_created(request.key)
        if job is None:
            job = await self._creations.run(request.key, lambda: self._jobs.create(request.body, request.key))
        return _encode(job.to_response())

    async def list(self, request: ParsedRequest) -> bytes:
        page, after = self._jobs.list_page(request.query.after, request.query.limit)
        return _encode(JobList([job.to_response() for job in page], after))

    async def show(self, request: ParsedRequest) -> bytes:
        return _encode(self._jobs.get(request.resource_id).to_response())

    async def delete(self, request: ParsedRequest) -> bytes:
        await self._jobs.delete(self._jobs.get(request.resource_id))
        return b""

    async def cancel(self, request: ParsedRequest) -> bytes:
        job = self._jobs.get(request.resource_id)
        self._jobs.cancel(job)
        return _encode(job.to_response())

    async def resume(self, request: ParsedRequest) -> bytes:
        job = self._jobs.get(request.resource_id)
        self._jobs.resume(job)
        return _encode(job.to_response())

    async def result(self, request: ParsedRequest) -> bytes:
        return await self._jobs.read_result(self._jobs.get(request.resource_id))

    async def events(self, request: ParsedRequest) -> web.StreamResponse:
        job = self._jobs.get(request.resource_id)
        after = _parse_event_id(request.http.headers.get("Last-Event-ID"))
        if self._streams >= self._limits.max_streams:
            raise Problem(
                429,
                "TooManyStreams",
                f"the server has reached its limit of {self._limits.max_streams} event streams; close some",
            )
        self._streams += 1
        try:
            return await self._stream(request.http, job, after)
        finally:
            self._streams -= 1

    async def _stream(self, request: web.BaseRequest, job: JobRecord, after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client disconnected: not a failure of the server
            async for event in job.events.follow(after, KEEP_ALIVE_SECONDS):
                await response.write(event)  # waits for a slow client
            await response.write_eof()
        return response


def _parse_event_id(given: str | None) -> int:
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise Problem(
            422, "ValidationError", "Last-Event-ID: not an event id; send the id of the last event received"
        )
    return int(given)
