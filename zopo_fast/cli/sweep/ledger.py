"""Limits of a sweep, divided among its runs: a share is reserved on disk before a run starts.

The sum of what ended runs have spent and of the shares of the others never exceeds a limit. A run keeps its
share by itself, over retries too: its study counts every call before the call is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from zopo_fast.cli.sweep.worker import NOTHING, Amounts, spent_in
from zopo_fast.errors import ConfigError
from zopo_fast.llm.limits import Limits
from zopo_fast.storage.file import is_absent
from zopo_fast.storage.store import STUDY, Store

LEDGER = "sweep.sqlite3"
"""File in the folder of a sweep; open in one process at a time, so it also locks the sweep."""
_KINDS = ("calls", "tokens", "cost")
_ROWS, _SECONDS = "rows", "seconds"


class Ledger:
    """Spending of a sweep, on disk.

    Args:
        out: Folder of the sweep.
        limits: Limits of the whole sweep.
        clock: Time in seconds.

    Raises:
        StoreBusyError: Another command works on the sweep.
        StoreError: The file cannot be used.
        ConfigError: A limit is new, and the earlier runs were not counted.
    """

    def __init__(self, out: Path, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        path = out / LEDGER
        limited = [kind for kind in _KINDS if getattr(limits, kind) is not None]
        if is_absent(path):
            Store.create_closed(path, {"limited": limited})
        self._store = Store.open(path)
        self.limits, self._out, self._clock = limits, out, clock
        # Of each run: what it has spent, and its share in total while it may be running.
        self._rows: dict[str, dict[str, Any]] = self._store.get(_ROWS) or {}
        self._earlier = float(self._store.get(_SECONDS) or 0.0)
        self._began = self._written = clock()
        new = set(limited) - set(self._store.config["limited"])
        if self._rows and new:
            self.close()
            raise ConfigError(
                f"--limit-{min(new)}: {out} began without this limit, so its earlier calls are not counted; "
                "leave the limit out, or give another --out"
            )
        self._store.put("config", {"limited": limited})
        self._recover()

    def _recover(self) -> None:
        """Settle the runs that were under way when an earlier command was killed."""
        for name, row in self._rows.items():
            if row["share"] is not None:
                self.settle(name, spent_in(self._folder(name)))

    def _folder(self, name: str) -> Path:
        return self._out / "runs" / name

    @property
    def seconds(self) -> float:
        """Seconds of the sweep, earlier commands included."""
        return self._earlier + self._clock() - self._began

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the limit; None without one."""
        return None if self.limits.seconds is None else max(0.0, self.limits.seconds - self.seconds)

    def tick(self) -> None:
        """Store the seconds so far, once a second."""
        if self._clock() - self._written >= 1.0:
            self._written = self._clock()
            self._store.put(_SECONDS, self.seconds)

    def spent(self, name: str) -> Amounts:
        """Return what a run has spent."""
        row = self._rows.get(name)
        return NOTHING if row is None else Amounts(*row["spent"])

    def left(self) -> Amounts:
        """Return what is neither spent nor reserved."""
        left: dict[str, Any] = {}
        for i, kind in enumerate(_KINDS):
            if (limit := getattr(self.limits, kind)) is not None:
                taken = sum((row["share"] or row["spent"])[i] for row in self._rows.values())
                left[kind] = max(0, limit - taken)
        return Amounts(**left)

    def require_same(self, name: str, identity: str) -> None:
        """Check that a run has the options that it began with.

        Raises:
            ConfigError: It has others.
        """
        row = self._rows.get(name)
        if row is not None and row["identity"] != identity and not is_absent(self._folder(name) / STUDY):
            raise ConfigError(
                f"{name}: its task or options are not those that {self._folder(name)} began with; "
                "give the same again, another --out, or another name"
            )

    def grant(self, name: str, among: int, identity: str) -> Amounts | None:
        """Reserve the share of a run: one of `among` equal parts of what is left, at least one call.

        Args:
            name: Name of the run.
            among: Runs that wait for a share, this one included.
            identity: Digest of the run's task and options.

        Returns:
            The limits of the run in total, what it has spent included; None where nothing is left.

        Raises:
            StoreError: The run has a share that another process may spend: its study cannot be read.
        """
        if name in self._rows and self._rows[name]["share"] is not None:
            with Store.open(self._folder(name) / STUDY) as study:
                self.settle(name, Amounts(*study.charged()))
        if self._is_removed(name):
            self._forget(name)
        spent, left = self.spent(name), self.left()
        total: dict[str, Any] = {}
        for kind, free in asdict(left).items():
            if free is None:
                continue
            if not free:
                return None
            part = free / among if kind == "cost" else max(1, free // among)
            total[kind] = getattr(spent, kind) + part
        share = [total.get(kind, getattr(spent, kind)) for kind in _KINDS]
        self._rows[name] = {"spent": list(astuple(spent)), "share": share, "identity": identity}
        self._save()
        return Amounts(**total)

    def settle(self, name: str, spent: Amounts | None) -> None:
        """Replace the share of a run by what it has spent; None: unknown, the share counts in full."""
        if spent is None:
            return
        if spent == NOTHING:  # no study, and no call precedes it; an earlier study may have been deleted
            spent = self.spent(name)
        self._rows[name] = {**self._rows[name], "spent": list(astuple(spent)), "share": None}
        self._save()

    def _is_removed(self, name: str) -> bool:
        return self.spent(name) != NOTHING and is_absent(self._folder(name) / STUDY)

    def _forget(self, name: str) -> None:
        """Keep the spending of a run whose folder was deleted: its next study counts from zero."""
        numbered = sum(each.startswith(f"{name} removed ") for each in self._rows)
        self._rows[f"{name} removed {numbered + 1}"] = self._rows.pop(name)

    def _save(self) -> None:
        self._store.put(_ROWS, self._rows)
        self._store.sync()

    def close(self) -> None:
        """Store the seconds and close the file."""
        self._store.put(_SECONDS, self.seconds)
        self._store.close()
