"""Record of one study: where it is kept, its events in the journal, and the loaded study if there is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from zopo_fast.errors import StoreError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.serve.studies.file import StudyContents
from zopo_fast.serve.studies.journal import JournalEntry, JournalEvent
from zopo_fast.serve.studies.study import LoadedStudy
from zopo_fast.storage.store import Event

_log = logging.getLogger(__name__)


class StudySource(Protocol):
    """Source of a study's contents. Every method raises a StoreError if they cannot be read."""

    async def load(self) -> StudyContents:
        """Read everything."""

    async def load_log(self) -> tuple[list[str] | None, list[Event]]:
        """Read the texts and the log only."""


@dataclass(eq=False)
class StudyRecord:
    """One study of a server, loaded or not.

    Attributes:
        id: 16 hexadecimal digits.
        meta: name, settings and creation time.
        file: the study file, or the study in a database.
        study: the loaded study, or None.
        tail: committed events that the study file does not hold yet.
        last: newest journal entry.
        is_deleted: the study was deleted.
        head: identifies the commit that the loaded study is at, in a log that several servers append to.
        lock: held while the study is loaded, or changed outside the event loop.
        file_lock: held while the file is used.
    """

    id: str
    meta: dict[str, Any]
    file: StudySource
    study: LoadedStudy | None = None
    tail: list[JournalEvent] = field(default_factory=list)
    last: JournalEntry | None = None
    is_deleted: bool = False
    head: Any = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    file_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def wait_durable(self) -> None:
        """Wait until every change so far is on disk.

        Raises:
            StoreError: a change could not be written.
        """
        if self.last is not None and not self.last.is_finished:
            await self.last.wait()

    @property
    def is_contended(self) -> bool:
        """Another server changed the study lately."""
        return False

    @property
    def is_current(self) -> bool:
        """The loaded study has every change that is known."""
        return self.study is not None

    async def settle(self) -> None:
        """Wait for the commits in flight; their failures are reported to the requests that made them."""
        while self.last is not None and not self.last.is_finished:
            with contextlib.suppress(StoreError):
                await self.last.wait()

    async def load(self) -> LoadedStudy:
        """Build the study from its file and its events in the journal. The caller holds `lock`.

        Raises:
            StoreError: the file cannot be read.
            StoreDamagedError: the log cannot be replayed.
        """
        await self.settle()
        tail = list(self.tail)
        async with self.file_lock:
            return await self.build(await self.file.load(), tail)

    async def build(self, contents: StudyContents, tail: Sequence[JournalEvent] = ()) -> LoadedStudy:
        """Build the study from its contents and later events, in a thread.

        Raises:
            StoreDamagedError: the log cannot be replayed.
        """

        def replay() -> LoadedStudy:
            config = ZopoConfig.from_dict(contents.meta["config"])
            study = LoadedStudy(self.id, config, contents.embeddings, contents.prompts)
            study.replay(contents.events)
            study.replay((e.seq, e.kind, json.loads(bytes(e.data))) for e in tail if e.seq > study.seq)
            return study

        self.study = await asyncio.to_thread(replay)
        self.head = contents.head
        if self.study.different:
            _log.warning(
                "study %s: this version would have asked for %d other prompts; its scores are kept",
                self.id,
                self.study.different,
            )
        return self.study

    async def read(self) -> StudyContents:
        """Read the study from its file and its events in the journal, without loading it.

        Raises:
            StoreError: the file cannot be read.
        """
        async with self.file_lock:
            contents = await self.file.load()
            return replace(contents, events=[*contents.events, *self._tail_after(contents.events)])

    async def read_log(self) -> tuple[list[str] | None, list[Event]]:
        """Read the texts, and the log with its events in the journal.

        Raises:
            StoreError: the file cannot be read.
        """
        async with self.file_lock:
            prompts, events = await self.file.load_log()
            return prompts, [*events, *self._tail_after(events)]

    def _tail_after(self, events: Sequence[Event]) -> list[Event]:
        last = events[-1].seq if events else 0
        return [Event(e.seq, e.kind, json.loads(bytes(e.data))) for e in self.tail if e.seq > last]

    def unload(self) -> None:
        """Discard the loaded study; the next request loads what is on disk."""
        if self.study is not None:
            self.study.is_stale = True
            self.study = None
