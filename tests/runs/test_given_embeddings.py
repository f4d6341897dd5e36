"""Embeddings that a run is given: files, memory maps, and studies that refer to them or hold them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.errors import ArrayError, StudyMismatchError
from zopo_fast.runs import resume
from zopo_fast.storage.store import Store

PROMPTS = [f"Do it in way number {i}." for i in range(40)]
Z = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "z.npy", Z)
    return tmp_path / "z.npy"


def run(embeddings: Any, store: Path | None = None, calls: int = 99) -> list[int]:
    """Return the prompts of a run that is interrupted after some calls."""

    async def interrupted() -> zf.Result:
        stop, scored = asyncio.Event(), []

        async def score(prompt: str) -> float:
            if len(scored) == calls:
                stop.set()
                await asyncio.Event().wait()
            scored.append(prompt)
            return float(Z[PROMPTS.index(prompt), 0])

        config = zf.RunConfig(budget=12, prompts_in_flight=1)
        return await zf.optimize(score, PROMPTS, config=config, embeddings=embeddings, store=store, stop=stop)

    return [trial.index for trial in asyncio.run(interrupted()).trials]


def test_a_file_a_map_and_an_array_give_the_same_run(file: Path) -> None:
    expected = run(Z)
    assert run(file) == run(str(file)) == run(np.load(file, mmap_mode="r")) == expected


def test_a_small_study_holds_the_embeddings_and_needs_no_file(file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.sqlite3"
    expected = run(file)
    run(file, study, calls=5)
    file.unlink()
    assert run(file, study, calls=3) == expected[:8]
    assert run(None, study) == expected
    np.save(file, -Z)
    with pytest.raises(StudyMismatchError, match="other embeddings"):
        run(file, study)


def test_a_study_refers_to_large_embeddings(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "MAX_COPIED", Z.nbytes - 1)
    study, expected = tmp_path / "study.sqlite3", run(file)
    run(np.load(file, mmap_mode="r"), study, calls=5)
    with Store.open(study) as store:
        assert store.array("embeddings") is None
        assert store.get(resume.EMBEDDINGS)["source"] == str(file)
    with pytest.raises(StudyMismatchError, match=r"refers to 40 x 6 embeddings of float16 from .*z\.npy and"):
        run(None, study)
    for others in (-Z, Z.astype(np.float32), Z[:, ::-1]):
        with pytest.raises(StudyMismatchError, match="are others: give the same again"):
            run(others, study)
    file.rename(tmp_path / "moved.npy")
    with pytest.raises(ArrayError, match=r"z\.npy: cannot be read: No such file"):
        run(file, study)
    assert run(tmp_path / "moved.npy", study) == expected


def test_a_study_holds_what_an_embedder_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "MAX_COPIED", 0)
    study = tmp_path / "study.sqlite3"
    asked = []

    class Embedder:
        async def embed(self, texts: list[str]) -> Any:
            asked.append(len(texts))
            return Z

    for _ in range(2):
        zf.optimize_sync(len, PROMPTS, config=zf.RunConfig(budget=6), embedder=Embedder(), store=study)
    assert asked == [40]


def test_a_map_is_not_copied(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(zf.Zopo):
        def __init__(self, embeddings: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(embeddings, *args, **kwargs)
            seen.append((embeddings, self._problem.embeddings))

    monkeypatch.setattr("zopo_fast.runs.optimize.Zopo", Watched)
    monkeypatch.setattr("zopo_fast.runs.growth.describe.Description.features", lambda *_: None)
    mapped = np.load(file, mmap_mode="r")
    run(mapped)
    assert all(np.shares_memory(array, mapped) for array in seen[0])
