"""Harness, runner and command of the benchmarks."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Bench
from click.testing import CliRunner

from zopo_fast.bench.common import harness, machine, runner
from zopo_fast.bench.common.harness import Result, Row, Settings, Timing
from zopo_fast.cli.commands.bench import default_folder
from zopo_fast.cli.group import cli
from zopo_fast.errors import ConfigError, OutputError

QUICK = Settings(quick=True, seconds=0.01)


# ---- timing ------------------------------------------------------------------------------------------


def test_cases_run_in_turn_and_their_order_rotates() -> None:
    calls: list[str] = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = harness.interleave(cases, seconds=100.0, least=3, most=3)
    assert calls[:3] == ["a", "b", "c"]  # warm-up
    assert calls[3:] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {len(t.samples) for t in timings.values()} == {3}


def test_a_slow_case_gets_its_minimum_and_takes_no_samples_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]

    def tick(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    cases = {"quick": lambda: tick(0.01), "slow": lambda: tick(10.0)}
    timings = harness.interleave(cases, seconds=2.0, least=3)
    assert len(timings["slow"].samples) == 3
    assert len(timings["quick"].samples) in (100, 101)
    assert timings["slow"].median == pytest.approx(10.0)


def test_no_garbage_is_collected_during_a_call() -> None:
    seen: list[bool] = []
    assert gc.isenabled()
    harness.interleave({"case": lambda: seen.append(gc.isenabled())}, 0.001, least=2, most=2)
    assert seen[1:] == [False, False]
    assert gc.isenabled()

    def fails() -> None:
        if not gc.isenabled():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        harness.interleave({"case": fails}, 0.001)
    assert gc.isenabled()


def test_the_ratio_is_the_median_of_the_peer_over_ours() -> None:
    timings = {"zopo_fast": Timing((1.0, 2.0, 9.0)), "peer": Timing((8.0,))}
    mine, peer = harness.rows("work", timings, gflops=3.0)
    assert (mine.median, mine.p99, mine.ratio, mine.extra) == (2.0, 9.0, 1.0, {"gflops": 3.0})
    assert (peer.ratio, peer.extra) == (4.0, {})
    timing = Timing(tuple(map(float, range(200))))
    assert (timing.p90, timing.p99, timing.worst, timing.mean) == (180.0, 198.0, 199.0, 99.5)
    assert timing.tail() == {"mean_us": 99.5e6, "p90_us": 180e6, "worst_us": 199e6}


def test_a_missing_module_is_named_with_its_package() -> None:
    assert harness.absent("json", "numpy") is None
    reason = harness.absent("numpy", "no_such_module_here")
    assert reason == "no_such_module_here not installed; pip install zopo-fast[bench]"


# ---- the runner --------------------------------------------------------------------------------------


def answer(settings: Settings) -> Result:
    rows = [
        Row("work", "zopo_fast", 1e-5, 2e-5, 10, 1.0, {"gb_s": np.float32(2.5), "n": np.int64(3)}),
        Row("work", "peer", 0.123, 0.2, 5, 12300.0),
    ]
    skipped = {"other": "ImportError: no libx.so in /home/someone/venv/lib/x.py"}
    return Result("Why?", rows, skipped, {"seed": settings.seed})


def broken(_: Settings) -> Result:
    raise ZeroDivisionError("on purpose")


def not_a_number(_: Settings) -> Result:
    return Result("Why?", figures={"slope": float("nan")})


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the questions by four: two that answer and two that fail."""
    monkeypatch.setattr(machine, "ceilings", lambda quick=False: {"dgemm_gflops": 1.0})
    runs = {"ant": answer, "bad": broken, "nan": not_a_number, "zoo": answer}
    for name, run in runs.items():
        module = types.ModuleType(f"zopo_fast.bench.micro.{name}")
        module.QUESTION, module.run = "Why?", run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(runner, "names", lambda: sorted(runs))
    return sorted(runs)


def test_a_failing_question_is_reported_and_the_others_run(questions: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("earlier")
    (tmp_path / "nan.json").write_text("earlier")
    shown: list[str] = []
    assert runner.run([], QUICK, tmp_path, shown.append) == ["bad", "nan"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ant.json", "bad.json", "nan.json", "zoo.json"]
    assert (tmp_path / "bad.json").read_text() == (tmp_path / "nan.json").read_text() == "earlier"
    text = "\n".join(shown)
    assert "ZeroDivisionError: on purpose" in text
    assert "bad FAILED" in text


def test_a_result_file_holds_question_machine_and_rows(questions: list[str], tmp_path: Path) -> None:
    runner.run(["bench_ant"], Settings(quick=True, seed=7, seconds=0.5), tmp_path / "new" / "folder", str)
    text = (tmp_path / "new" / "folder" / "ant.json").read_text()
    kept = json.loads(text)
    assert list(kept) == ["question", "machine", "ceilings", "settings", "rows", "skipped", "figures"]
    assert kept["settings"] == {"quick": True, "seed": 7, "seconds": 0.5}
    assert kept["figures"] == {"seed": 7}
    assert set(kept["rows"][0]) == {"what", "who", "median", "p99", "samples", "ratio", "extra"}
    assert kept["rows"][0]["extra"] == {"gb_s": 2.5, "n": 3}
    assert kept["skipped"] == {"other": "ImportError: no libx.so in x.py"}
    assert "someone" not in text


def test_the_table_shows_units_ratios_and_skipped_peers() -> None:
    lines = runner.table(answer(QUICK)).splitlines()
    assert lines[0].split() == ["what", "who", "median", "p99", "ratio"]
    assert lines[1].split() == [
        "work",
        "zopo_fast",
        "10.0",
        "us",
        "20.0",
        "us",
        "1x",
        "gb_s",
        "2.5,",
        "n",
        "3",
    ]
    assert lines[2].split() == ["work", "peer", "123", "ms", "200", "ms", "12,300x"]
    assert lines[3].startswith("skipped other: ImportError")
    assert lines[4] == "seed: 0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.00 ns"), (3.2e-8, "32.0 ns"), (3.2e-6, "3.20 us"), (0.064, "64.0 ms"), (20.63, "20.6 s"),
     (660.0, "660 s"), (3300.0, "3300 s"), (0.9999e-3, "1000 us")],
)  # fmt: skip
def test_a_time_is_shown_with_a_unit(seconds: float, text: str) -> None:
    assert runner.duration(seconds) == text


def test_an_unknown_question_lists_the_known_ones(questions: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'owl'; there are ant, bad, nan, zoo"):
        runner.run(["ant", "owl"], QUICK, tmp_path)
    assert runner.chosen(["zoo", "bench_zoo", "ant"]) == ["zoo", "ant"]
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_refused_before_the_first_question(
    questions: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    shown: list[str] = []
    with pytest.raises(OutputError, match="cannot be written there: Not a directory"):
        runner.run([], QUICK, tmp_path / "file" / "out", shown.append)
    assert not shown


# ---- the command -------------------------------------------------------------------------------------


def test_the_exit_code_is_1_after_a_failure(questions: list[str], tmp_path: Path) -> None:
    def invoke(*args: str) -> Any:
        command = ["bench", *args, "--out", str(tmp_path)]
        return CliRunner().invoke(cli, command, standalone_mode=False)

    good = invoke("ant", "--seed", "5")
    assert good.return_value == 0
    assert json.loads((tmp_path / "ant.json").read_text())["settings"] == {
        "quick": False, "seed": 5, "seconds": 10.0
    }  # fmt: skip
    bad = invoke("bad", "ant")
    assert bad.return_value == 1
    assert "Failed: bad" in bad.output


def test_the_installed_command_lists_questions_and_refuses_unknown_ones(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    listed = bench.run("bench", "--list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == runner.names()
    assert "cannot be loaded" not in listed.out
    wrong = bench.run("bench", "nonsense")
    assert wrong.code == 2
    assert "no benchmark is named 'nonsense'; there are" in wrong.err
    assert "import_time, large_pool, pool" in wrong.err
    blocked = bench.run("bench", "pool", "--quick", "--out", "task.jsonl/out")
    assert blocked.code == 2
    assert "results cannot be written there" in blocked.err
    assert "Traceback" not in wrong.text + blocked.text


def test_results_of_a_quick_run_do_not_replace_full_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder(False) == default_folder(True) == Path("bench-results")
    (tmp_path / "bench" / "common").mkdir(parents=True)
    (tmp_path / "bench" / "common" / "runner.py").touch()
    (tmp_path / "pyproject.toml").touch()
    assert default_folder(False) == Path("bench/results")
    assert default_folder(True) == Path("bench/results/quick")


def test_peers_are_loaded_at_first_use() -> None:
    script = (
        "import sys, zopo_fast.cli.group\n"
        "assert not [m for m in sys.modules if m.startswith('zopo_fast.bench.')], 'cli loads bench'\n"
        "from zopo_fast.bench.common import runner\n"
        "for name in runner.names():\n"
        "    assert 'cannot be loaded' not in runner.question(name), runner.question(name)\n"
        "print([m for m in ('torch', 'sklearn', 'gpytorch', 'jax', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
