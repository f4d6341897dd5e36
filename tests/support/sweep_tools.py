"""Sweeps against a server that holds the calls of chosen tasks, so that a test kills at a known point."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli_tools import PROMPTS, Bench, Done, write_lines
from fake_server import Behaviour, FakeServer, Request, ok, slow
from time_tools import until

HELD_AT = 9
"""Chat calls of a held task that are answered before the next one is held."""
BUDGET, EXAMPLES, HELDOUT = 4, 5, 3


class Gate:
    """Plan of a `FakeServer`: holds each closed task at its call number `HELD_AT` + 1."""

    def __init__(self, closed: Sequence[int] = ()) -> None:
        self.closed = set(closed)
        self.calls: Counter[int] = Counter()
        self.held: Counter[int] = Counter()

    def __call__(self, request: Request) -> Behaviour:
        found = re.search(r"of task (\d+)", json.dumps(request.body))
        if found is None or request.path.endswith("/embeddings"):
            return ok()
        task = int(found[1])
        self.calls[task] += 1
        if task in self.closed and self.calls[task] > HELD_AT:
            self.held[task] += 1
            return slow()
        return ok()

    def wait(self, *tasks: int) -> None:
        """Wait until a call of each of the tasks is held."""
        until(lambda: all(self.held[task] for task in tasks))


class SweepBench(Bench):
    """Working folder with the tasks of a sweep; its runs draw no charts, which would take long."""

    def __init__(self, folder: Path, tasks: int) -> None:
        self.folder = folder
        for task in range(tasks):
            rows = [
                {"input": f"question {i} of task {task}", "output": "yes"} for i in range(EXAMPLES + HELDOUT)
            ]
            write_lines(folder / f"t{task}.jsonl", rows)
        (folder / "pool.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        (folder / "cache").mkdir()
        (folder / "without").mkdir()
        for package in ("altair", "vl_convert"):
            (folder / "without" / f"{package}.py").write_text("raise ImportError('left out for speed')\n")
        self.tasks = tasks

    def env(self, **more: str) -> dict[str, str]:
        return super().env(PYTHONPATH=str(self.folder / "without"), OPENBLAS_NUM_THREADS="1", **more)

    def write(self, server: FakeServer, *top: str, more: str = "", name: str = "sweep.toml") -> str:
        """Write the file of a sweep: lines of its top, then tables."""
        lines = [
            f"tasks = {json.dumps([f't{i}.jsonl' for i in range(self.tasks)])}",
            *top,
            "[options]",
            'pool = "pool.txt"',
            f"budget = {BUDGET}",
            "initial = 2",
            f"examples = {EXAMPLES}",
            'model = "m"',
            f'base-url = "{server.url}"',
            'embedder = "endpoint:e"',
            "cache = false",
            "concurrency = 1",
            "racing = false",
            more,
        ]
        (self.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    def rows(self, out: str = "sweep") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / out / "sweep.json").read_text())
        return rows

    def processes(self, task: int, out: str = "sweep") -> list[int]:
        """Return the processes that have worked on the run of a task, in order."""
        log = self.folder / out / "logs" / f"t{task}.log"
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        return [int(number) for number in re.findall(r"^--- .*, process (\d+)$", text, re.MULTILINE)]

    def kill(self, task: int) -> None:
        """Kill the process of a run whose call is held, once all answers are on disk."""
        self.settle(task)
        os.kill(self.processes(task)[-1], signal.SIGKILL)

    def settle(self, task: int) -> None:
        """Wait until the study of a run whose call is held has all answers."""
        study = self.folder / "sweep" / "runs" / f"t{task}" / "study.sqlite3"

        def scores() -> int:
            log = study.with_name("study.sqlite3-wal")
            data = study.read_bytes() + (log.read_bytes() if log.exists() else b"")
            return len(set(re.findall(rb'score{"prompt": [^}]*', data)))

        until(lambda: scores() >= HELD_AT)


def chat_counts(server: FakeServer) -> Counter[str]:
    """Return how often each chat call was answered."""
    return Counter({key: count for key, count in server.answered.items() if "of task" in key})


def assert_nothing_is_paid_twice(server: FakeServer) -> None:
    """Check that no answer was given again; a held call was never answered."""
    repeated = {key: count for key, count in chat_counts(server).items() if count > 1}
    assert repeated == {}


def assert_is_complete(bench: SweepBench, done: Done) -> None:
    assert done.code == 0, done
    rows = bench.rows()
    assert [row["run"] for row in rows] == sorted(f"t{i}" for i in range(bench.tasks))
    assert {(row["stopped_by"], row["error"]) for row in rows} == {("budget", None)}


def is_alive(process: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
