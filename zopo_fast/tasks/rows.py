"""Rows of a task source as they are read, the fields that are wanted of them, and remarks on them."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import TaskError
from zopo_fast.tasks import column_names

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger("zopo_fast.tasks")

_NULL = "is null; remove the example, or give it a text"


@dataclass(frozen=True)
class Row:
    """Example with its fields as the source holds them.

    Attributes:
        fields: values by column or key; numbers as texts.
        path: of the source; None: no file.
        line: of the row in the file; None: not known.
        label: names the row if the line is not known, with ": " at the end.
        is_cells: True if all values are cells of a delimited file, whose outputs may be JSON lists.
    """

    fields: dict[str, Any]
    path: Path | None
    line: int | None
    label: str = ""
    is_cells: bool = False

    def error(self, message: str) -> TaskError:
        """Return an error that names file, line and row."""
        return TaskError(f"{self.label}{message}", path=self.path, line=self.line)

    @property
    def place(self) -> str:
        """Line or label of the row, for messages."""
        return self.label.removesuffix(": ") if self.line is None else f"line {self.line}"


@dataclass(frozen=True)
class Source:
    """Rows with the metadata and the columns of the source.

    Attributes:
        path: of the file or folder; None: records in memory.
        metadata: any of "name", "metric" and "template".
        rows: in the order of the source.
        header: columns of a table; None: each row has keys of its own.
        header_line: line of the header.
    """

    path: Path | None
    metadata: dict[str, str]
    rows: list[Row]
    header: tuple[str, ...] | None = None
    header_line: int | None = None

    def has(self, name: str) -> bool:
        """Return True if a column or key of this name exists."""
        if self.header is not None:
            return name in self.header
        return any(name in row.fields for row in self.rows)


@dataclass(frozen=True)
class Wanted:
    """Fields of a row that become an example.

    Args:
        input: column or key of the input, or a text with placeholders such as "{premise} {hypothesis}".
        output: column or key of the output.
        columns: further columns, for the placeholders of the template.
    """

    input: str
    output: str
    columns: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names in the placeholders of the input; empty if the input is a single column."""
        return tuple(dict.fromkeys(column_names.PLACEHOLDER.findall(self.input)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all fields, without repeats."""
        return tuple(dict.fromkeys((*(self.parts or (self.input,)), self.output, *self.columns)))


@dataclass
class Notes:
    """Counted remarks on rows, logged as one warning a kind."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        """Count a remark on the row at a place."""
        self.found.setdefault(kind, []).append(place)

    def log(self, source: Source) -> None:
        """Log each kind with the number of rows and the first place."""
        prefix = "" if source.path is None else f"{source.path}: "
        for kind, places in self.found.items():
            first = f" (first: {places[0]})" if places[0] else ""
            count = f"{len(places)} example{'s' * (len(places) > 1)}"
            log.warning("%s%s%s", prefix, kind.format(count=count), first)


def text_of(row: Row, value: object, name: str, more: str = "") -> str:
    """Return the text of a value: booleans are "true" and "false".

    Raises:
        TaskError: the value is null, no text, or cannot be encoded.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        raise row.error(f"{short_repr(name)} {_NULL}")
    if not isinstance(value, str):
        hint = f" ({more})" if more else ""
        raise row.error(f"{short_repr(name)} must be a text{hint}, not {short_repr(value, 60)}")
    if any("\ud800" <= character <= "\udfff" for character in value):  # cannot be encoded for a model
        raise row.error(f"{short_repr(name)} holds a lone surrogate")
    return value


def names_text(fields: Iterable[str]) -> str:
    """Return the names of fields for an error message."""
    names = [short_repr(name, 40) for name in itertools.islice((f for f in fields if f != ""), 21)]
    return ", ".join(names[:20] + ["..."] * (len(names) > 20)) or "none"
