"""Studies of a data folder: one journal for all, one file each, and checkpoints from one to the other.

The journal makes changes durable together. A checkpoint moves its events into the study files from time to
time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from zopo_fast._utils.aio import shielded
from zopo_fast.errors import StoreError
from zopo_fast.serve.studies.file import SUFFIX, StudyFile, list_study_files
from zopo_fast.serve.studies.journal import Journal, JournalEntry, JournalEvent
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.store import OnCommit, OnFailure, too_many_studies
from zopo_fast.serve.studies.study import LoadedStudy

MAX_JOURNAL_EVENTS = 100_000  # a checkpoint starts above this size
IDLE_SECONDS = 5.0  # or after this time without a commit
MAX_CHECKPOINT_PAUSE = 60.0  # seconds between attempts while checkpoints fail
_log = logging.getLogger(__name__)


class StudyFolder:
    """Store of the studies of one server.

    Args:
        folder: data folder of the server.
    """

    apply_newest = None  # no other server changes the studies

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "studies"
        self._journal_path = folder / "journal.sqlite3"
        self._records: dict[str, StudyRecord] = {}
        self._keys: dict[str, tuple[str, str]] = {}  # keys of creations: digest, study
        self._creating = 0
        self._journal_events = 0
        self._last_commit = 0
        self._last_commit_time = time.monotonic()
        self._checkpoint_lock = asyncio.Lock()
        self._checkpoints: set[asyncio.Task[None]] = set()
        self._checkpointer: asyncio.Task[None] | None = None

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self, on_commit: OnCommit, on_failure: OnFailure) -> None:
        """Lock the folder and find its studies.

        Raises:
            StoreBusyError: another server uses the folder.
            StoreError: the folder or the journal cannot be used.
        """
        self._journal = await asyncio.to_thread(self._open_folder)

        def commit(number: int, entries: list[JournalEntry], seconds: float) -> None:
            self._add_to_tails(number, entries)
            on_commit(entries, seconds)

        self._journal.start(commit, on_failure)
        self._checkpointer = asyncio.create_task(self._checkpoint_regularly())

    def _open_folder(self) -> Journal:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            journal = Journal(self._journal_path)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self._folder}: cannot be used: {error.strerror or error}") from error
        try:
            for path in list_study_files(self._folder):
                self._add_file(path)
            for number, events in journal.read():
                self._last_commit = number
                for event in events:
                    record = self._records.get(event.study)
                    if record is not None:  # else the study was deleted later
                        record.tail.append(event)
                        self._journal_events += 1
        except BaseException:
            journal.close()
            raise
        return journal

    def _add_file(self, path: Path) -> None:
        file = StudyFile(path)
        try:
            meta = file.read_meta()
        except StoreError as error:  # serve the other studies despite one damaged file
            _log.error("study left out", extra={"study": path.stem, "error": type(error).__name__})
            return
        self._add(StudyRecord(path.name.removesuffix(SUFFIX), meta, file))

    def _add(self, record: StudyRecord) -> None:
        self._records[record.id] = record
        if (key := record.meta.get("key")) is not None:
            self._keys[key] = record.meta["digest"], record.id

    async def close(self, seconds: float) -> None:
        """Write everything to disk, with a checkpoint of at most `seconds`."""
        if self._checkpointer is not None:
            self._checkpointer.cancel()
            await asyncio.gather(self._checkpointer, return_exceptions=True)
            if self._checkpoints:
                await asyncio.wait(self._checkpoints, timeout=seconds)
            try:
                await asyncio.wait_for(self.checkpoint(), seconds)
            except (TimeoutError, StoreError) as error:  # the next start reads the journal instead
                _log.warning("checkpoint failed", extra={"error": type(error).__name__})
            self._journal.flush()
            await asyncio.to_thread(self._journal.close)

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    async def count(self) -> int:
        """Count the studies."""
        return len(self._records)

    async def find(self, study: str) -> StudyRecord | None:
        """Look up a study by its id."""
        record = self._records.get(study)
        return None if record is None or record.is_deleted else record

    async def find_key(self, key: str) -> tuple[str, str] | None:
        """Look up the creation with an idempotency key: its digest, and the id of the study."""
        return self._keys.get(key)

    async def list_records(self, after: str = "", limit: int | None = None) -> list[StudyRecord]:
        """List studies in order of their ids, at most `limit` after an id."""
        names = sorted(
            name for name, record in self._records.items() if name > after and not record.is_deleted
        )
        return [self._records[name] for name in names[:limit]]

    async def create(
        self, study: LoadedStudy, meta: dict[str, Any], embeddings: Any, limit: int
    ) -> StudyRecord:
        """Create a study durably.

        Raises:
            StoreError: the study file cannot be written.
            Problem: 429, the folder has `limit` studies, counting creations in flight.
        """
        if len(self._records) + self._creating >= limit:
            raise too_many_studies(limit)
        file = self._file(study.id)
        self._creating += 1
        try:
            await asyncio.to_thread(file.create, meta, study.prompts, embeddings)
        finally:
            self._creating -= 1
        record = StudyRecord(study.id, meta, file, study)
        self._add(record)
        return record

    async def delete(self, record: StudyRecord) -> bool:
        """Delete a study durably; return False if it was deleted before.

        Raises:
            StoreError: the file cannot be removed; the study remains.
        """
        if record.is_deleted:
            return False
        record.is_deleted = True
        try:
            await asyncio.to_thread(self._file(record.id).delete)
        except StoreError:
            record.is_deleted = False
            raise
        self._journal_events -= len(record.tail)
        record.tail.clear()
        del self._records[record.id]
        self._keys.pop(record.meta.get("key", ""), None)
        return True

    def _file(self, study: str) -> StudyFile:
        return StudyFile(self._folder / f"{study}{SUFFIX}")

    # ---- changes -----------------------------------------------------------------------------------

    def append(self, record: StudyRecord, events: list[JournalEvent]) -> JournalEntry | None:
        """Queue the events of one request for the next commit; None without events."""
        return self._journal.append(record, events) if events else None

    def _add_to_tails(self, number: int, entries: list[JournalEntry]) -> None:
        self._last_commit = number
        self._last_commit_time = time.monotonic()
        for entry in entries:
            record: StudyRecord = entry.owner
            if not record.is_deleted:
                record.tail.extend(entry.events)
                self._journal_events += len(entry.events)

    # ---- checkpoints -------------------------------------------------------------------------------

    async def _checkpoint_regularly(self) -> None:
        pause = 1.0
        while True:
            await asyncio.sleep(pause)
            is_idle = time.monotonic() - self._last_commit_time >= IDLE_SECONDS
            if not self._journal_events or not (is_idle or self._journal_events >= MAX_JOURNAL_EVENTS):
                continue
            try:
                await self.checkpoint()
                pause = 1.0
            except StoreError as error:  # retry later: the disk may have room again
                pause = min(2 * pause, MAX_CHECKPOINT_PAUSE)
                _log.warning("checkpoint failed", extra={"error": type(error).__name__})

    async def checkpoint(self) -> None:
        """Move the journal's events into the study files.

        An interruption at any point neither loses nor repeats an event.

        Raises:
            StoreError: a study file or the journal cannot be written.
        """
        await shielded(self._checkpoint(), self._checkpoints)

    async def _checkpoint(self) -> None:
        problem: StoreError | None = None
        async with self._checkpoint_lock:
            upto = self._last_commit
            for record in [r for r in self._records.values() if r.tail]:
                try:
                    await self._checkpoint_study(record)
                except StoreError as error:  # keep the journal: this study still needs its part of it
                    problem = problem or error
            if problem is not None:
                raise problem
            await self._journal.truncate(upto)

    async def _checkpoint_study(self, record: StudyRecord) -> None:
        async with record.file_lock:
            events = list(record.tail)
            if record.is_deleted or not events:
                return
            await asyncio.to_thread(self._file(record.id).append, events)
            del record.tail[: len(events)]
            self._journal_events -= len(events)
