"""Growth of pools replayed on products: halves of the examples, values, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zopo_fast.bench.search import growth
from zopo_fast.bench.search.growth import FOLDER, Product


@pytest.fixture(scope="module")
def product() -> Product:
    return Product.load(FOLDER / "headlines.json")


def test_a_run_sees_one_half_of_the_examples(product: Product) -> None:
    order, seen, unseen = growth.split(product, 3)
    m, n = product.scores.shape
    assert sorted(order) == list(range(m))
    assert sorted([*seen, *unseen]) == list(range(n))
    assert len(seen) == n // 2
    assert not np.array_equal(seen, growth.split(product, 4)[1])


def test_values_are_of_the_best_and_the_worst_prompt(product: Product) -> None:
    half = np.arange(5)
    values = growth.value(product, half)
    means = product.scores[:, half].mean(axis=1)
    assert (values.min(), values.max()) == (0.0, 1.0)
    assert values[np.argmax(means)] == 1.0


def test_known_scores_choose_the_best_prompt_of_the_half_seen() -> None:
    """Prompt 1 is best on both halves, whichever they are; prompt 0 is worst."""
    scores = np.array([[0.0] * 8, [1.0] * 8, [1.0, 0.0] * 4])
    one = Product("one", ["a", "b", "c"], scores, np.eye(3), None)
    assert [row["other"] for row in growth.known([one], 5)] == [1.0, 1.0, 1.0]
    assert [row["prompts"] for row in growth.known([one], 1)] == [growth.SMALL, growth.LARGE, None]


@pytest.mark.parametrize("arm", ["fixed 60", "grown from 60"])
def test_a_run_ends_at_a_prompt_of_the_product(arm: str, product: Product) -> None:
    found = growth.run(product, arm, seed=0, budget=6)
    assert min(found["selected"], found["other"]) >= 0.0
    assert max(found["selected"], found["other"]) <= 1.0
    assert 0 < found["calls"] <= 6 * (product.scores.shape[1] // 2)
    assert found == growth.run(product, arm, seed=0, budget=6)


def test_the_command_keeps_rows_and_limits(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(growth, "ARMS", {name: growth.ARMS[name] for name in ("fixed 60", growth.GROWN)})
    growth.main(["--seeds", "2", "--budget", "5", "--products", "headlines", "--out", str(tmp_path)])
    kept = json.loads((tmp_path / "search_growth.json").read_text())
    assert {(row["product"], row["arm"]) for row in kept["rows"]} == {
        (product, arm) for product in ("headlines", "all") for arm in ("fixed 60", growth.GROWN)
    }
    assert len(kept["known"]) == 3
    assert "grown from 60" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        growth.main(["--products", "none", "--out", str(tmp_path)])
    assert "no such product" in capsys.readouterr().err
