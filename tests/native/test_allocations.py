"""Allocations of the native code during a step, counted in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Replaces operator new of the process; the extension calls it through the dynamic linker.
COUNTER = """
#include <cstdlib>
#include <new>
static long count = 0;
extern "C" long allocations() { return count; }
static void* counted(std::size_t n) { ++count; return std::malloc(n ? n : 1); }
static void* counted(std::size_t n, std::size_t line) {
  ++count;
  return std::aligned_alloc(line, (n + line - 1) / line * line);
}
void* operator new(std::size_t n) { return counted(n); }
void* operator new[](std::size_t n) { return counted(n); }
void* operator new(std::size_t n, std::align_val_t a) { return counted(n, (std::size_t)a); }
void* operator new[](std::size_t n, std::align_val_t a) { return counted(n, (std::size_t)a); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
"""

RUN = """
import ctypes, sys
import numpy as np
import zopo_fast as zf
count = ctypes.CDLL(None).allocations
count.restype = ctypes.c_long
Z = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float16)
opt = zf.Zopo(Z, zf.ZopoConfig(budget=120, initial=40, exploration=0, search=sys.argv[1]))
def step(score):
    i = opt.ask()
    opt.tell(i, score)
for k in range(60):
    step(k / 100)  # each score is the best so far, so each step has a new center
before = count()
for k in range(20):
    step(k / 100)  # the center stays
stays = count() - before
before = count()
for k in range(20):
    step(1 + k / 100)
moves = count() - before
before = count()
np.linalg.norm(zf.NTK.random(384).gram(Z[:9].astype(float)))
print(stays, moves, count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts by LD_PRELOAD")
@pytest.mark.parametrize("search", ["improvement", "gradient"])
def test_a_warm_step_allocates_nothing(tmp_path: Path, search: str) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the counter with")
    if "asan" in os.environ.get("LD_PRELOAD", "") or "tsan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitizer counts for itself")
    source, library = tmp_path / "counter.cpp", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, search], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    stays, moves, elsewhere = map(int, done.stdout.split())
    assert elsewhere > 0  # the counter works
    assert (stays, moves) == (0, 0)
