"""A region's posterior and the process it is in: other threads, and memory that is not there."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from region_tools import NUGGETS, problem

from zopo_fast import _core


@pytest.mark.alone
def test_the_interpreter_is_free_while_it_computes() -> None:
    """Another thread runs on during a long call."""
    m = 4096
    region = _core.RegionPosterior(problem(m, 64), 3, 2.0, 0.1, True, 1.0, NUGGETS, 400)
    ticks, done = [], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        for c in range(250):
            region.append(c, float(np.sin(c)))
        start = time.perf_counter()
        region.rescore(np.sin(np.arange(250.0)))
        region.truncate(249)
        end = time.perf_counter()
    finally:
        done.set()
        thread.join()
    inside = sum(start < t < end for t in ticks)
    assert inside >= 1 or end - start < 0.002


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_without_memory_for_it_nothing_is_made() -> None:
    code = """
import resource, numpy as np
from zopo_fast import _core
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for capacity in (10**7, 2**40, 2**62):
    try:
        _core.RegionPosterior.of_gram(np.eye(64), np.ones(2), capacity)
    except (MemoryError, ValueError) as error:
        print(type(error).__name__)
region = _core.RegionPosterior.of_gram(np.eye(64), np.ones(2))
region.append(0, 1.0)
print(len(region))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split()[-1] == "1"
    assert len(done.stdout.split()) == 4
