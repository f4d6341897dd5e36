"""The aiohttp application: middlewares, signals, sub-applications, and the preformatted response."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from serve_tools import SECONDS, TOKEN, Client, packed, pool, served

from zopo_fast.errors import StoreBusyError
from zopo_fast.serve.config import ServeConfig, ServerLimits
from zopo_fast.serve.http.problems import _STATUS, Problem
from zopo_fast.serve.http.response import PreformattedResponse
from zopo_fast.serve.server import Server, create_app

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recorder:
    """Its middleware records each request and adds a header to the response."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    @web.middleware
    async def record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        self.seen.append((request.method, request.path, response.status))
        response.headers["X-Request-Id"] = "7"
        return response


def test_a_middleware_sees_every_request_and_alters_the_response(tmp_path: Path) -> None:
    recorder = Recorder()
    with served(tmp_path / "data", middlewares=[recorder.record]) as server, Client(server.url) as call:
        study = call.study()
        replies = [
            call("POST", f"/v1/studies/{study}/ask"),
            call("GET", "/v1/nothing"),
            call("PUT", "/healthz"),
            call("GET", "/a%0Ab"),
        ]
        assert [reply.headers["X-Request-Id"] for reply in replies] == ["7"] * 4
        assert len(replies[0].body["indices"]) == 1
        assert recorder.seen == [
            ("POST", "/v1/studies", 201),
            ("POST", f"/v1/studies/{study}/ask", 200),
            ("GET", "/v1/nothing", 404),
            ("PUT", "/healthz", 405),
            ("GET", "/a\nb", 404),
        ]


def test_a_middleware_alters_the_request(tmp_path: Path) -> None:
    @web.middleware
    async def api_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        key = request.headers.get("X-Api-Key")
        if key is None:
            return await handler(request)
        return await handler(request.clone(headers={**request.headers, "Authorization": f"Bearer {key}"}))

    with served(tmp_path / "data", middlewares=[api_key], token=TOKEN) as server, Client(server.url) as call:
        assert call("GET", "/v1/studies").status == 401
        assert call("GET", "/v1/studies", X_Api_Key=TOKEN).status == 200
        assert call("GET", "/v1/studies", X_Api_Key=TOKEN + "x").status == 401


def test_a_middleware_can_read_the_body_replace_the_response_and_refuse(tmp_path: Path) -> None:
    bodies: list[Any] = []

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "DELETE":
            raise web.HTTPForbidden(text="read-only")
        if request.path.endswith("/tell"):
            bodies.append(await request.json())
        response = await handler(request)
        if isinstance(response, PreformattedResponse) and request.path.endswith("/discard"):
            response.set_status(202)
            response.body = b"{}"
        return response

    with served(tmp_path / "data", middlewares=[audit]) as server, Client(server.url) as call:
        one = f"/v1/studies/{call.study()}"
        first, second = call.ok("POST", f"{one}/ask", {"n": 2})["indices"]
        tell = {"index": first, "score": 0.5}
        assert call.ok("POST", f"{one}/tell", tell)["done"] is False
        assert bodies == [tell]
        reply = call("POST", f"{one}/discard", {"index": second})
        assert (reply.status, reply.body) == (202, {})
        reply = call("DELETE", one)
        assert (reply.status, reply.body) == (403, b"read-only")
        assert call.ok("GET", one)["scored"] == 1


def raw_ask(url: str, study: str, **headers: str) -> bytes:
    """Send an ask; return the response as it is on the wire."""
    host, port = url.removeprefix("http://").split(":")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(
            f"POST /v1/studies/{study}/ask HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()
        )
        return connection.recv(65536)


def test_an_unchanged_response_is_written_preformatted_in_one_piece(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        study = call.study()
        head, _, body = raw_ask(server.url, study).partition(b"\r\n\r\n")
        names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
        assert names == [b"Content-Type", b"Date", b"Content-Length"]
        assert len(json.loads(body)["indices"]) == 1
        # A connection that closes afterwards gets the standard response, which says so.
        assert b"\r\nConnection: close\r\n" in raw_ask(server.url, study, Connection="close")


@pytest.mark.parametrize("change", ["header", "content type", "cookie", "reason", "compression"])
def test_no_change_of_a_middleware_is_lost(tmp_path: Path, change: str) -> None:
    @web.middleware
    async def alter(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if change == "header":
            response.headers["X-A"] = "1"
        elif change == "content type":
            response.content_type = "application/x-study"
        elif change == "cookie":
            response.set_cookie("a", "1")
        elif change == "reason":
            response.set_status(200, "Fine")
        else:
            response.enable_compression(web.ContentCoding.gzip)
        return response

    expected = {
        "header": b"X-A: 1",
        "content type": b"Content-Type: application/x-study",
        "cookie": b"Set-Cookie: a=1",
        "reason": b"HTTP/1.1 200 Fine",
        "compression": b"Content-Encoding: gzip",
    }
    with served(tmp_path / "data") as plain, Client(plain.url) as call:
        study = call.study()
    with served(tmp_path / "data", middlewares=[alter]) as server:
        assert expected[change] in raw_ask(server.url, study)


def test_signals_see_every_response(tmp_path: Path) -> None:
    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = request.path

    async def work() -> list[Any]:
        server = Server(ServeConfig(data=tmp_path / "data", port=0))
        server.app.on_response_prepare.append(sign)
        await server.start()
        try:
            async with aiohttp.ClientSession(server.url) as session:
                body = {"embeddings": packed(pool()), "config": {"budget": 9, "initial": 3}}
                async with session.post("/v1/studies", json=body) as made:
                    path = f"/v1/studies/{(await made.json())['id']}/ask"
                async with session.post(path) as asked:
                    return [path, made.headers["X-Signed"], asked.headers["X-Signed"], await asked.json()]
        finally:
            await server.stop()

    path, created, asked, answer = asyncio.run(work())
    assert (created, asked) == ("/v1/studies", path)
    assert len(answer["indices"]) == 1


@contextmanager
def embedded(app: web.Application) -> Iterator[Callable[[Callable[[str], Any]], Any]]:
    """Run an application in an aiohttp runner; yields a function that calls in a thread with the URL."""
    with asyncio.Runner() as runner:

        async def start() -> tuple[web.AppRunner, str]:
            site_runner = web.AppRunner(app)
            await site_runner.setup()
            await web.TCPSite(site_runner, "127.0.0.1", 0).start()
            return site_runner, f"http://127.0.0.1:{site_runner.addresses[0][1]}"

        site_runner, url = runner.run(start())
        try:
            yield lambda function: runner.run(asyncio.to_thread(function, url))
        finally:
            runner.run(site_runner.cleanup())


def test_the_application_runs_in_a_runner_of_the_users(tmp_path: Path) -> None:
    config = ServeConfig(data=tmp_path / "data")
    recorder = Recorder()
    app = create_app(config)
    app.middlewares.append(recorder.record)

    def use(url: str) -> list[int]:
        with Client(url) as call:
            study = call.study()
            indices: list[int] = call.ok("POST", f"/v1/studies/{study}/ask", {"n": 2})["indices"]
            call.ok("POST", f"/v1/studies/{study}/tell", {"index": indices[0], "score": 1})
            with pytest.raises(StoreBusyError), embedded(create_app(config)):
                pass
            return [call.ok("GET", f"/v1/studies/{study}")["scored"], len(indices)]

    with embedded(app) as run:
        assert run(use) == [1, 2]
    assert len(recorder.seen) == 4
    with served(tmp_path / "data") as server, Client(server.url) as call:  # the folder was released
        assert len(call.ok("GET", "/v1/studies")["studies"]) == 1


def test_the_application_can_be_mounted_under_a_prefix(tmp_path: Path) -> None:
    outer = web.Application()
    outer.add_subapp("/optimiser/", create_app(ServeConfig(data=tmp_path / "data")))

    def use(url: str) -> tuple[str, int, int]:
        with Client(url) as call:
            health = call.ok("GET", "/optimiser/healthz")["status"]
            return health, call("GET", "/optimiser/nothing").status, call("GET", "/healthz").status

    with embedded(outer) as run:
        assert run(use) == ("ok", 404, 404)


def test_an_expected_body_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    def sent(url: str, length: int) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(
                b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % length
            )
            return connection.recv(4096)

    with served(tmp_path / "data", ServerLimits(max_body=1000, stop_timeout=1)) as server:
        assert sent(server.url, 1000).startswith(b"HTTP/1.1 100 Continue\r\n")
        assert sent(server.url, 1001).startswith(b"HTTP/1.1 413 ")


def test_a_problem_has_the_standard_reason_phrase_as_title() -> None:
    for status in {status for _, status in _STATUS} | {400, 401, 403, 404, 405, 408, 413, 415, 500}:
        document = json.loads(Problem(status, "Name", "a detail").body())
        assert document == {
            "type": "urn:zopo-fast:Name",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": "a detail",
            "error": "Name",
        }


def test_a_detail_says_what_was_wrong_where_and_what_to_do(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data", ServerLimits(max_pending=2, stop_timeout=5)) as server,
        Client(server.url) as call,
    ):
        study = call.study()
        reply = call("POST", f"/v1/studies/{study}/ask", {"n": 3})
        assert (reply.status, reply.body["title"]) == (429, "Too Many Requests")
        assert reply.body["detail"] == (
            "the study would have 3 pending prompts, above the limit of 2; tell or discard some first"
        )
        reply = call("POST", f"/v1/studies/{study}/tell", {"index": 1, "score": "2"})
        assert reply.body["detail"] == "body: Expected `float`, got `str` - at `$.score`"
        assert call("GET", "/v1/jobs/0000000000000000").body["detail"] == "the job does not exist"


METRICS = {
    'zopo_step_seconds_bucket{le="0.001",step="ask"}',
    'zopo_step_seconds_count{step="tell"}',
    'zopo_step_seconds_sum{step="discard"}',
    'zopo_step_seconds_count{step="create"}',
    'zopo_commit_seconds_bucket{le="+Inf"}',
    "zopo_commit_seconds_sum",
    'zopo_commit_entries_bucket{le="256.0"}',
    "zopo_commit_entries_count",
    "zopo_commit_failures_total",
    'zopo_problems_total{status="404"}',
    "zopo_studies",
    'zopo_jobs{state="running"}',
}


def test_the_metrics_keep_their_names_and_labels(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        study = call.study()
        for _ in range(3):
            call.ok("POST", f"/v1/studies/{study}/ask")
        call("GET", "/v1/nothing")
        values = dict(line.rsplit(" ", 1) for line in call.ok("GET", "/metrics").decode().splitlines())
    assert set(values) >= METRICS
    assert values['zopo_step_seconds_bucket{le="+Inf",step="ask"}'] == "3.0"
    assert values['zopo_step_seconds_count{step="create"}'] == "1.0"
    assert values["zopo_commit_entries_sum"] == "3.0"  # three asks; a creation has a file of its own
    assert values['zopo_problems_total{status="404"}'] == "1.0"
