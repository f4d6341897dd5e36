"""Questions about the steps of a search: figures of runs, many searches at once, memory, and the plot."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.bench.common import machine
from zopo_fast.bench.common.harness import Result, Settings
from zopo_fast.bench.micro import (
    batch as bench_batch,
    memory as bench_memory,
    scaling as bench_scaling,
    step as bench_step,
)

QUICK = Settings(quick=True, seconds=0.01)


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(machine, "ceilings", lambda quick=False: {"bandwidth_gb_s": 10.0})
    before = zf.get_num_threads()
    yield
    assert zf.get_num_threads() == before, "a question changed the number of threads"


def rows_of(result: Result) -> dict[tuple[str, str], Any]:
    return {(row.what, row.who): row for row in result.rows}


# ---- step --------------------------------------------------------------------------------------------


def test_a_disturbance_of_one_run_is_told_from_a_slow_step() -> None:
    runs = [[1e-6] * 10 for _ in range(3)]
    for samples in runs:
        samples[3] = 5e-6  # the search is slow at n = 43 in every run
    runs[1][7] = 1.0  # other work at n = 47 in one
    found = bench_step.run_figures(runs)
    assert found["median_us"] == pytest.approx(1.0)
    assert found["worst_us"] == pytest.approx(1e6)
    assert found["worst_of_a_run_us"] == pytest.approx(5.0)
    assert found["worst_of_each_run_at_n"] == [43, 47, 43]
    assert next(iter(found["slowest_us_at_n"].items())) == ("n = 43", pytest.approx(5.0))
    assert "n = 47" not in found["slowest_us_at_n"] or found["slowest_us_at_n"]["n = 47"] < 2.0


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_step.peers, "load", lambda names, skipped: {})
    monkeypatch.setattr(bench_step, "REST", 0.0)


@pytest.mark.usefixtures("no_peers")
def test_the_steps_of_a_run_are_compared_and_judged_by_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    goals = {500: {"median_us": 0.0, "p99_us": 1e9}}
    monkeypatch.setattr(bench_step, "GOALS", goals | {2000: bench_step.GOALS[2000]})
    result = bench_step.run(QUICK)
    rows = rows_of(result)
    assert set(rows) == {
        (f"step, m = {m}", who) for m in ("500", "2,000") for who in ("zopo_fast", "zopo_fast, gradient")
    }
    mine = rows["step, m = 500", "zopo_fast"]
    assert mine.samples == 125
    assert mine.median <= 1e-6 * mine.extra["p90_us"] <= mine.p99 <= 1e-6 * mine.extra["worst_us"]
    figures = result.figures["step, m = 500"]
    assert figures["goals"] == {
        "median_us": {"goal": 0.0, "reached": False}, "p99_us": {"goal": 1e9, "reached": True}
    }  # fmt: skip
    assert set(result.figures["step, m = 2,000"]["goals"]) == set(bench_step.GOALS[2000])


def test_a_run_times_all_steps_after_the_initial_ones() -> None:
    Z, scores, _ = bench_step.problem(60, 0)
    assert len(bench_step.our_run(Z, scores, zf.ZopoConfig(budget=47))) == 7


# ---- batch -------------------------------------------------------------------------------------------

TINY = bench_batch.Plan(searches=3, rounds=2, objects=2, measured=1, budget=44)


def test_a_batch_is_compared_with_separate_objects_and_other_searches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_batch, "QUICK", TINY)
    measured = {"kb_at_165": 3.0}
    monkeypatch.setattr(bench_memory, "of_search", lambda case, count, budget: measured)
    result = bench_batch.run(QUICK)
    assert result.skipped == {}
    rows = rows_of(result)
    names = ("zopo_fast", "zopo_fast, thompson", "zopo_fast, gradient")
    what = "step of one of 3 searches, m = 500, d = 384, n from 40 to 44"
    assert {who for text, who in rows if text == what} == {
        *names, *(f"{who}, 1 thread" for who in names), "zopo_fast, separate Zopo"
    }  # fmt: skip
    # Beside each of three others and in both rounds, a half of the four steps on each number of threads.
    assert rows[what, "zopo_fast"].samples == rows[what, "zopo_fast, 1 thread"].samples == 3 * 2 * 2
    assert rows[what, "zopo_fast, separate Zopo"].samples == 2 * 4
    assert rows[what, "zopo_fast"].extra["steps_a_second"] == pytest.approx(
        1e6 / rows[what, "zopo_fast"].extra["mean_us"]
    )
    assert result.figures["memory of a search, improvement"] == measured
    turns = next(row for (text, who), row in rows.items() if "Zopo in turn" in text and who == "zopo_fast")
    assert turns.samples == 2 * 2 * 4


def test_every_search_of_a_batch_is_told_its_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, scores = bench_batch.problems(2, 0)
    told: list[tuple[list[int], list[float]]] = []

    class Batch:
        def __init__(self, pools: Any, configs: Any) -> None:
            self.asked = 0

        def ask(self) -> Any:
            return np.array([7, 11])

        def tell(self, indices: Any, values: Any) -> None:
            told.append((indices.tolist(), values.tolist()))

    monkeypatch.setattr(zf, "ZopoBatch", Batch)
    assert bench_batch._together(pools, scores, [])() > 0
    assert told == [([7, 11], [scores[0, 7], scores[1, 11]])]


def test_searches_in_turn_and_one_after_another_do_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []

    class Recorded(zf.Zopo):
        def ask(self, n: Any = None) -> Any:
            order.append(self.config.seed)
            return super().ask(n)

    monkeypatch.setattr(zf, "Zopo", Recorded)
    plan = bench_batch.Plan(searches=1, rounds=1, objects=2, measured=1, budget=3, initial=2)
    assert bench_batch.pairs(plan, 0, in_turn=True).shape == (2, 3)
    assert order == [0, 1, 0, 1, 0, 1]
    order.clear()
    assert bench_batch.pairs(plan, 0, in_turn=False).shape == (2, 3)
    assert order == [0, 0, 0, 1, 1, 1]


# ---- memory ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_the_memory_of_a_search_grows_with_its_scores_and_not_with_its_pool() -> None:
    found = bench_memory.of_search("improvement", 8, budget=60)
    assert list(found) == ["constructed_kb", "kb_at_41", "kb_at_60", "peak_kb"]
    # The coordinates of 500 candidates and the kernel rows of 41 scores, in single precision.
    assert found["kb_at_60"] >= 500 * 384 * 4 / 1e3
    assert found["peak_kb"] >= found["kb_at_60"]
    assert found["kb_at_60"] < 10_000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_memory_is_read_without_what_was_freed() -> None:
    before = bench_memory.resident()
    held = [bytes(1000) for _ in range(20_000)]
    assert bench_memory.resident() - before >= 20e6
    last = held.pop()  # the allocator returns memory below a live block only when asked
    held.clear()
    assert bench_memory.resident() - before < 5e6
    assert len(last) == 1000


def test_a_search_that_fails_is_named_by_its_error() -> None:
    with pytest.raises(RuntimeError, match=r"ConfigError: .*search"):
        bench_memory.of_search("nonsense", 1)


# ---- scaling -----------------------------------------------------------------------------------------


@pytest.fixture
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_scaling, "POOL", 300)


@pytest.mark.usefixtures("small_pools")
def test_default_and_gradient_search_grow_and_are_drawn(tmp_path: Path) -> None:
    result = bench_scaling.run(QUICK)
    for series in bench_scaling.SERIES:
        for over in ("n", "m"):
            found, sizes, _ = bench_scaling._points(result.rows, over, series)
            assert sizes == ([64, 128, 256] if over == "n" else [500, 2000])
            assert {row.samples for row in found} == {6}
            for row in found:
                assert row.median <= 1e-6 * row.extra["p90_us"] <= row.p99 <= 1e-6 * row.extra["worst_us"]
            assert math.isfinite(result.figures[f"over {over}, {series}"]["exponent"])
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    bench_scaling.keep(result, tmp_path)
    assert (tmp_path / bench_scaling.PICTURE).stat().st_size > 10_000


def test_each_search_is_measured_up_to_its_own_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, tuple[int, ...]]] = []

    def growing(Z: Any, sizes: list[int], steps: int, series: str, seed: int) -> Any:
        seen.append((series, len(Z), tuple(sizes)))
        return ((n, [float(n)] * steps) for n in sizes)

    monkeypatch.setattr(bench_scaling, "_growing", growing)
    monkeypatch.setattr(bench_scaling, "_embeddings", lambda m, seed: range(m))
    result = bench_scaling.run(Settings(quick=False))
    assert max(sizes[-1] for series, _, sizes in seen if series == bench_scaling.DEFAULT) == 2048
    assert max(m for series, m, _ in seen if series == bench_scaling.DEFAULT) == 100_000
    assert max(m for series, m, _ in seen if series == bench_scaling.SAME_CENTER) == 1_000_000
    assert {row.samples for row in result.rows} == {bench_scaling.STEPS * bench_scaling.REPEATS}
