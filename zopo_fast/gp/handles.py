"""Objects by number, for callers that can pass no Python object: the torch operators."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, TypeVar

from zopo_fast.errors import ConfigError

T = TypeVar("T")

_alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_next = itertools.count(1)


def number_of(thing: Any) -> int:
    """A new number for an object, which lives no longer for it; numbers are not used again."""
    number = next(_next)
    _alive[number] = thing
    return number


def numbered(number: int, kind: type[T]) -> T:
    """The object of that number; ConfigError when it is gone or of another kind."""
    thing = _alive.get(number)
    if not isinstance(thing, kind):
        raise ConfigError(f"number {number}: no {kind.__name__} of that number is alive in this process")
    return thing
