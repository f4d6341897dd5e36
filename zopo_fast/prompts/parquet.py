"""Parquet files of prompts and their embeddings, read batch by batch with pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zopo_fast._utils.files import MAX_DATA_BYTES, UnreadableFileError, is_file, require_regular_file
from zopo_fast.errors import MissingDependencyError, PoolError

PROMPT, SCORE, COUNT, EMBEDDING = "prompt", "score", "count", "embedding"
"""Names of the columns."""
_BATCH_ROWS = 16_384


def prompt_rows(path: Path) -> Iterator[tuple[int, tuple[object, object, object]]]:
    """Yield number, prompt, score and count of each row of a Parquet file.

    Raises:
        PoolError: the file cannot be read, is malformed or too large, or has no column `prompt`.
        MissingDependencyError: pyarrow is not installed.
    """
    with opened(path) as file:
        names = require_columns(path, file, PROMPT)
        number = size = 0
        for batch in batches(file, [name for name in (PROMPT, SCORE, COUNT) if name in names]):
            size += batch.nbytes
            if size > MAX_DATA_BYTES:
                raise PoolError(f"prompts of more than {MAX_DATA_BYTES:,} bytes", path=path)
            columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            scores, counts = columns.get(SCORE), columns.get(COUNT)
            for k, prompt in enumerate(columns[PROMPT]):
                count = None if counts is None else counts[k]
                row = prompt, None if scores is None else scores[k], 1 if count is None else count
                yield number + k, row
            number += batch.num_rows


def has_embeddings(path: Path) -> bool:
    """Return True for a Parquet file with prompts and a column `embedding`; False for any other file."""
    if path.suffix.lower() != ".parquet" or not is_file(path):
        return False
    with opened(path) as file:
        return {PROMPT, EMBEDDING} <= set(file.schema_arrow.names)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file for the length of a block, in which the errors of pyarrow become PoolErrors.

    Raises:
        PoolError: the file cannot be read, or is malformed.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            f'{path}: reading it needs pyarrow: pip install "zopo-fast[data]"'
        ) from error
    try:
        require_regular_file(os.stat(path))
        with parquet.ParquetFile(path, memory_map=True) as file:
            yield file
    except (pyarrow.ArrowException, ValueError, OSError, UnreadableFileError) as error:
        if isinstance(error, PoolError):
            raise
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise PoolError(f"cannot be read: {reason[:200]}", path=path) from error


def require_columns(path: Path, file: Any, *wanted: str) -> list[str]:
    """Return the names of the columns.

    Raises:
        PoolError: a wanted column is missing; names those that are there.
    """
    names = list(file.schema_arrow.names)
    for name in wanted:
        if names.count(name) != 1:
            has = ", ".join(names[:20]) or "none"
            raise PoolError(f"expected one column {name!r}, the file has {has}; rename its column", path=path)
    return names


def batches(file: Any, columns: list[str]) -> Iterator[Any]:
    """Yield the rows of some columns in order, one row group after the other, a few thousand at a time."""
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False):
        batch.validate(full=True)  # offsets of a damaged file may point anywhere
        yield batch
