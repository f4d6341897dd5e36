"""Posterior of a region within its process: the GIL during long calls, and failed allocations."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from region_tools import NUGGETS, problem
from time_tools import HANG

from zopo_fast import _core


@pytest.fixture
def no_switches() -> Iterator[None]:
    """Disable timed thread switches, so that a thread yields only where its code releases the GIL."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("no_switches")
def test_a_long_call_releases_the_gil() -> None:
    """The other thread can count only while the native call has released the GIL."""
    region = _core.RegionPosterior(problem(4096, 64), 3, 2.0, 0.1, True, 1.0, NUGGETS, 400)
    for c in range(250):
        region.append(c, float(np.sin(c)))
    scores, count, done = np.sin(np.arange(250.0)), [0], threading.Event()

    def work() -> None:
        while not done.is_set():
            count[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end = time.monotonic() + HANG
        while True:  # on a busy machine the thread may miss one call, but not all
            before = count[0]
            region.rescore(scores)
            if count[0] > before:
                break
            assert time.monotonic() < end, "no other thread ran during any call"
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space needs Linux")
def test_a_capacity_without_memory_is_an_error_and_the_process_continues() -> None:
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
