"""Comparison by source: budgets in calls, clustered figures, the race as a run has it, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from zopo_fast.bench.common.harness import absent
from zopo_fast.bench.search import quality, race_view, real, simulation, sources
from zopo_fast.bench.search.by_source import (
    CALLS,
    PROMPTS,
    Runs,
    budget_to,
    clustered,
    figures,
    plot,
    rows,
    table,
)
from zopo_fast.bench.search.halving import Halving
from zopo_fast.bench.search.item_response import PRIOR, fit
from zopo_fast.bench.search.methods import Racing, every, parallel
from zopo_fast.bench.search.processes import expected_improvement, spectral_evidence
from zopo_fast.bench.search.replay import Landscape, Method, Problem, Request, Run, Search, replay
from zopo_fast.errors import ConfigError
from zopo_fast.llm.types import Usage

M, PARTS = 20, 5
PLAN = real.Plan(seeds=2, budget=12, initial=4, tenths=(2.0, 4.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a tiny folder of both formats: one task with two models, one pool of blocks."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(M, 6)).astype(np.float16)
    quality_ = 0.5 + 0.1 * Z[:, 0].astype(float)
    accuracy = np.clip(quality_[:, None] + 0.05 * rng.normal(size=(M, 2)), 0.0, 1.0)
    blocks = np.clip(quality_[:, None] + 0.1 * rng.normal(size=(M, PARTS)), 0.0, 1.0)
    documents = {
        "paraphrases/task.json": {
            "task": "task",
            "models": ["one", "two"],
            "prompts": [f"secret text {i}" for i in range(M)],
            "accuracy": accuracy.tolist(),
        },
        "blocks/set_model.json": {
            "dataset": "set",
            "model": "model",
            "examples_in_a_block": 30,
            "blocks": blocks.tolist(),
        },
    }
    for name, document in documents.items():
        path = tmp_path / "real" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(document))
        np.save(path.with_suffix(".npy"), Z)
    return tmp_path / "real"


def blocks_of(folder: Path) -> Landscape:
    return sources.blocks(folder)[0]


# ---- requests and budgets ----------------------------------------------------------------------------


class Scripted(Method):
    """Method that makes given requests and returns a prompt."""

    name = "scripted"

    def __init__(self, requests: list[Request], end: int | None = None) -> None:
        self.requests, self.end, self.sent = requests, end, list[list[float]]()

    def search(self, problem: Problem) -> Search:
        for request in self.requests:
            self.sent.append((yield request).tolist())
        return self.end


SCORES = np.arange(12.0).reshape(3, 4) / 12


def test_a_method_names_examples_and_the_prompt_to_deploy() -> None:
    requests = [Request(0, [2, 0]), Request(2, [1]), Request(0, 1, 2), Request(0, [0, 3], 1)]
    method = Scripted(requests, end=0)
    run = replay(method, Landscape("hand", np.eye(3), SCORES), np.arange(4), 3, 1, 0)
    row = SCORES[0]
    assert method.sent == [
        row[[2, 0]].tolist(),
        [SCORES[2, 1]],
        row[[2, 0, 1]].tolist(),
        row[[2, 0, 1, 3]].tolist(),
    ]
    assert run.calls == [2, 3, 4, 5]
    assert run.incumbents == [0, 2, 1, 0]  # by the rule, then named by the next request, last by the return


def test_a_budget_in_calls_ends_a_run() -> None:
    requests = [Request(0, 4), Request(1, [3, 2, 1])]
    method = Scripted(requests)
    run = replay(method, Landscape("hand", np.eye(3), SCORES), np.arange(4), 99, 1, 0, calls=6)
    assert run.calls == [4, 6]
    assert method.sent[1] == SCORES[1, [3, 2]].tolist()


@pytest.mark.parametrize("name", real.DEFAULTS[CALLS])
def test_a_method_keeps_to_a_budget_of_single_blocks(name: str, folder: Path) -> None:
    landscape, order = blocks_of(folder), np.random.default_rng(1).permutation(PARTS)
    runs = [replay(every()[name], landscape, order, 0, 4, 7, calls=37) for _ in range(2)]
    assert runs[0] == runs[1]
    assert 37 - PARTS < runs[0].calls[-1] <= 37


def test_halving_pairs_candidates_only_on_a_common_order() -> None:
    """Blocks differ far more than prompts: a common order finds the best prompt, other orders rarely."""
    rng = np.random.default_rng(0)
    scores = 0.5 + 0.01 * np.arange(16)[:, None] + rng.permutation(np.linspace(-0.3, 0.3, 8))
    landscape = Landscape("paired", rng.normal(size=(16, 3)), scores)

    def found(shuffles: bool) -> int:
        method = Halving("halving", first=1, shuffles=shuffles)
        orders = [np.random.default_rng(seed).permutation(8) for seed in range(20)]
        runs = [replay(method, landscape, order, 0, 4, seed, calls=48) for seed, order in enumerate(orders)]
        return sum(run.incumbents[-1] == 15 for run in runs)

    assert found(shuffles=False) == 20
    assert found(shuffles=True) < 15


# ---- methods ------------------------------------------------------------------------------------------


def test_the_examples_of_equal_scores_keep_the_uncertainty_of_a_process() -> None:
    """With a signal of 0 every candidate would tie, and the pool would be read in its order."""
    K = np.array([[1.0, 0.9], [0.9, 1.0]])
    values, U = np.linalg.eigh(K)
    evidence, damped, signal = spectral_evidence(values, U.T @ np.zeros(2))
    assert evidence.shape == signal.shape == (damped.shape[1],)
    assert (signal > 0).all()
    improvement = expected_improvement(np.zeros(2), np.diag([0.01, 0.02]), 0.0, np.random.default_rng(0))
    assert improvement[1] > improvement[0]


def test_the_evidence_is_that_of_a_normal_law() -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    K, y = A @ A.T, rng.normal(size=5)
    values, U = np.linalg.eigh(K)
    evidence, damped, signal = spectral_evidence(values, U.T @ y)
    for k in range(len(evidence)):
        S = signal[k] * (U * damped[:, k]) @ U.T
        exact = -0.5 * (np.linalg.slogdet(S)[1] + y @ np.linalg.solve(S, y))
        assert evidence[k] - exact == pytest.approx(2.5, abs=1e-6)  # the constant is n / 2


def test_a_rasch_fit_orders_prompts_by_examples_of_equal_ease() -> None:
    rng = np.random.default_rng(3)
    ability, ease = np.linspace(-1.5, 1.5, 12), np.linspace(-2.0, 2.0, 60)
    Y = (rng.random((12, 60)) < 1 / (1 + np.exp(-(ability[:, None] + ease)))).astype(float)
    Y[:6, 30:], Y[6:, :30] = np.nan, np.nan  # weak prompts see hard examples only, strong ones easy ones
    found, eased, deviation = fit(Y)
    assert np.corrcoef(found, ability)[0, 1] > 0.8
    assert np.corrcoef(eased, ease)[0, 1] > 0.5
    assert (deviation > 0).all()
    assert (fit(np.full((2, 3), np.nan))[2] == 1.0).all()  # the prior


def test_a_rasch_fit_ends_where_the_posterior_is_flat() -> None:
    Y = np.random.default_rng(0).random((8, 30))
    found = fit(Y, trials=30)
    for _ in range(20):
        found = fit(Y, 30, found[:2])
    center = np.log(Y.mean() / (1 - Y.mean()))
    error = 30 * (Y - 1 / (1 + np.exp(-(found[0][:, None] + found[1]))))
    np.testing.assert_allclose(error.sum(axis=1), found[0] / PRIOR[0] ** 2, atol=0.05)
    np.testing.assert_allclose(error.sum(axis=0), (found[1] - center) / PRIOR[1] ** 2, atol=0.05)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_race_is_that_of_a_run(slots: int, folder: Path) -> None:
    """Every call is one of the run's own, asked at most once, and the result is the run's best prompt."""
    landscape = blocks_of(folder)
    problem = Problem(landscape.Z, PARTS, [0], 8, 40, 3, np.random.default_rng(0), is_binary=False)
    state = race_view.start(problem, slots)
    asked = []
    for work, examples in race_view.Flight(state, slots).calls():
        for example in examples:
            asked.append((work.index, example))
            state.record_score(work.index, example, landscape.scores[work.index, example], Usage(), 0.0)
    assert len(set(asked)) == len(asked) <= 40
    assert race_view.incumbent(state) == state.best[0]  # type: ignore[index]
    run = replay(Racing("race", slots), landscape, np.arange(PARTS), 0, 4, 3, calls=40)
    assert run.calls[-1] == len(asked)
    assert run.incumbents[-1] == state.best[0]  # type: ignore[index]
    assert list(dict.fromkeys(index for index, _ in asked)) == run.asked


def test_several_calls_are_in_flight_at_a_time(folder: Path) -> None:
    problem = Problem(blocks_of(folder).Z, PARTS, [0], 8, 40, 3, np.random.default_rng(0), is_binary=False)
    most = []
    for slots in (1, 16):
        state = race_view.start(problem, slots)
        work, _ = next(race_view.Flight(state, slots).calls())
        most.append(len(state.running))
        assert work.index in state.running
    assert most[0] < most[1]


def test_the_incumbent_is_a_complete_prompt_where_there_is_one() -> None:
    def incumbent(best: tuple[int, float] | None, partial: tuple[int, float] | None) -> int | None:
        return race_view.incumbent(cast(Any, SimpleNamespace(best=best, best_partial=partial)))

    assert incumbent((3, 0.5), (4, 0.9)) == 3
    assert incumbent(None, (4, 0.9)) == 4
    assert incumbent(None, None) is None


def test_a_budget_counts_tenths_of_a_full_score_for_every_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = []

    def counted(*args: Any) -> Run:
        budgets.append(args[-1])
        return replay(*args)

    monkeypatch.setattr(real, "replay", counted)
    runs = real.run("halving, same order", blocks_of(folder), CALLS, PLAN)
    assert budgets == [20, 40] * 2  # of 20 prompts with 5 blocks
    assert runs.values.shape == (2, 2)
    assert (runs.values >= 0).all()


# ---- figures ------------------------------------------------------------------------------------------


def test_figures_of_prompts_are_read_at_30_at_50_and_as_means() -> None:
    curve = np.arange(50.0) / 100
    found = figures([Runs(np.array([curve, curve + 0.1]), np.zeros(2))], PROMPTS, initial=10)
    np.testing.assert_allclose(found["at_30"], [[0.29, 0.39]])
    np.testing.assert_allclose(found["at_50"], [[0.49, 0.59]])
    np.testing.assert_allclose(found["mean"], [[0.295, 0.395]])
    np.testing.assert_allclose(found["mean_all"], [[0.245, 0.345]])


def test_errors_are_clustered_by_landscape() -> None:
    """Seeds of a landscape that agree add no evidence."""
    mean, deviation = clustered(np.repeat([[0.0], [1.0]], 100, axis=1))
    assert (mean, deviation) == (0.5, pytest.approx(0.5))


def test_pairs_count_better_less_worse_by_seed() -> None:
    def runs(*regrets: float) -> list[Runs]:
        return [Runs(np.array([[r] for r in regrets]), np.full(len(regrets), np.inf))]

    by_method = {"halving, same order": runs(0.4, 0.2, 0.2, 0.2), "zopo_fast": runs(0.1, 0.1, 0.2, 0.3)}
    reference, ours = rows("blocks", CALLS, by_method, 10, (1.0,))
    pair = ours["less halving, same order"]
    assert pair["difference"] == pytest.approx(0.075)  # less regret is better
    assert pair["better_less_worse"] == pytest.approx(0.25)
    assert reference["less zopo_fast"]["better_less_worse"] == pytest.approx(-0.25)
    assert (ours["rank"], reference["rank"]) == (1.375, 1.625)
    assert ours["reached_median"] is None
    assert "+0.25" in table([reference, ours], (1.0,))


def test_the_budget_to_a_regret_is_interpolated() -> None:
    curve, budgets = [0.9, 0.3, 0.4, 0.2], [1.0, 2.0, 3.0, 4.0]
    assert budget_to(curve, budgets, 0.3) == pytest.approx(3.5)  # reached earlier, and lost again
    assert budget_to(curve, budgets, 0.2) == pytest.approx(4.0)
    assert budget_to(curve, budgets, 0.1) is None
    assert budget_to(curve, budgets, 1.0) == 1.0
    assert budget_to([0.3, 0.3], budgets, 0.3) == 1.0


# ---- the whole ---------------------------------------------------------------------------------------


def test_the_command_writes_figures_by_source_and_no_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    names = ["random", "zopo_fast", "halving, same order", "zopo_fast, racing"]
    size = ["--seeds", "2", "--budget", "12", "--initial", "4", "--workers", "1", "--out", str(out)]
    quality.main(["--real", str(folder), "--sources", "paraphrases", "blocks", "--methods", *names, *size])
    text = (out / "search_real.json").read_text()
    kept = json.loads(text)
    assert {(row["source"], row["method"]) for row in kept["rows"]} == {
        ("paraphrases", "random"),
        ("paraphrases", "zopo_fast"),
        *(("blocks", name) for name in names),
    }
    assert kept["sources"]["paraphrases"] == {
        "landscapes": 2,
        "origin": "arXiv 2401.00595",
        "licence": "CDLA-Permissive-2.0",
    }
    by_group = {row["source"]: row["by_group"] for row in kept["rows"] if row["method"] == "random"}
    assert by_group["paraphrases"] == {"task": pytest.approx(kept["rows"][0]["mean"])}
    assert list(by_group["blocks"]) == ["set_model"]
    assert "secret" not in text
    assert str(folder) not in text
    assert len(kept["rows"][0]["curve"]) == 12
    assert "blocks: 1 landscapes" in capsys.readouterr().out
    assert (out / "search_real.png").exists() == (absent("matplotlib") is None)


def test_variants_join_the_named_methods(folder: Path, tmp_path: Path) -> None:
    size = ["--quick", "--budget", "8", "--initial", "2", "--workers", "1", "--out", str(tmp_path)]
    quality.main(
        ["--real", str(folder), "--sources", "paraphrases", "--methods", "random", "--parallel", *size]
    )
    kept = json.loads((tmp_path / "search_real.json").read_text())
    assert [row["method"] for row in kept["rows"]] == ["random", *parallel()]
    assert kept["settings"]["seeds"] == 1


def test_runs_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    landscapes = real.load(folder, ["blocks", "paraphrases"])
    names = ["random", "zopo_fast, racing", "POES-like"]
    alone, shared = (real.compare(landscapes, PLAN, names, workers)[0] for workers in (1, 2))
    assert list(alone["paraphrases"]) == ["random"]
    for source, by_method in alone.items():
        for name, runs in by_method.items():
            for one, other in zip(runs, shared[source][name], strict=True):
                np.testing.assert_array_equal(one.values, other.values)
                np.testing.assert_array_equal(one.reached, other.reached)


def test_the_simulation_follows_the_blocks_of_the_folder(folder: Path) -> None:
    (only,) = real.load(folder, ["simulation"])["simulation"]
    assert only.name == "simulated 0, set_model"


def test_the_simulation_of_one_difficulty_has_no_other_variance(folder: Path) -> None:
    (only,) = real.load(folder, ["simulation, alike"])["simulation, alike"]
    assert only.name == real.load(folder, ["simulation"])["simulation"][0].name
    alike, other = simulation.pools(alike=True)[0], simulation.pools()[0]
    of_examples = [each.scores.mean(axis=0).var() for each in (alike, other)]
    means = alike.scores.mean(axis=1)
    expected = float((means * (1.0 - means)).mean()) / len(means)
    assert 0.5 * expected < of_examples[0] < 2.0 * expected < of_examples[1]


def test_unknown_names_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no source is named 'x'; there are paraphrases"):
        real.load(folder, ["x"])
    with pytest.raises(ConfigError, match="no method is named 'x'; there are 'random'"):
        real.compare({}, PLAN, ["x"])
    with pytest.raises(ConfigError, match="initial below budget"):
        real.Plan(budget=5, initial=5)
    with pytest.raises(SystemExit):
        quality.main(["--real", str(folder / "nowhere")])
    assert "expected a folder paraphrases or blocks" in capsys.readouterr().err


@pytest.mark.skipif(absent("matplotlib") is not None, reason="matplotlib is not installed")
def test_the_plot_has_a_panel_for_every_source(tmp_path: Path) -> None:
    row = {"curve": [0.5, 0.9], "curve_error": [0.1, 0.1], "method": "random"}
    found = [{**row, "source": "paraphrases", "unit": PROMPTS}, {**row, "source": "blocks", "unit": CALLS}]
    plot(found, (1.5, 2.5), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
