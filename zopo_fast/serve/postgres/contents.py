"""Contents of a study in PostgreSQL: settings, texts, embeddings and log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from zopo_fast.errors import StoreDamagedError
from zopo_fast.serve.http.problems import not_found
from zopo_fast.serve.postgres.database import Database
from zopo_fast.serve.postgres.log import NO_ROWS, decode, rows_since
from zopo_fast.serve.studies.file import StudyContents
from zopo_fast.storage.store import Event

PART_BYTES = 16 * 2**20  # of a value; the database's limit is 1 GB
READ_SECONDS = 60.0  # of a large pool


class StudyRows:
    """Source of one study's contents.

    Args:
        database: the database.
        study: id of the study.
    """

    def __init__(self, database: Database, study: str) -> None:
        self._database, self._study = database, study

    async def load(self) -> StudyContents:
        """Read everything.

        Raises:
            StoreError: the contents cannot be read.
            Problem: 404, the study does not exist.
        """
        return await self._database.retry(self.read, limit=READ_SECONDS)

    async def read(self, connection: Any) -> StudyContents:
        """Read everything on a connection."""
        meta = await self._read_meta(connection)
        prompts = await self._read_prompts(connection)
        data = await self._read_parts(connection, "embeddings")
        rows = await rows_since(connection, self._study, NO_ROWS) or []
        try:
            embeddings = np.frombuffer(data, dtype=meta["dtype"]).reshape(meta["prompts"], meta["dimension"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreDamagedError(
                f"study {self._study}: damaged: its embeddings cannot be read; restore a backup"
            ) from error
        events = await asyncio.to_thread(decode, self._study, rows)
        return StudyContents(meta, prompts, embeddings, events, rows[-1].head if rows else NO_ROWS)

    async def load_log(self) -> tuple[list[str] | None, list[Event]]:
        """Read the texts and the log only."""

        async def read(connection: Any) -> tuple[list[str] | None, list[Event]]:
            prompts = await self._read_prompts(connection)
            rows = await rows_since(connection, self._study, NO_ROWS)
            if rows is None:
                raise not_found("the study")
            return prompts, await asyncio.to_thread(decode, self._study, rows)

        return await self._database.retry(read, limit=READ_SECONDS)

    async def _read_meta(self, connection: Any) -> dict[str, Any]:
        found = await connection.execute("SELECT meta FROM study WHERE id = %s", (self._study,))
        row = await found.fetchone()
        if row is None:
            raise not_found("the study")
        meta: dict[str, Any] = json.loads(row[0])
        return meta

    async def _read_prompts(self, connection: Any) -> list[str] | None:
        data = await self._read_parts(connection, "prompts")
        prompts: list[str] | None = json.loads(data) if data else None
        return prompts

    async def _read_parts(self, connection: Any, kind: str) -> bytes:
        found = await connection.execute(
            "SELECT data FROM study_part WHERE study = %s AND kind = %s ORDER BY number",
            (self._study, kind),
            binary=True,
        )
        return b"".join([data for (data,) in await found.fetchall()])

    async def write(self, connection: Any, prompts: Sequence[str] | None, embeddings: Any) -> None:
        """Write the pool on a connection."""
        if prompts is not None:
            await self._write_parts(connection, "prompts", json.dumps(list(prompts)).encode())
        await self._write_parts(connection, "embeddings", embeddings.tobytes())

    async def _write_parts(self, connection: Any, kind: str, data: bytes) -> None:
        for number, start in enumerate(range(0, len(data), PART_BYTES)):
            await connection.execute(
                "INSERT INTO study_part VALUES (%s, %s, %s, %s)",
                (self._study, kind, number, data[start : start + PART_BYTES]),
            )


def storable(embeddings: Any) -> np.ndarray[Any, Any]:
    """Return embeddings as little-endian rows."""
    return np.ascontiguousarray(embeddings, dtype=embeddings.dtype.newbyteorder("<"))
