"""Emulator of CUDA on the host (tests/native/emulation): it finds errors of kernels, and computes right.

Each case is a run of tests/native/emulation/checks.cpp, compiled with the emulator and without the package.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "native" / "emulation"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
FLAGS = [
    "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DZOPO_EMULATE",
    f"-I{ROOT / 'csrc'}", f"-I{FOLDER}",
]  # fmt: skip
ORDERS = ["forward", "reverse", "1", "2", "3"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a check by name, with numbers as input and settings of the emulator."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here: set CXX, or put c++ on PATH")
    program = tmp_path_factory.mktemp("emulation") / "checks"
    sources = sorted(map(str, FOLDER.glob("*.cpp")))
    command = [*shlex.split(COMPILER), *FLAGS, *sources, "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert built.returncode == 0, built.stderr

    def call(check: str, numbers: Any = (), **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), check],
            input=" ".join(map(repr, np.ravel(numbers).tolist())),
            env=os.environ | {"ZOPO_EMULATE_ORDER": "forward", **settings},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return call


def numbers(done: subprocess.CompletedProcess[str], dtype: Any = np.float64) -> np.ndarray:
    assert done.returncode == 0, (done.returncode, done.stderr)
    return np.array(done.stdout.split(), dtype=dtype)


def failed(done: subprocess.CompletedProcess[str], because: str) -> None:
    assert done.returncode == -signal.SIGABRT, (done.returncode, done.stdout)
    assert because in done.stderr


# ---- barriers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_shows_in_another_order(run: Run, order: str) -> None:
    expected = np.maximum(np.arange(64) - 1, 0)
    with_barrier = numbers(run("shift with a barrier", ZOPO_EMULATE_ORDER=order))
    without = numbers(run("shift without a barrier", ZOPO_EMULATE_ORDER=order))
    np.testing.assert_array_equal(with_barrier, expected)
    assert np.array_equal(without, expected) == (order == "forward")
    if order == "reverse":
        assert np.isnan(without[1:]).all()  # shared memory starts as NaN, not as zero


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_count_threads(run: Run, order: str) -> None:
    # 32 of 64 threads are even, one is the fifth, not all are below 40.
    np.testing.assert_array_equal(numbers(run("barrier counts", ZOPO_EMULATE_ORDER=order)), 132)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_block_sums_reach_every_thread(run: Run, order: str, threads: int) -> None:
    values = np.random.default_rng(threads).integers(-50, 50, threads)
    found = numbers(run("block sums", values, ZOPO_EMULATE_ORDER=order))
    np.testing.assert_array_equal(found, np.full(threads, 2001 * values.sum()))


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_meet_in_a_cooperative_launch(run: Run, order: str) -> None:
    np.testing.assert_array_equal(numbers(run("grid barrier", ZOPO_EMULATE_ORDER=order)), np.full(128, 10))


@pytest.mark.parametrize("check", ["deadlock", "grid barrier without a cooperative launch"])
def test_a_barrier_that_some_threads_miss_ends_the_process(run: Run, check: str) -> None:
    failed(run(check), "deadlock: threads wait for a barrier or a warp that not all of them reach")


# ---- memory ------------------------------------------------------------------------------------------


def test_writes_outside_device_memory_are_reported(run: Run) -> None:
    np.testing.assert_array_equal(numbers(run("write inside")), np.eye(100)[99])
    failed(run("write beyond the end"), "a write beyond the end of 400 bytes")
    failed(run("write before the start"), "a write before the start of 400 bytes")
    assert run("write beyond the page").returncode == -signal.SIGSEGV


def test_shared_memory_ends_at_the_size_of_the_launch(run: Run) -> None:
    assert run("shared memory").returncode == 0
    assert run("shared memory beyond the end").returncode == -signal.SIGSEGV
    beyond = run("shared memory beyond the limit")
    assert beyond.stdout, "227 KiB are allowed"
    assert (beyond.returncode, beyond.stderr) == (3, "cudaFuncSetAttribute: invalid argument\n")


@pytest.mark.parametrize("check", ["host reads", "host writes"])
def test_host_code_cannot_touch_device_memory(run: Run, check: str) -> None:
    done = run(check)
    assert done.returncode == -signal.SIGSEGV
    assert not done.stdout


def test_memory_is_limited_and_not_zeroed(run: Run) -> None:
    assert np.isnan(numbers(run("unwritten"))).all()
    assert run("exhausted").returncode == 0
    full = run("exhausted", ZOPO_EMULATE_MEMORY="7999")
    assert (full.returncode, full.stderr) == (3, "cudaMalloc: out of memory\n")
    failed(run("freed twice"), "freeing what was not allocated")


# ---- streams -----------------------------------------------------------------------------------------


def test_a_result_arrives_when_the_host_waits(run: Run) -> None:
    np.testing.assert_array_equal(numbers(run("lazy")), [7, 42])


def test_page_locked_memory_is_read_in_stream_order(run: Run) -> None:
    np.testing.assert_array_equal(numbers(run("copies")), [1, 20])


# ---- warps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles(run: Run, order: str) -> None:
    x = np.random.default_rng(1).integers(-100, 100, 32).astype(float)
    found = numbers(run("shuffles", x, ZOPO_EMULATE_ORDER=order)).reshape(32, -1).T
    lane = np.arange(32)
    within = lane % 16
    expected = [
        np.full(32, x[5]),
        x[(lane * 7 + 3) % 32],
        x[lane // 8 * 8 + (lane + 1) % 8],
        x[lane ^ 1],
        x[lane ^ 16],
        x[lane ^ 3],
        x[np.minimum(lane + 1, 31)],
        x[np.where(within + 5 < 16, lane + 5, lane)],
        x[np.maximum(lane - 1, 0)],
        x[np.where(within >= 5, lane - 5, lane)],
        np.full(32, sum(1 << i for i in range(32) if x[i] > 0)),
        np.full(32, 1),
        np.full(32, 1),
        np.full(32, x.sum()),
    ]
    np.testing.assert_array_equal(found, expected)


# Matrix fragments of each lane (PTX ISA, "Matrix fragments for mma.m16n8k8"): group and thread are lane / 4
# and lane % 4.
GROUP, THREAD = np.divmod(np.arange(32), 4)
A_PLACES = [(GROUP, THREAD), (GROUP + 8, THREAD), (GROUP, THREAD + 4), (GROUP + 8, THREAD + 4)]
B_PLACES = [(THREAD, GROUP), (THREAD + 4, GROUP)]
C_PLACES = [
    (GROUP, 2 * THREAD),
    (GROUP, 2 * THREAD + 1),
    (GROUP + 8, 2 * THREAD),
    (GROUP + 8, 2 * THREAD + 1),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("check", ["mma_f64", "mma_tf32"])
def test_matrix_instructions(run: Run, check: str, order: str) -> None:
    rng = np.random.default_rng(2)
    A, B, C = rng.integers(-99, 99, (16, 8)), rng.integers(-99, 99, (8, 8)), rng.integers(-99, 99, (16, 8))
    lanes = [matrix[at] for matrix, places in ((A, A_PLACES), (B, B_PLACES), (C, C_PLACES)) for at in places]
    found = numbers(run(check, np.stack(lanes, axis=1), ZOPO_EMULATE_ORDER=order)).reshape(32, 4)
    expected = C.astype(float)
    for i in range(16):
        for j in range(8):
            for k in range(8):
                expected[i, j] += A[i, k] * B[k, j]
    result = np.full((16, 8), np.nan)
    for column, at in enumerate(C_PLACES):
        result[at] = found[:, column]
    np.testing.assert_array_equal(result, expected)


# ---- conversions -------------------------------------------------------------------------------------


def test_every_half_converts_to_float_and_back(run: Run) -> None:
    found = numbers(run("half to float"), np.uint32).reshape(-1, 2)
    halves = np.arange(65536, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(found[number, 0], expected.view(np.uint32)[number])
    np.testing.assert_array_equal(found[number, 1], halves[number])
    assert np.isnan(found[:, 0].copy().view(np.float32)[~number]).all()
    assert np.isnan(found[:, 1].astype(np.uint16).view(np.float16)[~number]).all()


def test_floats_are_rounded_to_half_precision_like_in_numpy(run: Run) -> None:
    rng = np.random.default_rng(3)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2  # ties
    above, below = np.nextafter(between, np.float32(np.inf)), np.nextafter(between, np.float32(0))
    scaled = (rng.normal(size=20000) * 10.0 ** rng.uniform(-9, 5, 20000)).astype(np.float32)
    edges = np.array([0.0, -0.0, 65504, 65519.996, 65520, 1e30, np.inf, 2**-25, 2**-26], np.float32)
    x = np.concatenate([between, above, below, scaled, edges, -edges])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(numbers(run("float to half", x), np.uint32), expected)


def test_floats_are_rounded_to_tf32_ties_away_from_zero(run: Run) -> None:
    rng = np.random.default_rng(4)
    x = (rng.normal(size=5000) * 10.0 ** rng.uniform(-20, 20, 5000)).astype(np.float32)
    kept = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    ties = (kept.view(np.uint32) | np.uint32(0x1000)).view(np.float32)
    for values in (x, kept, ties):
        fraction, exponent = np.frexp(values.astype(np.float64))
        units = np.abs(fraction) * 2**11  # ten bits of the fraction and the implicit one
        expected = np.ldexp(np.sign(fraction) * np.floor(units + 0.5), exponent - 11)
        found = numbers(run("tf32", values), np.uint32).view(np.float32)
        np.testing.assert_array_equal(found, expected)


# ---- asynchronous copies -----------------------------------------------------------------------------


def test_asynchronous_copies_arrive_at_the_wait(run: Run) -> None:
    before, first, all_of_them = numbers(run("asynchronous copies")).reshape(3, 12)
    np.testing.assert_array_equal(before, np.full(12, -1))
    np.testing.assert_array_equal(first, [1, 2, 3, 4, *[-1] * 8])
    np.testing.assert_array_equal(all_of_them, [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0])
    failed(run("unaligned copy"), "an asynchronous copy of 16 bytes that is not aligned to them")
