"""kill -9 at random moments: the run goes on as if nothing had been, and asks for nothing it was told."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import killed_run
import pytest
from cli_tools import serving
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

import zopo_fast as zf

MOMENTS = int(os.environ.get("ZOPO_TEST_KILLS", "50"))
FINISHED = 7


@pytest.mark.timeout(300)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "study.sqlite3"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["zopo_fast.runs.optimize", "zopo_fast.llm.openai.client", "zopo_fast.search.optimizer"]
    )
    kills, known, lost = 0, set(), 0
    with serving(answer, latency=0.02) as server:
        while kills < MOMENTS:
            before = len(server.requests)
            life = context.Process(target=killed_run.live, args=(str(path), server.url))
            life.start()
            if rng.random() < 0.8:  # else at any moment of its start
                while len(server.requests) == before and life.is_alive():
                    time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.08))
            os.kill(life.pid, signal.SIGKILL) if life.is_alive() else None  # type: ignore[arg-type]
            life.join(10)
            asked = [asked_for(r.body["messages"]) for r in server.requests[before:]]
            assert not set(asked) & known, "asked for what it was told before"
            assert max(Counter(asked).values(), default=0) <= 1
            if life.exitcode == FINISHED:
                break
            assert life.exitcode == -signal.SIGKILL
            kills += 1
            if path.exists() and path.stat().st_size:
                log = events(copy(path, tmp_path / "copy.sqlite3"))
                known = {(e.data["prompt"], e.data["example"]) for e in log if e.kind == "score"}
        while life.exitcode != FINISHED:  # the last life of them all
            life = context.Process(target=killed_run.live, args=(str(path), server.url))
            life.start()
            life.join(60)
        assert life.exitcode == FINISHED
        lost = len(server.requests) - len({r.key for r in server.requests})
    assert kills == MOMENTS, f"the run was over after {kills} kills: make it longer"
    # What was under way at a kill is asked again: at most the eight slots, each time.
    assert lost <= 8 * kills
    log = events(path)
    scored = [(e.data["prompt"], e.data["example"]) for e in log if e.kind == "score"]
    assert len(set(scored)) == len(scored)
    print(f"{kills} kills, {len(scored)} scores, {lost} calls repeated")
    twin = uninterrupted(log, tmp_path / "twin.sqlite3", settings())
    assert told(twin)[: len(log)] == told(log)[: len(twin)]
    assert len(twin) >= len(log) - 1

    config = zf.ClientConfig("m", base_url="http://127.0.0.1:9", max_attempts=1)
    again = zf.optimize_sync(
        TASK, PROMPTS, zf.OpenAIClient(config), settings(), embeddings=EMBEDDINGS, store=path
    )
    assert again.error is None  # a finished run asks for nothing: there is no server there
    assert len(again.heldout) == 3
