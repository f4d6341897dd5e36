"""Checks of the arguments of a search."""

from __future__ import annotations

import math
from typing import Any

from zopo_fast._utils.checks import real
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import InputError, UnknownIndexError


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float.

    Raises:
        InputError: The value is not a number, or NaN or infinite.
    """
    if type(value) is float and math.isfinite(value):
        return value
    try:
        number = real(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: expected a finite number, got {short_repr(value)}") from error
    if not math.isfinite(number):
        raise InputError(f"{name}: expected a finite number, got {short_repr(value)}")
    return number


def pool_index(index: Any, m: int) -> int:
    """Return the index of a prompt in a pool of m.

    Raises:
        UnknownIndexError: The value is not an index, or is outside the pool.
    """
    try:
        real(index)  # rejects an array of one entry, which int() would accept
        checked = int(index)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnknownIndexError(f"{short_repr(index)} is not a pool index") from error
    if checked != index or isinstance(index, bool) or not 0 <= checked < m:
        raise UnknownIndexError(f"prompt {short_repr(index)} is not in the pool of {m}")
    return checked
