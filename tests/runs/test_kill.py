"""kill -9 at random moments: the study resumes as if never interrupted, and asks no recorded answer again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import killed_run
import pytest
from cli_tools import serving
from fake_server import Behaviour, Request, ok, slow
from resume_tools import (
    EMBEDDINGS,
    PROMPTS,
    TASK,
    answer,
    asked_for,
    copy,
    events,
    settings,
    told,
    uninterrupted,
)
from time_tools import HANG, until

import zopo_fast as zf

KILLS = int(os.environ.get("ZOPO_TEST_KILLS", "50"))
ANSWERS = 150
"""Answers given while processes are killed. The run needs some 400, so it cannot end before."""


class Rationed:
    """Plan of a server that answers ANSWERS calls in equal rations; further ones wait until the kill.

    However slow or quick the machine is, the run is spread over all processes.
    """

    def __init__(self) -> None:
        self.allowed, self.given = 0.0, 0
        self.held: set[str] = set()

    def __call__(self, request: Request) -> Behaviour:
        if self.given < self.allowed:
            self.given += 1
            return ok()
        self.held.add(sender(request))
        return slow()


def sender(request: Request) -> str:
    """The process that a request comes from, by its API key."""
    return request.headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.timeout(600)
def test_a_run_killed_at_random_moments_resumes(tmp_path: Path) -> None:
    rng = random.Random(5)
    path, plan = tmp_path / "study.sqlite3", Rationed()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["zopo_fast.runs.optimize", "zopo_fast.llm.openai.client", "zopo_fast.search.optimizer"]
    )
    known: set[tuple[int, int]] = set()
    with serving(answer, plan=plan, latency=0.02) as server:

        def started(number: int) -> Any:
            process = context.Process(target=killed_run.live, args=(str(path), server.url, str(number)))
            process.start()
            return process

        def asked(number: int) -> list[tuple[int, int]]:
            sent = [r for r in server.requests if sender(r) == str(number)]
            return [asked_for(r.body["messages"]) for r in sent]

        for number in range(KILLS):
            plan.allowed += ANSWERS / KILLS
            process = started(number)
            if rng.random() < 0.8:  # else kill it while it starts
                calls = rng.randint(1, 16)
                until(lambda n=number, c=calls: len(asked(n)) >= c or str(n) in plan.held)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(process.pid, signal.SIGKILL)
            process.join(HANG)
            assert process.exitcode == -signal.SIGKILL
            assert not set(asked(number)) & known, "a recorded answer was asked for again"
            if path.exists() and path.stat().st_size:
                log = events(copy(path, tmp_path / "copy.sqlite3"))
                known = {(e.data["prompt"], e.data["example"]) for e in log if e.kind == "score"}
        plan.allowed = float("inf")
        process = started(KILLS)
        process.join(HANG)
        assert process.exitcode == killed_run.FINISHED
        assert not set(asked(KILLS)) & known, "a recorded answer was asked for again"
        for number in range(KILLS + 1):
            assert max(Counter(asked(number)).values(), default=0) <= 1
        repeated = len(server.requests) - len({r.key for r in server.requests})
    log = events(path)
    scored = [(e.data["prompt"], e.data["example"]) for e in log if e.kind == "score"]
    assert len(set(scored)) == len(scored) > ANSWERS
    print(f"{KILLS} kills, {len(scored)} scores, {repeated} calls repeated")
    twin = uninterrupted(log, tmp_path / "twin.sqlite3", settings())
    assert told(twin)[: len(log)] == told(log)[: len(twin)]
    assert len(twin) >= len(log) - 1

    config = zf.ClientConfig("m", base_url="http://127.0.0.1:9", max_attempts=1)
    again = zf.optimize_sync(
        TASK, PROMPTS, zf.OpenAIClient(config), settings(), embeddings=EMBEDDINGS, store=path
    )
    assert again.error is None  # a finished run sends no request: no server listens there
    assert len(again.heldout) == 3
