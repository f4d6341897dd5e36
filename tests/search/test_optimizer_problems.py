"""Embeddings of any dtype, degenerate problems, and a comparison with random search."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numeric_tools import random_network
from search_tools import CONFIGS, play, pool, score

import zopo_fast as zf

LANDSCAPES = Path(__file__).parents[2] / "bench" / "landscapes"


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


def test_dtype_and_layout_of_embeddings_do_not_matter(config: Any) -> None:
    exact = pool().astype(np.float16)
    layouts: list[Callable[[np.ndarray], np.ndarray]] = [
        np.asarray, np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
    ]  # fmt: skip
    runs = [
        play(zf.Zopo(layout(exact.astype(dtype)), config(budget=30, initial=6)))
        for dtype in (np.float16, np.float32, np.float64, ">f4", ">f8")
        for layout in layouts
    ]
    assert all(run == runs[0] for run in runs)
    assert play(zf.Zopo(exact.tolist(), config(budget=30, initial=6))) == runs[0]


def test_embeddings_are_not_changed(config: Any) -> None:
    Z = pool()
    kept = Z.copy()
    Z.setflags(write=False)
    play(zf.Zopo(Z, config(budget=30, initial=6)))
    np.testing.assert_array_equal(Z, kept)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_non_finite_embeddings_are_refused(config: Any, dtype: Any, bad: float) -> None:
    Z = pool().astype(dtype)
    Z[37, 2] = bad
    with pytest.raises(zf.ArrayError, match="embeddings"):
        zf.Zopo(Z, config(budget=10, initial=5))


@pytest.mark.parametrize(
    "bad",
    [
        np.empty((0, 3)), np.empty((3, 0)), np.ones(5), np.ones((2, 3, 4)), np.ones((3, 2), dtype=complex),
        np.array([["a", "b"]]), [[1.0, 2.0], [3.0]], None, "embeddings", np.float64(3.0),
        np.array([[object()]], dtype=object),
    ],
    ids=lambda v: repr(v)[:12],
)  # fmt: skip
def test_invalid_embeddings_are_refused(config: Any, bad: Any) -> None:
    with pytest.raises(zf.ArrayError, match="embeddings"):
        zf.Zopo(bad, config(budget=1, initial=1))


def test_the_name_of_a_file_is_taken_for_what_it_is(config: Any) -> None:
    with pytest.raises(zf.ArrayError, match=r"a file is read by np\.load"):
        zf.Zopo("vectors.npy", config(budget=1, initial=1))


def test_a_kernel_of_another_dimension_is_refused(config: Any) -> None:
    with pytest.raises(zf.ArrayError, match="kernel"):
        zf.Zopo(pool(), config(budget=10, initial=5), kernel=zf.NTK.random(7))


@pytest.mark.parametrize(
    "Z",
    [
        np.array([[0.5]]), np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]]), np.arange(30.0)[:, None],
        np.ones((20, 4)), np.repeat(pool(7), 5, axis=0), np.zeros((20, 3)), 1e4 + 1e-3 * pool(30),
        1e-6 * pool(30), 1e15 * pool(30), np.eye(25), pool(10, 300),
    ],
    ids=["m1", "m2", "m2 same", "d1", "all same", "copies", "zeros", "offset", "tiny", "huge", "eye", "wide"],
)  # fmt: skip
@pytest.mark.parametrize("f", [lambda i: 0.0, lambda i: 1e-300, lambda i: 1e100 * i, score, lambda i: -7.5])
def test_degenerate_problems_still_spend_the_budget(config: Any, Z: np.ndarray, f: Any) -> None:
    for budget in {1, min(2, len(Z)), len(Z)}:
        order = play(zf.Zopo(Z, config(budget=budget, initial=min(budget, 3))), f)
        assert len(order) == len(set(order)) == budget


@pytest.mark.parametrize("constant", [0.1, -7.3, 1e3 + 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_column_does_not_matter(constant: float, dtype: Any) -> None:
    """Its z-score is 0, even if its mean is rounded: the run is that of a column of zeros."""
    runs = []
    for value in (0.0, constant):
        Z = pool(60, 4).astype(dtype)
        Z[:, 2] = value
        kernel = zf.NTK(*random_network(np.random.default_rng(0), 4, [16, 16]))
        runs.append(play(zf.Zopo(Z, zf.ZopoConfig(budget=50, initial=6), kernel)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("search", ["improvement", "thompson", "gradient"])
def test_a_search_is_invariant_to_units(search: Any) -> None:
    """Embeddings, kernel and scores are rescaled, so that units of powers of 2 do not change the run.

    Columns may have different units if each is scaled by itself.
    """
    Z, f = pool(), score
    for by_column in (False, True):
        config = zf.ZopoConfig(budget=50, initial=8, seed=1, search=search, zscore=by_column)
        plain = play(zf.Zopo(Z, config), f)
        units = 2.0 ** np.array([0, 3, -5, 10, -2, 1]) if by_column or search == "gradient" else 2.0**9
        assert play(zf.Zopo(Z * units, config), f) == plain
    kernel = zf.NTK.random(Z.shape[1], seed=1) if search == "gradient" else None
    assert play(zf.Zopo(Z, config, kernel), f) == plain
    assert play(zf.Zopo(Z, config), lambda i: 1024.0 * f(i)) == plain


def test_the_noise_of_scores_changes_the_search() -> None:
    """The scores are the same, some with a large noise, in units of score squared."""
    runs = []
    for noise, unit in ((None, 1.0), (100.0, 1.0), (100.0 * 2.0**20, 2.0**10)):
        opt, order = zf.Zopo(pool(), zf.ZopoConfig(budget=40, initial=8, seed=1)), []
        while not opt.done:
            order.append(i := opt.ask())
            opt.tell(i, unit * score(i), noise=noise if len(order) % 2 else None)
        runs.append(order)
    assert runs[0] != runs[1] == runs[2]


def finals_and_random(path: Path, seeds: int) -> tuple[np.ndarray, float]:
    """Return the final score of each run and the exact expectation of random search, scaled to [0, 1]."""
    f = np.array(json.loads(path.read_text())["scores"]).mean(axis=1)
    f = (f - f.min()) / (f.max() - f.min())
    finals = []
    for seed in range(seeds):
        opt = zf.Zopo(np.load(path.with_suffix(".npy")), zf.ZopoConfig(budget=50, initial=10, seed=seed))
        play(opt, lambda i: float(f[i]))
        finals.append(opt.best[1])
    m, rising = len(f), np.sort(f)
    return np.array(finals), sum(rising[k] * math.comb(k, 49) for k in range(49, m)) / math.comb(m, 50)


@pytest.mark.parametrize("name", sorted(path.stem for path in LANDSCAPES.glob("*.json")))
def test_the_default_beats_random_search(name: str) -> None:
    """The margin is more than three standard errors of 200 runs."""
    finals, random = finals_and_random(LANDSCAPES / f"{name}.json", 200)
    error = finals.std(ddof=1) / math.sqrt(len(finals))
    assert finals.mean() - random > 3 * error, (finals.mean(), error, random)


def test_the_landscapes_are_found() -> None:
    assert len(list(LANDSCAPES.glob("*.json"))) >= 2
