"""OpenAI-compatible model on loopback, in a thread: prompts with an odd number score, the others do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from server_behaviours import hashed_vector
from time_tools import HANG

KEY = "sk-a-key-that-must-not-show-anywhere"
PROMPTS = [f"Say it in way {i}." for i in range(20)]


class Model(ThreadingHTTPServer):
    """Endpoint that answers "yes" to prompts with an odd number, while `go` is set, and embeds texts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls, self.status, self.answers = 0, 200, 10**6
        self.keys: set[str | None] = set()
        self.go, self.over = threading.Event(), threading.Event()
        self.go.set()
        self.steps: threading.Semaphore | None = None
        """Number of calls that may be answered; None: all."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Model
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/embeddings"):
            rows = [{"index": i, "embedding": hashed_vector(text)} for i, text in enumerate(body["input"])]
            self._send({"data": rows, "usage": {"prompt_tokens": 1, "total_tokens": 1}}, 200)
            return
        self.server.calls += 1
        self.server.keys.add(self.headers.get("Authorization"))
        if self.server.calls > self.server.answers:
            self.server.over.wait(HANG)
            self.close_connection = True
            return
        self.server.go.wait(HANG)
        if self.server.steps is not None:
            self.server.steps.acquire(timeout=HANG)
        text = body["messages"][-1]["content"]
        odd = any(f"way {i}." in text for i in range(1, 20, 2))
        answer = {
            "choices": [{"message": {"content": "yes" if odd else "no"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 1},
        }
        self._send(answer, self.server.status)

    def _send(self, answer: object, status: int) -> None:
        data = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the caller was killed
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_model() -> Iterator[Model]:
    """Run the model while the context is open."""
    with Model() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.steps = None
            running.go.set()
            running.over.set()
            running.shutdown()
            thread.join(HANG)


def models_file(folder: Path, model: Model, *lines: str) -> Path:
    """Write a models file that names the model "small"; its key is in the variable A_KEY."""
    path = folder / "models.toml"
    head = f'[small]\nmodel = "m"\nbase_url = "{model.url}"\nkey_env = "A_KEY"\nconcurrency = 2\n'
    path.write_text(head + "".join(line + "\n" for line in lines))
    return path
