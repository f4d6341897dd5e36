"""Objects that serve one thread at a time: a second one is refused at once, and nobody waits."""

from __future__ import annotations

import threading
from typing import Any

from zopo_fast._utils.fork import register_for_fork
from zopo_fast.errors import ConcurrentUseError, DeviceError, ZopoError


class Reading:
    """A turn to look only, as a context manager; see `Turn`."""

    __slots__ = ("lock", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        # Reentrant, for signal handlers; it is asked, never waited for.
        self.lock: Any = threading.RLock()

    def __enter__(self) -> None:
        if not self.lock.acquire(False):
            raise self.refusal()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def refusal(self) -> ZopoError:
        """Why the lock could not be had."""
        if isinstance(self.lock, _Refused):
            return self.lock.kind(f"{self.name}: {self.lock.reason}")
        return ConcurrentUseError(
            f"{self.name}: called from thread {threading.current_thread().name!r} while another thread is "
            "inside a call; it serves one thread at a time: hold a lock around each call, or give each "
            "thread an object of its own"
        )


class Turn:
    """A call's turn with an object: `with turn` to change it, `with turn.reading` to look at it.

    A signal handler may read while the thread that it interrupts is inside, but change nothing. In a
    forked process the object is as it was, unless another thread was inside at that moment, or the object
    lies on a CUDA `device`: then each call is refused there.

    Where half a microsecond counts, `lock` and `changing` may be used as __enter__ and __exit__ do.

    Args:
        name: of the object, in messages.

    Raises:
        ConcurrentUseError: on entering while another thread is inside, or was when this process was forked;
            on entering to change while the same thread is inside to change.
        DeviceError: on entering in a child of the process that put the object on a CUDA device.
    """

    __slots__ = ("__weakref__", "changing", "device", "lock", "reading")

    def __init__(self, name: str) -> None:
        self.reading = Reading(name)
        self.device: str | None = None
        self.lock = self.reading.lock
        self.changing = False
        register_for_fork(self)

    def __enter__(self) -> None:
        if not self.lock.acquire(False):
            raise self.reading.refusal()
        if self.changing:
            raise self.back_out()
        self.changing = True

    def __exit__(self, *_: object) -> None:
        self.changing = False
        self.lock.release()

    def check_whole(self) -> None:
        """To be called while reading: ConcurrentUseError where a change of this thread's is interrupted."""
        if self.changing:
            raise self._interrupted()

    def back_out(self) -> ConcurrentUseError:
        """Give the lock back, and say why: this thread is inside to change the object already."""
        self.lock.release()
        return self._interrupted()

    def _interrupted(self) -> ConcurrentUseError:
        return ConcurrentUseError(
            f"{self.reading.name}: called in the middle of another call of the same thread, as from a signal "
            "handler; take note of the signal there, and make this call once the other has returned"
        )

    def after_fork_in_child(self) -> None:
        """Find out whether a thread that is not here any more was inside."""
        if self.device is not None:
            reason = (
                f"it lies on {self.device}, which a forked process cannot use; start processes with 'spawn', "
                "or make the object in the child"
            )
            self.lock = self.reading.lock = _Refused(DeviceError, reason)
        elif self.lock.acquire(False):
            self.lock.release()
        else:
            reason = (
                "another thread was in the middle of a call when this process was forked, and is not here to "
                "end it; restore the object from a state saved before"
            )
            self.lock = self.reading.lock = _Refused(ConcurrentUseError, reason)


class _Refused:
    """In place of a lock that would never be released."""

    def __init__(self, kind: type[ZopoError], reason: str) -> None:
        self.kind, self.reason = kind, reason

    def acquire(self, _blocking: bool) -> bool:
        return False
