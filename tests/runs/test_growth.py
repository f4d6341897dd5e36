"""Runs whose pool grows: what enters, what it costs, and what stops it."""

from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growth_tools import (
    GROWTH,
    PARTS,
    POOL,
    RACE,
    Answering,
    Embedder,
    Writing,
    answer,
    grow,
    rounds,
    rows_of,
    score_of,
    written,
)
from resume_tools import TASK

import zopo_fast as zf
from zopo_fast.storage.store import Store

BEST = max(score_of(prompt) for prompt in POOL.prompts)


def test_growing_finds_what_the_pool_lacks() -> None:
    fixed = grow(grow=False, writers=(), budget=14, task=score_of)
    result = grow(budget=24, task=score_of)
    assert (fixed.best_score, fixed.grown) == (BEST, [])
    assert result.best_score > BEST
    assert result.best_index >= len(POOL)
    one = next(one for one in result.grown if one.index == result.best_index)
    assert (one.prompt, one.writer) == (result.best_prompt, "edit")
    assert all(0 <= parent < one.index for one in result.grown for parent in one.parents)
    assert len({one.prompt for one in result.grown} | set(POOL.prompts)) == len(result.grown) + len(POOL)


def test_the_same_run_gives_the_same_result() -> None:
    first, second = grow(writer=Writing()), grow(writer=Writing())
    assert [t.prompt for t in first.trials] == [t.prompt for t in second.trials]
    assert first.grown == second.grown
    assert grow(writer=Writing(), seed=4).grown != first.grown


def test_everything_written_is_in_the_study(tmp_path: Path) -> None:
    path, embedder = tmp_path / "study.sqlite3", Embedder()
    result = grow(path, embedder=embedder)
    entries = rounds(path)
    assert [kind for kind, _ in entries] == ["write", "grow"] * (len(entries) // 2)
    written = [row for kind, entry in entries if kind == "grow" for row in entry["written"]]
    asked = sum(sum(entry["asked"].values()) for kind, entry in entries if kind == "write")
    assert 0 < len(written) <= asked
    assert [row["prompt"] for row in written if row["fate"] == "entered"] == [o.prompt for o in result.grown]
    assert any(row["fate"] == "screened out" for row in written)
    embedded = [row["prompt"] for row in written if "mean" in row]
    assert sorted(embedder.texts) == sorted([*POOL.prompts, *embedded])
    with Store.open(path) as store:
        assert store.pool() == POOL
        pool = store.get("result")
    assert [one["index"] for one in pool["grown"]] == [one.index for one in result.grown]
    assert json.loads(json.dumps(result.to_dict()))["grown"][0]["writer"] == "edit"


def test_results_without_growth_load() -> None:
    result = grow(grow=False, writers=(), budget=10)
    old = {name: value for name, value in result.__dict__.items() if name != "grown"}
    loaded = zf.Result.__new__(zf.Result)
    loaded.__setstate__(old)
    assert loaded.grown == []
    assert pickle.loads(pickle.dumps(result)) == result


@pytest.mark.parametrize("settings", [{}, RACE])
def test_calls_of_writers_count_in_the_budget(settings: dict[str, Any], tmp_path: Path) -> None:
    task = TASK if settings else replace(TASK, train=TASK.train[:5])
    path, writing, model = tmp_path / "study.sqlite3", Writing(), Answering()
    result = grow(path, model, writer=writing, task=task, **settings)
    whole = len(task.train) * (10 if settings else 16)
    assert 0 < len(writing.calls) <= GROWTH.share * whole
    assert model.calls + len(writing.calls) <= whole
    assert model.calls + len(writing.calls) > 0.8 * whole
    assert result.usage.calls == model.calls + len(writing.calls)
    assert result.stopped_by == "budget"
    spent = [entry["calls"] for kind, entry in rounds(path) if kind == "grow"]
    assert sum(sum(each.values()) for each in spent) == len(writing.calls)


def test_screening_can_be_turned_off(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    grow(path, growth=replace(GROWTH, screen=False))
    ends = [entry for kind, entry in rounds(path) if kind == "grow"]
    assert all(sum(row["fate"] == "entered" for row in entry["written"]) == 3 for entry in ends)


# ---- pools that end early ------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"budget": 40}, {**RACE, "budget": 40}])
@pytest.mark.parametrize("size", [2, 5])
def test_an_exhausted_pool_grows(size: int, settings: dict[str, Any]) -> None:
    task = TASK if settings.get("racing") else replace(TASK, train=TASK.train[:5])
    pool = zf.Pool.from_texts(POOL.prompts[:size])
    result = grow(pool=pool, task=task, **{**settings, "initial": 2})
    assert result.grown, "the run ended with its budget unspent"
    assert len(result.prompts_scored()) > size


def test_no_call_is_made_while_an_exhausted_pool_waits_for_a_round(tmp_path: Path) -> None:
    class Slow(Embedder):
        async def embed(self, texts: Any) -> Any:
            for _ in range(500):  # turns of the event loop, in which the model would answer
                await asyncio.sleep(0)
            return await super().embed(texts)

    path, pool = tmp_path / "study.sqlite3", zf.Pool.from_texts(POOL.prompts[:5])
    grow(path, pool=pool, embedder=Slow(), **{**RACE, "budget": 40, "initial": 2})
    size, asked, waiting = len(pool), set[int](), 0
    is_writing = False
    with Store.open(path) as store:
        for event in store.events():
            if event.kind == "ask":
                assert not is_writing or len(asked) < size, "a call was spent on a known prompt"
                asked.add(event.data["prompt"])
            elif event.kind == "write":
                is_writing, waiting = True, waiting + (len(asked) == size)
            elif event.kind == "grow":
                size += sum(row["fate"] == "entered" for row in event.data["written"])
                is_writing = False
    assert waiting > 1


def test_writers_that_write_nothing_end_the_run() -> None:
    def silent(parents: list[zf.Parent], n: int) -> list[str]:
        return []

    pool = zf.Pool.from_texts([f"Say number {i}{'!' * i} of all." for i in range(5)])
    result = grow(pool=pool, writers=[silent], budget=30)
    assert (result.grown, result.stopped_by) == ([], "pool")


def test_the_end_of_the_search_cuts_a_round_off(tmp_path: Path) -> None:
    """The calls that writers made before the end count, once, also after a resumption."""
    never = asyncio.Event()
    calls: list[str] = []

    async def slow(messages: Any) -> str:
        calls.append(messages[-1]["content"])
        if len(calls) > 2:
            await never.wait()
        return written(messages)

    target = max(sum(answer_of(prompt, i) for i in range(16)) / 16 for prompt in POOL.prompts)
    path, model = tmp_path / "study.sqlite3", Answering()
    worst = sorted(range(len(POOL)), key=lambda i: score_of(POOL.prompts[i]))[:5]
    settings = {"task": TASK, "target": target, "budget": 14, "search": zf.ZopoConfig(initial=worst)}
    result = grow(path, model, writer=slow, **settings)
    assert result.stopped_by == "target"
    assert rounds(path)[-1][0] == "write"
    assert result.usage.calls == model.calls + 2
    silent = Answering()
    again = grow(path, silent, writer=slow, **settings)
    assert (again.usage, again.stopped_by, silent.calls) == (result.usage, "target", 0)


def answer_of(prompt: str, example: int) -> bool:
    return answer([{"content": f"{prompt} question {example}"}]) == "yes"


# ---- writers and embedders that fail ----------------------------------------------------------------


class Broken:
    """Writer of the caller that returns, or raises, what it is made with."""

    name, calls = "broken", 0

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    async def write(self, request: zf.WriteRequest) -> Any:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (zf.AuthenticationError("no key"), "no key"),
        (ValueError("a bug"), "a bug"),
        (None, "NoneType"),
        (zf.Written((zf.Draft("Do it in way number 1. Format 9!", (99,)),)), "99"),
        (zf.Written((zf.Draft(7, (0,)),)), "7"),  # type: ignore[arg-type]
        (zf.Written(("text",)), "text"),  # type: ignore[arg-type]
    ],
)
def test_the_run_continues_without_a_writer_that_fails(outcome: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    result = grow(path, writers=[Broken(outcome), zf.PartEditor(PARTS)])
    ends = [entry for kind, entry in rounds(path) if kind == "grow"]
    assert message in ends[0]["failed"]["broken"]
    assert {one.writer for one in result.grown} == {"edit"}
    begins = [entry for kind, entry in rounds(path) if kind == "write"]
    assert all("broken" not in entry["asked"] for entry in begins[3:])


def test_a_model_that_cannot_write_is_given_up(tmp_path: Path) -> None:
    path, model = tmp_path / "study.sqlite3", Answering()
    result = grow(path, model, writer=Writing(zf.AuthenticationError("no key")))
    assert result.error is None
    assert result.grown
    failed = [entry["failed"] for kind, entry in rounds(path) if kind == "grow"]
    assert "no key" in failed[0]["paraphrase"]


class Changing(Embedder):
    """Embedder whose rows for drafts are others than those for the pool."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self._change = change

    async def embed(self, texts: Any) -> Any:
        rows = await super().embed(texts)
        if self.calls == 1:
            return rows
        if isinstance(self._change, Exception):
            raise self._change
        return self._change(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :5], "embedder of the pool"),
        (lambda rows: rows[:-1], "embedder of the pool"),
        (lambda rows: rows * np.nan, "NaN"),
        (ValueError("a bug"), "a bug"),
        (zf.ServerError("down"), "down"),
    ],
)
def test_an_embedder_that_fails_on_drafts_keeps_the_result(change: Any, message: str) -> None:
    result = grow(embedder=Changing(change))
    assert result.stopped_by == "error"
    assert message in str(result.error)
    assert result.prompts_scored()


@pytest.mark.parametrize("change", [zf.RequestRejectedError("too long"), lambda rows: rows * 1e30])
def test_drafts_that_cannot_be_embedded_are_rejected(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    result = grow(path, embedder=Changing(change))
    assert (result.error, result.grown) == (None, [])
    fates = {row["fate"][:4] for kind, entry in rounds(path) if kind == "grow" for row in entry["written"]}
    assert "not " in fates


# ---- what cannot grow -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"search": zf.ZopoConfig(search="gradient")}, "improvement"),
        ({"search": zf.ZopoConfig.official(budget=14, initial=4, gp_queries=8, neighbors=4)}, "improvement"),
        ({"writers": [Broken(None), Broken(None)]}, "'broken'"),
        ({"writers": (), "pool": ["Say number 1.", "Say number 2."], "task": score_of}, "no writer"),
    ],
)
def test_growth_that_is_impossible(more: dict[str, Any], message: str) -> None:
    model = Answering()
    with pytest.raises(zf.ConfigError, match=message):
        grow(model=model, grow=True, **{"writers": [zf.PartEditor(PARTS)], **more})
    assert model.calls == 0


def test_embeddings_without_an_embedder() -> None:
    def run(**more: Any) -> zf.Result:
        config = zf.RunConfig(budget=5, racing=False, heldout=False, **more)
        rows = rows_of(POOL.prompts)
        return zf.optimize_sync(TASK, POOL, Answering(), config, embeddings=rows)

    with pytest.raises(zf.ConfigError, match="embeddings are given without an embedder"):
        run(grow=True)
    assert run().grown == []


def test_function_tasks_grow() -> None:
    def whole(prompt: str) -> float:
        return score_of(prompt)

    def one(prompt: str, example: int) -> float:
        return float((example * 7 + 5) % 20 < 20 * score_of(prompt))

    for task, more in ((whole, {}), (one, {"examples": range(16), "score_range": (0.0, 1.0)})):
        examples = more.pop("examples", None)
        settings = zf.RunConfig(budget=14, initial=4, growth=GROWTH, heldout=False, seed=3, **more)
        result = zf.optimize_sync(
            task, POOL, None, settings, examples=examples, embedder=Embedder(), writers=[zf.PartEditor(PARTS)]
        )
        assert result.grown
        assert result.best_score > BEST


# ---- studies ----------------------------------------------------------------------------------------


def test_a_study_that_began_without_growth_goes_on_without(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    grow(path, writers=(), pool=list(POOL.prompts), grow=None, budget=8, target=0.2)
    with Store.open(path) as store:
        run = {k: v for k, v in store.get("run").items() if k not in ("grow", "growth", "writing")}
        store.put("run", run)
        store.put("grows", None)
    entries = rounds(path)
    result = grow(path, grow=None, growth=zf.Growth(), budget=8, target=0.2)
    assert (result.grown, entries) == ([], [])
    with pytest.raises(zf.StudyMismatchError, match="grow: None then, True now"):
        grow(path, grow=True, growth=zf.Growth(), budget=8, target=0.2)


@pytest.mark.parametrize(
    "other",
    [
        {"writers": [Broken(None), zf.PartEditor(PARTS)]},
        {"writers": ()},
        {"grow": False},
        {"writer": Writing()},
    ],
)
def test_a_study_needs_the_writers_it_began_with(other: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    grow(path)
    with pytest.raises(zf.StudyMismatchError, match=r"writing|grow"):
        grow(path, **other)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("grow", {"embeddings": {"dtype": "<f4", "shape": [1, 1], "data": "AAAA"}}),
        ("grow", {"written": "x"}),
        ("grow", {"calls": []}),
        ("grow", {"round": 9}),
        ("write", {"asked": []}),
        ("write", {"parents": [900]}),
    ],
)
def test_a_damaged_entry_is_named(kind: str, damage: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    grow(path, target=0.55, budget=30)
    with Store.open(path) as store:
        log = list(store.events())
        at = next(event.seq for event in log if event.kind == kind)
        store.rewind(at - 1)
        for event in log[at - 1 :]:
            store.append(event.kind, {**event.data, **damage} if event.seq == at else event.data)
    with pytest.raises(zf.StudyMismatchError, match=f"entry {at} "):
        grow(path, target=0.55, budget=30)
