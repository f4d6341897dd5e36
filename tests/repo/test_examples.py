"""The examples run as their first lines say, as programs of their own with HTTP on the loopback interface."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import serving
from fake_server import slow
from port_tools import free_port
from server_behaviours import only_first
from time_tools import HANG, until

EXAMPLES = Path(__file__).parents[2] / "examples"
PYTHON = [sys.executable, "-u", "-X", "dev", "-W", "error"]


def test_the_optuna_example_compares_the_same_searches() -> None:
    pytest.importorskip("optuna")
    done = subprocess.run(
        [*PYTHON, str(EXAMPLES / "optuna_ask_tell.py"), "rhymes", "2"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = {
        name.strip(): [float(number) for number in numbers.split()]
        for name, numbers in re.findall(r"^ *(\S.*?)  +((?:\d\.\d{3} *){3})$", done.stdout, re.MULTILINE)
    }
    assert len(rows) == 4, done.stdout
    assert rows["Optuna, ZopoSampler"] == rows["zopo_fast"]  # the same search asks the same prompts
    for scores in rows.values():
        assert scores == sorted(scores)


# ---- the service -----------------------------------------------------------------------------------------

PROMPTS = [f"Do it in way number {i}." for i in range(24)]


class Service:
    """Client of the example, which runs as a process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self._url = process, f"http://127.0.0.1:{port}"

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(self._url + path, data, timeout=HANG) as answer:
            return json.load(answer)

    def status(self, path: str, body: Any = None) -> int:
        try:
            self.call(path, body)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200


@contextmanager
def service(folder: Path, *arguments: str, **environment: str) -> Iterator[Service]:
    """Run the example, end it by SIGTERM, and check that it reports nothing left open."""
    port = free_port()
    command = [*PYTHON, str(EXAMPLES / "aiohttp_service.py"), "pool.jsonl", "pool.npy", "--port", str(port)]
    with subprocess.Popen(
        [*command, *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": "", **environment},
    ) as process:  # fmt: skip
        end = threading.Timer(2 * HANG, process.kill)
        end.start()
        try:
            assert process.stdout is not None
            assert "Running on" in process.stdout.readline()
            yield Service(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            told = process.communicate()[1]
            end.cancel()
            end.join()
    usual = re.compile(r'Executing <|127\.0\.0\.1 \[.*"(GET|POST) /')  # slow callbacks, and the access log
    told = "\n".join(line for line in told.splitlines() if not usual.match(line))
    assert (process.returncode, told) == (0, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    np.save(tmp_path / "pool.npy", np.random.default_rng(0).normal(size=(24, 6)))
    examples = [{"input": f"question {i}", "output": "yes"} for i in range(20)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="ended by SIGTERM")
def test_the_service_learns_from_its_users_and_resumes_after_a_restart(folder: Path) -> None:
    with service(folder) as one:
        assert one.status("/best") == 404
        tried: set[int] = set()
        for _ in range(120):
            given = one.call("/prompt")
            assert given["prompt"] == PROMPTS[given["index"]]
            tried.add(given["index"])
            one.call("/feedback", {"index": given["index"], "score": given["index"] / 24})
        best = one.call("/best")
        assert len(tried) >= 6
        assert best["index"] in tried
        assert best["score"] == pytest.approx(best["index"] / 24)
        for wrong in (
            {"index": 1},
            {"index": "x", "score": 1},
            [],
            3,
            b"{",
            b'{"index": 1, "score": NaN}',
            {"index": best["index"] + 0.5},
        ):
            assert one.status("/feedback", wrong) == 400
    saved = json.loads((folder / "state.json").read_text())
    final = [entry[1] for entry in saved["search"]["log"] if entry[0] == "tell" and entry[4]]
    assert len(final) >= 4
    assert best["index"] == max(final)
    with service(folder) as two:
        assert two.call("/best") == best
    again = json.loads((folder / "state.json").read_text())
    assert again == saved


@pytest.mark.skipif(sys.platform == "win32", reason="ended by SIGTERM")
def test_the_service_scores_prompts_in_the_background_until_it_ends(folder: Path) -> None:
    answered = 400  # of 24 * 20 calls: some prompts are scored in full by then, and the run cannot end
    with serving(lambda _: "no", plan=only_first(answered, slow())) as server:
        arguments = ("--task", "task.jsonl", "--model", "m", "--budget", "24")
        environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"}
        with service(folder, *arguments, **environment) as one:
            until(lambda: len(server.requests) > answered)
            until(lambda: one.status("/best") == 200)  # although no user has given feedback
        until(lambda: not server.open_connections)
    saved = json.loads((folder / "state.json").read_text())
    assert [
        entry for entry in saved["search"]["log"] if entry[0] == "tell"
    ]  # the scores on the examples are kept
