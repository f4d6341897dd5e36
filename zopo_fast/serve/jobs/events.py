"""Progress events of a job: numbered, bounded, for any number of followers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec


class JobEvent(NamedTuple):
    """One event; `data` is JSON."""

    number: int
    kind: str
    data: bytes

    def encode(self) -> bytes:
        """Format the event as a server-sent event."""
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (self.number, self.kind.encode(), self.data)


class Events(Protocol):
    """Progress events of a job.

    Attributes:
        last: number of the newest event known here.
    """

    last: int

    def add(self, kind: str, data: Any) -> None:
        """Add an event and wake the followers."""

    def close(self) -> None:
        """End the followers after the newest event."""

    def reopen(self) -> None:
        """Expect more events."""

    def follow(self, after: int, pause: float) -> AsyncIterator[bytes]:
        """Iterate over the events as server-sent events, until no more can come.

        If some of the events asked for are no longer kept, an event "gap" with their number comes first.

        Args:
            after: number of the last event to leave out.
            pause: seconds without an event after which a comment keeps the connection alive.
        """


def encode_events(events: Sequence[JobEvent], after: int) -> Iterator[bytes]:
    """Format events with numbers above `after`, and the gap before them if there is one."""
    if events and events[0].number > after + 1:
        yield b'event: gap\ndata: {"missing":%d}\n\n' % (events[0].number - after - 1)
    for event in events:
        yield event.encode()


class JobEvents:
    """Newest events of a job, in memory and in a file that survives restarts.

    The file is written without fsync, and events that cannot be written are dropped: the results of the
    job do not depend on them.

    Args:
        path: file of the events, one JSON array a line.
        max_events: number of events to keep.
        last: number of the newest event before this process started.

    Attributes:
        is_closed: no more events will come, so followers end after the newest one.
    """

    def __init__(self, path: Path, max_events: int, last: int = 0) -> None:
        self._path = path
        self._max_events = max_events
        self._events: deque[JobEvent] | None = None  # None: not loaded
        self._lines = 0  # of the file
        self._changed = asyncio.Event()
        self.is_closed = False
        self.last = last

    def _load(self) -> deque[JobEvent]:
        if self._events is None:
            self._events = deque(maxlen=self._max_events)
            self._read(self._events)
            self.last = max([self.last, *(event.number for event in self._events)])
        return self._events

    def _read(self, events: deque[JobEvent]) -> None:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except OSError:
            return
        for line in lines:
            try:
                number, kind, data = msgspec.json.decode(line, type=tuple[int, str, msgspec.Raw])
            except msgspec.DecodeError:  # a crash can leave the last line incomplete
                continue
            events.append(JobEvent(number, kind, bytes(data)))
        self._lines = len(lines)

    def add(self, kind: str, data: Any) -> None:
        """Add an event and wake the followers."""
        events = self._load()
        self.last += 1
        event = JobEvent(self.last, kind, msgspec.json.encode(data))
        events.append(event)
        self._write(event, events)
        self._wake()

    def _write(self, event: JobEvent, events: deque[JobEvent]) -> None:
        to_write, mode = [event], "ab"
        if self._lines >= 2 * self._max_events:  # bound the file: rewrite it with the kept events
            to_write, mode = list(events), "wb"
            self._lines = 0
        rows = [msgspec.json.encode([e.number, e.kind, msgspec.Raw(e.data)]) for e in to_write]
        try:
            with self._path.open(mode) as file:
                file.write(b"".join(row + b"\n" for row in rows))
        except OSError:
            return
        self._lines += len(rows)

    def close(self) -> None:
        """End the followers after the newest event, and release the memory."""
        self.is_closed = True
        self._events = None
        self._wake()

    def reopen(self) -> None:
        """Expect more events."""
        self.is_closed = False

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int, pause: float) -> AsyncIterator[bytes]:
        """Iterate over the events as server-sent events, until the events are closed; see `Events`."""
        while True:
            changed = self._changed
            is_closed = self.is_closed
            events = [event for event in self._load() if event.number > after]
            for text in encode_events(events, after):
                yield text
            after = events[-1].number if events else after
            if is_closed:
                return
            if not events:
                try:
                    await asyncio.wait_for(changed.wait(), pause)
                except TimeoutError:
                    yield b": keep-alive\n\n"
