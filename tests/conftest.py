"""What several test files share: the device, golden networks, a seeded generator, a time limit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

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

GOLDEN = Path(__file__).parent / "golden"


# A shell that starts the tests in the background has them ignore Ctrl-C, and with them every process they
# start: those that are to be interrupted would run on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Golden(NamedTuple):
    """One golden file: its arrays by name, and its network."""

    data: dict[str, Any]
    weights: list[np.ndarray]
    biases: list[np.ndarray]


def load_golden(name: str) -> Golden:
    """Read tests/golden/NAME.npz; W0.., b0.. are collected into the network."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    layers = sum(key[0] == "W" for key in data)
    return Golden(data, [data[f"W{i}"] for i in range(layers)], [data[f"b{i}"] for i in range(layers)])


def golden_names(kind: str) -> list[str]:
    """Names of the golden files of a kind; never empty, so that no test is quietly left out."""
    names = sorted(path.stem for path in GOLDEN.glob(f"{kind}_*.npz"))
    assert names, f"no golden files {kind}_*.npz in {GOLDEN}"
    return names


def random_network(
    rng: np.random.Generator, dim: int, widths: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights ~ N(0, 2 / fan_in) and biases ~ N(0, 0.25), hidden layers of these widths."""
    sizes = [dim, *widths, 1]
    weights = [rng.normal(size=(o, i)) * np.sqrt(2.0 / i) for i, o in pairwise(sizes)]
    return weights, [0.5 * rng.normal(size=o) for o in sizes[1:]]


def assert_close(actual: Any, expected: Any, rtol: float, scale: float | None = None) -> None:
    """Shapes agree, and the largest difference is at most rtol of the largest expected entry (or scale)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    if expected.size == 0:
        return
    unit = np.abs(expected).max() if scale is None else scale
    worst = np.abs(actual - expected).max()
    assert worst <= rtol * unit, f"off by {worst:.3g}, {worst / (unit or 1):.3g} of {unit:.3g}"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail instead of hanging: for loops in Python that might never end."""

    def expired(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Kernels run thread by thread on the host (tests/emulation): long tests are shortened, and only there.
EMULATED = "emulated" in _core.cuda_status()


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
