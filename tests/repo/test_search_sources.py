"""Scores of real models and simulated pools: files read and refused, and components of variance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.search import simulation, sources
from zopo_fast.bench.search.methods import every
from zopo_fast.bench.search.replay import Landscape, replay
from zopo_fast.bench.search.simulation import Components, simulate
from zopo_fast.errors import InputError

M = 6


def save(path: Path, document: Any, rows: int = M) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    np.save(path.with_suffix(".npy"), np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float16))


def paraphrased(**changes: Any) -> dict[str, Any]:
    accuracy = np.random.default_rng(1).random((M, 2)).round(2).tolist()
    prompts = [f"text {i}" for i in range(M)]
    return {"task": "t", "models": ["a", "b"], "prompts": prompts, "accuracy": accuracy, **changes}


def blocked(**changes: Any) -> dict[str, Any]:
    blocks: list[list[float | None]] = np.random.default_rng(2).random((M, 3)).round(2).tolist()
    blocks[1][2] = None
    return {"dataset": "d", "model": "m", "examples_in_a_block": 30, "blocks": blocks, **changes}


def test_a_task_with_two_models_makes_two_landscapes_of_full_scores(tmp_path: Path) -> None:
    document = paraphrased()
    save(tmp_path / "paraphrases" / "t.json", document)
    found = sources.load(tmp_path)
    assert list(found) == ["paraphrases"]
    assert [each.name for each in found["paraphrases"]] == ["t / a", "t / b"]
    for column, each in enumerate(found["paraphrases"]):
        assert each.scores.tolist() == [[row[column]] for row in document["accuracy"]]
        assert each.Z.shape == (M, 4)
        assert each.texts == tuple(document["prompts"])


def test_prompts_without_all_blocks_are_left_out(tmp_path: Path) -> None:
    document = blocked()
    save(tmp_path / "blocks" / "d_m.json", document)
    (only,) = sources.load(tmp_path)["blocks"]
    kept = [0, 2, 3, 4, 5]
    assert (only.name, only.examples_a_call) == ("d_m", 30)
    assert only.scores.tolist() == [document["blocks"][i] for i in kept]
    np.testing.assert_array_equal(only.Z, np.load(tmp_path / "blocks" / "d_m.npy")[kept])


@pytest.mark.parametrize(
    ("source", "document", "match"),
    [
        ("paraphrases", "{", "t.json: cannot be read"),
        ("paraphrases", "[]", "expected a JSON object, got list"),
        ("paraphrases", paraphrased(models=["a"]), "models must name the 2 columns"),
        ("paraphrases", paraphrased(prompts=["a", "b"]), "prompts must be the texts of the"),
        ("paraphrases", paraphrased(prompts=[1] * M), "prompts must be the texts of the"),
        ("paraphrases", paraphrased(prompts=None), "prompts must be the texts of the"),
        ("paraphrases", paraphrased(accuracy=[[0.5, None]] * M), "accuracy must be a number for every"),
        ("paraphrases", paraphrased(accuracy=[[0.5, 1.5]] * M), "accuracy must lie from 0 to 1"),
        ("paraphrases", paraphrased(accuracy=[[0.5, "x"]] * M), "accuracy must be a matrix of numbers"),
        ("paraphrases", {"models": ["a"]}, "accuracy must be a matrix of numbers"),
        ("paraphrases", paraphrased(accuracy=[[0.5, 0.5]] * 5), "do not belong together"),
        ("blocks", blocked(blocks=[[0.5, None]] * M), "0 prompts have all blocks, at least 3 must"),
        ("blocks", blocked(examples_in_a_block="30"), "examples_in_a_block must be a number"),
        ("blocks", blocked(blocks=[[-0.1, 0.2]] * M), "blocks must lie from 0 to 1"),
    ],
)
def test_a_damaged_file_is_named(source: str, document: Any, match: str, tmp_path: Path) -> None:
    save(tmp_path / source / "t.json", document)
    with pytest.raises(InputError, match=match):
        sources.load(tmp_path)


def test_damaged_or_missing_embeddings_are_named(tmp_path: Path) -> None:
    save(tmp_path / "blocks" / "t.json", blocked())
    path = tmp_path / "blocks" / "t.npy"
    whole = path.read_bytes()
    for content in (whole[:-20], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"t\.json: cannot be read"):
            sources.load(tmp_path)
    np.save(path, np.full((M, 4), np.nan))
    with pytest.raises(InputError, match="expected finite embeddings"):
        sources.load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"restore NAME\.json and NAME\.npy"):
        sources.load(tmp_path)


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder paraphrases or blocks"):
        sources.load(tmp_path)
    (tmp_path / "blocks").mkdir()
    with pytest.raises(InputError, match=r"no NAME\.json lies there"):
        sources.load(tmp_path)


# ---- simulation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [0.36, 0.57, 0.9])
def test_a_simulated_pool_has_the_stated_components(residual: float) -> None:
    stated = Components(accuracy=0.75, spread=0.05, residual=residual)
    scores = simulate(stated, 200, 2000, seed=1, name="large").scores
    assert set(np.unique(scores)) == {0.0, 1.0}
    mean = scores.mean()
    residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + mean
    assert mean == pytest.approx(0.75, abs=0.02)
    assert scores.mean(axis=1).std() == pytest.approx(0.05, rel=0.15)
    assert np.sqrt((residuals**2).mean() / (mean * (1 - mean))) == pytest.approx(residual, rel=0.1)


def test_the_components_of_blocks_are_recovered() -> None:
    """A third of the variance of the prompts' means over ten blocks is noise."""
    stated = Components(accuracy=0.7, spread=0.025, residual=0.6)
    scores = simulate(stated, 400, 3000, seed=2, name="large").scores
    blocks = Landscape("blocks", np.zeros((400, 2)), scores[:, :300].reshape(400, 10, 30).mean(axis=2), 30)
    found = Components.estimate(blocks)
    assert found.accuracy == pytest.approx(0.7, abs=0.05)
    assert found.spread == pytest.approx(scores.mean(axis=1).std(), rel=0.1)
    assert found.residual == pytest.approx(0.6, rel=0.1)


def test_simulated_pools_follow_the_measured_ones() -> None:
    scores = np.random.default_rng(0).binomial(30, 0.6, size=(20, 10)) / 30
    (only,) = simulation.pools([Landscape("measured", np.zeros((20, 2)), scores, 30)])
    assert only.scores.shape == (60, 100)
    assert only.scores.mean() == pytest.approx(0.6, abs=0.1)
    assert {each.scores.shape for each in simulation.pools()} == {(60, 100), (120, 200), (200, 300)}


@pytest.mark.parametrize("changes", [{"accuracy": 1.0}, {"spread": 0.0}, {"spread": 0.6}, {"residual": 1.1}])
def test_impossible_components_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="simulation: expected 0 < accuracy < 1"):
        Components(**changes)


# ---- texts -------------------------------------------------------------------------------------------


def test_our_search_has_the_words_of_the_prompts_where_a_landscape_has_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []
    init = zf.Zopo.__init__

    def observed(*args: Any, **kwargs: Any) -> None:
        given.append(args[4])
        init(*args, **kwargs)

    monkeypatch.setattr(zf.Zopo, "__init__", observed)
    rng = np.random.default_rng(0)
    texts = tuple(f"prompt {i % 7}" for i in range(30))
    plain = Landscape("plain", rng.normal(size=(30, 3)), rng.random((30, 2)))
    for name in ("zopo_fast", "zopo_fast, embeddings alone", "zopo_fast, Thompson", "official"):
        replay(every()[name], replace(plain, texts=texts), np.arange(2), 8, 3, 0)
    replay(every()["zopo_fast"], plain, np.arange(2), 8, 3, 0)
    np.testing.assert_array_equal(given[0], zf.word_features(texts))
    assert given[1:] == [None] * 4
