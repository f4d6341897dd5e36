"""Runs of a sweep as tasks of a Ray cluster, which restarts them where a worker or a node dies."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from zopo_fast.cli.group import EXIT_INTERRUPTED, EXIT_LATER
from zopo_fast.cli.sweep.worker import Outcome, Work, execute
from zopo_fast.errors import ConfigError, MissingDependencyError

_CONNECT_SECONDS = 10.0


class RayTasks:
    """Tasks of a Ray cluster, one CPU each.

    Args:
        address: Address of the cluster; "auto": that of this machine.
        processes: Runs at a time; None: one a CPU of the cluster.
        retries: Restarts of a run whose worker or node dies.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: There is no cluster at the address.
    """

    def __init__(self, address: str, processes: int | None, retries: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingDependencyError('--ray needs Ray: pip install "zopo-fast[ray]"') from error
        self._ray, self._processes = ray, processes
        try:
            _require_listener(address)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--ray {address}: no cluster there ({reason}); start one by `ray start --head`, or name "
                "the address that it prints"
            ) from error
        self._execute = ray.remote(num_cpus=1, max_retries=retries, scheduling_strategy="SPREAD")(execute)
        self._tasks: dict[Any, Work] = {}
        self._is_stopping = False

    def slots(self) -> int:
        """Return the number of runs at a time: nodes come and go."""
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        return max(1, min(cpus, self._processes or cpus))

    def start(self, work: Work) -> None:
        """Submit the task of a run."""
        self._tasks[self._execute.options(name=work.name).remote(work)] = work

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Return the runs that have ended."""
        if not self._tasks:
            time.sleep(min(seconds, 0.01))
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        return [(work.name, self._outcome(task)) for task in ready for work in [self._tasks.pop(task)]]

    def _outcome(self, task: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(task)
            return outcome
        except self._ray.exceptions.TaskCancelledError:
            return Outcome(EXIT_INTERRUPTED)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            return Outcome(EXIT_LATER, f"{type(error).__name__}: {reason}")

    def stop(self) -> None:
        """Cancel all tasks, at which a run keeps what it has and ends."""
        for task in () if self._is_stopping else self._tasks:
            self._ray.cancel(task)
        self._is_stopping = True

    def close(self) -> None:
        """Disconnect; Ray kills the tasks that are left."""
        self._ray.shutdown()


def _require_listener(address: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would end the process.

    Raises:
        OSError: Nothing does.
        ValueError: The port is no number.
    """
    host, separator, port = address.rpartition(":")
    if separator and "//" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
