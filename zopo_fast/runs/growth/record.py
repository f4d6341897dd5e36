"""Growth of a pool as the log of a study tells it, for readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast.errors import StoreDamagedError
from zopo_fast.llm.types import Usage
from zopo_fast.runs.growth.state import ENTERED, SCREENED, Grown, Round, decoded, grown_in
from zopo_fast.runs.log.entries import GROW, WRITE

if TYPE_CHECKING:
    from zopo_fast.storage.store import Event


@dataclass(frozen=True)
class WrittenRound:
    """Outcome of a round of writing.

    Attributes:
        order: what the writers were asked for.
        written: number of drafts by writer, the rejected ones included.
        rejected: number of drafts by the reason why they were rejected.
        screened: number of drafts that promised less than the pool's own prompts.
        entered: prompts that entered the pool.
        failed: error of each writer that failed.
        calls: model calls by writer.
        usage: of the writers and of embedding their drafts.
    """

    order: Round
    written: dict[str, int]
    rejected: dict[str, int]
    screened: int
    entered: tuple[Grown, ...]
    failed: dict[str, str]
    calls: dict[str, int]
    usage: Usage


@dataclass
class GrowthRecord:
    """Growth of a pool.

    Attributes:
        rounds: those that have ended.
        grown: prompts that entered the pool, by ascending index.
        embeddings: (k, d) rows of these, round by round.
    """

    rounds: list[WrittenRound] = field(default_factory=list)
    grown: list[Grown] = field(default_factory=list)
    embeddings: list[NDArray[Any]] = field(default_factory=list)

    @property
    def usage(self) -> Usage:
        """Usage of all rounds."""
        return sum((each.usage for each in self.rounds), Usage())


def growth_record(events: Iterable[Event], given: int) -> GrowthRecord:
    """Read the growth of a pool from the log of its study.

    Args:
        events: of the log.
        given: number of prompts that the pool began with.

    Raises:
        StoreDamagedError: an entry is damaged.
    """
    record = GrowthRecord()
    order: Round | None = None
    for event in events:
        if event.kind not in (WRITE, GROW):
            continue
        try:
            if event.kind == WRITE:
                order = Round.of_entry(event.data)
            elif order is None:
                raise ValueError("a round that has not begun")
            else:
                _add(record, order, event.data, given)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise StoreDamagedError(f"entry {event.seq} of the log is damaged ({error!r})") from error
    return record


def _add(record: GrowthRecord, order: Round, entry: Mapping[str, Any], given: int) -> None:
    """Add the outcome of a round."""
    new = grown_in(entry, order.target, given + len(record.grown))
    if new:
        rows = decoded(entry["embeddings"])
        if len(rows) != len(new):
            raise ValueError(f"{len(rows)} embeddings for {len(new)} prompts")
        record.embeddings.append(rows)
    fates = Counter(str(row["fate"]) for row in entry["written"])
    screened = fates.pop(SCREENED, 0)
    fates.pop(ENTERED, None)
    record.grown += new
    record.rounds.append(
        WrittenRound(
            order,
            dict(Counter(str(row["writer"]) for row in entry["written"])),
            dict(fates.most_common()),
            screened,
            tuple(new),
            {str(name): str(error) for name, error in entry["failed"].items()},
            {str(name): int(calls) for name, calls in entry["calls"].items()},
            Usage(**entry["usage"]),
        )
    )


def with_rows(embeddings: NDArray[Any] | None, rows: list[NDArray[Any]]) -> NDArray[Any] | None:
    """Return the embeddings of a grown pool, (m, d); None where those of its first prompts are unknown."""
    if embeddings is None or not rows:
        return embeddings
    return np.concatenate([embeddings, *(each.astype(embeddings.dtype) for each in rows)])
