"""Studies with other asks than those of this version: a resumed run keeps their scores."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from resume_tools import EMBEDDINGS, FULL, PROMPTS, SMALL, TASK, answer, asked_for, events, settings

import zopo_fast as zf

CALLS = 60


class Stopping:
    """Model that is lost after some answers, and counts what it was asked."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.asked: Counter[tuple[int, int]] = Counter()

    async def __call__(self, messages: Any) -> str:
        if self.left == 0:
            raise zf.UnreachableError("gone")
        self.left -= 1
        self.asked[asked_for(messages)] += 1
        return answer(messages)


@pytest.mark.parametrize("racing", [True, False])
def test_a_study_with_other_asks_goes_on(
    tmp_path: Path, racing: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "study.sqlite3"
    task, config = (TASK, settings()) if racing else (SMALL, settings(**FULL))
    ask = zf.Zopo.ask

    def other(opt: zf.Zopo) -> int:  # as another arithmetic might choose
        first, log = ask(copy.copy(opt)), opt.state_dict()["log"]
        asked = {i for kind, *entry in log if kind == "ask" for i in entry[1]}
        told = {entry[0] for kind, *entry in log if kind == "tell"}
        free = [i for i in range(len(PROMPTS)) if i != first and i not in asked | told]
        index = free[len(free) // 2] if free and len(told) % 3 == 0 else first
        opt.repeat_ask([index])
        return index

    before = Stopping(CALLS if not racing else 200)
    with monkeypatch.context() as patch:
        patch.setattr(zf.Zopo, "ask", other)
        zf.optimize_sync(task, PROMPTS, before, config, embeddings=EMBEDDINGS, store=path)
    log = events(path)
    caplog.clear()  # the copies repeat a log with other asks, too
    after = Stopping(10**6)
    with caplog.at_level(logging.WARNING, logger="zopo_fast"):
        result = zf.optimize_sync(task, PROMPTS, after, config, embeddings=EMBEDDINGS, store=path)
    said = [record.getMessage() for record in caplog.records if "other prompts" in record.getMessage()]
    assert len(said) == 1, caplog.text
    assert "its scores are kept" in said[0]
    assert [(e.kind, e.data) for e in events(path)[: len(log)]] == [(e.kind, e.data) for e in log]
    repeated = [call for call in before.asked if after.asked[call]]
    assert repeated == []
    assert result.stopped_by in ("budget", "pool")
    asked = [e.data["prompt"] for e in events(path) if e.kind == "ask"]
    assert racing or len(asked) == len(set(asked)) == 14
    caplog.clear()
    zf.optimize_sync(
        task, PROMPTS, Stopping(0), config, embeddings=EMBEDDINGS, store=path
    )  # replays once more


def test_an_ask_that_cannot_have_been_is_still_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    config = settings(**FULL)
    zf.optimize_sync(SMALL, PROMPTS, Stopping(30), config, embeddings=EMBEDDINGS, store=path)
    with zf.Store.open(path) as store:
        asks = [event for event in store.events() if event.kind == "ask"]
        store.append("ask", {**asks[0].data, "at": 99.0})  # a prompt that is scored already
    with pytest.raises(zf.StudyMismatchError, match="does not follow"):
        zf.optimize_sync(SMALL, PROMPTS, Stopping(0), config, embeddings=EMBEDDINGS, store=path)


def test_a_race_with_other_looks_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The search would ask the same prompts; the race would continue others."""
    path = tmp_path / "study.sqlite3"
    with monkeypatch.context() as patch:
        patch.setattr("zopo_fast.scoring.race.FIRST_COMPLETE", 0.05)
        zf.optimize_sync(TASK, PROMPTS, Stopping(120), settings(), embeddings=EMBEDDINGS, store=path)
    asked = [(e.data["prompt"], e.data["examples"]) for e in events(path) if e.kind == "ask"]
    with caplog.at_level(logging.WARNING, logger="zopo_fast"):
        zf.optimize_sync(TASK, PROMPTS, Stopping(10**6), settings(), embeddings=EMBEDDINGS, store=path)
    assert "other prompts" in caplog.text
    again = [(e.data["prompt"], e.data["examples"]) for e in events(path) if e.kind == "ask"]
    assert again[: len(asked)] == asked
