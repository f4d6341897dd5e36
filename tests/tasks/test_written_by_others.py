"""Task files as other programs write them: lists of Python, narrow numbers, workbooks, column names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zopo_fast import Task
from zopo_fast.errors import TaskError


def outputs(path: Path) -> tuple[str, ...]:
    return Task.load(path, examples=None).train[0].outputs


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['x', 'y']", ("x", "y")),
        ("""['it\\'s', "a b"]""", ("it's", "a b")),
        ("[draft]", ("[draft]",)),
        ("['x' 'y']", ("['x' 'y']",)),  # an array of NumPy has no commas
        ("[x for x in 'ab']", ("[x for x in 'ab']",)),
        ("['x', 1]", ("['x', 1]",)),
        ("[" * 500, ("[" * 500,)),
    ],
)
def test_a_list_of_texts_in_a_cell(tmp_path: Path, cell: str, expected: tuple[str, ...]) -> None:
    path = tmp_path / "t.csv"
    quoted = cell.replace('"', '""')
    path.write_text(f'input,output\na,"{quoted}"\n')
    assert outputs(path) == expected


def test_narrow_numbers_of_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    for kind in ("float32", "Float32", "float16"):
        frame = pandas.DataFrame({"input": ["a"], "output": pandas.array([0.1], dtype=kind)})
        assert Task.from_records(frame, examples=None).train[0].outputs == ("0.1",)


def test_narrow_numbers_of_columns() -> None:
    columns = {"input": ["a"], "output": np.array([0.1], dtype=np.float32)}
    assert Task.from_records(columns, examples=None).train[0].outputs == ("0.1",)


def test_narrow_numbers_of_a_parquet_file(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"input": ["a"], "output": arrow.array([0.1], arrow.float32())})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert outputs(tmp_path / "t.parquet") == ("0.1",)
    assert Task.from_records(table, examples=None).train[0].outputs == ("0.1",)


@pytest.mark.parametrize("content", [b"PK\x03\x04\x14\x00\x06\x00aaaa", b"\xd0\xcf\x11\xe0aaaa"])
def test_a_workbook_under_the_name_of_a_text_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=r"an Excel workbook.*export it as CSV"):
        outputs(path)


@pytest.mark.parametrize(
    ("header", "flag"),
    [
        ("question,__expected", "--output-field __expected"),
        ("prompt,chosen,rejected", "--output-field chosen"),
    ],
)
def test_columns_of_other_tools_are_guessed(tmp_path: Path, header: str, flag: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(header + "\n" + ",".join("a" for _ in header.split(",")) + "\n")
    with pytest.raises(TaskError, match=flag):
        outputs(path)
