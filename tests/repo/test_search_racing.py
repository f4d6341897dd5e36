"""Replay of races: decisions are judged by the full means, and counted by source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.search import race_view, racing
from zopo_fast.bench.search.quality import Plan
from zopo_fast.bench.search.racing import Decisions, Watched, decisions, main
from zopo_fast.bench.search.replay import Landscape, Problem, replay

M, EXAMPLES = 30, 20
PLAN = Plan(seeds=2, budget=12, initial=4)


@pytest.fixture
def landscape() -> Landscape:
    """Make 30 prompts of different quality on examples of equal difficulty."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(M, 5))
    p = 1.0 / (1.0 + np.exp(-Z[:, :1]))
    return Landscape("made", Z, (rng.random((M, EXAMPLES)) < p).astype(float))


def test_every_dropped_prompt_is_judged_by_its_full_mean(
    landscape: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = landscape.scores.mean(axis=1)
    method, seen = Watched(means, 0.3), []
    dropped = race_view.dropped

    def watched(state: race_view.RunState, since: int) -> list[race_view.Trial]:
        found = dropped(state, since)
        best = race_view.complete(state)
        assert best is not None
        seen.extend((trial.index, bool(means[trial.index] > means[best] + 1e-9)) for trial in found)
        return found

    monkeypatch.setattr(race_view, "dropped", watched)
    replay(method, landscape, np.arange(EXAMPLES), 12, 4, 1)
    assert len(seen) == method.wrong + method.losers > 3
    assert method.wrong == sum(wrong for _, wrong in seen) <= method.winners
    assert method.out == {index for index, _ in seen}
    assert method.examples < EXAMPLES * len(seen)  # dropped prompts cost a part of a full score


def test_an_error_of_zero_drops_no_winner(landscape: Landscape) -> None:
    found = decisions(landscape, 0.0, PLAN, range(4))
    assert found.wrong == 0
    assert found.winners > 0


def test_a_budget_in_calls_replaces_the_plan(landscape: Landscape) -> None:
    few, many = (decisions(landscape, 0.2, PLAN, [0], calls) for calls in (60, 400))
    assert few.losers < many.losers


def test_the_error_over_all_is_clustered(capsys: pytest.CaptureFixture[str]) -> None:
    """Two landscapes of the same number of winners, all wrong in one: half, with an error as large."""
    one, other = (list(vars(Decisions(10, wrong, 5, 30)).values()) for wrong in (10, 0))
    found = racing._judged(0.2, "blocks", {"one": np.array(one), "other": np.array(other)})
    assert [row["landscape"] for row in found] == ["one", "other", "blocks, over all"]
    assert [row["rate"] for row in found] == [1.0, 0.0, 0.5]
    assert found[-1]["rate_error"] == pytest.approx(np.sqrt(5**2 + 5**2) / 20)
    assert found[0]["examples_of_given_up"] == 30 / 15
    assert "blocks, over all" in capsys.readouterr().out


def test_the_command_judges_every_source(landscape: Landscape, tmp_path: Path) -> None:
    folder, blocks = tmp_path / "landscapes", tmp_path / "real" / "blocks"
    folder.mkdir()
    blocks.mkdir(parents=True)
    (folder / "made.json").write_text(json.dumps({"scores": landscape.scores.tolist()}))
    means = landscape.scores.reshape(M, 10, 2).mean(axis=2)
    (blocks / "set.json").write_text(json.dumps({"examples_in_a_block": 2, "blocks": means.tolist()}))
    for path in (folder / "made.npy", blocks / "set.npy"):
        np.save(path, landscape.Z)
    size = ["--seeds", "1", "--errors", "0.2", "--workers", "1", "--out", str(tmp_path / "out")]
    main(["--landscapes", str(folder), "--real", str(tmp_path / "real"), *size])
    kept = json.loads((tmp_path / "out" / "search_racing.json").read_text())
    over_all = [row["source"] for row in kept["decisions"] if row["landscape"].endswith("over all")]
    assert over_all == ["landscapes", "blocks", "simulation"]
    assert {row["landscape"] for row in kept["curves"]} == {"made", "over all"}
    cost = kept["cost"]
    assert (cost["prompts"], cost["examples"]) == (300, 300)
    assert 1_500 < cost["answers"] <= 2_000
    assert 0.0 < cost["mean_ms"] < cost["p99_ms"]


def test_a_race_of_one_difficulty_corrects_nothing() -> None:
    """Examples of a half that no prompt passes make the scores of random looks differ."""
    rng = np.random.default_rng(0)
    scores = (rng.random((12, 30)) < 0.6).astype(float) * (np.arange(30) < 15)
    Z = rng.normal(size=(12, 4))
    problem = Problem(Z, 30, [], 4, 120, 0, rng)
    known = {}
    for ignored in (False, True):
        state = race_view.start(problem)
        if ignored:
            race_view.ignore_difficulty(state)
        for work, examples in race_view.Flight(state, 1).calls():
            for example in examples:
                state.record_score(work.index, example, scores[work.index, example], zf.Usage(), 0.0)
        race = state.race
        assert race is not None
        partial = [i for i in range(12) if 0 < len(race.scores(i)) < 30]
        known[ignored] = np.array([abs(race.quality(i)[0] - race.mean(i)) for i in partial])
    assert known[True].max() < 1e-2
    assert known[False].max() > 0.05


def test_a_stated_error_out_of_range_is_refused(
    tmp_path: Path, landscape: Landscape, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--errors", "1.5", "--out", str(tmp_path)])
    assert "race_error" in capsys.readouterr().err
