"""Record of a study that several servers share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from zopo_fast.serve.postgres.log import NO_ROWS, Head
from zopo_fast.serve.studies.record import StudyRecord

CONTENDED_SECONDS = 5.0


@dataclass(eq=False)
class FleetRecord(StudyRecord):
    """One study of a database, loaded or not.

    Attributes:
        head: newest row of the log that the loaded study includes.
        newest: version of the newest row that is known.
    """

    head: Head = field(default=NO_ROWS)
    newest: int = 0
    _contended_until: float = 0.0

    @property
    def is_contended(self) -> bool:
        """Another server changed the study lately: changes made without its lock would often be lost."""
        return time.monotonic() < self._contended_until

    @property
    def is_current(self) -> bool:
        """The loaded study has every change that is known."""
        return self.study is not None and self.newest <= self.study.seq

    def note_other_server(self) -> None:
        """Note that another server changed the study."""
        self._contended_until = time.monotonic() + CONTENDED_SECONDS

    def advance(self, head: Head) -> None:
        """Note the newest row, which the loaded study includes."""
        self.head, self.newest = head, max(self.newest, head.version)
