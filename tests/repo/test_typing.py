"""The public names as type checkers, pickles and introspection see them."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import zopo_fast as zf
from zopo_fast import errors

ROOT = Path(__file__).parents[2]  # its pyproject.toml configures mypy
USES = Path(__file__).with_name("typing_uses.py")
LOADED = {name: getattr(zf, name) for name in zf._LAZY if hasattr(zf, name)}  # CudaArray: not in every build
ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and not name.startswith("_")
}
public = pytest.mark.parametrize("name", [*LOADED, *ERRORS])


def test_lazy_names_and_typed_names_are_the_same() -> None:
    """The imports that a type checker reads and the table used at run time."""
    tree = ast.parse(Path(zf.__file__).read_text())
    branch = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {}
    for statement in branch.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname == alias.name  # without `as` it is not re-exported
            typed[alias.name] = statement.module
    modules = {name: home.rpartition(".")[0] for name, home in zf._LAZY_MODULES.items()}
    assert typed == {name: f"zopo_fast.{home}" for name, home in {**zf._LAZY, **modules}.items()}


def test_every_error_is_exported() -> None:
    assert {name for name in vars(zf) if getattr(errors, name, None) is getattr(zf, name)} >= set(ERRORS)
    assert len(ERRORS) >= 35


def test_dir_lists_the_public_names() -> None:
    assert {*zf._LAZY, *ERRORS} <= set(dir(zf))


@public
def test_module_is_the_package(name: str) -> None:
    value = getattr(zf, name)
    assert value.__module__ == "zopo_fast"
    assert value.__qualname__ == name
    assert f"zopo_fast.{name}" in repr(value) or not isinstance(value, type)
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert again is value
    assert f"zopo_fast\n{name}".encode() in pickle.dumps(value, 0).replace(b" ", b"\n")


@pytest.mark.parametrize("name", LOADED)
def test_annotations_resolve(name: str) -> None:
    """typing.get_type_hints looks them up in `__module__`, which is not where they were written."""
    value = LOADED[name]
    if not isinstance(value, type) or not value.__annotations__:
        return
    hints = typing.get_type_hints(value)
    assert not any(isinstance(hint, str | typing.ForwardRef) for hint in hints.values())
    if dataclasses.is_dataclass(value):
        assert set(hints) == {field.name for field in dataclasses.fields(value)}
        typing.get_type_hints(value.__init__)
        inspect.signature(value, eval_str=True)


def test_annotations_of_dataclasses_are_types() -> None:
    assert typing.get_type_hints(zf.ZopoConfig)["budget"] is int
    assert typing.get_type_hints(zf.Result)["trials"] == list[zf.Trial]
    assert typing.get_type_hints(zf.Posterior)["mean"] is typing.Any
    assert typing.get_type_hints(zf.RunConfig)["limits"] == zf.Limits | None


def test_source_of_functions_and_methods_is_found() -> None:
    assert "async def optimize(" in inspect.getsource(zf.optimize)
    assert "def set_num_threads(" in inspect.getsource(zf.set_num_threads)
    assert "def ask(" in inspect.getsource(zf.Zopo.ask)


def test_public_names_are_typed() -> None:
    """mypy --strict finds each marked error in typing_uses.py and no other one."""
    pytest.importorskip("mypy")
    expected = [
        (number, code)
        for number, line in enumerate(USES.read_text().splitlines(), 1)
        for code in re.findall(r"# error: ([\w-]+)", line)
        if not line.startswith("`")
    ]
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(USES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    found = re.findall(r"^[^\n:]*typing_uses\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert sorted((int(number), code) for number, code in found) == sorted(expected), done.stdout
    assert len(expected) >= 15, done.stderr
