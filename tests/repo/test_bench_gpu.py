"""Benchmarks of the GPU on tiny inputs, without one: the tests check their code, not their figures.

With ZOPO_CUDA=EMULATE zopo_fast runs on the emulated device, else on the CPU; PyTorch runs on the CPU.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zopo_fast import _core

torch = pytest.importorskip("torch")

from zopo_fast.bench.common.harness import Result, Row, Settings, Timing  # noqa: E402
from zopo_fast.bench.gpu import (  # noqa: E402
    __main__ as gpu,
    small as gpu_small,
    timing as gpu_timing,
)

ROOT = Path(__file__).parents[2]
QUICK = Settings(quick=True, seconds=0.01)
EMULATED = _core.cuda_device_count() > 0
HOST = gpu_timing.Devices("cuda" if EMULATED else "cpu", "cpu")


@pytest.fixture(autouse=True)
def one_thread_and_short_bursts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorten the bursts: the tests measure nothing, and spinning threads would slow them down."""
    monkeypatch.setattr(gpu_timing, "BURST", 1e-3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the parts ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of features of its latest versions
@pytest.mark.parametrize("part", gpu.PARTS)
def test_a_part_runs_and_writes_its_result(part: str, tmp_path: Path) -> None:
    result = gpu.run(part, QUICK, tmp_path, device="host", commit="0123456789ab")
    kept = json.loads((tmp_path / f"gpu_{part}.json").read_text())
    assert kept["machine"]["commit"] == "0123456789ab"
    assert kept["machine"]["gpu"]["torch"] == torch.__version__
    assert all(math.isfinite(row["median"]) and row["median"] > 0 for row in kept["rows"])
    assert "zopo_fast" in {row.who for row in result.rows}
    # Only the lower precisions are skipped, which the CPU engine lacks.
    low = {who: why for who, why in result.skipped.items() if "float32" in who or "tf32x3" in who}
    assert result.skipped == ({} if HOST.ours == "cuda" or part != "gram" else low)
    reached = [k for values in kept["figures"].values() for k in values if k.endswith("_reached")]
    assert reached
    if part == "gram":
        for what, figures in result.figures.items():
            assert figures["max_relative_error"] < (1e-12 if "float64" in what else 1e-5)
        assert len(result.figures) == (6 if HOST.ours == "cuda" else 2)
    if part == "pool":
        assert all(figures["exact"] for figures in result.figures.values())
    if part == "step":
        crossovers = [values for what, values in result.figures.items() if "time on the CPU" in what]
        assert [len(values) for values in crossovers] == [2, 2, 2]


def test_the_ceilings_are_positive_rates() -> None:
    found = gpu_timing.ceilings(HOST, quick=True)
    assert set(found) == {
        "bandwidth_bytes", "copy_gb_s", "read_gb_s", "matmul_size",
        "float64_tflops", "float32_tflops", "tf32_tflops",
    }  # fmt: skip
    assert all(math.isfinite(value) and value > 0 for value in found.values())


def test_a_burst_waits_for_the_device_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pending = [0.0], [5.0]  # five seconds of other work are queued on the device

    def wait(_: object) -> None:
        clock[0] += pending[0]
        pending[0] = 0.0

    def enqueue() -> None:
        pending[0] += 0.5

    monkeypatch.setattr(gpu_timing.Devices, "wait", wait)
    monkeypatch.setattr(gpu_timing.time, "perf_counter", lambda: clock[0])
    assert gpu_timing._burst(enqueue, 4, HOST) == 0.5


def test_throughput_alternates_and_keeps_the_minimum() -> None:
    calls: list[str] = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    timings = gpu_timing.throughput(cases, HOST, 0.0, least=3)
    assert {name: len(t.samples) for name, t in timings.items()} == {"a": 3, "b": 3}
    assert gpu_timing.spread(Timing((1.0, 2.0, 3.0))) == 0.25


# ---- the step of PyTorch -----------------------------------------------------------------------------


def test_the_step_of_pytorch_gives_the_posterior_and_the_new_row() -> None:
    import zopo_fast as zf
    from zopo_fast.bench.gpu import step as gpu_step
    from zopo_fast.bench.peers import torch_step

    n, d = 9, 5
    kernel, X, y, x, noise = gpu_step.problem(n, d, 0)
    step = torch_step.steps(kernel, X, y, noise, "cpu", compile_too=False)["PyTorch closed form, eager"]()
    out = step(torch.tensor(x[:1])).numpy()
    gp = zf.GaussianProcess(kernel, noise=noise)
    gp.append(X, y)
    p = gp.posterior(x[0])
    np.testing.assert_allclose(out[:3], [p.mean, p.variance, p.gradient_uncertainty], rtol=1e-9)
    np.testing.assert_allclose(out[3 : 3 + d], p.gradient, rtol=1e-9)
    every = np.vstack([X, x[:1]])
    C = np.linalg.cholesky(kernel.gram(every) + noise * np.eye(n + 1))
    np.testing.assert_allclose(out[3 + d : -1], C[-1], rtol=1e-9)
    np.testing.assert_allclose(out[-1], np.linalg.solve(C, np.append(y, 0.0))[-1], rtol=1e-8)


# ---- the report --------------------------------------------------------------------------------------


def kept(figures: dict[str, Any]) -> dict[str, Any]:
    row = Row("work", "zopo_fast", 1e-5, 2e-5, 10, 1.0)
    result = Result("Why?", [row], {}, figures)
    machine = {
        "cpu": "A CPU", "cores": 4, "commit": "abc",
        "gpu": {"name": "A GPU", "engine": "one", "driver": "5", "torch": "2"},
    }  # fmt: skip
    return gpu.runner.document(result, QUICK, machine, {"read_gb_s": 4000.0})


def test_the_report_lists_every_goal_and_missing_measurements(tmp_path: Path) -> None:
    figures = {
        "one": {"speed": 0.5, "speed_goal": 0.6, "speed_reached": False, "other": 3.0},
        "two": {"rate": 2e6, "rate_goal": 1e6, "rate_reached": True},
    }
    (tmp_path / "gpu_gram.json").write_text(json.dumps(kept(figures)))
    (tmp_path / "gpu_pool.json").write_text(json.dumps(kept({})))  # only a peer has a result
    text = gpu.report(tmp_path)
    assert "tiny inputs" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "A GPU, driver 5, torch 2, A CPU, 4 cores, commit abc"
    assert lines[-5:] == [
        "step - - not measured",
        "one: speed >= 0.6 0.5 not reached",
        "two: rate >= 1e+06 2e+06 reached",
        "pool - - not measured",
        "batch - - not measured",
    ]


def test_the_benchmarks_refuse_a_machine_without_a_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if EMULATED:
        pytest.skip("an emulated device is present")
    assert gpu.main(["gram", "--out", str(tmp_path)]) == 2
    assert _core.cuda_status() in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---- every operation once ----------------------------------------------------------------------------


def test_the_small_check_runs_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_small.main(HOST.ours) == 0
    assert capsys.readouterr().out.split() == [
        "gram:", "right", "process:", "right", "pool:", "right", "batch:", "right"
    ]  # fmt: skip


def test_a_wrong_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(device: str, rng: np.random.Generator) -> None:
        gpu_small.close(np.ones(3), np.array([1.0, 1.0, 1.0 + 1e-8]))

    monkeypatch.setattr(gpu_small, "CHECKS", {"wrong": wrong})
    assert gpu_small.main(HOST.ours) == 1
    assert "wrong: FAILED" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="off by nan"):
        gpu_small.close(np.array([np.nan]), np.ones(1))
    with pytest.raises(AssertionError, match="shape"):
        gpu_small.close(np.ones(2), np.ones(1))


# ---- the command -------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="with a GPU the whole script would run")
def test_the_command_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "bench" / "gpu.sh"), str(tmp_path / "out")],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("bench/gpu.sh: no GPU to measure: ")
    assert "CUDA driver" in done.stderr
    assert not list((tmp_path / "out").iterdir())
