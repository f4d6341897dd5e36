"""Interface between the studies of a server and where they are kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from zopo_fast.errors import StoreError
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.studies.journal import JournalEntry, JournalEvent
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.study import LoadedStudy

T = TypeVar("T")
OnCommit = Callable[[list[JournalEntry], float], None]
OnFailure = Callable[[list[JournalEntry], StoreError], None]


class StudyChangedError(StoreError):
    """Another server changed the study; apply the request again, to the newest state."""


class ApplyNewest(Protocol):
    """Method of a store whose studies other servers can change too."""

    async def __call__(
        self, record: StudyRecord, work: Callable[[LoadedStudy], Awaitable[T]], *, is_view: bool
    ) -> T:
        """Apply work to the newest state of a study and commit its events, before other servers change it.

        Args:
            record: the study; the caller holds its lock.
            work: changes the loaded study. A lost connection can undo it; it then runs again.
            is_view: the work changes nothing, so that other servers need not wait.

        Raises:
            StoreError: the store cannot be used.
            Problem: 404, the study does not exist.
        """


class StudyStore(Protocol):
    """Store of studies: a data folder of one server, or a database that several servers share.

    Call every method in the event loop of the server. All raise a StoreError if the store cannot be used.
    """

    async def open(self, on_commit: OnCommit, on_failure: OnFailure) -> None:
        """Open the store.

        Args:
            on_commit: called as `on_commit(entries, seconds)` before the entries are resolved.
            on_failure: called as `on_failure(entries, error)` before the entries fail.
        """

    async def close(self, seconds: float) -> None:
        """Write everything and close the store; what takes long is bounded by `seconds`."""

    async def count(self) -> int:
        """Count the studies."""

    async def find(self, study: str) -> StudyRecord | None:
        """Look up a study by its id."""

    async def find_key(self, key: str) -> tuple[str, str] | None:
        """Look up the creation with an idempotency key: its digest, and the id of the study."""

    async def list_records(self, after: str = "", limit: int | None = None) -> list[StudyRecord]:
        """List studies in order of their ids, at most `limit` after an id."""

    async def create(
        self, study: LoadedStudy, meta: dict[str, Any], embeddings: Any, limit: int
    ) -> StudyRecord:
        """Create a study durably.

        Returns:
            Its record; that of another study, if another server created one with the same idempotency key.

        Raises:
            Problem: 429, the store has `limit` studies.
        """

    async def delete(self, record: StudyRecord) -> bool:
        """Delete a study durably; return False if it was deleted before. The caller holds its locks."""

    def append(self, record: StudyRecord, events: list[JournalEvent]) -> JournalEntry | None:
        """Queue the events of one request for the next commit.

        Returns:
            An entry whose future fails with a StudyChangedError if the request missed a change of another
            server. None: there are no events, and the store is not shared.
        """

    @property
    def apply_newest(self) -> ApplyNewest | None:
        """Apply work to the newest state of a study; None: no other server can change the studies."""


def too_many_studies(limit: int) -> Problem:
    """Build the 429 for a store that is full."""
    return Problem(429, "TooManyStudies", f"the server has reached its limit of {limit} studies; delete some")
