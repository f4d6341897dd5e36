"""All studies of a server: made, found, changed and written down.

Order of things, for each request that changes a study: it is applied in memory, its events go to the
journal, and it is answered when they are on disk. What cannot be written is undone by forgetting what is in
memory: the next request builds the study again from its file and what the journal holds beyond it. From time
to time the journal is moved into the files.
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
from zopo_fast.serve.config import Limits
from zopo_fast.serve.http.problems import Problem, not_found
from zopo_fast.serve.metrics import Metrics
from zopo_fast.serve.studies.file import SUFFIX, StudyFile, files_in
from zopo_fast.serve.studies.journal import Entry, Journal
from zopo_fast.serve.studies.record import Record
from zopo_fast.serve.studies.study import Study

T = TypeVar("T")
_CLEAN = (InputError, NothingToAsk, UnknownIndexError, Problem)  # raised before anything was changed
JOURNAL_EVENTS = 100_000  # moved into the files when there are so many
IDLE_SECONDS = 5.0  # or when nothing was written for so long
_log = logging.getLogger(__name__)


class Studies:
    """The studies of a data folder; opened with `open`, in the event loop, and closed with `close`."""

    def __init__(self, folder: Path, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self._folder = folder / "studies"
        self._journal_path = folder / "journal.sqlite3"
        self._records: dict[str, Record] = {}
        self._keys: dict[str, tuple[str, str]] = {}  # of creations: key -> digest, study
        self._creating = 0
        self._in_journal = 0  # events
        self._number = 0  # of the newest commit
        self._written = time.monotonic()
        self._moving = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None

    # ---- open and close ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Take the folder and find what is in it; raises a StoreError, StoreBusyError for a second server."""
        self._journal = await asyncio.to_thread(self._find)
        self._journal.start(self._committed, self._failed)
        self._keeper = asyncio.create_task(self._keep())
        self._observe()

    def _find(self) -> Journal:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            journal = Journal(self._journal_path)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self._folder}: {error.strerror or error}") from error
        try:
            for path in files_in(self._folder):
                self._take(path)
            for number, events in journal.read():
                self._number = number
                for event in events:
                    record = self._records.get(event.study)
                    if record is not None:  # or it was deleted since
                        record.tail.append(event)
                        self._in_journal += 1
        except BaseException:
            journal.close()
            raise
        return journal

    def _take(self, path: Path) -> None:
        file = StudyFile(path)
        try:
            meta = file.meta()
        except StoreError as error:  # one damaged file does not keep the others from being served
            _log.error("study left out", extra={"study": path.stem, "error": type(error).__name__})
            return
        self._add(Record(path.name.removesuffix(SUFFIX), meta, file))

    def _add(self, record: Record) -> None:
        self._records[record.id] = record
        if (key := record.meta.get("key")) is not None:
            self._keys[key] = record.meta["digest"], record.id

    async def close(self, seconds: float) -> None:
        """Write everything down: the queue into the journal, that into the files while there is time."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=seconds)
            try:
                await asyncio.wait_for(self.checkpoint(), seconds)
            except (TimeoutError, StoreError) as error:  # the next start does it
                _log.warning("checkpoint left undone", extra={"error": type(error).__name__})
            self._journal.flush()
            await asyncio.to_thread(self._journal.close)

    # ---- find, create, delete ----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._records)

    def get(self, study: str) -> Record:
        """A study's record; 404 where there is none."""
        record = self._records.get(study)
        if record is None or record.deleted:
            raise not_found("such study")
        return record

    def listed(self, after: str, limit: int) -> tuple[list[Record], str | None]:
        """At most `limit` studies with ids beyond `after`, and where to go on; None: nowhere."""
        names = sorted(name for name, record in self._records.items() if name > after and not record.deleted)
        page = [self._records[name] for name in names[:limit]]
        return page, page[-1].id if len(names) > limit else None

    def created(self, key: str, digest: str) -> Record | None:
        """The study that a request with this key made; a Problem where that was another request."""
        if key not in self._keys:
            return None
        known, study = self._keys[key]
        if known != digest:
            raise Problem(422, "IdempotencyKeyReused", "this Idempotency-Key was used for another request")
        return self.get(study)

    def reserve(self) -> None:
        """Refuse a creation beyond the limit, counting those under way."""
        if len(self._records) + self._creating >= self.limits.max_studies:
            raise Problem(
                429, "TooManyStudies", f"at most {self.limits.max_studies} studies are kept: delete some"
            )

    async def create(
        self,
        config: ZopoConfig,
        embeddings: Any,
        prompts: list[str] | None,
        name: str | None,
        key: tuple[str, str] | None,
    ) -> Record:
        """Make a study; on return it is on disk.

        Args:
            key: idempotency key and digest of the request.
        """
        self.reserve()
        study = secrets.token_hex(8)
        meta = {"version": 1, "config": config.to_dict(), "name": name, "created": round(time.time(), 3)}
        meta |= {"prompts": len(embeddings), "dimension": int(embeddings.shape[1])}
        if key is not None:
            meta |= {"key": key[0], "digest": key[1]}
        file = StudyFile(self._folder / f"{study}{SUFFIX}")

        def make() -> Study:
            made = Study(study, config, embeddings, prompts)  # refuses what cannot be searched
            file.create(meta, prompts, embeddings)
            return made

        self._creating += 1
        try:
            made = await asyncio.to_thread(make)
        finally:
            self._creating -= 1
        record = Record(study, meta, file, made)
        self._add(record)
        self._observe()
        _log.info("study created", extra={"study": study, "prompts": len(embeddings)})
        return record

    async def delete(self, record: Record) -> None:
        """Remove a study; on return it stays removed."""
        await self._whole(self._delete(record))

    async def _delete(self, record: Record) -> None:
        async with record.turn, record.file_turn:
            self.get(record.id)
            record.deleted = True
            try:
                await asyncio.to_thread(record.file.delete)
            except StoreError:
                record.deleted = False
                raise
            record.drop()
            self._in_journal -= len(record.tail)
            record.tail.clear()
            del self._records[record.id]
            self._keys.pop(record.meta.get("key", ""), None)
        self._observe()
        _log.info("study deleted", extra={"study": record.id})

    # ---- change and look ---------------------------------------------------------------------------

    async def change(self, study: str, work: Callable[[Study], T]) -> T:
        """Apply `work` to a study and wait until what it did is on disk; its exceptions change nothing."""
        record = self.get(study)
        loaded = record.study
        if loaded is None or loaded.large or record.turn.locked():
            result, entry = await self._whole(self._in_turn(record, work))
        else:
            result = self._applied(record, loaded, work)
            entry = self._put(record, loaded)
        if entry is not None:
            await entry.done
        else:
            await (
                record.settled()
            )  # a look, or a repeated request: what it saw is on disk when it is answered
        return result

    def _applied(self, record: Record, study: Study, work: Callable[[Study], T]) -> T:
        try:
            return work(study)
        except BaseException as error:
            if not isinstance(error, _CLEAN) or study.take_events():
                record.drop()
            raise

    async def _in_turn(self, record: Record, work: Callable[[Study], T]) -> tuple[T, Entry | None]:
        async with record.turn:
            self.get(record.id)  # it may have been deleted meanwhile
            study = record.study or await record.load()
            if study.large:
                try:
                    result = await asyncio.to_thread(work, study)
                except BaseException as error:
                    if not isinstance(error, _CLEAN) or study.take_events():
                        record.drop()
                    raise
            else:
                result = self._applied(record, study, work)
            if study.dead:  # a commit failed meanwhile, and this was built on what it undid
                raise StoreError("the study was set back to what is on disk: try again")
            return result, self._put(record, study)

    def _put(self, record: Record, study: Study) -> Entry | None:
        events = study.take_events()
        if not events:
            return None
        record.unsaved += 1
        record.last = self._journal.put(record, events)
        return record.last

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, also where the request that waits is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    # ---- the journal -------------------------------------------------------------------------------

    def _committed(self, number: int, batch: list[Entry], seconds: float) -> None:
        self._number = number
        self._written = time.monotonic()
        for entry in batch:
            record: Record = entry.owner
            record.unsaved -= 1
            if not record.deleted:
                record.tail.extend(entry.events)
                self._in_journal += len(entry.events)
        self.metrics.committed(seconds, len(batch))

    def _failed(self, batch: list[Entry], error: StoreError) -> None:
        for entry in batch:
            entry.owner.unsaved -= 1
            entry.owner.drop()
        # All that is queued now fails too (see Journal), so that nothing is built on what is undone here;
        # what comes after this is built on what is on disk.
        for record in self._records.values():
            if record.unsaved:
                record.drop()
        self.metrics.commit_failures.inc()
        _log.error("commit failed", extra={"error": type(error).__name__, "requests": len(batch)})

    async def _keep(self) -> None:
        """Move the journal into the files when it has grown, or when there is time for it."""
        pause = 1.0
        while True:
            await asyncio.sleep(pause)
            idle = time.monotonic() - self._written >= IDLE_SECONDS
            if not self._in_journal or not (idle or self._in_journal >= JOURNAL_EVENTS):
                continue
            try:
                await self.checkpoint()
                pause = 1.0
            except StoreError as error:  # such as no room: later
                pause = min(2 * pause, 60.0)
                _log.warning("checkpoint failed", extra={"error": type(error).__name__})

    async def checkpoint(self) -> None:
        """Move what the journal holds into the files; cut off at any point it loses and repeats nothing."""
        await self._whole(self._checkpoint())

    async def _checkpoint(self) -> None:
        problem: StoreError | None = None
        async with self._moving:
            upto = self._number
            for record in [r for r in self._records.values() if r.tail]:
                try:
                    moved = await record.move()
                    self._in_journal -= moved  # not in one: what is committed meanwhile counts too
                except StoreError as error:  # that study's part of the journal is still needed
                    problem = problem or error
            if problem is not None:
                raise problem
            await self._journal.forget(upto)

    def _observe(self) -> None:
        self.metrics.studies.set(len(self._records))
