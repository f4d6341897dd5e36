"""Study file of a resumed run: in use elsewhere, damaged, on a full disk, and its contents."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resume_tools import (
    EMBEDDINGS,
    EXAMPLES,
    FULL,
    PROMPTS,
    SMALL,
    TASK,
    Model,
    answer,
    asked_for,
    events,
    go,
    never_twice,
    settings,
    told,
)

import zopo_fast as zf
from zopo_fast.llm.answer_cache import AnswerCache
from zopo_fast.llm.types import Answer
from zopo_fast.storage.store import Store


def test_two_runs_on_one_study(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"

    async def second(store: Path | Store) -> None:
        run = zf.optimize(TASK, PROMPTS, Model(), settings(), embeddings=EMBEDDINGS, store=store)
        with pytest.raises(zf.StoreBusyError, match="this study"):
            await run

    async def both(store: Path | Store) -> zf.Result:
        tried = False

        async def model(messages: Any) -> str:
            nonlocal tried
            if not tried:
                tried = True
                await second(store)
            await asyncio.sleep(0)
            return answer(messages)

        return await zf.optimize(SMALL, PROMPTS, model, settings(**FULL), embeddings=EMBEDDINGS, store=store)

    assert asyncio.run(both(path)).error is None
    with Store.create(tmp_path / "other.sqlite3", {}) as store:
        assert asyncio.run(both(store)).error is None
        store.sync()  # a Store is left open


def test_a_salvaged_study_resumes_and_repeats_no_call(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    first = Model()
    whole = go(path, first)
    log, data = events(path), path.read_bytes()
    there = [at for at in range(4096, len(data), 4096) if b'score{"prompt"' in data[at : at + 4096]]
    assert len(there) > 4
    with path.open("r+b") as file:
        file.seek(there[len(there) // 2])
        file.write(bytes(4096))
    with pytest.raises(zf.StoreDamagedError, match="Saved to"):
        go(path, Model())
    saved = path.with_name("study.salvaged.sqlite3")
    assert told(events(saved)) == told(log)[: len(events(saved))]
    assert 20 < len(events(saved)) < len(log) - 20
    saved.replace(path)
    second = Model()
    result = go(path, second)
    assert result.error is None
    never_twice(first, second)  # all answers were intact
    assert len(result.trials) >= len(whole.trials) // 2


def test_a_full_disk_ends_the_run_and_loses_no_acknowledged_trial(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    first, second = Model(), Model()
    heard: list[zf.Trial] = []
    with Store.create(path, {}) as store:

        def listen(trial: zf.Trial) -> None:
            heard.append(trial)
            if len(heard) == 3:  # the file cannot grow any more
                store._connection.execute("PRAGMA max_page_count = 1")

        with pytest.raises(zf.StoreFullError, match="no space left"):
            go(store, first, on_trial=listen, racing=False)
        with pytest.raises(zf.StoreFullError):
            store.close()
    assert len(heard) >= 3
    with Store.open(path) as store:
        numbers = [trial["number"] for trial in store.trials()]
    assert set(numbers) >= {trial.number for trial in heard}
    held: list[list[zf.Trial]] = []
    result = go(path, second, on_resume=held.append, racing=False)
    assert result.error is None
    assert held[0][: len(heard)] == heard
    # Only calls that were answered and not acknowledged yet may be repeated.
    repeated = set(first.calls) & set(second.calls)
    assert len(repeated) <= 5 * EXAMPLES
    acknowledged = {(trial.index, example) for trial in heard for example in range(EXAMPLES)}
    assert acknowledged <= set(first.calls)
    assert not acknowledged & set(second.calls)


def test_example_of_the_documentation(tmp_path: Path) -> None:
    async def main(stop: asyncio.Event) -> zf.Result:
        return await zf.optimize(
            SMALL,
            PROMPTS,
            model,
            zf.RunConfig(budget=10, initial=4),
            embeddings=EMBEDDINGS,
            stop=stop,
            store=tmp_path / "study.sqlite3",
            on_resume=lambda trials: print(f"{len(trials)} prompts are scored already"),
        )

    model = Model()
    stop = asyncio.Event()
    model.after = lambda count: stop.set() if count == 17 else None
    assert asyncio.run(main(stop)).stopped_by == "interrupted"
    assert asyncio.run(main(asyncio.Event())).stopped_by == "perfect"
    never_twice(model)


def test_the_pool_is_embedded_once(tmp_path: Path) -> None:
    class Embedder:
        usage = zf.Usage(prompt_tokens=9, calls=1)
        made = 0

        async def embed(self, texts: Any) -> Any:
            self.made += 1
            return np.asarray(EMBEDDINGS, dtype=np.float32)

    embedder = Embedder()
    for _ in range(2):
        zf.optimize_sync(
            SMALL, PROMPTS, Model(), settings(**FULL), embedder=embedder, store=tmp_path / "study.sqlite3"
        )
    assert embedder.made == 1
    with Store.open(tmp_path / "study.sqlite3") as store:
        assert zf.Usage(**store.get("embedding")) == embedder.usage


def test_a_metric_object_is_identified_by_its_class(tmp_path: Path) -> None:
    """Such an object may be impossible to copy, pickle or write as JSON."""

    class Graded:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, answer: str, references: list[str]) -> float:
            with self.lock:
                return float(answer in references)

    class Other(Graded):
        pass

    path = tmp_path / "study.sqlite3"
    models = [Model(), Model()]
    results = [go(path, model, task=replace(SMALL, metric=Graded()), racing=False) for model in models]
    assert models[1].calls == []
    assert results[0].trials == results[1].trials
    with pytest.raises(zf.StudyMismatchError, match="started with other settings: task: "):
        go(path, Model(), task=replace(SMALL, metric=Other()), racing=False)


def test_answers_are_stored_before_they_are_in_the_cache(tmp_path: Path) -> None:
    """A call that is cancelled while the cache writes its answer is paid for, and is not repeated."""

    class Slow(AnswerCache):
        def put(self, key: bytes, answer: Answer, origin: str = "") -> None:
            writing.set()
            assert may_continue.wait(60)

    class Client:
        name = "m"
        config = zf.ClientConfig("m", base_url="http://127.0.0.1:9/v1")

        async def chat(self, messages: Any) -> Answer:
            if writing.is_set() and not may_continue.is_set():
                await asyncio.Event().wait()  # no call is answered at the moment of the cancellation
            calls.append(asked_for(messages))
            return Answer(answer(messages), zf.Usage(calls=1))

    async def cancelled() -> None:
        run = asyncio.ensure_future(optimize(Slow(tmp_path / "slow")))
        assert await asyncio.to_thread(writing.wait, 60)
        await asyncio.sleep(0.2)  # earlier answers are recorded by then
        run.cancel()
        asyncio.get_running_loop().call_later(
            0.5, may_continue.set
        )  # the run waits until the cache is written
        await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()

    def optimize(cache: AnswerCache | None = None) -> Any:
        return zf.optimize(
            SMALL, PROMPTS, Client(), settings(**FULL), embeddings=EMBEDDINGS, cache=cache,
            store=tmp_path / "study.sqlite3",
        )  # fmt: skip

    calls: list[tuple[int, int]] = []
    writing, may_continue = threading.Event(), threading.Event()
    asyncio.run(cancelled())
    before = calls.copy()
    assert before
    asyncio.run(optimize())
    assert max(Counter(calls).values()) == 1
    assert len(calls) > len(before)
