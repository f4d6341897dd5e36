"""Type stub of the native module: the same names and parameters as the module."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import WrapperDescriptorType
from typing import Any

import pytest

import zopo_fast
from zopo_fast import _core

STUB = ast.parse((Path(zopo_fast.__file__).parent / "_core.pyi").read_text())
EVERYWHERE = {"cuda_device_count", "cuda_status"}


def built(name: str) -> bool:
    """Return whether this build has a name; names of the CUDA engine have a prefix."""
    return _core.built_with_cuda or name in EVERYWHERE or not name.startswith(("Cuda", "cuda_"))


FUNCTIONS = {n.name: n for n in STUB.body if isinstance(n, ast.FunctionDef) and built(n.name)}
CLASSES = {n.name: n for n in STUB.body if isinstance(n, ast.ClassDef) and built(n.name)}
VALUES = {n.target.id for n in STUB.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}


def members(cls: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in cls.body if isinstance(n, ast.FunctionDef)}


def parameters(doc: str) -> list[str]:
    """List the names in a signature of pybind11: `name(self: X, a: T, b: U = 1) -> R`."""
    line = doc.partition("\n")[0]
    inner = re.sub(
        r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", line[line.index("(") + 1 : line.rindex(") ->")])
    )
    return [part.split(":")[0].strip() for part in inner.split(",") if ":" in part]


def test_the_stub_has_the_names_of_the_module() -> None:
    there = {name for name in dir(_core) if not name.startswith("_")}
    assert there == {*FUNCTIONS, *CLASSES, *VALUES}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_stub_has_the_names_of_a_class(name: str) -> None:
    native = vars(getattr(_core, name))
    there = {n for n in native if not n.startswith("_") or n == "__len__"}
    # A class without a constructor has one of another type that raises an error.
    if not isinstance(native["__init__"], WrapperDescriptorType):
        there.add("__init__")
    named = {n for n in members(CLASSES[name]) if not n.startswith("__") or n in ("__init__", "__len__")}
    assert there == named


def callables() -> list[tuple[str, Any, ast.FunctionDef]]:
    found: list[tuple[str, Any, ast.FunctionDef]] = [(n, getattr(_core, n), f) for n, f in FUNCTIONS.items()]
    for cls, node in CLASSES.items():
        for name, function in members(node).items():
            if not function.decorator_list and name != "__len__":
                found.append((f"{cls}.{name}", getattr(getattr(_core, cls), name), function))
    return found


@pytest.mark.parametrize(("label", "native", "stub"), callables(), ids=[c[0] for c in callables()])
def test_the_stub_has_the_parameters_of_a_function(label: str, native: Any, stub: ast.FunctionDef) -> None:
    named = [a.arg for a in (*stub.args.args, *stub.args.kwonlyargs)]
    there = parameters(native.__doc__)
    assert [n for n in there if n != "self"] == [n for n in named if n != "self"], label
