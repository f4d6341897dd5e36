"""One study's file: a Store of what it was created with, and of its log as far as the journal was moved in.

It is open only while it is read or added to: the server's folder has one owner, by the lock on its journal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zopo_fast._utils.files import fsync_directory
from zopo_fast.errors import StoreDamagedError, StoreError
from zopo_fast.prompts.pool import Pool
from zopo_fast.serve.studies.journal import Event
from zopo_fast.storage.file import PARTIAL_SUFFIX, read_value
from zopo_fast.storage.store import Event as Kept, Store

SUFFIX = ".sqlite3"


@dataclass(frozen=True)
class Saved:
    """What a study's file holds; no texts: a pool of embeddings alone. Embeddings are (m, d)."""

    meta: dict[str, Any]
    prompts: list[str] | None
    embeddings: np.ndarray[Any, Any]
    events: list[Kept]


class StudyFile:
    """A study's file by its path; raises a StoreError for whatever is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(
        self, meta: dict[str, Any], prompts: Sequence[str] | None, embeddings: np.ndarray[Any, Any]
    ) -> None:
        """Write the file; on return it is on disk, or nothing of it is left."""
        pool = None if prompts is None else Pool(tuple(prompts), (1,) * len(prompts))
        Store.create_closed(self.path, meta, pool, {"embeddings": embeddings})

    def append(self, events: Sequence[Event]) -> None:
        """Add events; those that are there already stay as they are. On return they are on disk."""
        with Store.open(self.path) as store:
            store.merge_events(Kept(event.seq, event.kind, json.loads(bytes(event.data))) for event in events)
            store.sync(durable=True)

    def meta(self) -> dict[str, Any]:
        """What the study was created with, without reading all of the file."""
        meta = read_value(self.path, "config")
        if not isinstance(meta, dict):
            raise StoreDamagedError(f"{self.path}: its settings are missing")
        return meta

    def read(self) -> Saved:
        """Read everything."""
        with Store.open(self.path) as store:
            pool, embeddings = store.pool(), store.array("embeddings")
            if embeddings is None:
                raise StoreDamagedError(f"{self.path}: the embeddings are missing")
            prompts = None if pool is None else list(pool.prompts)
            return Saved(store.config, prompts, embeddings, list(store.events()))

    def delete(self) -> None:
        """Remove the file; on return it stays removed."""
        try:
            self.path.unlink(missing_ok=True)
            for end in ("-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            fsync_directory(self.path.parent)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be deleted: {error.strerror or error}") from error


def files_in(folder: Path) -> list[Path]:
    """The studies' files in a folder; what creations that were cut off left behind is removed."""
    for path in folder.glob(f".*{PARTIAL_SUFFIX}*"):
        path.unlink(missing_ok=True)
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isalnum())
