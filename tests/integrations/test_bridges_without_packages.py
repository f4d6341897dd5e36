"""A bridge whose package is not installed says which extra brings it."""

from __future__ import annotations

import importlib
import sys

import pytest

import zopo_fast as zf


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("zopo_fast.optuna", "optuna"),
        ("zopo_fast.integrations.dspy", "dspy"),
        ("zopo_fast.integrations.gepa", "gepa"),
    ],
)
def test_the_error_names_the_extra(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(zf.MissingDependencyError, match=rf"pip install 'zopo-fast\[{package}\]'"):
        importlib.import_module(module)
