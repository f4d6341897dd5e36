"""What importing costs and loads, and which module may know which."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import zopo_fast as zf

PACKAGE = Path(zf.__file__).parent
HEAVY = ("torch", "aiohttp", "tiktoken", "click", "tqdm", "xllamacpp", "matplotlib", "asyncio")


def loaded_after(statements: str) -> set[str]:
    script = f"import sys\n{statements}\nprint('\\n'.join(m.split('.')[0] for m in sys.modules))"
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    modules = loaded_after("import zopo_fast")
    assert "zopo_fast" in modules
    assert not modules & set(HEAVY)


def test_import_loads_a_handful_of_modules() -> None:
    """Even typing and pathlib would take longer than the rest; each name loads its own at first use."""
    script = "import sys; before = set(sys.modules); import zopo_fast; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    ours = {"zopo_fast", "zopo_fast.errors", "zopo_fast._utils", "zopo_fast._utils.moved"}
    modules = set(done.stdout.split())
    assert ours <= modules
    assert {name for name in modules - ours if not name.startswith("importlib")} <= {"__future__", "warnings"}


def test_the_optimiser_needs_numpy_alone() -> None:
    modules = loaded_after(
        "import numpy as np, zopo_fast as zf\n"
        "opt = zf.Zopo(np.eye(9), zf.ZopoConfig(budget=6, initial=3))\n"
        "while not opt.done: opt.tell(i := opt.ask(), i)\n"
        "zf.Zopo.from_state(np.eye(9), opt.state_dict())"
    )
    assert "numpy" in modules
    assert not modules & (set(HEAVY) - {"asyncio"})  # numpy may load asyncio; this package's files may not


@pytest.mark.alone
def test_import_is_quick() -> None:
    def best_of(statement: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, timeout=60)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best_of("import zopo_fast") - best_of("pass") < 0.05  # 5 ms on two free cores
    assert best_of("import zopo_fast as zf; zf.Zopo; zf.GaussianProcess; zf.NTK") < 1.0


def test_the_contract_s_names_exist() -> None:
    for name in ("NTK", "GaussianProcess", "Zopo", "ZopoConfig", "ZopoError", "NothingToAsk", "ArrayError"):
        assert name in dir(zf)
        assert getattr(zf, name).__module__ == "zopo_fast"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = zf.nonsense
