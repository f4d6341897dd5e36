"""Study file: what a study was created with, and its log up to the last checkpoint.

The file is open only while it is read or appended to. The server's lock on the journal protects all study
files of the folder.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zopo_fast._utils.files import fsync_directory
from zopo_fast.errors import StoreDamagedError, StoreError
from zopo_fast.prompts.pool import Pool
from zopo_fast.serve.studies.journal import JournalEvent
from zopo_fast.storage.file import PARTIAL_SUFFIX, read_value
from zopo_fast.storage.store import Event, Store

SUFFIX = ".sqlite3"


@dataclass(frozen=True)
class StudyContents:
    """Contents of a study file.

    Attributes:
        meta: name, settings and creation time.
        prompts: m texts; None: the pool has embeddings only.
        embeddings: (m, d).
        events: the log; of a file, up to the last checkpoint.
        head: identifies the newest commit of a log that several servers append to.
    """

    meta: dict[str, Any]
    prompts: list[str] | None
    embeddings: np.ndarray[Any, Any]
    events: list[Event]
    head: Any = None


class StudyFile:
    """File of one study. Every method raises a StoreError if the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(
        self, meta: dict[str, Any], prompts: Sequence[str] | None, embeddings: np.ndarray[Any, Any]
    ) -> None:
        """Write the file atomically and durably."""
        pool = None if prompts is None else Pool(tuple(prompts), (1,) * len(prompts))
        Store.create_closed(self.path, meta, pool, {"embeddings": embeddings})

    def append(self, events: Sequence[JournalEvent]) -> None:
        """Append events durably; events that the file already holds are left as they are."""
        with Store.open(self.path) as store:
            store.merge_events(
                Event(event.seq, event.kind, json.loads(bytes(event.data))) for event in events
            )
            store.sync(durable=True)

    def read_meta(self) -> dict[str, Any]:
        """Read name, settings and creation time only."""
        meta = read_value(self.path, "config")
        if not isinstance(meta, dict):
            raise StoreDamagedError(f"{self.path}: damaged: the settings are missing; restore a backup")
        return meta

    def read(self) -> StudyContents:
        """Read everything."""
        with Store.open(self.path) as store:
            pool, embeddings = store.pool(), store.array("embeddings")
            if embeddings is None:
                raise StoreDamagedError(f"{self.path}: damaged: the embeddings are missing; restore a backup")
            prompts = None if pool is None else list(pool.prompts)
            return StudyContents(store.config, prompts, embeddings, list(store.events()))

    async def load(self) -> StudyContents:
        """Read everything, in a thread."""
        return await asyncio.to_thread(self.read)

    async def load_log(self) -> tuple[list[str] | None, list[Event]]:
        """Read the texts and the log only; the embeddings are by far the largest part."""

        def read() -> tuple[list[str] | None, list[Event]]:
            with Store.open(self.path) as store:
                pool = store.pool()
                return None if pool is None else list(pool.prompts), list(store.events())

        return await asyncio.to_thread(read)

    def delete(self) -> None:
        """Remove the file durably."""
        try:
            self.path.unlink(missing_ok=True)
            for end in ("-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            fsync_directory(self.path.parent)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be deleted: {error.strerror or error}") from error


def list_study_files(folder: Path) -> list[Path]:
    """List the study files of a folder, and remove the partial files of interrupted creations."""
    for path in folder.glob(f".*{PARTIAL_SUFFIX}*"):
        path.unlink(missing_ok=True)
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isalnum())
