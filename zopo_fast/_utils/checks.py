"""Checks of integers and numbers; the ConfigError names the setting."""

from __future__ import annotations

import numbers
import operator
from typing import Any

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError

MAX_COUNT = 2**53  # exact in every JSON reader, and small enough that no native size overflows
MAX_BITS = 128  # enough for a seed; an integer of thousands of digits can neither be shown nor saved


def as_integer(name: str, value: Any) -> int:
    """Return a value of any integer type as a Python integer.

    Raises:
        ConfigError: The value is no integer, is a bool, or has more than `MAX_BITS` bits.
    """
    try:
        if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b":
            raise TypeError  # some versions of NumPy accept their bools as integers
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be an integer, got {short_repr(value)}") from None
    if number.bit_length() > MAX_BITS:
        raise ConfigError(
            f"{name} must be an integer of at most {MAX_BITS} bits, got one of {number.bit_length()}"
        )
    return number


def as_count(name: str, value: Any, minimum: int = 0) -> int:
    """Return an integer from `minimum` to `MAX_COUNT`.

    Raises:
        ConfigError: The value is no such integer.
    """
    count = as_integer(name, value)
    if not minimum <= count <= MAX_COUNT:
        raise ConfigError(f"{name} must be an integer from {minimum} to 2**53, got {count}")
    return count


def real(value: Any) -> float:
    """Return a real number as a float.

    Unlike float(), refuse a string that spells a number, an array of one entry and a complex NumPy number.

    Raises:
        TypeError: The value is no real number.
        ValueError: The value cannot be converted.
        OverflowError: The value is an integer beyond the range of a float.
    """
    is_complex = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    if is_complex or isinstance(value, (str, bytes, bytearray)) or getattr(value, "ndim", None):
        raise TypeError("not a real number")
    return float(value)


def as_number(name: str, value: Any) -> float:
    """Return a real number as a float; it may be infinite or NaN.

    Raises:
        ConfigError: The value is no real number, or a bool.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return real(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} must be a number, got {short_repr(value)}") from None
