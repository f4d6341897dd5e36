"""Comparison of searches: methods keep to the rules, and the figures are right."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.common.harness import absent
from zopo_fast.bench.search import quality as search_quality
from zopo_fast.bench.search.halving import Halving
from zopo_fast.bench.search.methods import Racing, Zopo, ablations, every, methods, parallel
from zopo_fast.bench.search.metrics import Outcome, interval, overall, prompts_to, ranks, summary
from zopo_fast.bench.search.quality import Plan, block, chosen, compare, main, rows, table
from zopo_fast.bench.search.replay import (
    Landscape,
    Method,
    Problem,
    Run,
    Search,
    expected_random,
    halves,
    initial_points,
    load_folder,
    normalised,
    replay,
)
from zopo_fast.errors import ConfigError, InputError

EXAMPLES, BUDGET, INITIAL = 10, 16, 5
PLAN = Plan(seeds=2, budget=BUDGET, initial=INITIAL)


@pytest.fixture
def planted() -> Landscape:
    """Make a landscape where prompts nearer to a planted one solve more examples."""
    Z = np.random.default_rng(0).normal(size=(60, 6))
    distance = np.linalg.norm(Z - Z[7], axis=1)
    right = np.round(EXAMPLES * (1.0 - distance / distance.max()))
    right[distance > 0] = np.minimum(right[distance > 0], EXAMPLES - 1)
    scores = np.zeros((60, EXAMPLES))
    for i, count in enumerate(right.astype(int)):
        scores[i, np.random.default_rng(i).permutation(EXAMPLES)[:count]] = 1.0
    return Landscape("planted", Z, scores)


def installed(name: str) -> Method:
    method = every()[name]
    if reason := absent(*method.needs):
        pytest.skip(reason)
    return method


def run_of(method: Method, landscape: Landscape, seed: int = 0) -> Run:
    return replay(method, landscape, np.arange(EXAMPLES), BUDGET, INITIAL, seed)


# ---- methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", every())
def test_a_method_keeps_to_budget_and_initial_prompts_and_is_reproducible(
    name: str, planted: Landscape
) -> None:
    method = installed(name)
    run = run_of(method, planted, seed=3)
    if not method.plans:
        assert run.asked[:INITIAL] == initial_points(60, INITIAL, 3)
    assert len(set(run.asked)) == len(run.asked)
    assert run.calls[-1] <= BUDGET * EXAMPLES
    stops_early = isinstance(method, Racing) and run.incumbents[-1] == 7  # its score is perfect
    assert stops_early or run.calls[-1] > (BUDGET - 1) * EXAMPLES - (EXAMPLES if method.partial else 0)
    if not method.partial:
        assert run.calls == [EXAMPLES * (k + 1) for k in range(BUDGET)]
    elif name != "HbBoPs-like":
        assert stops_early or len(run.asked) > BUDGET
    assert run_of(method, planted, seed=3) == run
    assert run_of(method, planted, seed=4) != run


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("zopo_fast, 10 random", 14),
        ("GP-EI, RBF", 14),
        ("GP-EI, RBF, grid", 14),
        ("GP-EI, infinite NTK", 14),
        ("NeuralUCB, INSTINCT", 14),
        ("GP-TS, RBF", 8),  # explores too much for so few prompts
    ],
)
def test_good_methods_find_a_planted_optimum(name: str, least: int, planted: Landscape) -> None:
    """Of twenty runs; random search finds the optimum in a quarter of them."""

    def found(method: Method) -> int:
        return sum(run_of(method, planted, seed).incumbents[-1] == 7 for seed in range(20))

    assert found(methods()["random"]) < 8
    assert found(installed(name)) >= least


@pytest.mark.parametrize("settings", [{"in_flight": 4}, {"networks": 5}])
def test_variants_from_the_given_start_find_a_planted_optimum(
    settings: dict[str, Any], planted: Landscape
) -> None:
    method = Zopo("variant", starts="given", **settings)
    assert sum(run_of(method, planted, seed).incumbents[-1] == 7 for seed in range(20)) >= 14


def test_prompts_in_flight_are_asked_before_the_first_score(
    planted: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, told = 0, []
    tell = zf.Zopo.tell

    def watched(optimizer: zf.Zopo, index: int, score: float) -> None:
        nonlocal most
        most = max(most, len(optimizer.pending))
        assert index == optimizer.pending[0]
        told.append(index)
        tell(optimizer, index, score)

    monkeypatch.setattr(zf.Zopo, "tell", watched)
    for name, in_flight in (("zopo_fast", 1), ("zopo_fast, 4 in flight", 4), ("zopo_fast, 16 in flight", 16)):
        most, told = 0, []
        run = run_of(every()[name], planted)
        assert most == in_flight
        assert run.asked == told


def test_every_variant_is_a_different_search() -> None:
    """The scores are noise, and the pool is larger than the small regions."""
    rng = np.random.default_rng(0)
    noise = Landscape("noise", rng.normal(size=(150, 6)), rng.integers(2, size=(150, EXAMPLES)).astype(float))

    def asked(name: str) -> list[list[int]]:
        runs = [replay(every()[name], noise, np.arange(EXAMPLES), 60, INITIAL, seed) for seed in range(3)]
        return [run.asked for run in runs]

    variants = ["zopo_fast", "zopo_fast, gradient", *ablations(), *parallel()]
    found = [asked(name) for name in variants]
    for (one, first), (other, second) in itertools.combinations(zip(variants, found, strict=True), 2):
        assert first != second, (one, other)


def test_only_replaying_methods_get_the_scores(planted: Landscape) -> None:
    class Looks(Method):
        name = "looks"

        def search(self, problem: Problem) -> Search:
            assert problem.recorded is None
            yield 0, 1

    assert run_of(Looks(), planted).calls == [1]
    assert [name for name, method in methods().items() if method.replays] == ["official, float32"]


def test_a_pool_smaller_than_the_budget_is_searched_completely() -> None:
    small = Landscape("small", np.random.default_rng(1).normal(size=(9, 3)), np.eye(9, 4))
    for name, method in methods().items():
        if absent(*method.needs):
            continue
        run = replay(method, small, np.arange(4), 50, 3, 0)
        assert len(run.asked) == 9, name
        assert run.calls[-1] == 36 or ("racing" in name and run.calls[-1] > 18), name  # the rest cannot win


def test_the_rounds_of_halving() -> None:
    rounds = [(190, 2), (95, 4), (48, 8), (24, 16), (12, 20)]
    assert Halving.rounds(190, 2, 20) == rounds
    assert Halving.cost(190, 2, 20) == 380 + 190 + 192 + 192 + 48
    assert Halving.cost(189, 2, 20) <= 1000 < Halving.cost(190, 2, 20)


def test_halving_doubles_the_examples_of_the_better_half(planted: Landscape) -> None:
    """36 candidates take 36 x 2 + 18 x 2 + 9 x 4 + 5 x 2 <= 160 calls; 37 would take 162."""
    run = run_of(methods()["TRIPLE, halving"], planted)
    calls = np.diff([0, *run.calls])
    np.testing.assert_array_equal(calls, [2] * 36 + [2] * 18 + [4] * 9 + [2] * 5)
    right = planted.scores[run.asked, :2].sum(axis=1)
    assert right[run.asked.index(run.incumbents[-1])] >= np.sort(right)[::-1][17]


# ---- runs --------------------------------------------------------------------------------------------


class Scripted(Method):
    """Method that makes given requests."""

    def __init__(self, *requests: tuple[int, int]) -> None:
        self.name, self.requests = "scripted", requests
        self.sent: list[list[float]] = []

    def search(self, problem: Problem) -> Search:
        for request in self.requests:
            self.sent.append([float(s) for s in (yield request)])


HAND = Landscape("hand", np.eye(3), np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]], dtype=float))


def test_a_run_counts_calls_and_keeps_the_best_of_the_most_scored_prompts() -> None:
    method = Scripted((0, 1), (1, 2), (2, 2), (0, 3), (1, 2), (2, 9))
    run = replay(method, HAND, np.arange(4), 3, 1, 0)
    assert method.sent == [[1], [0, 1], [1, 0], [1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    assert run.asked == [0, 1, 2]
    assert run.calls == [1, 3, 5, 8, 10, 12]
    assert run.incumbents == [0, 1, 1, 0, 1, 1]
    value = normalised(HAND.scores)
    np.testing.assert_array_equal(value, [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(run.curve(value, [0, 1, 2, 4, 8, 12]), [0.0, 0.5, 0.5, 1.0, 0.5, 1.0])
    assert run.calls_to(value, 0.95) == 10  # reached earlier, and lost again
    assert run.calls_to(value, 0.4) == 1
    assert run.calls_to(np.array([0.5, 0.6, 0.0]), 0.95) == float("inf")


def test_the_budget_shortens_a_request_and_ends_the_run() -> None:
    method = Scripted((0, 4), (1, 4), (2, 4))
    run = replay(method, HAND, np.arange(4), 2, 1, 0)
    assert run.calls == [4, 8]
    run = replay(Scripted((0, 3), (1, 3), (2, 3)), HAND, np.arange(4), 2, 1, 0)
    assert run.calls == [3, 6, 8]


def test_a_method_that_repeats_a_request_is_named() -> None:
    with pytest.raises(InputError, match="scripted: prompt 0 was scored on every example already"):
        replay(Scripted((0, 4), (0, 1)), HAND, np.arange(4), 3, 1, 0)


def test_the_expectation_of_random_search_is_that_of_all_draws() -> None:
    value = np.array([0.0, 0.3, 0.3, 1.0, 0.7])
    for k, expected in enumerate(expected_random(value, 5), start=1):
        drawn = [value[list(draw)].max() for draw in itertools.combinations(range(5), k)]
        assert expected == pytest.approx(np.mean(drawn), abs=1e-12)


def test_halves_are_disjoint_and_differ_by_seed() -> None:
    seen, unseen = halves(20, 5)
    assert len(seen) == len(unseen) == 10
    assert sorted([*seen, *unseen]) == list(range(20))
    assert set(seen) != set(halves(20, 6)[0])


def test_selection_sees_one_half_only() -> None:
    """The second prompt solves the unseen half only: the best one there, and not chosen."""
    scores = np.zeros((2, 8))
    seen, unseen = halves(8, 0)
    scores[0, seen], scores[1, unseen] = 1.0, 1.0
    both = block(methods()["random"], Landscape("two", np.eye(2), scores), Plan(1, 2, 1), [0])
    assert both["seen"].finals == [1.0]
    assert both["unseen"].finals == [0.0]


# ---- figures -----------------------------------------------------------------------------------------


def test_the_figures_of_a_known_outcome() -> None:
    curves = np.array([[0.2, 0.4, 1.0, 1.0], [0.0, 0.5, 0.5, 0.9], [0.5, 0.5, 0.96, 0.96]])
    found = summary(Outcome(curves, np.array([30.0, np.inf, 30.0])), initial=2)
    assert found["seeds"] == 3
    assert found["final"] == pytest.approx((1.0 + 0.9 + 0.96) / 3)
    assert found["final_error"] == pytest.approx(np.std([1.0, 0.9, 0.96], ddof=1) / np.sqrt(3))
    assert found["mean"] == pytest.approx((1.0 + 0.7 + 0.96) / 3)
    assert found["found_best"] == pytest.approx(1 / 3)
    assert found["reached_95"] == pytest.approx(2 / 3)
    assert found["calls_to_95"] == 30.0
    assert summary(Outcome(curves, np.array([30.0, np.inf, np.inf])), 2)["calls_to_95"] is None
    assert prompts_to(curves.mean(axis=0), 0.8) == 3
    assert prompts_to(curves.mean(axis=0), 0.99) is None


def test_ties_share_ranks_and_intervals_contain_the_mean() -> None:
    values = np.array([[0.9, 0.5, 1.0], [1.0, 0.5, 1.0], [0.1, 0.6, 1.0]])
    np.testing.assert_array_equal(ranks(values), [[2, 2.5, 2], [1, 2.5, 2], [3, 1, 2]])
    per_seed = np.random.default_rng(0).normal(size=(2, 400))
    for mean, low, high in interval(per_seed):
        assert low < mean < high
        assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_methods_are_compared_over_all_landscapes_by_shared_seeds() -> None:
    def outcome(*finals: float) -> Outcome:
        return Outcome(np.array([[0.0, final] for final in finals]), np.zeros(len(finals)))

    found = overall(
        {
            "one": {"a": outcome(1.0, 0.8), "b": outcome(0.5, 0.8), "few": outcome(1.0)},
            "two": {"a": outcome(0.4, 0.4), "b": outcome(0.6, 0.2), "few": outcome(1.0)},
        },
        initial=1,
    )
    assert set(found) == {"a", "b"}
    assert found["a"]["rank"][0] == pytest.approx((1 + 1.5 + 2 + 1) / 4)
    assert found["b"]["final"][0] == pytest.approx((0.5 + 0.8 + 0.6 + 0.2) / 4)


def test_the_documented_figures_of_landscapes_come_from_their_files() -> None:
    top = search_quality.BENCH / "landscapes"
    of_landscapes, of_products = (top / "README.md").read_text().split("`products/` holds")
    for folder, text in ((top, of_landscapes), (top / "products", of_products)):
        told = re.findall(r"^\| (\w+) \| (\d+ x .*?) \|$", text, re.MULTILINE)
        assert {name for name, _ in told} == {landscape.name for landscape in load_folder(folder)}
        check_figures(folder, told)


def check_figures(folder: Path, told: list[tuple[str, str]]) -> None:
    for name, figures in told:
        document = json.loads((folder / f"{name}.json").read_text())
        scores = np.array(document["scores"], dtype=float)
        assert len(set(document["prompts"])) == len(scores)
        means, rng = scores.mean(axis=1), np.random.default_rng(0)
        orders = [np.array_split(rng.permutation(scores.shape[1]), 2) for _ in range(200)]
        split = [np.corrcoef(scores[:, a].mean(axis=1), scores[:, b].mean(axis=1))[0, 1] for a, b in orders]
        assert [cell.strip() for cell in figures.split("|")] == [
            f"{scores.shape[0]} x {scores.shape[1]}",
            f"{means.min():.2f} to {means.max():.2f}, {np.median(means):.2f}",
            f"{100 * (means == 0).mean():.0f} %",
            f"{np.mean(split):.2f}",
            document["metric"].replace("_", " "),
        ]


# ---- the whole ---------------------------------------------------------------------------------------


def save(landscape: Landscape, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    kept = {"prompts": [str(i) for i in range(len(landscape.Z))], "scores": landscape.scores.tolist()}
    (folder / f"{landscape.name}.json").write_text(json.dumps(kept))
    np.save(folder / f"{landscape.name}.npy", landscape.Z)


def test_results_do_not_depend_on_the_number_of_processes(planted: Landscape) -> None:
    plan = Plan(seeds=12, budget=8, initial=3)
    names = ["random", "zopo_fast", "TRIPLE, halving"]
    alone, shared = (compare([planted], names, plan, workers) for workers in (1, 2))
    assert set(alone) == set(search_quality.BOARDS)
    assert list(alone["prompts"]["planted"]) == ["random", "zopo_fast"]
    for board, by_landscape in alone.items():
        for name, outcome in by_landscape["planted"].items():
            assert outcome.curves.shape == (12, 8)
            np.testing.assert_array_equal(outcome.curves, shared[board]["planted"][name].curves)
            np.testing.assert_array_equal(outcome.calls, shared[board]["planted"][name].calls)


def test_methods_of_a_seed_are_paired(planted: Landscape) -> None:
    """The curves agree up to the last initial prompt."""
    found = compare([planted], ["random", "official", "zopo_fast, 10 random"], PLAN)["unseen"]["planted"]
    first, *others = (outcome.curves[:, :INITIAL] for outcome in found.values())
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert not np.array_equal(found["random"].curves, found["official"].curves)


def test_rows_and_table_name_every_method(planted: Landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_quality, "OURS", "official")
    names = ["random", "official", "APE, best of init"]
    outcomes = compare([planted], names, PLAN)
    found = rows(outcomes, [planted], PLAN)
    at = {(row["board"], row["method"]): row for row in found}
    assert ("prompts", "APE, best of init") not in at
    assert at["calls", "official"]["budget_calls"] == BUDGET * EXAMPLES
    assert at["unseen", "official"]["budget_calls"] == BUDGET * EXAMPLES // 2
    reached = at["calls", "official"]["calls_to_official_final"]
    assert reached % EXAMPLES == 0
    assert INITIAL * EXAMPLES <= reached <= BUDGET * EXAMPLES
    ours = at["calls", "official"]
    assert (ours["less_ours"], ours["less_ours_error"]) == (0.0, 0.0)
    less = at["calls", "random"]["final"] - ours["final"]
    assert at["calls", "random"]["less_ours"] == pytest.approx(less)
    assert at["calls", "random, exact"]["final"] == expected_random(normalised(planted.scores), BUDGET)[-1]
    text = table(found, {board: overall(by, INITIAL) for board, by in outcomes.items()})
    for name in [*names, "random, exact", "planted", "judged on the other"]:
        assert name in text


def test_the_command_writes_results(
    planted: Landscape, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(planted, tmp_path / "landscapes")
    out = tmp_path / "out"
    size = ["--workers", "1", "--budget", "12", "--initial", "4", "--quick"]
    folders = ["--landscapes", str(tmp_path / "landscapes"), "--out", str(out)]
    main(["--methods", "random", "zopo_fast", *folders, *size])
    kept = json.loads((out / "search_quality.json").read_text())
    assert kept["settings"] == {"seeds": 4, "budget": 12, "initial": 4}
    assert set(kept["machine"]) >= {"cpu", "commit"}
    assert {row["method"] for row in kept["rows"]} == {"random", "random, exact", "zopo_fast"}
    assert kept["overall"]["unseen"]["zopo_fast"]["rank"][0] >= 1.0
    assert "zopo_fast" in capsys.readouterr().out
    assert (out / "search_quality.png").exists() == (absent("matplotlib") is None)


def test_invalid_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no method is named 'x'; there are 'random'"):
        chosen(["x"])
    with pytest.raises(ConfigError, match="initial at most budget"):
        Plan(budget=5, initial=6)
    with pytest.raises(InputError, match="no landscape"):
        load_folder(tmp_path)
    (tmp_path / "a.json").write_text('{"scores": [[1, 0]]}')
    with pytest.raises(InputError, match=r"a\.json: not a landscape"):
        load_folder(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(InputError, match="do not belong together"):
        load_folder(tmp_path)
    with pytest.raises(SystemExit):
        main(["--methods", "x"])
    assert "no method is named" in capsys.readouterr().err


def test_a_method_without_its_library_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_quality, "absent", lambda *names: "not there" if names else None)
    names, skipped = chosen([])
    assert "zopo_fast" in names
    assert set(skipped) == {"official, float32", "GP-EI, RBF", "GP-TS, RBF"}


def test_kept_blocks_are_not_run_again(
    planted: Landscape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare([planted], ["random"], PLAN, keep=tmp_path)
    ran = []
    run = search_quality.block
    monkeypatch.setattr(search_quality, "block", lambda *args: ran.append(args[0].name) or run(*args))
    again = compare([planted], ["random", "zopo_fast"], PLAN, keep=tmp_path)
    assert ran == ["zopo_fast"]
    for board, by_landscape in first.items():
        for name, outcome in by_landscape["planted"].items():
            np.testing.assert_array_equal(outcome.curves, again[board]["planted"][name].curves)
            np.testing.assert_array_equal(outcome.calls, again[board]["planted"][name].calls)
    other = Landscape("planted", planted.Z, 1.0 - planted.scores)
    compare([other], ["random"], PLAN, keep=tmp_path)
    compare([planted], ["random"], Plan(seeds=2, budget=BUDGET, initial=INITIAL + 1), keep=tmp_path)
    assert ran == ["zopo_fast", "random", "random"]  # other scores or settings make other blocks
