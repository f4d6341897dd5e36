"""Encodings of task files: byte order marks, `encoding=`, and errors that name a likely one."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path
from typing import Any

import pytest

from zopo_fast._utils import files
from zopo_fast.errors import ConfigError, TaskError
from zopo_fast.tasks.sources import text as task_text
from zopo_fast.tasks.task import Task

ROWS = {
    "a.csv": "input,output\nnaïve café,größer\n",
    "a.tsv": "input\toutput\nnaïve café\tgrößer\n",
    "a.json": '[{"input": "naïve café", "output": "größer"}]',
    "a.jsonl": '{"input": "naïve café", "output": "größer"}\n',
}
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def only(path: Path, **options: Any) -> tuple[str, tuple[str, ...]]:
    (example,) = Task.load(path, examples=None, **options).train
    return example.input, example.outputs


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_tells_the_encoding(write: Any, name: str, encoding: str) -> None:
    path = write(name, MARKED[encoding] + ROWS[name].encode(encoding))
    assert only(path) == ("naïve café", ("größer",))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "encoding", ["cp1252", "latin-1", "utf-16-le", "utf-16", "utf-8", "UTF8", "mac-roman"]
)
def test_other_encodings_are_named_by_the_caller(write: Any, name: str, encoding: str) -> None:
    path = write(name, ROWS[name].encode(encoding))
    assert only(path, encoding=encoding) == ("naïve café", ("größer",))


@pytest.mark.parametrize(
    ("text", "encoding", "hint"),
    [
        ("naïve café", "cp1252", "likely cp1252"),
        ("100 € – “quoted”", "cp1252", "likely cp1252"),
        ("plain text", "utf-16-le", "likely utf-16-le"),
        ("plain text", "utf-16-be", "likely utf-16-be"),
        ("今天天气很好，我们去公园散步吧", "gb18030", "gb18030"),
        ("今日は天気がいいので公園へ行きましょう", "shift_jis", "shift_jis"),
    ],
)
def test_an_unknown_encoding_is_an_error_that_suggests_one(
    write: Any, text: str, encoding: str, hint: str
) -> None:
    path = write("a.csv", f"input,output\nb,c\n{text},x\n".encode(encoding))
    with pytest.raises(TaskError, match=r"--encoding.*" + hint) as caught:
        Task.load(path)
    assert caught.value.line == (1 if "16" in encoding else 3)
    assert len(Task.load(path, examples=None, encoding=encoding).train) == 2


@pytest.mark.parametrize("name", ["klingon", "", "base64", "rot13", "a\0b", "\ud800", "undefined-8"])
def test_an_unknown_name_is_an_error(write: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="encoding"):
        Task.load(write("a.csv", ROWS["a.csv"]), encoding=name)


@pytest.mark.parametrize(
    ("content", "encoding", "says"),
    [
        (b"input,output\n\xff,x\n", "utf-8", "not utf-8"),
        (b"input,output\n\x81,x\n", "cp1252", "not cp1252"),
        (codecs.BOM_UTF16_LE + "input,output\na,b\n".encode("utf-16-le")[:-1], None, "not utf-16"),
        (b"input,output\na\0,x\n", None, "NUL"),
    ],
)
def test_bytes_that_are_no_text_are_an_error(
    write: Any, content: bytes, encoding: str | None, says: str
) -> None:
    with pytest.raises(TaskError, match=says) as caught:
        Task.load(write("a.csv", content), encoding=encoding)
    assert caught.value.line == 2


@pytest.mark.parametrize("name", ROWS)
def test_compressed_files(write: Any, name: str) -> None:
    path = write(f"{name}.gz", gzip.compress(ROWS[name].encode()))
    assert only(path) == ("naïve café", ("größer",))
    assert Task.load(path, examples=None).name == "a"
    half = ROWS[name].encode()
    path = write(f"{name}.gz", gzip.compress(half[:9]) + gzip.compress(half[9:]))
    assert only(path) == ("naïve café", ("größer",))


@pytest.mark.parametrize(
    "content",
    [
        b"input,output\na,b\n",
        gzip.compress(b"input,output\na,b\n", mtime=0)[:-5],
        gzip.compress(b"a", mtime=0) + b"more",
    ],
)
def test_broken_compression_is_an_error(write: Any, content: bytes) -> None:
    with pytest.raises(TaskError, match="gzip"):
        Task.load(write("a.csv.gz", content))


def test_a_compressed_file_is_bounded_in_full_size(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.csv.gz", gzip.compress(b"input,output\n" + b"a,b\n" * 10_000))
    assert path.stat().st_size < 1000
    monkeypatch.setattr(task_text, "MAX_DATA_BYTES", 2000)
    with pytest.raises(TaskError, match="larger than 2,000 bytes when decompressed"):
        Task.load(path)
    assert files.MAX_DATA_BYTES == 2**30
