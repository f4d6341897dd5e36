"""Embeddings of a pool in a file: `.npy`, which is memory-mapped, or Parquet.

- `.npy`: (m, d) of float16, float32 or float64, one row a prompt, in the order of the pool.
- `.parquet`: a column `embedding` of lists of one length. With a column `prompt` beside it, rows are matched
  to the pool by the text, and rows of other texts are ignored. Without one, they are in the order of the
  pool.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast._utils.files import UnreadableFileError, require_regular_file
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ArrayError, PoolError
from zopo_fast.prompts.parquet import EMBEDDING, PROMPT, batches, opened, require_columns
from zopo_fast.prompts.pool import normalise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from zopo_fast.prompts.pool import Pool

_ROWS = 16_384  # checked at a time
_TYPES = {"halffloat": np.float16, "float": np.float32, "double": np.float64}  # Arrow's names


def read_embeddings(path: str | Path, pool: Pool) -> NDArray[Any]:
    """Read the embeddings of a pool, in the order of its prompts and in the precision of the file.

    Args:
        path: of a `.npy` file, whose rows stay on disk until they are used, or of a Parquet file, whose rows
            are read into memory.
        pool: m prompts.

    Returns:
        (m, d) array of finite numbers; do not change the file while the array is in use.

    Raises:
        ArrayError: the file has another format, shape, dtype or number of rows, lacks a prompt, or holds NaN
            or infinity; names file and row.
        MissingDependencyError: pyarrow is not installed, and the file is a Parquet file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".npy", ".parquet"}:
        raise ArrayError(f"{path}: embeddings are a .npy or a .parquet file")
    if suffix == ".npy":
        Z = _mapped(path)
        _require_rows(path, len(Z), pool)
        for start in range(0, len(Z), _ROWS):
            _require_finite(path, Z[start : start + _ROWS], start)
        return Z
    try:
        return _from_parquet(path, pool)
    except PoolError as error:
        raise ArrayError(str(error)) from error.__cause__


def _mapped(path: Path) -> NDArray[Any]:
    """Return the array of a `.npy` file, mapped into memory."""
    try:
        require_regular_file(os.stat(path))
        Z = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, UnreadableFileError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ArrayError(f"{path}: cannot be read: {reason[:200]}") from error
    if not isinstance(Z, np.ndarray):
        raise ArrayError(f"{path}: holds several arrays; save one with numpy.save")
    if Z.dtype.kind != "f" or Z.dtype.itemsize not in (2, 4, 8):
        raise ArrayError(
            f"{path}: expected float16, float32 or float64, got {Z.dtype}; convert it with astype"
        )
    if Z.ndim != 2 or Z.size == 0:
        raise ArrayError(
            f"{path}: expected a non-empty array of shape (prompts, dimension), got {Z.shape}; save one row "
            "a prompt"
        )
    return Z


def _require_rows(path: Path, rows: int, pool: Pool) -> None:
    if rows != len(pool):
        raise ArrayError(
            f"{path}: {rows} rows for {len(pool)} distinct prompts: give one row a prompt in the order of "
            "the pool (duplicates are merged, and an incumbent that is not in the pool comes last), or a "
            f"Parquet file with a column {PROMPT!r}, whose rows are matched by their text"
        )


def _require_finite(path: Path, rows: NDArray[Any], first: int) -> None:
    if not np.isfinite(rows).all():
        row = first + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ArrayError(
            f"{path}: NaN or infinity in row {row}, counted from 0; embed that prompt again, or remove it "
            "from pool and file"
        )


def _from_parquet(path: Path, pool: Pool) -> NDArray[Any]:
    """Return the rows of a Parquet file in the order of the pool."""
    with opened(path) as file:
        has_prompts = PROMPT in require_columns(path, file, EMBEDDING)
        dtype = _dtype(path, file.schema_arrow.field(EMBEDDING).type)
        if not has_prompts:
            _require_rows(path, file.metadata.num_rows, pool)
        places = {text: index for index, text in enumerate(pool.prompts)} if has_prompts else None
        Z: NDArray[Any] = np.empty((len(pool), 0), dtype)
        is_filled = np.zeros(len(pool), dtype=bool)
        first = 0
        for batch in batches(file, [EMBEDDING, PROMPT] if has_prompts else [EMBEDDING]):
            rows = _vectors(path, batch.column(EMBEDDING), first, Z.shape[1])
            if not Z.size:
                Z = np.empty((len(pool), rows.shape[1]), dtype)
            _require_finite(path, rows, first)
            index, taken = np.arange(first, first + len(rows)), np.arange(len(rows))
            if places is not None:
                index, taken = _matched(batch.column(PROMPT).to_pylist(), places, is_filled)
            Z[index], is_filled[index] = rows[taken], True
            first += len(rows)
    if not is_filled.all():
        missing = int(np.argmin(is_filled))
        raise ArrayError(
            f"{path}: no row for {int((~is_filled).sum())} of {len(pool)} prompts, the first of them "
            f"{short_repr(pool.prompts[missing])}; embed these prompts too"
        )
    return Z


def _dtype(path: Path, kind: Any) -> type:
    """Return the dtype of a list column."""
    value = getattr(kind, "value_type", None)
    if str(value) not in _TYPES or "list" not in str(kind):
        raise ArrayError(
            f"{path}: column {EMBEDDING!r} is of type {kind}; store lists of float16, float32 or float64"
        )
    return _TYPES[str(value)]


def _vectors(path: Path, column: Any, first: int, dimension: int) -> NDArray[Any]:
    """Return the lists of a column as rows of an array.

    Args:
        path: of the file.
        column: lists of a batch.
        first: number of its first row.
        dimension: length of the rows before; 0 for the first batch.
    """
    from pyarrow import compute

    lengths = compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    dimension = dimension or int(lengths[0])
    values = column.flatten()
    if (lengths != dimension).any() or dimension == 0:
        row = int(np.flatnonzero((lengths != dimension) | (lengths == 0))[0])
        raise ArrayError(
            f"{path}: {lengths[row]} numbers in row {first + row}, counted from 0, expected "
            f"{dimension or 'some'}; embed all prompts with one model"
        )
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // dimension
        raise ArrayError(f"{path}: a number is missing in row {first + row}, counted from 0; embed it again")
    rows: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return rows


def _matched(
    texts: list[object], places: Mapping[str, int], is_filled: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pool indices that rows of a batch fill, and these rows; the first row of a prompt counts."""
    found = [places.get(normalise(text), -1) if isinstance(text, str) else -1 for text in texts]
    index = np.array(found, dtype=np.int64)
    rows = np.flatnonzero((index >= 0) & ~is_filled[index])
    index, first = np.unique(index[rows], return_index=True)
    return index, rows[first]
