"""Checks of integers and numbers that name the setting in their ConfigError."""

from __future__ import annotations

import numbers
import operator
from typing import Any

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError

MOST = 2**53  # of a count: what every reader of JSON keeps, and no native size overflows by


def as_integer(name: str, value: Any) -> int:
    """Return a Python integer of any integer type; ConfigError names the setting otherwise.

    Of at most 128 bits, enough for a seed: one of some thousand digits can neither be shown nor saved.
    """
    try:
        if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b":
            raise TypeError  # NumPy's bools too: some versions take them for integers
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}: expected an integer, got {short_repr(value)}") from None
    if number.bit_length() > 128:
        raise ConfigError(
            f"{name}: expected an integer of at most 128 bits, got one of {number.bit_length()}"
        )
    return number


def as_count(name: str, value: Any, least: int = 0) -> int:
    """Return an integer from `least` to `MOST`; ConfigError names the setting otherwise."""
    count = as_integer(name, value)
    _require(count >= least, f"{name} must be at least {least}, got {count}")
    _require(count <= MOST, f"{name} must be at most 2**53, got {count}")
    return count


def real(value: Any) -> float:
    """Return a float; TypeError, ValueError or OverflowError for what is no real number.

    float() would also take a text for the number it spells, an array of one entry, and a complex number of
    NumPy's for its real part.
    """
    unreal = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    if unreal or isinstance(value, (str, bytes, bytearray)) or getattr(value, "ndim", None):
        raise TypeError("not a real number")
    return float(value)


def as_number(name: str, value: Any) -> float:
    """Return a float; ConfigError names the setting otherwise. A text or a bool is no number."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return real(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name}: expected a number, got {short_repr(value)}") from None


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)
