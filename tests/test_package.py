"""What importing costs and loads, and which module may know which."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zopo_fast as zf

PACKAGE = Path(zf.__file__).parent
HEAVY = ("torch", "aiohttp", "tiktoken", "tenacity", "click", "tqdm", "xllamacpp", "matplotlib", "asyncio")
CORE = [
    "optimizer", "official", "local_search", "surrogate", "observations", "strategy", "config", "kernel",
    "gp", "infinite", "reference",
]  # fmt: skip
FORBIDDEN = {"asyncio", "aiohttp", "tenacity", "click", "torch", "tiktoken"}
UPPER = {"llm", "store", "run", "cli", "evaluate", "task", "generate", "embed", "endpoint", "retry", "local"}


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
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, timeout=60)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best_of("import zopo_fast") < 1.0
    assert best_of("import zopo_fast as zf; zf.Zopo; zf.GaussianProcess; zf.NTK") < 1.0


def test_the_contract_s_names_exist() -> None:
    for name in ("NTK", "GaussianProcess", "Zopo", "ZopoConfig", "ZopoError", "NothingToAsk", "ArrayError"):
        assert name in dir(zf)
        assert getattr(zf, name).__module__.startswith("zopo_fast")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = zf.nonsense


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of this package, and others, that a file imports anywhere in it, in functions too."""
    inside: set[str] = set()
    outside: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = "zopo_fast." + (f"{node.module}." if node.module else "")
            names = [prefix + alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "zopo_fast":
                outside.add(parts[0])
            elif len(parts) > 1:
                inside.add(parts[1])
    return inside, outside


def reachable(start: str) -> tuple[set[str], set[str]]:
    """The same, through every module of the package that is imported on the way."""
    seen: set[str] = set()
    outside: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = PACKAGE / f"{name}.py"
        if name in seen or not path.exists():
            continue
        seen.add(name)
        inside, others = imports(path)
        outside |= others
        waiting.extend(inside)
    return seen, outside


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_neither_event_loop_nor_llm_nor_store(module: str) -> None:
    assert (PACKAGE / f"{module}.py").exists()
    inside, outside = reachable(module)
    assert module in inside
    assert not inside & UPPER
    assert not outside & FORBIDDEN


def test_the_reader_of_imports_reads_them(tmp_path: Path) -> None:
    """It can fail: every way of importing is seen."""
    path = tmp_path / "m.py"
    path.write_text(
        "import asyncio.events, os\nfrom . import llm\nfrom .store import Store\n"
        "def f():\n    from zopo_fast.runs.optimize import x\n    import zopo_fast.cli.group\n    from aiohttp import web\n"
    )
    assert imports(path) == ({"llm", "store", "run", "cli"}, {"asyncio", "os", "aiohttp"})
    assert "errors" in reachable("optimizer")[0]
    assert "_core" in imports(PACKAGE / "kernel.py")[0]


def test_the_native_module_comes_with_its_layers() -> None:
    """Only the bindings know pybind11; device and error headers know nothing above them."""
    csrc = PACKAGE.parent / "csrc"
    if not csrc.exists():
        pytest.skip("installed without its sources")
    for path in csrc.iterdir():
        if not path.name.startswith("bindings") and path.suffix in {".cpp", ".hpp", ".cu", ".cuh", ".inl"}:
            assert "pybind11" not in path.read_text(), path.name
    for header in ("device.hpp", "error.hpp"):
        assert '#include "' not in (csrc / header).read_text()
    for stem in ("ntk", "cholesky", "pool"):
        for path in csrc.glob(f"{stem}*"):
            assert '#include "gp.hpp"' not in path.read_text(), path.name
