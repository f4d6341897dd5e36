"""Readers of task files by suffix; errors name the file and the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zopo_fast._utils.files import is_file
from zopo_fast.errors import ConfigError, TaskError
from zopo_fast.tasks.sources.columnar import SUFFIXES, read_columnar
from zopo_fast.tasks.sources.delimited import read_delimited
from zopo_fast.tasks.sources.folders import read_folder
from zopo_fast.tasks.sources.json_files import read_document, read_lines
from zopo_fast.tasks.sources.text import check_encoding, read_text, suffix_of

if TYPE_CHECKING:
    from pathlib import Path

    from zopo_fast.tasks.rows import Source, Wanted

_LINES = (".jsonl", ".ndjson")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_FORMATS = (*_LINES, ".json", *_DELIMITERS, *SUFFIXES)


def read(path: Path, wanted: Wanted, seed: int, encoding: str | None = None) -> Source:
    """Read the rows of a task file or a folder of data.

    Args:
        path: of the file; its suffix determines the format, `.gz` after it compression.
        wanted: fields of input and output, and the further columns.
        seed: of the order within the benchmark's pairs of cause and effect.
        encoding: of a text file; None: UTF-8, or what a byte order mark says.

    Raises:
        TaskError: the file cannot be read, or is malformed.
        ConfigError: the encoding is unknown.
        MissingDependencyError: the format needs a package that is not installed.
    """
    if encoding is not None:
        check_encoding(encoding)
    if _is_folder(path):
        return read_folder(path, wanted, lambda file: _read_file(file, wanted, seed, encoding))
    return _read_file(path, wanted, seed, encoding)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _read_file(path: Path, wanted: Wanted, seed: int, encoding: str | None) -> Source:
    suffix = suffix_of(path)
    if suffix in SUFFIXES and path.suffix.lower() != ".gz":
        if encoding is not None:
            raise ConfigError(f"encoding: {path} holds no text file; leave --encoding out")
        return read_columnar(path, wanted)
    if (suffix not in _FORMATS or suffix in SUFFIXES) and is_file(path):
        hint = "; save a spreadsheet as CSV" if suffix in _SPREADSHEETS else ""
        formats = ", ".join(_FORMATS)
        raise TaskError(
            f"unknown format; the formats are {formats}, text files also with .gz{hint}", path=path
        )
    text = read_text(path, encoding)
    if suffix in _DELIMITERS:
        return read_delimited(text, path, _DELIMITERS[suffix], wanted)
    reader = read_document if suffix == ".json" else read_lines
    return reader(text, path, wanted, seed)
