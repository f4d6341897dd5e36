"""Exclusive access to an object: one thread at a time, and a second thread is refused instead of waiting."""

from __future__ import annotations

import threading
from typing import Any

from zopo_fast._utils.fork import register_for_fork
from zopo_fast.errors import ConcurrentUseError, DeviceError, ZopoError


class ExclusiveAccess:
    """Guard that lets one thread at a time use an object.

        access = ExclusiveAccess("Zopo")
        with access:            # change the object
            ...
        with access.read_only:  # read the object
            ...

    A signal handler may read during a change made by the thread it interrupts, but may not change anything.
    A forked child can use the object unless another thread was using it at the fork, or it lies on a CUDA
    device; then the child's every access is refused.

    Args:
        name: Name of the object in error messages.

    Attributes:
        read_only: Context manager for read access.
        is_changing: True while a thread changes the object.
        device: CUDA device that the object lies on; None for the host.

    Raises:
        ConcurrentUseError: On entry, when another thread uses the object or used it at the fork.
        ConcurrentUseError: On entry to change, when the same thread is already changing the object.
        DeviceError: On entry in a forked child, when the object lies on a CUDA device.
    """

    __slots__ = ("__weakref__", "device", "is_changing", "read_only")

    def __init__(self, name: str) -> None:
        self.read_only = _ReadOnly(name)
        self.is_changing = False
        self.device: str | None = None
        register_for_fork(self)

    def acquire(self) -> None:
        """Begin a change; raises as entering the context does. Faster than `with` on a hot path."""
        lock = self.read_only.lock
        if not lock.acquire(False):
            raise self.read_only.refusal()
        if self.is_changing:
            lock.release()
            raise self._interrupted()
        self.is_changing = True

    def release(self) -> None:
        """End the change that `acquire` began."""
        self.is_changing = False
        self.read_only.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def require_consistent(self) -> None:
        """Check, inside `read_only`, that the caller has not interrupted a change of its own thread.

        Raises:
            ConcurrentUseError: The caller is a signal handler that interrupted a change.
        """
        if self.is_changing:
            raise self._interrupted()

    def _interrupted(self) -> ConcurrentUseError:
        return ConcurrentUseError(
            f"{self.read_only.name}: called in the middle of another call of the same thread, as from a "
            "signal handler; record the signal there, and make this call after the other call has returned"
        )

    def after_fork_in_child(self) -> None:
        """Replace a lock that no thread of this process can release."""
        access = self.read_only
        if self.device is not None:
            reason = (
                f"it lies on {self.device}, which a forked process cannot use; start processes with 'spawn', "
                "or make the object in the child"
            )
            access.lock = _RefusingLock(DeviceError, reason)
        elif access.lock.acquire(False):
            access.lock.release()
        else:
            reason = (
                "another thread was in the middle of a call when this process was forked, and does not exist "
                "here to finish it; restore the object from a state saved before"
            )
            access.lock = _RefusingLock(ConcurrentUseError, reason)


class _ReadOnly:
    """Read access to the object of an `ExclusiveAccess`, and the lock that both share."""

    __slots__ = ("lock", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        # Reentrant, so that a signal handler can read; only ever acquired without blocking.
        self.lock: Any = threading.RLock()

    def __enter__(self) -> None:
        if not self.lock.acquire(False):
            raise self.refusal()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def refusal(self) -> ZopoError:
        """Return the error for a lock that could not be acquired."""
        if isinstance(self.lock, _RefusingLock):
            return self.lock.error_type(f"{self.name}: {self.lock.reason}")
        return ConcurrentUseError(
            f"{self.name}: called from thread {threading.current_thread().name!r} while another thread is "
            "inside a call; it serves one thread at a time: hold a lock around each call, or give each "
            "thread an object of its own"
        )


class _RefusingLock:
    """Stand-in for a lock that would never be released."""

    def __init__(self, error_type: type[ZopoError], reason: str) -> None:
        self.error_type, self.reason = error_type, reason

    def acquire(self, _blocking: bool) -> bool:
        return False
