"""All studies of a server: creation, lookup, changes and durability.

A change is applied in memory, its events are appended to the journal, and the response is sent once they
are on disk. If the commit fails, the loaded study is discarded, and the next request rebuilds it from its
file and the journal. A checkpoint moves the journal's events into the study files from time to time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from zopo_fast.errors import InputError, NothingToAsk, StoreError, UnknownIndexError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.metrics import Metrics
from zopo_fast.serve.studies.file import SUFFIX, StudyFile, list_study_files
from zopo_fast.serve.studies.journal import Journal, JournalEntry
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.study import LoadedStudy

T = TypeVar("T")
MAX_JOURNAL_EVENTS = 100_000  # a checkpoint starts above this size
IDLE_SECONDS = 5.0  # or after this time without a commit
MAX_CHECKPOINT_PAUSE = 60.0  # seconds between attempts while checkpoints fail
_NO_EFFECT = (InputError, NothingToAsk, UnknownIndexError, Problem)  # raised before anything changes
_log = logging.getLogger(__name__)


class StudyService:
    """Studies of a data folder. Call `open` and `close` in the same event loop.

    Args:
        folder: data folder of the server.
        limits: limits of the server.
        metrics: metrics of the server.
        changes: revisions of the studies.
    """

    def __init__(self, folder: Path, limits: ServerLimits, metrics: Metrics, changes: Changes) -> None:
        self.limits, self.metrics, self._changes = limits, metrics, changes
        self._folder = folder / "studies"
        self._journal_path = folder / "journal.sqlite3"
        self._records: dict[str, StudyRecord] = {}
        self._keys: dict[str, tuple[str, str]] = {}  # keys of creations: digest, study
        self._creating = 0
        self._journal_events = 0
        self._last_commit = 0
        self._last_commit_time = time.monotonic()
        self._checkpoint_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checkpointer: asyncio.Task[None] | None = None

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Lock the folder and find its studies.

        Raises:
            StoreBusyError: another server uses the folder.
            StoreError: the folder or the journal cannot be used.
        """
        self._journal = await asyncio.to_thread(self._open_folder)
        self._journal.start(self._on_commit, self._on_failure)
        self._checkpointer = asyncio.create_task(self._checkpoint_regularly())
        self._update_gauge()

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
        """Write everything to disk.

        Args:
            seconds: time limit of the requests in flight and of the checkpoint, each.
        """
        if self._checkpointer is not None:
            self._checkpointer.cancel()
            await asyncio.gather(self._checkpointer, return_exceptions=True)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=seconds)
            try:
                await asyncio.wait_for(self.checkpoint(), seconds)
            except (TimeoutError, StoreError) as error:  # the next start reads the journal instead
                _log.warning("checkpoint failed", extra={"error": type(error).__name__})
            self._journal.flush()
            await asyncio.to_thread(self._journal.close)

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._records)

    def list_all(self) -> list[StudyRecord]:
        """List the studies in no particular order."""
        return [record for record in self._records.values() if not record.is_deleted]

    def get(self, study: str) -> StudyRecord:
        """Look up a study.

        Raises:
            Problem: 404, the study does not exist.
        """
        record = self._records.get(study)
        if record is None or record.is_deleted:
            raise not_found("the study")
        return record

    def list_page(self, after: str, limit: int) -> tuple[list[StudyRecord], str | None]:
        """List studies in order of their ids.

        Returns:
            At most `limit` studies after the id `after`, and the `after` of the next page or None.
        """
        names = sorted(
            name for name, record in self._records.items() if name > after and not record.is_deleted
        )
        page = [self._records[name] for name in names[:limit]]
        return page, page[-1].id if len(names) > limit else None

    def find_created(self, key: IdempotencyKey) -> StudyRecord | None:
        """Look up the study that an earlier request with this key created.

        Raises:
            Problem: 422, the key belongs to a different request.
        """
        if key.value not in self._keys:
            return None
        digest, study = self._keys[key.value]
        if digest != key.digest:
            raise key_reused()
        return self.get(study)

    def check_capacity(self) -> None:
        """Raise a Problem (429) if the limit of studies is reached, counting creations in flight."""
        if len(self._records) + self._creating >= self.limits.max_studies:
            raise Problem(
                429,
                "TooManyStudies",
                f"the server has reached its limit of {self.limits.max_studies} studies; delete some",
            )

    async def create(
        self,
        config: ZopoConfig,
        embeddings: Any,
        prompts: list[str] | None,
        name: str | None,
        key: IdempotencyKey | None,
    ) -> StudyRecord:
        """Create a study durably.

        Args:
            config: settings of the search.
            embeddings: (m, d).
            prompts: m texts; None: the pool has embeddings only.
            name: name to show.
            key: idempotency key of the request.

        Raises:
            ConfigError: the settings do not fit the pool.
            ArrayError: the embeddings cannot be searched.
            StoreError: the study file cannot be written.
            Problem: 429, the limit of studies is reached.
        """
        self.check_capacity()
        study = secrets.token_hex(8)
        meta = {"version": 1, "config": config.to_dict(), "name": name, "created": round(time.time(), 3)}
        meta |= {"prompts": len(embeddings), "dimension": int(embeddings.shape[1])}
        if key is not None:
            meta |= {"key": key.value, "digest": key.digest}
        file = StudyFile(self._folder / f"{study}{SUFFIX}")

        def build() -> LoadedStudy:
            loaded = LoadedStudy(study, config, embeddings, prompts)  # validate before the file is written
            file.create(meta, prompts, embeddings)
            return loaded

        self._creating += 1
        try:
            loaded = await asyncio.to_thread(build)
        finally:
            self._creating -= 1
        record = StudyRecord(study, meta, file, loaded)
        self._add(record)
        self._changes.touch(study)
        self._update_gauge()
        _log.info("study created", extra={"study": study, "prompts": len(embeddings)})
        return record

    async def delete(self, record: StudyRecord) -> None:
        """Delete a study durably.

        Raises:
            StoreError: the file cannot be removed; the study remains.
        """
        await self._shield(self._delete(record))

    async def _delete(self, record: StudyRecord) -> None:
        async with record.lock, record.file_lock:
            self.get(record.id)
            record.is_deleted = True
            try:
                await asyncio.to_thread(record.file.delete)
            except StoreError:
                record.is_deleted = False
                raise
            record.unload()
            self._journal_events -= len(record.tail)
            record.tail.clear()
            del self._records[record.id]
            self._keys.pop(record.meta.get("key", ""), None)
        self._changes.forget(record.id)
        self._update_gauge()
        _log.info("study deleted", extra={"study": record.id})

    # ---- changes and views -------------------------------------------------------------------------

    async def apply(self, study: str, operation: Callable[[LoadedStudy], T], *, is_long: bool = False) -> T:
        """Apply an operation to a study, and wait until its changes are on disk.

        An operation that raises changes nothing. An operation without changes waits for those that it saw.

        Args:
            study: id of the study.
            operation: runs in the event loop, or in a thread if it is long or the pool is large.
            is_long: the operation would delay the requests of other studies.

        Returns:
            The result of the operation.

        Raises:
            StoreError: the study cannot be loaded or its changes cannot be written.
            Problem: 404, the study does not exist.
        """
        record = self.get(study)
        loaded = record.study
        if loaded is None or loaded.is_large or is_long or record.lock.locked():
            result, entry = await self._shield(self._apply_locked(record, operation, is_long))
        else:
            result = self._apply_now(record, loaded, operation)
            entry = self._append(record, loaded)
        if entry is not None:
            await entry.done
        else:
            await record.wait_durable()
        return result

    def _apply_now(self, record: StudyRecord, study: LoadedStudy, operation: Callable[[LoadedStudy], T]) -> T:
        try:
            return operation(study)
        except BaseException as error:
            self._undo(record, study, error)
            raise

    async def _apply_locked(
        self, record: StudyRecord, operation: Callable[[LoadedStudy], T], is_long: bool
    ) -> tuple[T, JournalEntry | None]:
        async with record.lock:
            self.get(record.id)  # the study may have been deleted while this waited for the lock
            study = record.study or await record.load()
            if study.is_large or is_long:
                try:
                    result = await asyncio.to_thread(operation, study)
                except BaseException as error:
                    self._undo(record, study, error)
                    raise
            else:
                result = self._apply_now(record, study, operation)
            if study.is_stale:  # a commit failed in the meantime, and this change builds on it
                raise StoreError(f"study {record.id}: reset to what is on disk after a failed write; retry")
            return result, self._append(record, study)

    def _undo(self, record: StudyRecord, study: LoadedStudy, error: BaseException) -> None:
        if not isinstance(error, _NO_EFFECT) or study.take_events():
            record.unload()

    def _append(self, record: StudyRecord, study: LoadedStudy) -> JournalEntry | None:
        events = study.take_events()
        if not events:
            return None
        record.pending_entries += 1
        record.last = self._journal.append(record, events)
        return record.last

    async def _shield(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end even if the waiting request is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    # ---- journal -----------------------------------------------------------------------------------

    def _on_commit(self, number: int, entries: list[JournalEntry], seconds: float) -> None:
        self._last_commit = number
        self._last_commit_time = time.monotonic()
        for entry in entries:
            record: StudyRecord = entry.owner
            record.pending_entries -= 1
            if not record.is_deleted:
                record.tail.extend(entry.events)
                self._journal_events += len(entry.events)
                self._changes.touch(record.id)
        self.metrics.observe_commit(seconds, len(entries))

    def _on_failure(self, entries: list[JournalEntry], error: StoreError) -> None:
        for entry in entries:
            entry.owner.pending_entries -= 1
            entry.owner.unload()
        # All queued entries fail as well (see Journal.start): unload their studies now, so that later
        # changes build on what is on disk.
        for record in self._records.values():
            if record.pending_entries:
                record.unload()
        self.metrics.commit_failures.inc()
        _log.error("commit failed", extra={"error": type(error).__name__, "requests": len(entries)})

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
        await self._shield(self._checkpoint())

    async def _checkpoint(self) -> None:
        problem: StoreError | None = None
        async with self._checkpoint_lock:
            upto = self._last_commit
            for record in [r for r in self._records.values() if r.tail]:
                try:
                    # Two statements: commits during the await change the count too.
                    moved = await record.checkpoint()
                    self._journal_events -= moved
                except StoreError as error:  # keep the journal: this study still needs its part of it
                    problem = problem or error
            if problem is not None:
                raise problem
            await self._journal.truncate(upto)

    def _update_gauge(self) -> None:
        self.metrics.studies.set(len(self._records))
