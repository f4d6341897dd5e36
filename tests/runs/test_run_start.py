"""Prompts that a run scores first: the incumbent, and a start that knows the scores of the pool."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf

CLUSTERS = np.repeat(np.arange(5), 8)
PROMPTS = [f"Do it in way number {i}." for i in range(len(CLUSTERS))]
EMBEDDINGS = 10.0 * np.eye(5)[CLUSTERS] + 0.1 * np.random.default_rng(1).normal(size=(len(CLUSTERS), 5))


def first(count: int, pool: Any = PROMPTS, **settings: Any) -> list[int]:
    """Return the first prompts that a run scores."""
    config = zf.RunConfig(**{"budget": 30, "prompts_in_flight": 1, **settings})
    embeddings = EMBEDDINGS
    if "incumbent" in settings and settings["incumbent"] not in PROMPTS:
        embeddings = np.concatenate([EMBEDDINGS, EMBEDDINGS[:1] + 0.01])
    result = zf.optimize_sync(lambda p: len(p) % 3 / 3, pool, config=config, embeddings=embeddings)
    return [trial.index for trial in result.trials[:count]]


def test_a_run_begins_as_the_search_alone() -> None:
    alone = zf.Zopo(EMBEDDINGS, zf.ZopoConfig(budget=30, seed=3)).ask(5)
    assert first(5, seed=3) == alone
    assert {*CLUSTERS[alone]} == {*range(5)}


@pytest.mark.parametrize(("incumbent", "index"), [(PROMPTS[9], 9), ("Do something else.", len(PROMPTS))])
def test_the_incumbent_is_first_and_covers_its_cluster(incumbent: str, index: int) -> None:
    own = CLUSTERS[index % len(PROMPTS)]
    start = first(5, incumbent=incumbent, budget=16)
    assert start[0] == index
    assert {*CLUSTERS[start[1:]]} == {*range(5)} - {own}


def test_known_scores_are_part_of_the_start() -> None:
    known = dict.fromkeys((0, 10, 20), 0.5)
    pool = zf.Pool.from_texts(PROMPTS, known)
    assert {*CLUSTERS[first(2, pool)]} == {3, 4}


def test_a_pool_of_known_scores_needs_no_start() -> None:
    pool = zf.Pool.from_texts(PROMPTS, dict.fromkeys(range(len(PROMPTS) - 2), 0.5))
    assert {*first(2, pool)} == {len(PROMPTS) - 2, len(PROMPTS) - 1}


def test_a_stated_number_is_random_and_so_is_the_start_of_the_official_preset() -> None:
    drawn = np.random.default_rng(2).permutation(len(PROMPTS)).tolist()
    assert first(7, initial=7, seed=2) == drawn[:7]
    assert first(10, search=zf.ZopoConfig.official(), seed=2) == drawn[:10]


def test_a_winner_is_not_compared_with_itself_as_the_median() -> None:
    made = tuple(zf.Example(f"question {i}", ("yes",)) for i in range(8))
    task = zf.Task("toy", made[:4], made[4:])
    config = zf.RunConfig(budget=1, prompts_in_flight=1, stop_at_perfect=False)
    result = zf.optimize_sync(task, PROMPTS, lambda _: "yes", config, embeddings=EMBEDDINGS)
    assert [row.role for row in result.heldout] == ["winner", "seed prompt"]


async def _interrupted(path: Path, config: zf.RunConfig, calls: int) -> list[str]:
    """Run until `calls` prompts were scored, and return these."""
    asked: list[str] = []
    stop = asyncio.Event()

    async def score(prompt: str) -> float:
        asked.append(prompt)
        if len(asked) >= calls:
            stop.set()
            await asyncio.sleep(0.05)  # lets the run see it
        return len(prompt) % 3 / 3

    await zf.optimize(score, PROMPTS, config=config, embeddings=EMBEDDINGS, store=path, stop=stop)
    return asked


def test_a_study_keeps_the_start_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, path = zf.RunConfig(budget=30, prompts_in_flight=1), tmp_path / "study.sqlite3"
    whole = asyncio.run(_interrupted(tmp_path / "whole.sqlite3", config, 12))
    begun = asyncio.run(_interrupted(path, config, 3))[:2]  # the third is interrupted
    monkeypatch.setattr("zopo_fast.search.design.SEEDINGS", 1)
    monkeypatch.setattr("zopo_fast.search.design.SIZE", 2)
    again = asyncio.run(_interrupted(path, config, 10))
    assert [*begun, *again] == whole


def test_a_study_of_ten_random_prompts_resumes_under_the_new_default(tmp_path: Path) -> None:
    old = zf.RunConfig(budget=30, initial=10, prompts_in_flight=1, search=zf.ZopoConfig(initial=40))
    path = tmp_path / "study.sqlite3"
    whole = asyncio.run(_interrupted(tmp_path / "whole.sqlite3", old, 14))
    begun = asyncio.run(_interrupted(path, old, 3))[:2]
    with zf.Store.open(path) as study:
        study.put("initial", None)  # earlier versions did not store the start
    again = asyncio.run(_interrupted(path, zf.RunConfig(budget=30, prompts_in_flight=1), 12))
    assert [*begun, *again] == whole
