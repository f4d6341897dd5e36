"""The serve command: authentication, exclusive data folder, graceful shutdown, log contents."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from serve_tools import SECONDS, TOKEN, Client, Process, packed, pool, served
from time_tools import until

from zopo_fast.cli.group import cli
from zopo_fast.errors import ConfigError, MissingDependencyError, StoreBusyError
from zopo_fast.serve.config import ServeConfig, ServerLimits, is_loopback
from zopo_fast.serve.logs import json_logging


def test_all_paths_but_health_need_the_token(tmp_path: Path) -> None:
    with served(tmp_path / "data", token=TOKEN) as server:
        with Client(server.url) as call:
            assert call.ok("GET", "/healthz")["status"] == "ok"
            paths = ["GET /metrics", "GET /openapi.json", "GET /v1/studies", "GET /nothing", "POST /v1/jobs"]
            for method, path in map(str.split, paths):
                reply = call(method, path)
                assert (reply.status, reply.body["error"]) == (401, "Unauthorized")
                assert reply.headers["WWW-Authenticate"] == "Bearer"
            for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.upper(), ""):
                assert call("GET", "/v1/studies", Authorization=f"Bearer {wrong}").status == 401
            assert call("GET", "/v1/studies", Authorization=f"Basic {TOKEN}").status == 401
            assert call("GET", "/v1/studies", Authorization=f"bearer {TOKEN}").status == 200
            assert (
                call("GET", "/v1/studies", Authorization=f"Bearer {TOKEN}", Origin="http://x").status == 200
            )
        with Client(server.url, TOKEN) as call:
            assert call.ok("GET", "/openapi.json")["openapi"] == "3.1.0"


def test_without_a_token_a_request_from_a_browser_is_forbidden(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        assert call("GET", "/v1/studies", Origin="http://evil.example").status == 403
        assert call("GET", "/v1/studies", Host="evil.example").status == 403
        assert call("GET", "/v1/studies", Host="[::1]:80").status == 200
        assert call("GET", "/v1/studies", Host="localhost:1").status == 200


def test_a_host_beyond_loopback_needs_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="needs a token"):
            ServeConfig(data=tmp_path, host=host)
        ServeConfig(data=tmp_path, host=host, token=TOKEN)
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        assert is_loopback(host)
    with pytest.raises(ConfigError, match="16 characters"):
        ServeConfig(data=tmp_path, token="short")
    assert TOKEN not in repr(ServeConfig(data=tmp_path, token=TOKEN))
    with pytest.raises(ConfigError, match="max_pool"):
        ServerLimits(max_pool=0)


def test_the_command_reports_invalid_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOPO_FAST_TOKEN", raising=False)

    def refused(*options: str) -> str:
        done = CliRunner().invoke(cli, ["serve", "--data", str(tmp_path / "data"), *options])
        assert isinstance(done.exception, ConfigError)
        return str(done.exception)

    assert "needs a token" in refused("--host", "0.0.0.0")
    assert "cannot be read" in refused("--token-file", str(tmp_path / "none"))
    (tmp_path / "token").write_text(" \n")
    assert "holds no token" in refused("--token-file", str(tmp_path / "token"))
    assert "unknown embedder" in refused("--embedder", "nonsense", "--port", "0")
    missing = refused("--models", str(tmp_path / "models.toml"), "--port", "0")
    assert "models.toml: cannot be read: No such file or directory; name a TOML file" in missing
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refused("--port", str(taken.getsockname()[1]))


def test_a_missing_package_is_reported_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("zopo_fast.serve._PACKAGES", {"no_such_module_there": "no-such-package"})
    done = CliRunner().invoke(cli, ["serve", "--data", str(tmp_path)])
    assert isinstance(done.exception, MissingDependencyError)
    assert "no-such-package" in str(done.exception)
    assert 'pip install "zopo-fast[serve]"' in str(done.exception)


def test_the_package_does_not_import_the_server_dependencies() -> None:
    code = (
        "import sys, zopo_fast, zopo_fast.cli.group; "
        "names = {'msgspec', 'prometheus_client', 'pythonjsonlogger', 'uvloop'}; "
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    first, second = served(tmp_path / "data"), served(tmp_path / "data")
    with first, pytest.raises(StoreBusyError, match="another server"), second:
        pass
    with served(tmp_path / "data"):
        pass


def test_shutdown_is_graceful_and_the_log_has_no_prompts_and_no_keys(tmp_path: Path) -> None:
    secret = "A prompt that must stay private"
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = ("--token-file", str(tmp_path / "token"), "--access-log")
    with Process(tmp_path / "data", *options) as server:
        with Client(server.url, TOKEN) as call:
            rows = packed(pool(2, 2))
            body = {"texts": [secret, "b"], "embeddings": rows, "config": {"budget": 2, "initial": 1}}
            made = call.ok("POST", "/v1/studies", {**body, "name": secret})
            call("POST", "/v1/studies", {**body, "texts": [secret, secret]})
            call("POST", "/v1/studies", {**body, "wrong": secret})
            call("POST", f"/v1/studies/{made['id']}/ask")
            call("GET", "/v1/studies", Authorization="Bearer another-secret-0123456789")
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "zopo_fast.serve.server"] == [
        "listening",
        "stopped",
    ]
    assert sum("POST /v1/studies" in line["message"] for line in lines) == 4  # the access log
    whole = server.log.read_text()
    assert secret not in whole
    assert TOKEN not in whole
    assert "another-secret" not in whole


def test_the_log_leaves_out_exception_messages_unless_enabled() -> None:
    import io
    import logging

    def logged(messages: bool) -> list[dict[str, str]]:
        stream = io.StringIO()
        with json_logging(stream, log_messages=messages, log_access=False):
            try:
                raise ValueError("a prompt")
            except ValueError:
                logging.getLogger("zopo_fast.x").exception("failed", extra={"study": "s"})
            logging.getLogger("asyncio").error("Task failed\nfuture: <ValueError('a prompt')>")
            logging.getLogger("aiohttp.access").info("not asked for")
            logging.getLogger("aiohttp.server").error("Error handling request from %s", "127.0.0.1")
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    quiet, loud = logged(False), logged(True)
    assert [line["message"] for line in quiet] == [
        "failed",
        "Task failed",
        "Error handling request from 127.0.0.1",
    ]
    assert quiet[0]["study"] == "s"
    assert quiet[0]["exc_info"].startswith("ValueError at ")
    assert "a prompt" not in json.dumps(quiet)
    assert json.dumps(loud).count("a prompt") >= 2
    assert not logging.getLogger("zopo_fast").handlers


def refuses_connections(address: str) -> bool:
    """Return whether a server that is stopping has closed its listening socket."""
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_in_flight_complete_before_the_shutdown(tmp_path: Path) -> None:
    with Process(tmp_path / "data") as server, Client(server.url) as call:
        study = call.study(m=300, budget=300, initial=300)
        connection = http.client.HTTPConnection(call.host, timeout=SECONDS)
        body = json.dumps({"n": 200}).encode()
        # With the head and a part of the body sent, the request is in flight.
        connection.putrequest("POST", f"/v1/studies/{study}/ask")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:4])
        call.ok("GET", "/healthz")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: refuses_connections(call.host))
        assert server.process.poll() is None
        connection.send(body[4:])
        assert len(json.load(connection.getresponse())["indices"]) == 200
        connection.close()
        assert server.process.wait(SECONDS) == 0


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    with Process(tmp_path / "data") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(
                b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 9\r\n\r\n{"
            )
            with Client(server.url) as call:
                call.ok("GET", "/healthz")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: refuses_connections(f"{host}:{port}"))
            assert server.process.poll() is None  # the server waits for the body
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(SECONDS) == 1
