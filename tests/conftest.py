"""What several test files share: the device, golden networks, a seeded generator, a time limit."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from zopo_fast import _core

try:
    from hypothesis import settings
except ImportError:  # a machine with a GPU need not have it: bench/gpu.sh runs what does without
    pass
else:
    # The same examples in every run; --hypothesis-profile=few where each takes long (sanitizers).
    settings.register_profile("usual", derandomize=True, deadline=None, database=None, max_examples=60)
    settings.register_profile("few", settings.get_profile("usual"), max_examples=12)
    # The hostile input's long form: other examples in every run, until one is found that breaks something.
    settings.register_profile("long", settings.get_profile("usual"), derandomize=False, max_examples=2000)
    settings.load_profile("usual")


# A shell that starts the tests in the background has them ignore Ctrl-C, and with them every process they
# start: those that are to be interrupted would run on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["cpu", "cuda"], scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Every device; a test that takes it runs once on each that this machine has.

    "cuda" is a GPU, or its emulation on the host in a build with ZOPO_CUDA=EMULATE (make emulate).
    """
    name: str = request.param
    if name == "cuda" and _core.cuda_device_count() == 0:
        pytest.skip(f"no cuda here: {_core.cuda_status()}")
    return name


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240305)
