"""Delimited files, CSV and TSV: delimiter, header and rows with the number of their line."""

from __future__ import annotations

import csv
import io
import itertools
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zopo_fast.errors import TaskError
from zopo_fast.tasks.rows import Row, Source, Wanted, log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 20
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_csv_limit = threading.Lock()


class _Dialect(NamedTuple):
    delimiter: str
    has_quotes: bool = True
    skips_blank: bool = False  # after a delimiter, so that a quote there opens a cell


def read_delimited(text: str, path: Path, delimiter: str, wanted: Wanted) -> Source:
    """Read a delimited text with a header.

    Args:
        text: of the file.
        path: of the file, for messages.
        delimiter: the usual one of the format; the text may have another one.
        wanted: fields that the header should hold.

    Raises:
        TaskError: a quote is not closed, or a row is longer or shorter than the header.
    """
    with _cells_of_any_length(len(text)):
        return _read(text, path, delimiter, wanted)


@contextmanager
def _cells_of_any_length(most: int) -> Iterator[None]:
    """Raise the limit of csv for a block; it is process-wide, so only one thread at a time changes it."""
    with _csv_limit:
        before = csv.field_size_limit(most)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _read(text: str, path: Path, delimiter: str, wanted: Wanted) -> Source:
    first = re.match(r"\"?sep=([^\r\n\"])\"?(?:\r\n|\r|\n|$)", text, re.IGNORECASE)  # a line of Excel's
    skipped = 0
    if first is not None:
        text, skipped = text[first.end() :], 1
        dialect = _Dialect(first[1])
    else:
        dialect = _sniffed(text, delimiter, wanted)
    header: list[str] = []
    header_line = 1
    rows: list[Row] = []
    for line, cells in _rows(text, path, dialect, skipped):
        if not header:
            header, header_line = _without_empty_end([cell.strip() for cell in cells]), line
            continue
        filled = _without_empty_end(cells) if len(cells) > len(header) else cells
        if len(filled) > len(header) or len(cells) < len(header):
            message = f"{len(cells)} cells where the header has {len(header)} columns"
            raise TaskError(message, path=path, line=line)
        fields: dict[str, Any] = dict(zip(header, cells, strict=False))
        fields.pop("", None)  # a column without a name, such as an index
        rows.append(Row(fields, path, line, is_cells=True))
    return Source(path, {}, rows, tuple(header), header_line)


def _without_empty_end(cells: list[str]) -> list[str]:
    """Return the cells without empty ones at the end, which spreadsheets leave there."""
    end = len(cells)
    while end and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _sniffed(text: str, usual: str, wanted: Wanted) -> _Dialect:
    """Return the dialect in which the header holds most wanted fields and the rows are equally long.

    csv.Sniffer counts characters, so that commas within quotes or decimal commas mislead it, and it fails on
    a single column. Here each delimiter parses the first rows, and the header decides before the lengths.
    """
    delimiters = dict.fromkeys(usual + _DELIMITERS)
    candidates = [_Dialect(d, True, skips_blank) for skips_blank in (False, True) for d in delimiters]
    # Tab-separated text is often written without quotes: a quotation mark is then part of the text.
    candidates.append(_Dialect("\t", has_quotes=False))
    return max(candidates, key=lambda dialect: _fit(text, dialect, wanted))  # the first of equals


def _fit(text: str, dialect: _Dialect, wanted: Wanted) -> tuple[int, bool, bool]:
    """Return how well a dialect fits: wanted names in the header, several columns, rows of equal length."""
    rows: list[list[str]] = []
    is_sound = True
    try:
        # Line by line: a copy of the whole text for each candidate would exhaust the memory.
        lines = (line.group() for line in _LINE.finditer(text))
        for cells in itertools.islice(_reader(lines, dialect), _SAMPLE_ROWS):
            if any(cell.strip() for cell in cells):
                rows.append(cells)
    except csv.Error:
        is_sound = False
    if not rows:
        return 0, False, False
    header = _without_empty_end([cell.strip() for cell in rows[0]])
    lengths = {max(len(header), len(_without_empty_end(cells))) for cells in rows}
    is_even = is_sound and len(lengths) == 1 and all(len(cells) >= len(header) for cells in rows)
    return sum(name in header for name in wanted.names), len(header) > 1, is_even


def _reader(lines: Iterable[str], dialect: _Dialect) -> Any:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.has_quotes else csv.QUOTE_NONE
    return csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quoting=quoting,
        skipinitialspace=dialect.skips_blank,
        strict=True,
    )


def _rows(text: str, path: Path, dialect: _Dialect, skipped: int) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the number of its first line."""
    rows: list[tuple[int, list[str]]] = []
    line = 1 + skipped
    try:
        reader = _reader(io.StringIO(text, newline=""), dialect)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, cells))
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        if dialect.delimiter == "\t" and dialect.has_quotes:
            return _rows(text, path, _Dialect("\t", has_quotes=False), skipped)
        raise TaskError(f"malformed: {error}", path=path, line=line) from error
    except (TypeError, ValueError) as error:
        message = f"{dialect.delimiter!r} cannot separate columns: {error}"
        raise TaskError(message, path=path, line=line) from error
    if not dialect.has_quotes:
        log.warning("%s: quotation marks do not pair up; they are read as part of the texts", path)
    return rows
