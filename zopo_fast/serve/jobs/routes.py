"""The operations on jobs."""

from __future__ import annotations

import msgspec
from aiohttp import web

from zopo_fast.serve.config import Limits
from zopo_fast.serve.http.idempotency import Once
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.routing import Call, Route
from zopo_fast.serve.jobs.job import Running
from zopo_fast.serve.jobs.schemas import CreateJob, Job, JobList, JobResult
from zopo_fast.serve.jobs.service import Jobs
from zopo_fast.serve.studies.routes import Page

EVENTS = "text/event-stream"
_PAUSE = 15.0  # seconds after which a comment keeps a silent stream's connection alive
_encode = msgspec.json.Encoder().encode


class JobRoutes:
    """Handlers of what lies below /v1/jobs."""

    def __init__(self, jobs: Jobs, limits: Limits) -> None:
        self._jobs, self._limits = jobs, limits
        self._once: Once[Running] = Once()
        self._streams = 0

    def routes(self) -> list[Route]:
        """The table's part."""
        one = "/v1/jobs/{job}"
        return [
            Route(
                "POST", "/v1/jobs", self.create, "createJob", "Have the server find the best prompt.",
                body=CreateJob, answer=Job, status=201, problems=(409, 422, 429, 503, 507), keyed=True,
            ),
            Route(
                "GET", "/v1/jobs", self.list, "listJobs", "List the jobs, by id.", query=Page, answer=JobList,
                problems=(422,),
            ),
            Route("GET", one, self.show, "getJob", "How far a job is.", answer=Job, problems=(404,)),
            Route(
                "DELETE", one, self.delete, "deleteJob", "Remove a job that does not run.", status=204,
                problems=(404, 409),
            ),
            Route(
                "POST", one + "/cancel", self.cancel, "cancelJob", "End a job with the results so far.",
                answer=Job, status=202, problems=(404, 409),
            ),
            Route(
                "POST", one + "/resume", self.resume, "resumeJob",
                "Take up a job that was interrupted, cancelled, or failed, where it was.",
                answer=Job, status=202, problems=(404, 409, 503),
            ),
            Route(
                "GET", one + "/result", self.result, "getResult", "A job's outcome.", answer=JobResult,
                problems=(404, 409),
            ),
            Route(
                "GET", one + "/events", self.events, "followJob",
                "A job's progress as server-sent events; Last-Event-ID goes on where a connection broke.",
                media=EVENTS, problems=(404, 422, 429),
            ),
        ]  # fmt: skip

    async def create(self, call: Call) -> bytes:
        job = None if call.key is None else self._jobs.created(*call.key)
        if job is None:
            job = await self._once(call.key, lambda: self._jobs.create(call.body, call.key))
        return _encode(job.shown())

    async def list(self, call: Call) -> bytes:
        page, after = self._jobs.listed(call.query.after, call.query.limit)
        return _encode(JobList([job.shown() for job in page], after))

    async def show(self, call: Call) -> bytes:
        return _encode(self._jobs.get(call.target).shown())

    async def delete(self, call: Call) -> bytes:
        await self._jobs.delete(self._jobs.get(call.target))
        return b""

    async def cancel(self, call: Call) -> bytes:
        job = self._jobs.get(call.target)
        self._jobs.cancel(job)
        return _encode(job.shown())

    async def resume(self, call: Call) -> bytes:
        job = self._jobs.get(call.target)
        await self._jobs.resume(job)
        return _encode(job.shown())

    async def result(self, call: Call) -> bytes:
        return await self._jobs.result(self._jobs.get(call.target))

    async def events(self, call: Call) -> web.StreamResponse:
        job = self._jobs.get(call.target)
        after = _last(call.request.headers.get("Last-Event-ID"))
        if self._streams >= self._limits.max_streams:
            raise Problem(
                429, "TooManyStreams", f"at most {self._limits.max_streams} connections follow jobs"
            )
        self._streams += 1
        try:
            return await self._follow(call.request, job, after)
        finally:
            self._streams -= 1

    async def _follow(self, request: web.BaseRequest, job: Running, after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": EVENTS, "Cache-Control": "no-store"})
        await response.prepare(request)
        async for text in job.events.listen(after, _PAUSE):
            await response.write(text)  # waits for a client that reads slowly
        await response.write_eof()
        return response


def _last(given: str | None) -> int:
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise Problem(422, "ValidationError", "Last-Event-ID: the id of an event is expected")
    return int(given)
