"""The examples in docstrings run as they are."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf

EXPECTED: dict[str, dict[str, Any]] = {
    "Zopo": {"score": lambda value: value > -3.5},
    "ZopoBatch": {"scores": lambda value: value.shape == (8,) and (value > -3.5).all()},
    "NTK": {"K": lambda value: value.shape == (10, 10), "G": lambda value: value.shape == (10, 4)},
    "InfiniteNTK": {"K": lambda value: value.shape == (10, 10), "G": lambda value: value.shape == (10, 4)},
    "GaussianProcess": {"gp": lambda value: len(value) == 9, "p": lambda value: np.isfinite(value.mean)},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_example_of_a_class(name: str) -> None:
    """It comes first, right after the line that names the class."""
    text = inspect.getdoc(getattr(zf, name))
    assert text is not None
    found = re.match(r"[^\n]+\n\n((?:    [^\n]*\n|\n(?=    ))+)", text)
    assert found is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(found[1]), names)
    for variable, is_right in EXPECTED[name].items():
        assert is_right(names[variable]), names[variable]
