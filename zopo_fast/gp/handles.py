"""Integer handles of objects, for the torch operators, which cannot take Python objects."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, TypeVar

from zopo_fast.errors import ConfigError

T = TypeVar("T")

_alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_next = itertools.count(1)


def new_handle(thing: Any) -> int:
    """Return a new handle of an object; a handle does not keep its object alive and is never reused."""
    handle = next(_next)
    _alive[handle] = thing
    return handle


def from_handle(handle: int, kind: type[T]) -> T:
    """Return the object of a handle.

    Raises:
        ConfigError: The object no longer exists, or is not of type `kind`.
    """
    thing = _alive.get(handle)
    if not isinstance(thing, kind):
        raise ConfigError(f"number {handle}: no {kind.__name__} of that number is alive in this process")
    return thing
