"""Benchmark of what earlier runs teach: sources by kind, gains by group, choice by cross-validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zopo_fast.bench.search import learned
from zopo_fast.bench.search.learned import Earlier, Gains, Plan
from zopo_fast.bench.search.replay import Landscape
from zopo_fast.search import sources, trends

M = 40
PLAN = Plan(seeds=2, budget=15)


def family(task: str = "t", models: int = 4) -> list[Landscape]:
    """Return landscapes of one task, of which the scores differ by a little noise."""
    rng = np.random.default_rng(len(task))
    Z = rng.normal(size=(M, 6))
    common = np.tanh(Z[:, 0] + 0.5 * Z[:, 1])
    return [
        Landscape(f"{task} / model {k}", Z, (0.5 + 0.3 * common + 0.02 * rng.normal(size=M))[:, None])
        for k in range(models)
    ]


@pytest.mark.parametrize("kind", learned.KINDS)
def test_earlier_runs_are_of_their_kind(kind: str) -> None:
    own, *others = family()
    found = learned.earlier_runs(kind, own, others, 0, PLAN)
    assert len(found) == int(kind[0])
    assert [len(set(each.prompts)) for each in found] == [PLAN.budget] * len(found)
    columns = [each.scores[:, 0] for each in others]
    agree = [any((column[each.prompts] == each.scores).all() for column in columns) for each in found]
    assert all(agree) if "model" in kind else not any(agree)
    values = np.concatenate(columns)
    assert np.isin(found[0].scores, values).all() == ("random" not in kind)
    related = [each.correlation for each in found]
    assert min(related) > 0.9 if "model" in kind else max(map(abs, related)) < 0.6
    assert found == learned.earlier_runs(kind, own, others, 0, PLAN)


def test_random_function_is_smooth_in_the_kernel() -> None:
    Z = np.repeat(np.random.default_rng(0).normal(size=(20, 4)), 2, axis=0)
    drawn = learned.random_function(Z, np.random.default_rng(1))
    assert abs(drawn.mean()) < 1e-6
    np.testing.assert_allclose(drawn[::2], drawn[1::2], atol=1e-5)
    assert drawn.std() > 0.01


def test_gain_is_that_of_the_same_seed_and_zero_without_sources() -> None:
    landscapes = family()
    plain = learned.runs(landscapes, PLAN, lambda k, seed: ())
    nothing: learned.Sources = {
        ("1 model", k, seed): [Earlier([], [], 0.5)] for k in range(4) for seed in range(PLAN.seeds)
    }
    gain = learned.gains(landscapes, PLAN, "1 model", nothing, plain)
    assert not gain.figures.any()
    known = learned.all_sources(landscapes, ["1 model"], PLAN)
    gain = learned.gains(landscapes, PLAN, "1 model", known, plain)
    taught = learned.runs(landscapes, PLAN, lambda k, seed: known["1 model", k, seed])
    np.testing.assert_array_equal(gain.figures, taught - plain)
    assert gain.figures[..., 2].mean() > 0.0
    assert (gain.related > 0.9).all()


def test_rows_are_by_correlation_and_family_of_tasks() -> None:
    landscapes = [*family("snarks", 2), *family("t", 2)]
    values = np.arange(24.0).reshape(4, 2, 3)
    related = np.array([[0.5, 0.1], [0.1, 0.1], [0.1, 0.9], [0.5, 0.5]])
    by_group = {row["group"]: row for row in learned.rows(landscapes, "1 model", Gains(values, related))}
    assert list(by_group) == ["all", "correlation above 0.4", "LMentry", "BIG-bench Hard"]
    assert by_group["all"]["mean"] == values[..., 2].mean()
    assert by_group["BIG-bench Hard"]["at_30"] == values[:2, :, 0].mean()
    chosen = by_group["correlation above 0.4"]
    assert (chosen["runs"], chosen["landscapes"]) == (4, 3)
    assert chosen["at_30"] == np.mean([values[0, 0, 0], values[2, 1, 0], values[3, :, 0].mean()])
    assert len(learned.rows(landscapes, "1 permuted", Gains(values, related))) == 3


def test_settings_hold_within_the_context_alone() -> None:
    def values() -> tuple[float, int]:
        return trends.TREND_VARIANCE, sources.OTHERS

    def fail() -> None:
        with learned.settings(2.0, 7):
            assert values() == (2.0, 7)
            raise ValueError("no result")

    before = values()
    with pytest.raises(ValueError, match="no result"):
        fail()
    assert values() == before


def test_one_family_chooses_and_the_other_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    landscapes = [*family("snarks", 2), *family("t", 1)]

    def gains(*_: Any) -> Gains:
        big = trends.TREND_VARIANCE + 0.1 * sources.OTHERS
        values = np.array([big, big, 1.0 - big])[:, None, None]
        return Gains(np.broadcast_to(values, (3, 2, 3)), np.zeros((3, 2)))

    monkeypatch.setattr(learned, "gains", gains)
    small, large = learned.choose(landscapes, PLAN, {}, np.zeros((3, 2, 3)))
    assert (small["chosen_by"], small["variance"], small["others"]) == ("LMentry", 0.1, 1)
    assert (large["chosen_by"], large["variance"], large["others"]) == ("BIG-bench Hard", 1.0, 3)
    assert [small["gain"], small["judged"]] == pytest.approx([0.8, 0.2])
    assert [large["gain"], large["judged"]] == pytest.approx([1.3, -0.3])


def test_command_writes_figures_and_no_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "paraphrases"
    folder.mkdir(parents=True)
    for task in ("snarks", "other"):
        made = family(task)
        document: dict[str, Any] = {"task": task, "models": list("abcd")}
        document["prompts"] = [f"secret text {i}" for i in range(M)]
        document["accuracy"] = np.clip(np.column_stack([each.scores for each in made]), 0, 1).tolist()
        (folder / f"{task}.json").write_text(json.dumps(document))
        np.save(folder / f"{task}.npy", made[0].Z)
    words = ["--real", str(tmp_path / "data"), "--seeds", "1", "--budget", "12", "--out", str(tmp_path)]
    learned.main([*words, "--kinds", "1 permuted", "--choose"])
    text = (tmp_path / "search_learned.json").read_text()
    found = json.loads(text)
    assert "secret" not in text
    assert [row["group"] for row in found["rows"]] == ["all", "LMentry", "BIG-bench Hard"]
    assert [each["chosen_by"] for each in found["choices"]] == ["LMentry", "BIG-bench Hard"]
    for each in found["choices"]:
        assert len(each["all"]) == len(learned.CHOICES)
        assert each["gain"] == pytest.approx(max(each["all"].values()), abs=1e-4)
    assert "BIG-bench Hard chooses variance" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        learned.main(["--real", str(tmp_path / "none")])
