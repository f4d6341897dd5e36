"""What a forked process must not go on with as it was: locks, connections, threads of its parent.

A fork copies the memory and one thread. A lock that another thread held stays locked for ever in the
child, and a connection would be shared with the parent. Objects that hold such things enlist here.
"""

from __future__ import annotations

import functools
import os
import weakref
from typing import Any, Protocol


class ForkAware(Protocol):
    """What has something to do in a child that was forked."""

    def after_fork_in_child(self) -> None:
        """Called in the child, by its only thread, before the fork returns."""
        ...


_registered: weakref.WeakSet[Any] = weakref.WeakSet()


def register_for_fork(thing: ForkAware) -> None:
    """Call `thing.after_fork_in_child()` in every child forked during the lifetime of `thing`."""
    _hook()
    _registered.add(thing)


def make_immortal(thing: Any) -> None:
    """Let a thing of the parent's be, for good: in this process it is never closed, freed or collected.

    Its end would wait for threads that are not here, or take something away from the parent.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@functools.cache
def _hook() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for thing in list(_registered):
        thing.after_fork_in_child()
