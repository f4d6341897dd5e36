"""Shared set-up: Hypothesis profiles, Ctrl-C, the devices of this machine, a seeded generator."""

from __future__ import annotations

import gc
import signal

import numpy as np
import pytest
from emulation_tools import EMULATED
from tracing_tools import spans  # noqa: F401 (a fixture)

from zopo_fast import _core

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # not needed on a machine with a GPU: bench/gpu.sh runs the tests that do without
    pass
else:
    # The same examples in every run; --hypothesis-profile=few where each takes long (sanitizers). Slow
    # generation says that the machine is busy.
    settings.register_profile(
        "usual",
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile("few", settings.get_profile("usual"), max_examples=12)
    # The long form of the hostile input: other examples in every run, until one fails.
    settings.register_profile("long", settings.get_profile("usual"), derandomize=False, max_examples=2000)
    settings.load_profile("usual")


# A shell that starts the tests in the background makes them ignore Ctrl-C, and with them every process that
# they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exempt loaded modules from garbage collection: many tests collect, to notice what they left open."""
    gc.collect()
    gc.freeze()


# ---- devices -------------------------------------------------------------------------------------------

HAS_CUDA = _core.cuda_device_count() > 0


def pytest_configure(config: pytest.Config) -> None:
    # Registered here, because bench/gpu.sh runs without pyproject.toml.
    config.addinivalue_line("markers", "cuda: needs a CUDA device, or its emulation on the host")
    config.addinivalue_line("markers", "emulated: sets the properties of emulated CUDA devices")
    config.addinivalue_line("markers", "devices: looks for CUDA devices, whether there are any or not")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose device is missing here; skip one of them, with their number as the reason."""
    absent = [name for name, here in (("cuda", HAS_CUDA), ("emulated", EMULATED)) if not here]
    missing = [item for item in items if any(item.get_closest_marker(name) for name in absent)]
    if not missing:
        return
    device = "an emulated CUDA device" if HAS_CUDA else "a CUDA device"
    reason = f"{len(missing)} tests need {device}: {_core.cuda_status()}"
    missing[0].add_marker(pytest.mark.skip(reason=reason))
    deselected = set(missing[1:])
    config.hook.pytest_deselected(items=missing[1:])
    items[:] = [item for item in items if item not in deselected]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)], scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Name of a device: a test runs once on each that this machine has.

    "cuda" is a GPU, or its emulation on the host in a build with ZOPO_CUDA=EMULATE (make emulate).
    """
    name: str = request.param
    return name


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(20240305)
