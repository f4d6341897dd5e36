"""One study of a server, in memory or not: its file, and what the journal holds beyond that."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from zopo_fast.errors import StoreError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.serve.studies.file import StudyFile
from zopo_fast.serve.studies.journal import Entry, Event
from zopo_fast.serve.studies.study import Study


@dataclass(eq=False)
class Record:
    """A study, in memory or not.

    Attributes:
        tail: events on disk in the journal that its file does not hold yet.
        unsaved: entries that are queued and not on disk.
        last: of the newest of them.
        turn: held while the study is loaded, or used by a call that leaves the event loop.
        file_turn: held while its file is used.
    """

    id: str
    meta: dict[str, Any]
    file: StudyFile
    study: Study | None = None
    tail: list[Event] = field(default_factory=list)
    unsaved: int = 0
    last: Entry | None = None
    deleted: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    file_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def settled(self) -> None:
        """Wait until all that was done so far is on disk; raises the StoreError of what could not be."""
        if self.last is not None and not self.last.finished:
            await self.last.wait()

    async def load(self) -> Study:
        """Build the study from its file and what the journal holds beyond it; `turn` is held meanwhile."""
        while self.last is not None and not self.last.finished:
            with contextlib.suppress(StoreError):  # that is another request's; here it is only to be over
                await self.last.wait()
        tail = list(self.tail)

        def build() -> Study:
            saved = self.file.read()
            config = ZopoConfig.from_dict(saved.meta["config"])
            study = Study(self.id, config, saved.embeddings, saved.prompts)
            study.replay(saved.events)
            study.replay((e.seq, e.kind, json.loads(bytes(e.data))) for e in tail if e.seq > study.seq)
            return study

        async with self.file_turn:
            self.study = await asyncio.to_thread(build)
        return self.study

    def drop(self) -> None:
        """Forget what is in memory; the next request loads what is on disk."""
        if self.study is not None:
            self.study.dead = True
            self.study = None

    async def move(self) -> int:
        """Put what the journal holds beyond the file into it; the number of events. Raises StoreError."""
        async with self.file_turn:
            events = list(self.tail)
            if self.deleted or not events:
                return 0
            await asyncio.to_thread(self.file.append, events)
            del self.tail[: len(events)]
            return len(events)
