"""All studies of a server: creation, lookup and changes.

A change is applied in memory, its events go to the store, and the response is sent once they are durable. If
the commit fails, the loaded study is discarded, and the next request rebuilds it from the store. Where
several servers share the store, a request that missed another server's change is applied again to the newest
state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from zopo_fast._utils.aio import shielded
from zopo_fast.errors import InputError, NothingToAsk, StoreError, UnknownIndexError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey, key_reused
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.metrics import Metrics
from zopo_fast.serve.studies.journal import JournalEntry
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.store import StudyChangedError, StudyStore, too_many_studies
from zopo_fast.serve.studies.study import LoadedStudy

T = TypeVar("T")
_NO_EFFECT = (InputError, NothingToAsk, UnknownIndexError, Problem)  # raised before anything changes
Operation = Callable[[LoadedStudy], T]
Outcome = Callable[[], T]  # returns the result of an operation, or raises its error
_log = logging.getLogger(__name__)


class StudyService:
    """Studies of a server. Call `open` and `close` in the same event loop.

    Args:
        store: where the studies are kept.
        limits: limits of the server.
        metrics: metrics of the server.
        changes: revisions of the studies.
    """

    def __init__(self, store: StudyStore, limits: ServerLimits, metrics: Metrics, changes: Changes) -> None:
        self.store, self.limits, self.metrics, self._changes = store, limits, metrics, changes
        self._pending: dict[StudyRecord, int] = {}  # number of entries that wait for their commit
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_open = False

    async def open(self) -> None:
        """Open the store.

        Raises:
            StoreBusyError: another server uses the folder.
            StoreError: the store cannot be used.
        """
        await self.store.open(self._on_commit, self._on_failure)
        self._is_open = True
        await self.count()

    async def close(self, seconds: float) -> None:
        """Write everything to the store.

        Args:
            seconds: time limit of the requests in flight and of the store, each.
        """
        if self._is_open and self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        await self.store.close(seconds)

    # ---- lookup, creation, deletion ----------------------------------------------------------------

    async def list_all(self) -> list[StudyRecord]:
        """List the studies in order of their ids."""
        return await self.store.list_records()

    async def get(self, study: str) -> StudyRecord:
        """Look up a study.

        Raises:
            Problem: 404, the study does not exist.
        """
        record = await self.store.find(study)
        if record is None:
            raise not_found("the study")
        return record

    async def list_page(self, after: str, limit: int) -> tuple[list[StudyRecord], str | None]:
        """List studies in order of their ids.

        Returns:
            At most `limit` studies after the id `after`, and the `after` of the next page or None.
        """
        found = await self.store.list_records(after, limit + 1)
        page = found[:limit]
        return page, page[-1].id if len(found) > limit else None

    async def find_created(self, key: IdempotencyKey) -> StudyRecord | None:
        """Look up the study that an earlier request with this key created.

        Raises:
            Problem: 422, the key belongs to a different request.
        """
        found = await self.store.find_key(key.value)
        if found is None:
            return None
        digest, study = found
        if digest != key.digest:
            raise key_reused()
        return await self.get(study)

    async def check_capacity(self) -> None:
        """Raise a Problem (429) if the limit of studies is reached."""
        if await self.store.count() >= self.limits.max_studies:
            raise too_many_studies(self.limits.max_studies)

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
            StoreError: the study cannot be written.
            Problem: 429, the limit of studies is reached; 422, another server got the key with a different
                request.
        """
        await self.check_capacity()
        study = secrets.token_hex(8)
        meta = {"version": 1, "config": config.to_dict(), "name": name, "created": round(time.time(), 3)}
        meta |= {"prompts": len(embeddings), "dimension": int(embeddings.shape[1])}
        if key is not None:
            meta |= {"key": key.value, "digest": key.digest}
        # Validates before anything is written.
        loaded = await asyncio.to_thread(LoadedStudy, study, config, embeddings, prompts)
        record = await self.store.create(loaded, meta, embeddings, self.limits.max_studies)
        if key is not None and record.meta["digest"] != key.digest:
            raise key_reused()
        self._changes.touch(record.id)
        await self.count()
        _log.info("study created", extra={"study": record.id, "prompts": len(embeddings)})
        return record

    async def delete(self, record: StudyRecord) -> None:
        """Delete a study durably.

        Raises:
            StoreError: the study cannot be removed and remains.
            Problem: 404, the study does not exist.
        """
        await shielded(self._delete(record), self._tasks)

    async def _delete(self, record: StudyRecord) -> None:
        async with record.lock, record.file_lock:
            if not await self.store.delete(record):
                raise not_found("the study")
            record.unload()
        self._changes.forget(record.id)
        await self.count()
        _log.info("study deleted", extra={"study": record.id})

    # ---- changes and views -------------------------------------------------------------------------

    async def apply(
        self, study: str, operation: Operation[T], *, is_long: bool = False, is_view: bool = False
    ) -> T:
        """Apply an operation to a study, and wait until its changes are durable.

        An operation that raises changes nothing. An operation without changes waits for those that it saw.

        Args:
            study: id of the study.
            operation: runs in the event loop, or in a thread if it is long or the pool is large. It may run
                again, on a newer state, after another server changed the study.
            is_long: the operation would delay the requests of other studies.
            is_view: the operation never changes the study.

        Returns:
            The result of the operation.

        Raises:
            StoreError: the study cannot be loaded or its changes cannot be written.
            Problem: 404, the study does not exist.
        """
        record = await self.get(study)
        if not record.is_contended:
            try:
                return await self._apply(record, operation, is_long)
            except StudyChangedError:
                pass
        return await shielded(self._apply_newest(record, operation, is_long, is_view), self._tasks)

    async def _apply(self, record: StudyRecord, operation: Operation[T], is_long: bool) -> T:
        loaded = record.study
        if loaded is None or loaded.is_large or is_long or record.lock.locked():
            outcome, entry = await shielded(self._apply_locked(record, operation, is_long), self._tasks)
        else:
            outcome = self._run(record, loaded, operation)
            entry = self._append(record, loaded)
        if entry is not None:
            await entry.done
            return outcome()
        result = outcome()
        await record.wait_durable()
        return result

    async def _apply_locked(
        self, record: StudyRecord, operation: Operation[T], is_long: bool
    ) -> tuple[Outcome[T], JournalEntry | None]:
        async with record.lock:
            if record.is_deleted:  # while this waited for the lock
                raise not_found("the study")
            if record.is_contended:
                raise StudyChangedError("the study changed while the request waited for it")
            study = record.study or await record.load()
            outcome = await self._run_anywhere(record, study, operation, is_long)
            if study.is_stale:  # a commit failed in the meantime, and this change builds on it
                if self.store.apply_newest is not None:
                    raise StudyChangedError("the study was reset to its store")
                raise StoreError(f"study {record.id}: reset to what is on disk after a failed write; retry")
            return outcome, self._append(record, study)

    async def _apply_newest(
        self, record: StudyRecord, operation: Operation[T], is_long: bool, is_view: bool
    ) -> T:
        assert self.store.apply_newest is not None  # it alone lets a request miss a change
        async with record.lock:
            await record.settle()

            async def work(study: LoadedStudy) -> Outcome[T]:
                return await self._run_anywhere(record, study, operation, is_long)

            outcome = await self.store.apply_newest(record, work, is_view=is_view)
        return outcome()

    async def _run_anywhere(
        self, record: StudyRecord, study: LoadedStudy, operation: Operation[T], is_long: bool
    ) -> Outcome[T]:
        if study.is_large or is_long:
            return await asyncio.to_thread(self._run, record, study, operation)
        return self._run(record, study, operation)

    def _run(self, record: StudyRecord, study: LoadedStudy, operation: Operation[T]) -> Outcome[T]:
        """Run an operation; an error without effect is an outcome, valid if the state was the newest."""
        try:
            result = operation(study)
        except BaseException as error:
            if not isinstance(error, _NO_EFFECT) or study.take_events():
                record.unload()
                raise
            failure = error

            def fail() -> T:
                raise failure

            return fail
        return lambda: result

    def _append(self, record: StudyRecord, study: LoadedStudy) -> JournalEntry | None:
        entry = self.store.append(record, study.take_events())
        if entry is not None:
            self._pending[record] = self._pending.get(record, 0) + 1
            record.last = entry
        return entry

    # ---- results of commits ------------------------------------------------------------------------

    def _on_commit(self, entries: list[JournalEntry], seconds: float) -> None:
        for entry in entries:
            self._finish(entry)
        changes = [entry.owner for entry in entries if entry.events]
        for record in changes:
            if not record.is_deleted:
                self._changes.touch(record.id)
        if changes:
            self.metrics.observe_commit(seconds, len(changes))

    def _on_failure(self, entries: list[JournalEntry], error: StoreError) -> None:
        for entry in entries:
            self._finish(entry)
            if entry.events:  # else the study is behind, but holds nothing that is not durable
                entry.owner.unload()
        if isinstance(error, StudyChangedError):
            return
        # All queued entries fail as well (see Journal.start): unload their studies now, so that later
        # changes build on what is on disk.
        for record in self._pending:
            record.unload()
        self.metrics.commit_failures.inc()
        _log.error("commit failed", extra={"error": type(error).__name__, "requests": len(entries)})

    def _finish(self, entry: JournalEntry) -> None:
        record: StudyRecord = entry.owner
        self._pending[record] -= 1
        if not self._pending[record]:
            del self._pending[record]

    async def count(self) -> None:
        """Count the studies for the metrics, if the store can be reached."""
        with contextlib.suppress(StoreError):
            self.metrics.studies.set(await self.store.count())
