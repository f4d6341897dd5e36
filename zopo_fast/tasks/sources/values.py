"""Values of tables and records as those of JSON, with numbers as texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_DEPTH = 12
# Names of narrow types in pandas, polars, NumPy and `datasets`, and in Arrow.
_NARROW = {"float32": "float32", "float16": "float16", "float": "float32", "halffloat": "float16"}
_MISSING = ("NAType", "NaTType")  # of pandas; compared by name, so that pandas need not be imported


def plain(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one return a type
    """Return a value as text, boolean, None, list or dictionary; any other type stays as it is.

    Numbers become the text that Python prints. NaN and the missing values of pandas become None.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)  # a subclass, such as that of NumPy, becomes a text
    if type(value).__name__ in _MISSING:
        return None
    if isinstance(value, int):
        return _text(value)
    if isinstance(value, float) or getattr(getattr(value, "dtype", None), "kind", "") == "f":
        return _of_float(value, depth)
    if depth > _MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value]
    if hasattr(value, "tolist"):  # of NumPy, pandas, PyTorch
        return plain(value.tolist(), depth + 1)
    if hasattr(value, "to_list"):  # a series of polars
        return plain(value.to_list(), depth + 1)
    if hasattr(value, "isoformat") or type(value).__name__ == "Decimal":
        return str(value)
    return value


def _of_float(value: Any, depth: int) -> Any:
    """Return a number as text; an array of numbers as a list."""
    if getattr(value, "shape", ()) != ():
        return plain(list(value), depth + 1)  # tolist() would widen the numbers
    number = float(value)
    if math.isnan(number):
        return None
    # str() of a NumPy scalar has the digits of its own precision; a Python float has its own repr.
    return str(value) if type(value) is not float else repr(value)


def _text(value: int) -> Any:
    try:
        return str(int(value))
    except ValueError:  # more digits than Python converts
        return value


def narrow_kinds(types: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Return the columns of 16 and 32-bit numbers, each with the name of its NumPy type.

    Args:
        types: Name and type of each column, in any of the libraries of tables.
    """
    return {str(name): kind for name, each in types if (kind := _NARROW.get(str(each).lower()))}


def narrowed(value: Any, kind: str | None) -> Any:
    """Return numbers that a table has widened in their own type, so that 0.1 stays "0.1"."""
    if kind is None:
        return value
    if isinstance(value, list | tuple):
        return [narrowed(each, kind) for each in value]
    if type(value) is not float:
        return value
    import numpy as np

    return np.dtype(kind).type(value)


def named(value: Any, names: list[str]) -> Any:
    """Return the name of a class label; None for an index without a name, such as -1 of a test split."""
    if isinstance(value, list):
        return [named(each, names) for each in value]
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        index = int(value)
        return names[index] if 0 <= index < len(names) else None
    return value


def class_names(feature: Any) -> list[str] | None:
    """Return the names of a class label, or of a list of them, from a description of `datasets`.

    Args:
        feature: of one column, as an object of `datasets` or as JSON.
    """
    if isinstance(feature, Mapping):
        kind, names, inner = feature.get("_type"), feature.get("names"), feature.get("feature")
    else:
        kind, names = type(feature).__name__, getattr(feature, "names", None)
        inner = getattr(feature, "feature", None)
    if kind == "ClassLabel" and isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    if isinstance(feature, list) and len(feature) == 1:
        return class_names(feature[0])
    return None if inner is None else class_names(inner)
