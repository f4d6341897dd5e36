"""A job's progress: numbered events, the newest kept, for any number of listeners that come and go."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec


class JobEvent(NamedTuple):
    """One event: `data` is JSON."""

    number: int
    kind: str
    data: bytes

    def text(self) -> bytes:
        """As a server-sent event."""
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (self.number, self.kind.encode(), self.data)


class JobEvents:
    """The newest events of a job, kept in a file too, so that a restart does not lose them.

    The file is a convenience, not a record: it is not waited for, and what cannot be written is left out.
    """

    def __init__(self, path: Path, kept: int, last: int = 0) -> None:
        self._path = path
        self._most = kept
        self._kept: deque[JobEvent] | None = None  # not in memory where nobody asks
        self._written = 0
        self._changed = asyncio.Event()
        self.closed = False
        self.last = last

    def _events(self) -> deque[JobEvent]:
        if self._kept is None:
            self._kept = deque(maxlen=self._most)
            self._read(self._kept)
            self.last = max([self.last, *(event.number for event in self._kept)])
        return self._kept

    def _read(self, kept: deque[JobEvent]) -> None:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except OSError:
            return
        for line in lines:
            try:
                number, kind, data = msgspec.json.decode(line, type=tuple[int, str, msgspec.Raw])
            except msgspec.DecodeError:  # the last line may be half a one
                continue
            kept.append(JobEvent(number, kind, bytes(data)))
        self._written = len(lines)

    def add(self, kind: str, data: Any) -> None:
        """Add an event and tell the listeners."""
        kept = self._events()
        self.last += 1
        event = JobEvent(self.last, kind, msgspec.json.encode(data))
        kept.append(event)
        self._keep(event, kept)
        self._wake()

    def _keep(self, event: JobEvent, kept: deque[JobEvent]) -> None:
        row = [event.number, event.kind, msgspec.Raw(event.data)]
        events = [row]
        mode = "ab"
        if self._written >= 2 * self._most:  # bounded: begun anew with what is still kept
            events = [[e.number, e.kind, msgspec.Raw(e.data)] for e in kept]
            mode, self._written = "wb", 0
        try:
            with self._path.open(mode) as file:
                file.write(b"".join(msgspec.json.encode(each) + b"\n" for each in events))
        except OSError:
            return
        self._written += len(events)

    def close(self) -> None:
        """No more events for now: listeners hear what there is and end."""
        self.closed = True
        self._kept = None  # in the file
        self._wake()

    def reopen(self) -> None:
        """There will be more events."""
        self.closed = False

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def listen(self, after: int, pause: float) -> AsyncIterator[bytes]:
        """The events beyond a number as text, as they come; a comment after each `pause` seconds without one.

        Where some of them are no longer kept, an event "gap" says so.
        """
        while True:
            changed = self._changed
            closed = self.closed
            events = [event for event in self._events() if event.number > after]
            if events and events[0].number > after + 1:
                yield b'event: gap\ndata: {"missing":%d}\n\n' % (events[0].number - after - 1)
            for event in events:
                after = event.number
                yield event.text()
            if closed:
                return
            if not events:
                try:
                    await asyncio.wait_for(changed.wait(), pause)
                except TimeoutError:
                    yield b": still here\n\n"
