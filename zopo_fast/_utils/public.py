"""Public names of the package, whose `__module__` does not tell where they are defined."""

from __future__ import annotations

from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def public(definition: T) -> T:
    """Set `__module__` of a class or function to "zopo_fast", so that a pickle survives a later move."""
    target: Any = definition
    if isinstance(definition, type) and definition.__annotations__:
        # typing.get_type_hints looks up the names in strings in `__module__`: evaluate them here instead.
        hints = get_type_hints(definition, include_extras=True)
        target.__annotations__ = {name: hints[name] for name in definition.__annotations__}
    target.__module__ = "zopo_fast"
    return definition
