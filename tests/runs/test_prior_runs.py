"""Runs that learn from earlier studies: `zf.optimize(prior=)`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resume_tools import EMBEDDINGS, FULL, PROMPTS, SMALL, TASK, answer, cut, events, settings, told

import zopo_fast as zf
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.prior import prior_of_run
from zopo_fast.storage.store import Store


def run(store: Path | None, pool: Any = PROMPTS, task: Any = SMALL, **more: Any) -> zf.Result:
    prior = more.pop("prior", ())
    embeddings = more.pop("embeddings", EMBEDDINGS)
    config = settings(**{**FULL, "prompts_in_flight": 1, "heldout": False, **more})
    return asyncio.run(
        zf.optimize(task, pool, answer, config, embeddings=embeddings, store=store, prior=prior)
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("earlier") / "study.sqlite3"
    run(path)
    return path


def asked(path: Path) -> list[int]:
    return [event.data["prompt"] for event in events(path) if event.kind == "ask"]


def test_run_starts_with_the_earlier_winner(earlier: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    run(path, seed=4, prior=[earlier])
    with Store.open(path) as store:
        (source,) = store.get("prior")
    assert asked(path)[0] == source["indices"][int(np.argmax(source["scores"]))]
    assert set(source["indices"]) == set(asked(earlier))
    assert source["noise"] == [0.0] * len(source["indices"])


def test_folder_of_a_run_and_an_open_store_will_do(earlier: Path) -> None:
    pool = Pool.from_texts(PROMPTS)
    with Store.open(earlier) as store:
        by_store = prior_of_run(None, [store], pool)
    assert prior_of_run(None, [earlier.parent], pool) == by_store


def test_prompts_are_matched_by_text(earlier: Path) -> None:
    pool = Pool.from_texts(["Another one.", *reversed(PROMPTS)])
    (source,) = prior_of_run(None, [earlier], pool)
    (same,) = prior_of_run(None, [earlier], Pool.from_texts(PROMPTS))
    assert [pool.prompts[i] for i in source["indices"]] == [PROMPTS[i] for i in same["indices"]]


def test_study_of_another_pool_is_refused(earlier: Path) -> None:
    with pytest.raises(zf.InputError, match="no score of a prompt of this pool"):
        run(None, [f"Other {i}." for i in range(60)], prior=[earlier])


def test_missing_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(zf.StoreError, match="no study file"):
        run(None, prior=[tmp_path / "none"])


@pytest.mark.parametrize("search", [zf.ZopoConfig(search="gradient"), zf.ZopoConfig.official()])
def test_searches_that_cannot_learn_refuse(search: zf.ZopoConfig, earlier: Path) -> None:
    with pytest.raises(zf.ConfigError, match="prior"):
        run(None, search=search, prior=[earlier])


def test_raced_study_gives_partial_scores_with_noise(tmp_path: Path) -> None:
    path = tmp_path / "race"
    run(path, task=TASK, racing=True, budget=8)
    (source,) = prior_of_run(None, [path], Pool.from_texts(PROMPTS))
    assert 0.0 in source["noise"]
    assert max(source["noise"]) > 0.0
    assert len(source["indices"]) > 8


@pytest.mark.parametrize("racing", [False, True])
@pytest.mark.parametrize("keep", [0, 7, 30])
def test_interrupted_run_resumes_identically_without_the_earlier_file(
    keep: int, racing: bool, earlier: Path, tmp_path: Path
) -> None:
    more = {"task": TASK, "racing": True, "budget": 6} if racing else {}
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(whole, seed=4, prior=[earlier], **more)
    cut(whole, keep, part)
    run(part, seed=4, **more)
    assert told(events(part)) == told(events(whole))


def test_prior_of_a_study_begun_without_one_is_refused(earlier: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    run(path)
    with pytest.raises(zf.StudyMismatchError, match="without earlier studies"):
        run(path, prior=[earlier])


def test_incumbent_stays_first(earlier: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    run(path, incumbent=PROMPTS[5], prior=[earlier])
    assert asked(path)[0] == 5


def test_earlier_study_stays_unchanged(earlier: Path) -> None:
    before = earlier.read_bytes()
    run(None, prior=[earlier])
    assert earlier.read_bytes() == before
