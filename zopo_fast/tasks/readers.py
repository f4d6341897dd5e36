"""Readers of task files by suffix; errors name the file and the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zopo_fast._utils.files import is_file
from zopo_fast.errors import TaskError
from zopo_fast.tasks.delimited import read_delimited
from zopo_fast.tasks.json_files import read_document, read_lines
from zopo_fast.tasks.text import check_encoding, read_text, suffix_of

if TYPE_CHECKING:
    from pathlib import Path

    from zopo_fast.tasks.rows import Source, Wanted

_LINES = (".jsonl", ".ndjson")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FORMATS = (*_LINES, ".json", *_DELIMITERS)


def read(path: Path, wanted: Wanted, seed: int, encoding: str | None = None) -> Source:
    """Read the rows of a task file.

    Args:
        path: of the file; its suffix determines the format, `.gz` after it compression.
        wanted: fields of input and output, and the further columns.
        seed: of the order within the benchmark's pairs of cause and effect.
        encoding: of a text file; None: UTF-8, or what a byte order mark says.

    Raises:
        TaskError: the file cannot be read, or is malformed.
        ConfigError: the encoding is unknown.
    """
    if encoding is not None:
        check_encoding(encoding)
    suffix = suffix_of(path)
    if suffix not in _FORMATS and is_file(path):
        raise TaskError(f"unknown format; the formats are {', '.join(_FORMATS)}, also with .gz", path=path)
    text = read_text(path, encoding)
    if suffix in _DELIMITERS:
        return read_delimited(text, path, _DELIMITERS[suffix], wanted)
    reader = read_document if suffix == ".json" else read_lines
    return reader(text, path, wanted, seed)
