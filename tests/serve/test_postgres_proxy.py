"""Load balancer of the documents in front of two servers: sticky studies, and failover."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_tools import PAGES, blocks_of
from port_tools import free_port
from serve_study_tools import in_process, score
from serve_tools import SECONDS, Client, InThread, served
from time_tools import until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@contextlib.contextmanager
def proxy(folder: Path, urls: list[str]) -> Iterator[str]:
    """Run nginx with the configuration of the documents, without TLS; the value is its URL."""
    (block,) = [b for b in blocks_of("docs/integrations/postgresql.md") if "upstream zopo" in b.code]
    port = free_port()
    code = re.sub(r" *ssl_\w+ .*\n", "", block.code).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    code = code.replace("error timeout;", "error timeout non_idempotent;")  # the test sends keys
    for number, url in enumerate(urls):
        code = code.replace(f"10.0.0.1{number + 1}:8321", url.removeprefix("http://"))
    paths = "".join(
        f"{name}_temp_path {folder / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nworker_processes 1;\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{code}}}\n"
    )
    process = subprocess.Popen([str(NGINX), "-e", str(folder / "error.log"), "-c", str(config)])

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        until(is_ready)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def steps(server: InThread, step: str) -> float:
    """Return the number of asks or tells that a server answered."""
    with Client(server.url) as call:
        text = call.ok("GET", "/metrics").decode()
    found = re.search(rf'^zopo_step_seconds_count{{step="{step}"}} (\S+)$', text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def test_a_study_stays_with_one_server_until_that_is_gone(database: str, tmp_path: Path) -> None:
    assert "docs/integrations/postgresql.md" in PAGES
    with contextlib.ExitStack() as stack:
        stops = [stack.enter_context(contextlib.ExitStack()) for _ in range(2)]
        servers = [stop.enter_context(served(database)) for stop in stops]
        url = stack.enter_context(proxy(tmp_path, [server.url for server in servers]))
        call = stack.enter_context(Client(url))
        studies = [call.study(budget=12) for _ in range(4)]
        orders: dict[str, list[int]] = {study: [] for study in studies}
        for step in range(6):
            if step == 3:
                counts = [steps(server, "ask") for server in servers]
                assert sum(counts) == 12
                assert all(count % 3 == 0 for count in counts)  # the three asks of a study came to one server
                assert [steps(server, "tell") for server in servers] == counts  # and its tells too
                stops[counts.index(max(counts))].close()
            for study in studies:
                key = f"{study}-{step}"
                answer = call.ok("POST", f"/v1/studies/{study}/ask", {}, Idempotency_Key=f"ask-{key}")
                (index,) = answer["indices"]
                orders[study].append(index)
                tell = {"index": index, "score": score(index)}
                call.ok("POST", f"/v1/studies/{study}/tell", tell, Idempotency_Key=f"tell-{key}")
        assert list(orders.values()) == [in_process(budget=12)[:6]] * 4
