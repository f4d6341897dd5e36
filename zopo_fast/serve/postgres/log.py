"""Append-only log of the studies in PostgreSQL: its rows, and the statements on them.

One row holds the events that one commit adds to a study, and its version is the number of the first event.
Two servers at the same state of a study write the same version, so that the primary key lets one of them
through. An insert also names the row before: a server that remembers events which the database has lost, by a
restored backup or a failover, cannot append to them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from zopo_fast.errors import StoreDamagedError
from zopo_fast.serve.studies.journal import decode_events
from zopo_fast.storage.store import Event

_HEAD_IS_THERE = """
(n.head = 0 OR EXISTS (
    SELECT FROM study_log h WHERE h.study = n.study AND h.version = n.head AND h.round = n.head_round
))
"""
# Sorted, so that two servers never wait for each other's rows in a circle.
_INSERT_LOCKED = f"""
INSERT INTO study_log (study, version, round, events)
SELECT n.study, n.version, %(round)s, n.events
FROM unnest(
    %(studies)s::text[], %(heads)s::int[], %(head_rounds)s::uuid[], %(versions)s::int[], %(events)s::bytea[]
) AS n (study, head, head_round, version, events)
JOIN study s ON s.id = n.study
WHERE {_HEAD_IS_THERE}
ORDER BY n.study
FOR KEY SHARE OF s
ON CONFLICT DO NOTHING
RETURNING study
"""
# The lock is tried only: one study that another server works on must not delay the rest.
_INSERT = _INSERT_LOCKED.replace(
    "ORDER BY", "AND pg_try_advisory_xact_lock_shared(hashtextextended(n.study, 0)) ORDER BY"
)
_WRITTEN = "SELECT study FROM study_log WHERE study = ANY(%s) AND version = ANY(%s) AND round = %s"
_CURRENT = f"""
SELECT n.study
FROM unnest(%(studies)s::text[], %(heads)s::int[], %(head_rounds)s::uuid[]) AS n (study, head, head_round)
JOIN study s ON s.id = n.study
WHERE {_HEAD_IS_THERE}
AND NOT EXISTS (SELECT FROM study_log l WHERE l.study = n.study AND l.version > n.head)
"""
_SINCE = """
SELECT l.version, l.round, l.events
FROM study s LEFT JOIN study_log l ON l.study = s.id AND l.version >= %s
WHERE s.id = %s
ORDER BY l.version
"""


class Head(NamedTuple):
    """Newest row of a study that a server knows; version 0 before the first row."""

    version: int
    round: UUID


NO_ROWS = Head(0, UUID(int=0))


class Batch(NamedTuple):
    """Row to append: the events of one commit for one study.

    Attributes:
        study: id of the study.
        head: newest row when the events were made.
        version: number of the first event.
        events: JSON.
    """

    study: str
    head: Head
    version: int
    events: bytes


class Row(NamedTuple):
    """Row of the log."""

    head: Head
    events: bytes


async def insert(
    connection: Any, round: UUID, batches: Sequence[Batch], *, is_locked: bool = False
) -> set[str]:
    """Append rows, each to the state it was made on; calling it again with the same round is harmless.

    Args:
        connection: of the database.
        round: new number of the commit.
        batches: rows, at most one of each study.
        is_locked: the transaction holds the locks of the studies.

    Returns:
        The studies whose rows are in the log. Other servers changed, deleted or locked the rest.
    """
    values = {
        "round": round,
        "studies": [batch.study for batch in batches],
        "heads": [batch.head.version for batch in batches],
        "head_rounds": [batch.head.round for batch in batches],
        "versions": [batch.version for batch in batches],
        "events": [batch.events for batch in batches],
    }
    found = await (await connection.execute(_INSERT_LOCKED if is_locked else _INSERT, values)).fetchall()
    written = {study for (study,) in found}
    if len(written) < len(batches):  # an earlier attempt may have written a row before its connection broke
        lost = [batch for batch in batches if batch.study not in written]
        keys = [batch.study for batch in lost], [batch.version for batch in lost], round
        written |= {study for (study,) in await (await connection.execute(_WRITTEN, keys)).fetchall()}
    return written


async def current(connection: Any, heads: dict[str, Head]) -> set[str]:
    """Return the studies that have no row after the given ones."""
    values = {
        "studies": list(heads),
        "heads": [head.version for head in heads.values()],
        "head_rounds": [head.round for head in heads.values()],
    }
    return {study for (study,) in await (await connection.execute(_CURRENT, values)).fetchall()}


async def rows_since(connection: Any, study: str, head: Head) -> list[Row] | None:
    """Read a row and all later ones; None if the study does not exist."""
    found = await (await connection.execute(_SINCE, (head.version, study))).fetchall()
    if not found:
        return None
    return [Row(Head(version, round), events) for version, round, events in found if version is not None]


async def lock(connection: Any, study: str, *, exclusive: bool) -> None:
    """Lock a study until the end of the transaction, in the order of arrival.

    All rows are inserted under the shared lock. The exclusive one lets a server read the newest state and
    append to it, however often the others write.
    """
    name = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
    await connection.execute(f"SELECT {name}(hashtextextended(%s, 0))", (study,))


def decode(study: str, rows: Sequence[Row]) -> list[Event]:
    """Decode the events of rows.

    Raises:
        StoreDamagedError: a row cannot be decoded.
    """
    found = []
    for row in rows:
        try:
            found += [Event(e.seq, e.kind, json.loads(bytes(e.data))) for e in decode_events(row.events)]
        except ValueError as error:  # msgspec's DecodeError too
            raise StoreDamagedError(
                f"study {study}: row {row.head.version} of its log cannot be read: {error}"
            ) from error
    return found
