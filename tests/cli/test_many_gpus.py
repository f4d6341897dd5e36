"""`zopo-fast landscape` through the load balancer of docs/integrations/many_gpus.md; a replica is killed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Bench, answer, ended, write_lines
from doc_tools import ROOT, blocks_of
from port_tools import free_port
from time_tools import until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
PAGE = "docs/integrations/many_gpus.md"
PROMPTS = [f"Do it in way number {i}." for i in range(100)]
QUESTIONS = [f"question {i}" for i in range(30)]
HELD_AT = 400


@contextmanager
def replica(held_at: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a replica; return its process and its port."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "replica.py"), str(held_at)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def balanced(folder: Path, ports: list[int]) -> Iterator[str]:
    """Run nginx with the configuration of the page before the replicas; return the base URL."""
    assert NGINX is not None
    port = free_port()
    (text,) = [block.code for block in blocks_of(PAGE) if block.language == "nginx"]
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
    for shown, real in zip(("gpu1:8000", "gpu2:8000"), ports, strict=True):
        assert shown in text
        text = text.replace(shown, f"127.0.0.1:{real}")
    head = "daemon off;\npid nginx.pid;\nevents {}\n"
    paths = "".join(
        f"{kind}_temp_path {kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"{head}http {{\naccess_log off;\n{paths}{text}}}\n")
    command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: listens(port))
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_a_landscape_is_complete_though_a_replica_is_killed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    write_lines(tmp_path / "many.jsonl", [{"input": each, "output": "yes"} for each in QUESTIONS])
    (tmp_path / "many.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "nginx").mkdir()
    with ExitStack() as stack:
        dying, first = stack.enter_context(replica(HELD_AT))
        _, second = stack.enter_context(replica())
        url = stack.enter_context(balanced(tmp_path / "nginx", [first, second]))
        landscape = bench.start(
            "landscape", "many.jsonl", "--pool", "many.txt", "--examples", str(len(QUESTIONS)), "--model",
            "m", "--base-url", url, "--embedder", "endpoint:e", "--concurrency", "64", "--no-cache",
            "--out", "out",
        )  # fmt: skip
        stack.callback(landscape.kill)
        assert dying.stdout is not None
        assert dying.stdout.readline() == "held\n"
        dying.kill()
        done = ended(landscape)
    assert done.code == 0, done
    (path,) = (tmp_path / "out").glob("*.json")
    scores = np.array(json.loads(path.read_text())["scores"], dtype=float)
    expected = [
        [float(answer([{"content": f"{prompt} {question}"}]) == "yes") for question in QUESTIONS]
        for prompt in PROMPTS
    ]
    assert scores.shape == (100, 30)  # 3,000 scores, one a prompt and example
    assert_same(path, scores, np.array(expected))


def assert_same(path: Path, scores: np.ndarray, expected: np.ndarray) -> None:
    """Check each score; the landscape lists the examples in an order of its own."""
    order = [QUESTIONS.index(each["input"]) for each in json.loads(path.read_text())["examples"]]
    assert sorted(order) == list(range(len(QUESTIONS)))
    np.testing.assert_array_equal(scores, expected[:, order])
