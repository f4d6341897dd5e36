"""Functions of prompt and example as the task of a run."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf

N = 40
PROMPTS = [f"Prompt number {i}." for i in range(30)]
rng = np.random.default_rng(0)
EMBEDDINGS = rng.normal(size=(30, 8))
CHANCE = 1.0 / (1.0 + np.exp(-rng.normal(0.0, 1.0, 30)[:, None] - rng.normal(0.0, 1.5, N)))
SCORES = (rng.random((30, N)) < CHANCE).astype(float)
EXAMPLES = [{"row": j} for j in range(N)]


class Function:
    """Scores by SCORES; counts the calls and those at a time."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[int, int]] = Counter()
        self.now = self.most = 0

    async def __call__(self, prompt: str, example: Any) -> float:
        self.calls[PROMPTS.index(prompt), example["row"]] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return float(SCORES[PROMPTS.index(prompt), example["row"]])


def run(function: Any, store: Path | None = None, **settings: Any) -> zf.Result:
    config = zf.RunConfig(**{"budget": 8, "score_range": (0.0, 1.0), **settings})
    return zf.optimize_sync(
        function, PROMPTS, config=config, examples=EXAMPLES, embeddings=EMBEDDINGS, store=store
    )


@pytest.mark.parametrize("concurrency", [1, 4])
def test_races_with_calls_in_flight(concurrency: int) -> None:
    function = Function()
    result = run(function, concurrency=concurrency)
    assert set(function.calls.values()) == {1}
    assert sum(function.calls.values()) <= 8 * N
    assert len(result.prompts_scored()) > 8
    assert function.most <= concurrency
    assert result.best_score == SCORES.mean(axis=1)[result.best_index]


def test_sync_functions_and_no_bounds() -> None:
    """Without bounds every prompt is scored on all examples."""
    result = run(lambda prompt, example: SCORES[PROMPTS.index(prompt), example["row"]], score_range=None)
    assert [len(trial.scores) for trial in result.trials] == [N] * 8


def test_a_second_run_of_a_study_calls_nothing(tmp_path: Path) -> None:
    function, again = Function(), Function()
    first = run(function, tmp_path / "study.sqlite3")
    second = run(again, tmp_path / "study.sqlite3")
    assert again.calls == Counter()
    assert second.best_prompt == first.best_prompt


def test_what_cannot_be_used() -> None:
    with pytest.raises(zf.errors.ConfigError, match="at least one"):
        zf.optimize_sync(Function(), PROMPTS, examples=[], embeddings=EMBEDDINGS)
    task = zf.Task("t", (zf.Example("a", ("b",)),))
    with pytest.raises(zf.errors.ConfigError, match="only with a function"):
        zf.optimize_sync(task, PROMPTS, examples=[1], embeddings=EMBEDDINGS)
    with pytest.raises(zf.errors.MetricError, match="returned nan"):
        run(lambda prompt, example: float("nan"))
    with pytest.raises(zf.errors.InputError, match="must be 0 to 1, got 3"):
        run(lambda prompt, example: 3.0)
