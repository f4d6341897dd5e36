"""Runs embedded in a program: cancelled, shared, repeated and in threads, on asyncio's loop and uvloop.

Each scenario is a program of its own (embedding_runs.py) under -X dev with warnings as errors: its output
lists leaked tasks, connections and files, and stderr shows objects collected without being closed.
`ZOPO_CANCEL_EVERY=1` cancels at every single iteration of the event loop, which takes minutes.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zopo_fast as zf

TESTS = Path(__file__).parents[1] / "support"
LIMIT = 240.0 if os.environ.get("ZOPO_CANCEL_EVERY") is None else 3600.0  # for a hang only

loops = pytest.mark.parametrize(
    "loop",
    [
        "asyncio",
        pytest.param(
            "uvloop",
            marks=pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="no uvloop here"),
        ),
    ],
)


def python(*arguments: str) -> str:
    """Run Python in development mode with warnings as errors; stderr may only report slow callbacks."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        capture_output=True, text=True, timeout=LIMIT, check=False, cwd=TESTS,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, told) == (0, []), "\n".join(told) + done.stdout
    return done.stdout


@functools.cache
def shortly(loop: str) -> Any:
    """Return the findings of the short scenarios, all run in one process."""
    scenarios = ["shared", "repeated", "threads", "misused"]
    return json.loads(
        python("embedding_runs.py", loop, *scenarios, *["interrupted"] * (sys.platform != "win32"))
    )


@loops
@pytest.mark.timeout(2 * LIMIT)
def test_a_run_can_be_cancelled_at_any_iteration_of_the_loop(loop: str) -> None:
    """Runs are cancelled once, twice or three times in a row, in every phase, and during retries."""
    cut = json.loads(python("embedding_runs.py", loop, "cancelled"))["cancelled"]
    assert cut["complaints"] == []
    assert cut["more_files"] == 0
    for phase in ("embedding", "search", "random sample", "comparison"):
        assert cut["found"].get(f"cancelled in {phase}", 0) >= 2, cut
    assert cut["found"]["ended"] + cut["found"].get("failed", 0) == cut["ends"]


@loops
def test_two_concurrent_runs_share_a_client(loop: str) -> None:
    assert shortly(loop)["shared"] == {
        "alike": True, "different": True, "calls": True, "left": [],
    }  # fmt: skip


@loops
def test_a_client_works_in_successive_loops(loop: str) -> None:
    assert shortly(loop)["repeated"] == {"alike": True, "closed": True}


@loops
def test_runs_in_threads_share_a_client(loop: str) -> None:
    assert shortly(loop)["threads"] == {"alike": True, "closed": True}


@loops
def test_misuse_of_a_loop_is_a_typed_error(loop: str) -> None:
    said = shortly(loop)["misused"]
    assert "an event loop is running in this thread; await optimize() in it" in said["optimize_sync"]
    assert "belongs to another event loop; make one in this loop" in said["stop"]
    assert (said["calls"], said["left"]) == (0, [])


@loops
@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_ctrl_c_in_optimize_sync_leaves_nothing_behind(loop: str) -> None:
    assert shortly(loop)["interrupted"] == {
        "raised": True, "closed": True, "threads ended": True, "again": "budget", "files closed": True,
    }  # fmt: skip


def test_every_public_name_loads_in_development_mode() -> None:
    assert python("-c", "import zopo_fast as zf\nfor name in dir(zf): getattr(zf, name)\nprint(len(dir(zf)))")


def test_errors_of_embedding_are_runtime_errors() -> None:
    assert issubclass(zf.EventLoopError, RuntimeError)
    assert issubclass(zf.ConcurrentUseError, RuntimeError)
