"""Delimited task files: the delimiter, quotes, headers and rows as spreadsheets and data sets write them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from zopo_fast.errors import TaskError
from zopo_fast.tasks.task import Task


def pairs(path: Any, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    task = Task.load(path, examples=None, **options)
    return sorted((example.input, example.outputs) for example in task.train)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "CSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_delimiter_is_found_whatever_the_suffix(
    write: Any, suffix: str, delimiter: str, newline: str
) -> None:
    lines = ["input,output", '"a, b; c",1', '"d\te | f",2', '"g ""h""\ni",3']
    rows = [line.rsplit(",", 1) for line in lines]
    text = newline.join(delimiter.join(row) for row in rows) + newline
    expected = [("a, b; c", ("1",)), ("d\te | f", ("2",)), ('g "h"\ni', ("3",))]
    assert pairs(write(f"a.{suffix}", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Decimal commas, and more commas than semicolons.
        ("input;output\n1,5 + 1,0;2,5\n2,0 + 2,5;4,5\n", [("1,5 + 1,0", ("2,5",)), ("2,0 + 2,5", ("4,5",))]),
        ("input;output\na, b, c;x\n", [("a, b, c", ("x",))]),
        # Delimiters within quotes of the header and of the first row.
        ('"a;b;c",input,output\n"1;2;3",x,y\n', [("x", ("y",))]),
        # Columns that a spreadsheet leaves empty: without a name, at either end, and rows of nothing.
        (",input,output,,\n0,a,x,,\n1,b,y,,\n,,,,\n,,,,\n", [("a", ("x",)), ("b", ("y",))]),
        ("input,output\na,x,,,\nb,y\n", [("a", ("x",)), ("b", ("y",))]),
        ("output;;input\nx;;a\n", [("a", ("x",))]),
        # A blank after the delimiter, as people type it.
        ('"input", "output"\n"a, b", "x"\n', [("a, b", ("x",))]),
        ('input, output\na, "x, y"\n', [("a", ("x, y",))]),
        ("input, output\na, x\n", [("a", (" x",))]),
        # One row, and rows of a single delimiter.
        ("input|output\na|x", [("a", ("x",))]),
        ("\n\ninput,output\n\na,x\n\n", [("a", ("x",))]),
        # The line of Excel that names the delimiter.
        ("sep=;\ninput;output\na,b;x\n", [("a,b", ("x",))]),
        ("sep=,\r\ninput,output\r\na;b,x\r\n", [("a;b", ("x",))]),
        ('"sep=^"\ninput^output\na^x\n', [("a", ("x",))]),
        ("\ufeffSEP=\t\ninput\toutput\na\tx\n", [("a", ("x",))]),
    ],
)
def test_texts_of_spreadsheets(write: Any, text: str, expected: Any) -> None:
    assert pairs(write("a.csv", text)) == expected


def test_a_data_set_in_tabs_has_quotation_marks_of_its_own(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'input\toutput\n"So what?\t0\nhe said "no"\t1\n"a" and "b"\t1\n'
    expected = [('"So what?', ("0",)), ('"a" and "b"', ("1",)), ('he said "no"', ("1",))]
    assert pairs(write("a.tsv", text)) == expected
    assert "quotation marks do not pair up" in caplog.text
    caplog.clear()
    rows = "".join(
        f"row {i}\t0\n" for i in range(30)
    )  # the first such mark after the rows that are looked at
    assert ('"end', ("1",)) in pairs(write("b.tsv", f'input\toutput\n{rows}"end\t1\n'))
    assert "quotation marks do not pair up" in caplog.text


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("sep=;\ninput;output\na;x\nb\n", 4, "1 cells where the header has 2 columns"),
        ("input;output\na;b;c\n", 2, "3 cells where the header has 2 columns"),
        ("question;answer\na,b;c\n", 1, "the columns are: 'question', 'answer'"),
        ("great film,positive\nbad film,negative\n", 1, "The first line must hold the names of the columns"),
        ('input,output\na,x\n"b,y\n', 3, "malformed"),
        ("sep=;\n", None, "no column 'input'"),
    ],
)
def test_errors_name_the_line(write: Any, text: str, line: int | None, says: str) -> None:
    path = write("a.csv", text)
    with pytest.raises(TaskError) as caught:
        Task.load(path, examples=None)
    assert says in str(caught.value)
    assert caught.value.line == line or line is None


def test_an_empty_output_is_read_with_a_warning(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert pairs(write("a.csv", "input,output\na,\nb,x\n")) == [("a", ("",)), ("b", ("x",))]
    assert "1 example with an empty output, which only an empty answer matches (first: line 2)" in caplog.text
    caplog.clear()
    rows = [{"input": "a", "output": ""}, {"input": "b", "output": ["x", ""]}]
    assert pairs(write("a.jsonl", rows)) == [("a", ("",)), ("b", ("x", ""))]
    assert "2 examples with an empty output" in caplog.text


def test_the_same_input_with_two_outputs_is_a_warning(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = write("a.csv", "input,output\na,x\na,x\nb,y\na,z\nb,w\nc,q\n")
    with caplog.at_level(logging.WARNING):
        assert len(pairs(path)) == 5
    assert (
        f"{path}: 2 inputs have different outputs in different rows, such as 'a': 'x' (line 2) and "
        "'z' (line 5); each row stays an example"
    ) in caplog.text
    caplog.clear()
    pairs(write("b.jsonl", [{"input": "a", "output": ["x", "y"]}, {"input": "a", "output": ["y", "x"]}]))
    assert caplog.messages == [
        f"{path.with_name('b.jsonl')}: 1 example left out as exact duplicates of earlier ones (first: line 2)"
    ]
