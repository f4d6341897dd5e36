"""Embeddings of a pool in files: order, matching by text, and errors that name file and row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zopo_fast.errors import ArrayError
from zopo_fast.prompts import parquet
from zopo_fast.prompts.embedding_file import read_embeddings
from zopo_fast.prompts.pool import Pool

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet as pq  # noqa: E402

POOL = Pool.from_texts(["a", "b", "c", "d"])
ROWS = np.arange(12.0).reshape(4, 3)


def save(path: Path, array: Any) -> Path:
    np.save(path, array, allow_pickle=array.dtype == object)
    return path


def write(path: Path, columns: dict[str, Any], kind: Any = None, **how: Any) -> Path:
    kind = kind or pa.list_(pa.float32())
    arrays = {n: pa.array(v, kind) if n == "embedding" else pa.array(v) for n, v in columns.items()}
    pq.write_table(pa.table(arrays), path, **how)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_npy_file_is_mapped_and_not_copied(tmp_path: Path, dtype: type) -> None:
    Z = read_embeddings(save(tmp_path / "z.npy", ROWS.astype(dtype)), POOL)
    assert isinstance(Z, np.memmap)
    assert Z.dtype == dtype
    assert np.array_equal(Z, ROWS)


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_parquet_lists_keep_their_precision(tmp_path: Path, kind: str, dtype: str) -> None:
    value = pa.from_numpy_dtype(np.dtype(dtype))
    types = {"list": pa.list_(value), "large": pa.large_list(value), "fixed": pa.list_(value, 3)}
    rows = [row.astype(dtype) for row in ROWS]
    path = write(tmp_path / "z.parquet", {"embedding": rows}, types[kind], row_group_size=3)
    Z = read_embeddings(path, POOL)
    assert Z.dtype == dtype
    assert np.array_equal(Z, ROWS)


def test_rows_with_prompts_are_matched_by_their_normal_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 2)
    prompts = ["other", " d ", "c", "c", "b", None, "a", "d"]
    rows = [[9.0] * 3, *(ROWS[i] for i in (3, 2)), [7.0] * 3, ROWS[1], [8.0] * 3, ROWS[0], [6.0] * 3]
    path = write(tmp_path / "z.parquet", {"embedding": rows, "prompt": prompts}, row_group_size=5)
    assert np.array_equal(read_embeddings(path, POOL), ROWS)


def changed(row: int, column: int, value: float) -> np.ndarray:
    array = ROWS.copy()
    array[row, column] = value
    return array


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (ROWS[:3], "3 rows for 4 distinct prompts"),
        (ROWS[0], r"got \(3,\); save one row a prompt"),
        (ROWS[:, :0], r"got \(4, 0\)"),
        (ROWS.astype(int), "got int64; convert it with astype"),
        (ROWS.astype(np.longdouble), "convert it with astype"),
        (changed(2, 1, np.nan), "NaN or infinity in row 2, counted from 0"),
        (changed(3, 0, -np.inf), "row 3"),
        (np.array([{}], dtype=object), "cannot be read: .*Python objects"),
    ],
)
def test_an_unusable_npy_file_is_named_with_its_row(tmp_path: Path, array: Any, words: str) -> None:
    path = save(tmp_path / "z.npy", array)
    with pytest.raises(ArrayError, match=words) as caught:
        read_embeddings(path, POOL)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*ROWS[:3], [1.0]], "1 numbers in row 3, counted from 0, expected 3; embed all prompts with one"),
        ([*ROWS[:3], None], "0 numbers in row 3"),
        ([[], [], [], []], "0 numbers in row 0"),
        ([ROWS[0], [1.0, None, 2.0], *ROWS[2:]], "a number is missing in row 1"),
        ([*ROWS[:3], [1.0, np.nan, 2.0]], "NaN or infinity in row 3"),
        (ROWS[:2], "2 rows for 4 distinct prompts"),
    ],
)
def test_an_unusable_parquet_row_is_named(
    tmp_path: Path, rows: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 2)  # rows count from the start of the file
    path = write(tmp_path / "z.parquet", {"embedding": list(rows)})
    with pytest.raises(ArrayError, match=words) as caught:
        read_embeddings(path, POOL)
    assert str(caught.value).startswith(f"{path}: ")


def test_other_columns_and_missing_prompts_are_named(tmp_path: Path) -> None:
    rows = list(ROWS)
    path = write(tmp_path / "x.parquet", {"vector": rows, "prompt": ["a", "b", "c", "d"]})
    with pytest.raises(ArrayError, match="'embedding', the file has vector, prompt; rename"):
        read_embeddings(path, POOL)
    path = write(tmp_path / "y.parquet", {"embedding": rows}, pa.list_(pa.int64()))
    with pytest.raises(ArrayError, match=r"of type list<.*int64>; store lists of float16"):
        read_embeddings(path, POOL)
    path = write(tmp_path / "z.parquet", {"embedding": rows, "prompt": ["a", "b", "x", "y"]})
    with pytest.raises(ArrayError, match="no row for 2 of 4 prompts, the first of them 'c'"):
        read_embeddings(path, POOL)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "cut.npy").write_bytes(save(tmp_path / "z.npy", ROWS).read_bytes()[:-9])
    (tmp_path / "text.parquet").write_text("no table")
    np.savez(tmp_path / "several.npz", ROWS)
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    for name, words in {
        "cut.npy": "cannot be read", "text.parquet": "cannot be read", "several.npy": "several arrays",
        "pipe.npy": "named pipe", "gone.npy": "No such file", "gone.parquet": "No such file",
        "z.csv": ".npy or a .parquet",
    }.items():  # fmt: skip
        with pytest.raises(ArrayError, match=words) as caught:
            read_embeddings(tmp_path / name, POOL)
        assert name in str(caught.value)


# ---- pools -------------------------------------------------------------------------------------------


def test_a_pool_with_counts_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    columns = {"prompt": [" a", "b", "a", "c"], "score": [None, 0.5, 0.25, None], "count": [1, None, 2, 1]}
    pq.write_table(pa.table({**columns, "embedding": [[1.0]] * 4}), path, row_group_size=2)
    pool = Pool.load(path)
    assert (pool.prompts, pool.counts, pool.scores) == (("a", "b", "c"), (3, 1, 1), {0: 0.25, 1: 0.5})
    assert parquet.has_embeddings(path)
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    assert Pool.load(path).prompts == ("a",)
    assert not parquet.has_embeddings(path)
    assert not parquet.has_embeddings(tmp_path / "gone.parquet")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, "'prompt', the file has text; rename"),
        ({"prompt": ["a", None]}, "row 1, counted from 0: a prompt must be a string"),
        ({"prompt": ["a", " "]}, "row 1, counted from 0: the prompt is empty"),
        ({"prompt": ["a", "b", ""]}, "row 2, counted from 0: the prompt is empty"),
        ({"prompt": ["a"], "score": ["x"]}, "row 0, counted from 0: score must be a finite number"),
        ({"prompt": ["a"], "count": [0]}, "row 0, counted from 0: count must be"),
        ({"prompt": pa.array([], pa.string())}, "holds no prompts"),
        ({"prompt": ["a", "a"], "score": [0.0, 1.0]}, "two scores"),
    ],
)
def test_an_unusable_pool_is_named_with_its_row(
    tmp_path: Path, columns: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 1)  # rows count from the start of the file
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=words) as caught:
        Pool.load(path)
    assert str(path) in str(caught.value)


def test_pyarrow_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from zopo_fast.errors import MissingDependencyError

    path = write(tmp_path / "z.parquet", {"embedding": list(ROWS)})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"zopo-fast\[data\]"):
        read_embeddings(path, POOL)
    with pytest.raises(MissingDependencyError, match=r"zopo-fast\[data\]"):
        Pool.load(path)
