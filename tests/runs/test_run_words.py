"""Words of the prompts in the model of a run, and studies that began without them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.runs import optimize as runs
from zopo_fast.runs.growth.candidates import Candidates
from zopo_fast.runs.growth.describe import Description

ENDINGS = ["\nA:", "", "?", " Answer:", "!"]
PROMPTS = [f"{verb} the {noun}{end}" for end in ENDINGS for verb in ("Name", "Say") for noun in "abcdef"]
EMBEDDINGS = np.random.default_rng(0).normal(size=(len(PROMPTS), 6)).astype(np.float16)
CONFIG = zf.RunConfig(budget=25, prompts_in_flight=1)


def score(prompt: str) -> float:
    return 0.7 * prompt.endswith("A:") + 0.2 * prompt.startswith("Say") + 0.01 * PROMPTS.index(prompt) / 60


def run(path: Path | None = None, calls: int = 1000, config: Any = CONFIG) -> list[int]:
    """Run until `calls` prompts were scored, and return the prompts in order."""
    asked: list[int] = []
    stop = asyncio.Event()

    async def scored(prompt: str) -> float:
        if len(asked) >= calls:
            stop.set()
            await asyncio.sleep(0.05)  # lets the run see it
        asked.append(PROMPTS.index(prompt))
        return score(prompt)

    asyncio.run(zf.optimize(scored, PROMPTS, config=config, embeddings=EMBEDDINGS, store=path, stop=stop))
    return asked[:calls]


def alone(features: Any, count: int = 25, **settings: Any) -> list[int]:
    """Return the prompts that a search of its own asks for."""
    opt = zf.Zopo(EMBEDDINGS, zf.ZopoConfig(budget=25, **settings), features=features)
    asked = []
    while len(asked) < count:
        asked.append(opt.ask())
        opt.tell(asked[-1], score(PROMPTS[asked[-1]]))
    return asked


WORDS = zf.word_features(PROMPTS)


def test_a_run_searches_by_the_words_of_its_prompts() -> None:
    assert run() == alone(WORDS)
    assert alone(WORDS) != alone(None)


@pytest.mark.parametrize("settings", [{"search": "thompson"}, {"search": "gradient"}, {"region": 30}])
def test_other_searches_and_regions_do_without(settings: dict[str, Any]) -> None:
    config = zf.RunConfig(budget=25, prompts_in_flight=1, search=zf.ZopoConfig(**settings))
    assert run(config=config) == alone(None, **settings)


def test_a_pool_beyond_the_whole_model_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runs.MAX_WHOLE, "improvement", len(PROMPTS) - 1)
    config = zf.RunConfig(budget=25, prompts_in_flight=1)
    pool = zf.Pool.from_texts(PROMPTS)
    candidates = Candidates(pool, None, 0)
    assert runs._description(candidates, config, None).features(PROMPTS) is None
    monkeypatch.setitem(runs.MAX_WHOLE, "improvement", len(PROMPTS))
    np.testing.assert_array_equal(runs._description(candidates, config, None).features(PROMPTS), WORDS)


def test_a_study_resumes_with_its_words(tmp_path: Path) -> None:
    begun = run(tmp_path / "study.sqlite3", 9)
    assert [*begun, *run(tmp_path / "study.sqlite3")] == alone(WORDS)


def test_a_study_that_began_without_words_continues_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.sqlite3"
    with monkeypatch.context() as earlier:  # a version that knew of no words
        earlier.setattr(runs, "_description", lambda *_: Description(PROMPTS, words=False))
        begun = run(path, 9)
    with zf.Store.open(path) as study:
        assert study.get("words") is None
    assert [*begun, *run(path)] == alone(None)


def test_a_study_without_a_score_counts_as_new(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    with zf.Store.create(path, {}):
        pass
    assert run(path) == alone(WORDS)
