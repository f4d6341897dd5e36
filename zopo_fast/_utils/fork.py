"""At-fork hooks: objects replace their locks and connections in a forked child.

A fork copies all memory but only the calling thread. A lock held by another thread stays locked forever in
the child, and a connection is shared with the parent.
"""

from __future__ import annotations

import functools
import os
import weakref
from typing import Any, Protocol


class ForkAware(Protocol):
    """Object with state that a forked child must replace."""

    def after_fork_in_child(self) -> None:
        """Replace that state; runs in the child's only thread, before the fork returns."""
        ...


_registered: weakref.WeakSet[Any] = weakref.WeakSet()


def register_for_fork(thing: ForkAware) -> None:
    """Call `thing.after_fork_in_child()` in every child forked during the lifetime of `thing`."""
    _hook()
    _registered.add(thing)


def make_immortal(thing: Any) -> None:
    """Keep an object that belongs to the parent alive forever, so that this process never finalizes it.

    Its finalizer would wait for threads that do not exist here, or close files that the parent still uses.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@functools.cache
def _hook() -> None:
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for thing in list(_registered):
        thing.after_fork_in_child()
