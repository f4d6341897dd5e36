"""Description and ceilings of the machine, and the questions about more than one operation."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zopo_fast.bench.common import machine
from zopo_fast.bench.common.harness import Settings
from zopo_fast.bench.micro import driver as bench_driver, import_time as bench_import, pool as bench_pool

QUICK = Settings(quick=True, seconds=0.01)


# ---- the machine -------------------------------------------------------------------------------------


def test_the_machine_is_described_without_host_user_or_path() -> None:
    about = machine.describe()
    text = json.dumps(about)
    words = set(re.findall(r"[\w.-]+", text))
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words
    assert str(Path.home()) + "/" not in text
    assert not re.search(r"(?<!\w)/\w+/", text)
    assert about["versions"]["numpy"] == np.__version__
    assert about["cores"] >= 1
    assert about["isa"] in ("baseline", "avx2", "avx512", "neon")


def test_the_builder_of_the_kernel_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "release", lambda: "6.1.0-myhost")
    monkeypatch.setattr(machine.platform, "node", lambda: "myhost")
    assert "6.1.0" in machine.describe()["os"]
    assert "myhost" not in json.dumps(machine.describe())


def test_blas_is_named_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert "/" not in json.dumps(machine.blas())
    assert machine.dgemm_gflops(1, n=8, rounds=1) is None
    rate = machine.dgemm_gflops(None, n=64, rounds=3)
    assert rate is not None
    assert rate > 0


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_sources_and_marks_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    clean = machine.commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (results / "pool.json").write_text("{}")  # results of a run do not count as changes
    assert machine.commit() == clean
    (tmp_path / "code.py").write_text("2")
    assert machine.commit() == clean + "-dirty"
    installed = tmp_path / "venv" / "lib" / "bench"  # inside the checkout of another project
    installed.mkdir(parents=True)
    monkeypatch.setattr(machine, "ROOT", installed)
    assert machine.commit() is None


def test_a_copy_counts_bytes_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_median_seconds", lambda call, rounds: 1.0)
    size = 1 << 20
    assert machine.bandwidth(size) == (size / 1e9, size / 1e9)


def test_the_ceilings_are_measured_on_more_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = np.arange(1001, dtype=np.float32), np.zeros(1001, np.float32)
    machine._copy(source, target)
    np.testing.assert_array_equal(source, target)

    measured: list[int] = []

    def bandwidth(size: int, rounds: int) -> tuple[float, float]:
        measured.append(size)
        return 3.0, 5.0

    monkeypatch.setattr(machine, "bandwidth", bandwidth)
    monkeypatch.setattr(machine, "dgemm_gflops", lambda threads, rounds: 7.0)
    monkeypatch.setattr(machine, "cache_bytes", lambda level: 200 << 20)
    found = machine.ceilings.__wrapped__(True)
    assert measured == [800 << 20]  # four times the L3 cache
    assert found["bandwidth_gb_s"] == 5.0
    assert found["dgemm_gflops_1"] == 7.0


# ---- questions ---------------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without peers, on a small pool, with known ceilings."""
    monkeypatch.setattr(bench_pool, "absent", lambda *modules: f"{modules[0]} not installed")
    monkeypatch.setattr(bench_pool, "QUICK_SIZES", (60,))
    monkeypatch.setattr(machine, "ceilings", lambda quick=False: {"bandwidth_gb_s": 10.0})


@pytest.mark.usefixtures("alone")
def test_the_scan_of_a_pool_is_checked_and_compared_with_numpy() -> None:
    result = bench_pool.run(QUICK)
    assert {row.who for row in result.rows} == {"zopo_fast", "NumPy float32"}
    assert {row.extra["same_as_float64"] for row in result.rows} == {"16 of 16"}
    mine = result.rows[0]
    assert mine.extra["gb_s"] == pytest.approx(60 * 384 * 2 / mine.median / 1e9)
    assert mine.extra["of_bandwidth"] == pytest.approx(mine.extra["gb_s"] / 10.0)
    assert result.skipped["torch matmul"] == "torch not installed"


@pytest.mark.usefixtures("alone")
def test_a_wrong_scan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_pool, "ours", lambda inputs: lambda x, k: np.zeros(k, np.int64))
    with pytest.raises(RuntimeError, match=r"scan is wrong in \d+ of 16 queries"):
        bench_pool.run(QUICK)


def test_the_scan_skips_scored_candidates() -> None:
    inputs = bench_pool.Inputs.random(60, 0)
    assert len(inputs.taken) == 20
    for find in (bench_pool.ours(inputs), bench_pool.numpy_find(inputs)):
        everything = find(inputs.queries[0], 40)
        assert sorted(everything) == sorted(set(range(60)) - set(inputs.taken))


def test_a_child_reports_time_memory_and_loaded_modules() -> None:
    seconds, peak, heavy = bench_import.child("import time; time.sleep(0.05)")
    assert seconds >= 0.05
    assert 2e6 < peak < 100e6
    assert heavy == []
    assert bench_import.child("import aiohttp")[2] == ["aiohttp"]


def test_the_import_stays_within_its_goal_of_memory() -> None:
    assert bench_import.child("import zopo_fast")[1] <= bench_import.GOAL_BYTES


def test_a_run_on_the_stub_fills_its_slots_and_is_compared() -> None:
    plan = bench_driver.Plan(budget=12, latency=0.02, repeats=1, sample=2, examples=5, slots=8)
    assert plan.ideal == pytest.approx(12 * 5 * 0.02 / 8)
    ran = bench_driver.optimise(plan, plan.budget, seed=0)
    assert (ran.calls, ran.most, len(ran.scores)) == (60, 8, 12)
    assert ran.wall >= plan.ideal
    assert bench_driver.optimise(plan, 2, seed=0, prompts_in_flight=1).most == 5
    assert bench_driver.optimiser_seconds(plan, ran.scores, seed=0) > 0


def test_the_rows_of_the_driver_mark_computed_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench_driver.Plan(budget=4, latency=0.01, repeats=1, sample=2, examples=2, slots=4)
    monkeypatch.setattr(bench_driver, "QUICK", plan)
    result = bench_driver.run(QUICK)
    mine, single, sequential = result.rows
    assert mine.ratio == 1.0
    assert single.extra == {"extrapolated_from_prompts": 2}
    assert single.median >= 4 * 0.01  # extrapolated from two prompts to four
    assert sequential.extra == {"computed": True}
    assert sequential.median == pytest.approx(4 * 2 * 0.01)
    assert result.figures["over_ideal"] == pytest.approx(mine.median / 0.02)
