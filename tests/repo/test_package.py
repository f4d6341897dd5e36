"""The package as a whole: what an import loads and costs, its public names, the layers of its native code."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from time_tools import HANG

import zopo_fast as zf

PACKAGE = Path(zf.__file__).parent
HEAVY = {
    "torch", "aiohttp", "tiktoken", "tenacity", "click", "tqdm", "xllamacpp", "matplotlib", "asyncio",
    "opentelemetry",
}  # fmt: skip
ERRORS = [name for name, value in vars(zf).items() if isinstance(value, type)]
PUBLIC = sorted({*zf._LAZY, *ERRORS})


def output(script: str, *flags: str) -> str:
    """Run a script in a new interpreter with warnings as errors; return its stdout."""
    command = [sys.executable, *flags, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statements: str, *flags: str) -> set[str]:
    """List the modules that statements load."""
    before = f"import sys\nsys.path.append({str(PACKAGE.parent)!r})\nknown = set(sys.modules)\n"
    return set(output(f"{before}{statements}\nprint('\\n'.join(set(sys.modules) - known))", *flags).split())


def test_import_loads_nothing_heavy() -> None:
    modules = loaded_by("import zopo_fast")
    assert "zopo_fast" in modules
    assert not modules & HEAVY
    assert not any(name.startswith(("numpy", "zopo_fast._core")) for name in modules)


def test_import_loads_a_handful_of_modules() -> None:
    """Even typing and pathlib would take longer than the rest; each name loads its modules at first use.

    Without site (-S), whose hook for an editable install loads modules of its own.
    """
    ours = {"zopo_fast", "zopo_fast.errors", "zopo_fast._utils", "zopo_fast._utils.moved"}
    modules = loaded_by("import zopo_fast", "-S")
    assert ours <= modules
    assert {name for name in modules - ours if not name.startswith("importlib")} <= {"__future__", "warnings"}


def test_the_optimiser_needs_numpy_alone() -> None:
    modules = loaded_by(
        "import numpy as np, zopo_fast as zf\n"
        "opt = zf.Zopo(np.eye(9), zf.ZopoConfig(budget=6, initial=3))\n"
        "while not opt.done: opt.tell(i := opt.ask(), i)\n"
        "zf.Zopo.from_state(np.eye(9), opt.state_dict())"
    )
    assert "numpy" in modules
    assert not modules & (HEAVY - {"asyncio"})  # NumPy may load asyncio; this package's files may not


@pytest.mark.alone
def test_import_takes_a_fraction_of_the_time_of_numpy() -> None:
    """Times of new interpreters in turn: load makes both slower, and the best of each comparable."""
    clock = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    ours = theirs = float("inf")
    for _ in range(20):
        ours = min(ours, float(output(clock.format("zopo_fast"))))
        theirs = min(theirs, float(output(clock.format("numpy"))))
        if ours < 0.5 * theirs:
            return
    pytest.fail(f"importing zopo_fast takes {ours:.3f} s, and NumPy {theirs:.3f} s")


def test_every_public_name_says_that_it_is_of_the_package() -> None:
    """A later move of a class then breaks no pickle; a traceback shows the name that users know."""
    assert set(PUBLIC) <= set(dir(zf))
    for name in PUBLIC:
        value = getattr(zf, name)
        assert (value.__module__, value.__qualname__) == ("zopo_fast", name)
        assert pickle.loads(pickle.dumps(value)) is value


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = zf.nonsense
