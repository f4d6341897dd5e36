"""Runs of a sweep as processes of this machine, each restarted where it dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from zopo_fast.cli.group import EXIT_INTERRUPTED, EXIT_LATER
from zopo_fast.cli.sweep.worker import Outcome, Work, execute, spent_in

_GRACE = 10.0  # seconds that a process has to end in order once the sweep is gone


class _Child(NamedTuple):
    process: SpawnProcess
    receiver: Connection
    work: Work
    attempts: int


class LocalProcesses:
    """Processes of this machine.

    Args:
        processes: Runs at a time; None: one a core.
        retries: Restarts of a run whose process dies.
    """

    def __init__(self, processes: int | None, retries: int) -> None:
        self._processes = processes or os.cpu_count() or 1
        self._retries = retries
        self._context = multiprocessing.get_context("spawn")
        self._children: dict[str, _Child] = {}
        self._is_stopping = False

    def slots(self) -> int:
        """Return the number of runs at a time."""
        return self._processes

    def start(self, work: Work) -> None:
        """Start the process of a run."""
        self._start(work, 1)

    def _start(self, work: Work, attempts: int) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_main, args=(work, sender), name=work.name)
        process.start()
        sender.close()  # of this process: the child's end alone keeps the pipe open
        self._children[work.name] = _Child(process, receiver, work, attempts)

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Return the runs that have ended, and restart those whose process has died."""
        if not self._children:
            time.sleep(min(seconds, 0.01))
            return []
        ended = []
        for ready in wait([child.receiver for child in self._children.values()], seconds):
            name = next(name for name, child in self._children.items() if child.receiver is ready)
            child = self._children.pop(name)
            try:
                outcome = child.receiver.recv()
            except (EOFError, OSError):  # died before it could send
                outcome = None
            child.process.join()
            child.receiver.close()
            if outcome is None and child.attempts <= self._retries and not self._is_stopping:
                self._start(child.work, child.attempts + 1)
                continue
            ended.append((name, outcome or self._died(child)))
        return ended

    def _died(self, child: _Child) -> Outcome:
        spent = spent_in(child.work.folder)
        if self._is_stopping:  # asked to end before it could handle a signal
            return Outcome(EXIT_INTERRUPTED, spent=spent)
        times = "once" if child.attempts == 1 else f"{child.attempts} times"
        error = f"the process died {times}, last with exit code {child.process.exitcode}"
        return Outcome(EXIT_LATER, error, spent=spent)

    def stop(self) -> None:
        """Send SIGTERM, at which a run keeps what it has and ends."""
        if self._is_stopping:  # a second signal would end a run at once
            return
        self._is_stopping = True
        for child in self._children.values():
            child.process.terminate()

    def close(self) -> None:
        """Kill the processes that are left."""
        for child in self._children.values():
            child.process.kill()
            child.process.join()
            child.receiver.close()
        self._children.clear()


def _main(work: Work, sender: Connection) -> None:
    """Entry of the process of a run."""
    if hasattr(os, "setpgid"):  # Ctrl-C reaches the sweep alone, which then asks its processes to end
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender.send(execute(work))


def _end_with_parent() -> None:
    """End this process once the sweep's is gone: a resumed sweep needs the lock of the study."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os._exit(EXIT_LATER)
