"""Hard limits of runs: never exceeded, named in the result, and counted over all runs of a study."""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Bench, chats, serving
from resume_tools import EMBEDDINGS, PROMPTS, TASK, answer, events, settings

import zopo_fast as zf
from zopo_fast.errors import LimitReachedError
from zopo_fast.llm.answer_cache import AnswerCache
from zopo_fast.llm.limits import Limits, Prices

BODY = {"temperature": 0, "max_tokens": 4}


def run(server: Any, limits: Limits, slots: int = 64, **more: Any) -> zf.Result:
    async def work() -> zf.Result:
        config = zf.ClientConfig("m", base_url=server.url, concurrency=slots, body=BODY)
        async with zf.OpenAIClient(config) as client:
            chosen = settings(limits=limits, prices=Prices(1.0, 10.0), prompts_in_flight=12)
            return await zf.optimize(TASK, PROMPTS, client, chosen, embeddings=EMBEDDINGS, **more)

    return asyncio.run(work())


@pytest.mark.parametrize("calls", [17, 100, 180])
def test_calls_with_64_in_flight(calls: int) -> None:
    with serving(answer, latency=0.01) as server:
        result = run(server, Limits(calls=calls))
    assert result.stopped_by == "calls"
    assert result.error is None
    assert len(chats(server)) == calls  # the whole budget and no call more
    assert result.usage.calls == calls


def test_tokens_and_cost() -> None:
    with serving(answer, latency=0.005) as server:
        whole = run(server, Limits(tokens=10**9))
        tokens = whole.usage.total_tokens // 2
        result = run(server, Limits(tokens=tokens))
        cost = (whole.usage.prompt_tokens * 1.0 + whole.usage.completion_tokens * 10.0) / 3e6
        cheap = run(server, Limits(cost=cost))
    assert (result.stopped_by, cheap.stopped_by) == ("tokens", "cost")
    assert 0 < result.usage.total_tokens <= tokens
    assert 0 < cheap.usage.prompt_tokens * 1.0 + cheap.usage.completion_tokens * 10.0 <= cost * 1e6


def test_time_ends_a_run_whose_model_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    called, hanging_since = 0, math.inf

    def clock() -> float:
        """Start when the model hangs, so that prompts are scored before on any machine."""
        return max(0.0, time.monotonic() - hanging_since)

    async def hangs_at_last(messages: Any) -> str:
        nonlocal called, hanging_since
        called += 1
        if called >= 60:
            hanging_since = min(hanging_since, time.monotonic())
            await asyncio.Event().wait()
        return answer(messages)

    module = sys.modules["zopo_fast.runs.optimize"]
    monkeypatch.setattr(module, "Account", functools.partial(module.Account, clock=clock))
    chosen = settings(limits=Limits(seconds=0.2), racing=False)
    threads = threading.active_count()
    result = zf.optimize_sync(TASK, PROMPTS, hangs_at_last, chosen, embeddings=EMBEDDINGS)
    assert result.stopped_by == "time"
    assert not result.in_part
    assert threading.active_count() == threads


def test_a_limit_before_a_full_score_ends_with_the_best_so_far() -> None:
    with serving(answer) as server:
        result = run(server, Limits(calls=5))
        assert (result.stopped_by, result.in_part, len(chats(server))) == ("calls", True, 5)
        assert result.usage.calls == 5
        with pytest.raises(LimitReachedError, match="tokens") as caught:
            run(server, Limits(tokens=10))
    assert caught.value.limit == "tokens"
    assert len(chats(server)) == 5


def test_all_runs_of_a_study_count(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    with serving(answer, latency=0.005) as server:
        first = run(server, Limits(calls=150), store=path)
        assert (first.stopped_by, len(chats(server))) == ("calls", 150)
        again = run(server, Limits(calls=150), store=path)
        assert (again.stopped_by, len(chats(server))) == ("calls", 150)
        assert again.best_score == first.best_score
        more = run(server, Limits(calls=190), store=path)
        assert (more.stopped_by, len(chats(server))) == ("calls", 190)
        assert more.usage.calls == 190
    scored = [(e.data["prompt"], e.data["example"]) for e in events(path) if e.kind == "score"]
    assert len(set(scored)) == len(scored) == 190


def test_answers_from_the_cache_do_not_count(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    with serving(answer, latency=0.002) as server:
        first = run(server, Limits(calls=200), cache=cache)
        assert len(chats(server)) == 200
        second = run(server, Limits(calls=20), cache=cache)
        assert len(chats(server)) == 220
    cache.close()
    assert len({request.key for request in chats(server)}) == 220  # no call is made twice
    assert second.usage.cached >= 8 * 3  # at least the first mini-batch of the initial prompts
    assert second.usage.calls == 20
    assert first.usage.cached == 0


def test_settings_are_refused() -> None:
    with pytest.raises(zf.ConfigError, match="prices"):
        zf.RunConfig(limits=Limits(cost=1.0))
    with pytest.raises(zf.ConfigError, match="only seconds"):
        zf.optimize_sync(len, PROMPTS, None, zf.RunConfig(limits=Limits(calls=9)), embeddings=EMBEDDINGS)
    with pytest.raises(zf.ConfigError, match="max_tokens"):
        zf.optimize_sync(TASK, PROMPTS, answer, settings(limits=Limits(tokens=99)), embeddings=EMBEDDINGS)


def test_the_command(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with serving() as server:
        done = bench.run(*bench.optimize(server, "--limit-calls", "20", "--out", "out", "--quiet"))
        assert done.code == 0, done
        assert "the limit of calls is reached" in done.out
        # The call that embeds the pool counts too.
        assert len(server.requests) == 20
        on = bench.run("optimize", "--resume", "out", "--limit-calls", "25", "--quiet")
        assert on.code == 0, on
        assert len(server.requests) == 25
        for more, said in (
            (("--limit-cost", "1"), "--price-in"),
            (("--limit-calls", "0"), "0 is not in the range"),
            (("--cache-size", "lots"), "number of bytes"),
        ):
            refused = bench.run(*bench.optimize(server, *more))
            assert refused.code == 2
            assert said in refused.err
        assert len(server.requests) == 25
