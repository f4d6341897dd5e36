"""HTTP operations on jobs."""

from __future__ import annotations

import msgspec
from aiohttp import web

from zopo_fast.serve.http.idempotency import Deduplicator, IdempotencyKey
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.request import PageQuery
from zopo_fast.serve.http.routing import ParsedRequest, Route
from zopo_fast.serve.http.streams import EVENT_STREAM, KEEP_ALIVE_SECONDS, EventStreams
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.schemas import CreateJob, Job, JobList, JobResult
from zopo_fast.serve.jobs.service import JobService

_encode = msgspec.json.Encoder().encode


class JobRoutes:
    """Handlers of the paths below /v1/jobs.

    Args:
        jobs: the jobs of the server.
        streams: event streams of the server.
    """

    def __init__(self, jobs: JobService, streams: EventStreams) -> None:
        self._jobs, self._streams = jobs, streams
        self._creations: Deduplicator[JobRecord] = Deduplicator()

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
        return _encode((await self.create_once(request.body, request.key)).to_response())

    async def create_once(self, wanted: CreateJob, key: IdempotencyKey | None) -> JobRecord:
        """Create a job, or return the one that an earlier request with the same key created."""
        job = None if key is None else await self._jobs.find_created(key)
        if job is None:
            job = await self._creations.run(key, lambda: self._jobs.create(wanted, key))
        return job

    async def list(self, request: ParsedRequest) -> bytes:
        page, after = await self._jobs.list_page(request.query.after, request.query.limit)
        return _encode(JobList([job.to_response() for job in page], after))

    async def show(self, request: ParsedRequest) -> bytes:
        return _encode((await self._jobs.get(request.resource_id)).to_response())

    async def delete(self, request: ParsedRequest) -> bytes:
        await self._jobs.delete(await self._jobs.get(request.resource_id))
        return b""

    async def cancel(self, request: ParsedRequest) -> bytes:
        job = await self._jobs.get(request.resource_id)
        await self._jobs.cancel(job)
        return _encode(job.to_response())

    async def resume(self, request: ParsedRequest) -> bytes:
        job = await self._jobs.get(request.resource_id)
        await self._jobs.resume(job)
        return _encode(job.to_response())

    async def result(self, request: ParsedRequest) -> bytes:
        return await self._jobs.read_result(await self._jobs.get(request.resource_id))

    async def events(self, request: ParsedRequest) -> web.StreamResponse:
        job = await self._jobs.get(request.resource_id)
        after = _parse_event_id(request.http.headers.get("Last-Event-ID"))
        return await self._streams.send(request.http, job.events.follow(after, KEEP_ALIVE_SECONDS))


def _parse_event_id(given: str | None) -> int:
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise Problem(
            422, "ValidationError", "Last-Event-ID: not an event id; send the id of the last event received"
        )
    return int(given)
