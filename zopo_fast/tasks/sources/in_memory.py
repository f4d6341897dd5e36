"""Records in memory: data frames, data sets, tables, columns, and any iterable of mappings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import TaskError
from zopo_fast.tasks import splits
from zopo_fast.tasks.rows import Row, Source
from zopo_fast.tasks.sources.columnar import table_features
from zopo_fast.tasks.sources.values import class_names, named, narrow_kinds, narrowed, plain

MAX_RECORDS = 10_000_000


class Frame(Protocol):
    """Data frame of pandas or polars."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""


Records = Iterable[Mapping[str, Any]] | Mapping[str, Any] | Frame


def source_of(records: Records) -> Source:
    """Return the rows of records in memory.

    Raises:
        TaskError: the records are of no known form.
    """
    if isinstance(records, str | bytes | Path):
        raise TaskError(f"records: got {short_repr(records)}; Task.load() reads a file")
    if isinstance(records, Mapping) and records and all(splits.side_of(str(name)) for name in records):
        parts = {str(name): source_of(part) for name, part in records.items()}
        rows = [
            Row({"split": name, **row.fields}, None, None, f"{name} {row.label}")
            for name, part in parts.items()
            for row in part.rows
        ]
        headers = {part.header for part in parts.values()}
        return Source(None, {}, rows, headers.pop() if len(headers) == 1 else None)
    header, found = _rows(records)
    labels, narrow = _labels(records), _narrow(records)
    rows = []
    for number, given in enumerate(found, start=1):
        label = f"row {number}: "
        record = given._asdict() if hasattr(given, "_asdict") else given  # a named tuple
        if not isinstance(record, Mapping):
            raise TaskError(f"{label}expected a mapping of columns, got {_kind(record)}")
        if number > MAX_RECORDS:
            raise TaskError(f"more than {MAX_RECORDS:,} records")
        fields = {str(name): plain(narrowed(value, narrow.get(str(name)))) for name, value in record.items()}
        for name, names in labels.items():
            fields[name] = named(fields.get(name), names)
        rows.append(Row(fields, None, None, label))
    return Source(None, {}, rows, header)


def _rows(records: Any) -> tuple[tuple[str, ...] | None, Iterable[Any]]:
    """Return the columns, if all rows share them, and the rows."""
    if hasattr(records, "collect") and hasattr(records, "lazy"):
        raise TaskError("records: a lazy frame; call its collect() first")
    if hasattr(records, "itertuples"):  # of pandas
        header = tuple(str(name) for name in records.columns)
        tuples = records.itertuples(index=False, name=None)
        return header, (dict(zip(header, values, strict=True)) for values in tuples)
    if hasattr(records, "iter_rows") and hasattr(records, "columns"):  # of polars
        return tuple(records.columns), records.iter_rows(named=True)
    if hasattr(records, "to_pylist") and hasattr(records, "schema"):  # a table or batch of pyarrow
        batches = records.to_batches() if hasattr(records, "to_batches") else [records]
        return tuple(records.schema.names), itertools.chain.from_iterable(b.to_pylist() for b in batches)
    if isinstance(records, Mapping):
        return _of_columns(records)
    try:
        return None, iter(records)
    except TypeError as error:
        raise TaskError(
            f"records: expected a data frame or an iterable of mappings, got {_kind(records)}"
        ) from error


def _of_columns(records: Mapping[Any, Any]) -> tuple[tuple[str, ...], Iterable[Any]]:
    # pandas makes an object by index of each column.
    parts = {k: tuple(v.values()) if isinstance(v, Mapping) else v for k, v in records.items()}
    columns = {str(name): plain(values) for name, values in parts.items()}
    if not all(isinstance(values, list) for values in columns.values()):
        raise TaskError("records: a single mapping must hold a list for each column")
    if len({len(values) for values in columns.values()}) > 1:
        raise TaskError("records: the columns have different lengths")
    rows = zip(*columns.values(), strict=True)
    return tuple(columns), (dict(zip(columns, row, strict=True)) for row in rows)


def _narrow(records: Any) -> dict[str, str]:
    """Return the columns of narrow numbers of a data frame, a table or a data set."""
    if hasattr(records, "itertuples"):  # of pandas
        return narrow_kinds(zip(records.columns, records.dtypes, strict=True))
    if isinstance(features := getattr(records, "features", None), Mapping):
        return narrow_kinds((name, getattr(each, "dtype", None)) for name, each in features.items())
    schema = getattr(records, "schema", None)
    if isinstance(schema, Mapping):  # of polars
        return narrow_kinds(schema.items())
    try:
        return narrow_kinds((field.name, field.type) for field in schema or ())
    except (TypeError, AttributeError):  # a schema of another library
        return {}


def _labels(records: Any) -> dict[str, list[str]]:
    """Return the names of class labels by column, of a data set or a table that `datasets` has made."""
    features = getattr(records, "features", None)
    if not isinstance(features, Mapping):
        features = table_features(getattr(records, "schema", None))
    return {str(name): names for name, each in features.items() if (names := class_names(each))}


def _kind(value: object) -> str:
    """Return a value for an error message; of a large one, which may span lines, the type alone."""
    return short_repr(value, 40) if isinstance(value, str | int | float | None) else type(value).__name__
