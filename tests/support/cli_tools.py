"""The installed command, a fake server in a thread of the test process, and a small task and pool."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fake_server import FakeServer, Request
from time_tools import HANG

from zopo_fast._utils.files import default_cache_dir
from zopo_fast.report.page import static_files

COMMAND = str(Path(sys.executable).parent / "zopo-fast")
KEY = "sk-secret-0123456789abcdef"
QUERY_KEY = "sk-query-0123456789abcdef"
HEADER_KEY = "sk-header-0123456789abcdef"
FILES = ("best_prompt.txt", "curve.png", "report.html", "result.json", "study.sqlite3", "trials.jsonl")
PROMPTS = [f"Do it in way number {i}." for i in range(12)]
EXAMPLES, HELDOUT = 5, 7


def answer(messages: Any) -> str:
    """Answer about n of 24 questions correctly under prompt number n."""
    content = messages[-1]["content"]
    number = re.search(r"number (\d+)", content)
    question = re.search(r"question (\d+)", content)
    if number is None or question is None:
        return "no"
    return "yes" if (int(question[1]) * 7 + 3) % 24 < int(number[1]) else "no"


@contextmanager
def serving(reply: Callable[[Any], str] = answer, **settings: Any) -> Iterator[FakeServer]:
    """Run a FakeServer in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = FakeServer(reply, **settings)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(HANG)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(HANG)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(HANG)
        loop.close()


def chats(server: FakeServer) -> list[Request]:
    return [r for r in server.requests if r.path.endswith("/chat/completions")]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def vega_scripts() -> Path:
    """Return the file of the report's scripts in this user's cache: making them takes 2 s."""
    static_files()
    return max(default_cache_dir().glob("vega-*.js"), key=lambda path: path.stat().st_mtime)


class Bench:
    """Working folder of the command, with `task.jsonl` and `pool.txt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = [{"input": f"question {i}", "output": "yes"} for i in range(EXAMPLES + HELDOUT)]
        write_lines(folder / "task.jsonl", rows)
        (folder / "pool.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        scripts = vega_scripts()
        (folder / "cache").mkdir(exist_ok=True)
        (folder / "cache" / scripts.name).symlink_to(scripts)

    def env(self, **more: str) -> dict[str, str]:
        unwanted = ("OPENAI", "ZOPO", "LC_", "LANG", "COLUMNS", "PYTHON")
        kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(unwanted)}
        own = {"ZOPO_CACHE_DIR": str(self.folder / "cache"), "OPENAI_API_KEY": KEY, "LC_ALL": "C.UTF-8"}
        return {**kept, **own, **more}

    def optimize(self, server: FakeServer | str, *more: str, budget: int = 6) -> list[str]:
        """Return the arguments of a small run against the server."""
        url = server if isinstance(server, str) else server.url
        return [
            "optimize", "task.jsonl", "--pool", "pool.txt", "--budget", str(budget), "--initial", "3",
            "--examples", str(EXAMPLES), "--model", "m", "--base-url", url, "--embedder", "endpoint:e", *more,
        ]  # fmt: skip

    def start(self, *args: str, env: dict[str, str] | None = None, **how: Any) -> subprocess.Popen[bytes]:
        piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen([COMMAND, *args], cwd=self.folder, env=self.env(**(env or {})), **piped)

    def run(self, *args: str, env: dict[str, str] | None = None, **how: Any) -> Done:
        return ended(self.start(*args, env=env, **how))


class Done:
    """Exit code, stdout and stderr of a command that has ended."""

    def __init__(self, code: int, out: bytes | None, err: bytes | None) -> None:
        self.code = code
        self.out = (out or b"").decode("utf-8", "backslashreplace")
        self.err = (err or b"").decode("utf-8", "backslashreplace")

    @property
    def text(self) -> str:
        return self.out + self.err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def ended(process: subprocess.Popen[bytes]) -> Done:
    """Wait for the end of a command; kill one that hangs, and fail."""
    try:
        out, err = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"the command hangs: {Done(-9, *process.communicate(timeout=10))!r}") from None
    return Done(process.returncode, out, err)
