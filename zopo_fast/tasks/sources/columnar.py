"""Parquet and Arrow files, read with pyarrow; class labels of `datasets` become their names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.files import MAX_DATA_BYTES
from zopo_fast.errors import MissingDependencyError, TaskError
from zopo_fast.tasks.rows import Row, Source, Wanted
from zopo_fast.tasks.sources.text import read_content
from zopo_fast.tasks.sources.values import class_names, named, narrow_kinds, narrowed, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SUFFIXES = (".parquet", ".arrow", ".feather")
_BATCH_ROWS = 1024
_FEATURES = b"huggingface"  # key of the metadata in which `datasets` describes the columns


def read_columnar(path: Path, wanted: Wanted, features: Mapping[str, Any] | None = None) -> Source:
    """Read a Parquet or Arrow file.

    Args:
        path: of the file.
        wanted: fields that are read whatever their type; binary ones are not read otherwise.
        features: of the columns as `datasets` describes them; None: those of the file.

    Raises:
        TaskError: the file cannot be read, is malformed or too large.
        MissingDependencyError: pyarrow is not installed.
    """
    pyarrow = _pyarrow(path)
    content = read_content(path)
    try:
        if path.suffix.lower() == ".parquet":
            schema, batches = _parquet(content, path, wanted)
        else:
            schema, batches = _arrow(content)
        return _source(path, schema, batches, wanted, features)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise TaskError(f"malformed: {_first_line(error)}", path=path) from error
    except MemoryError as error:
        raise TaskError("larger than the available memory", path=path) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f'{path}: reading it needs pyarrow: pip install "zopo-fast[data]"'
        ) from error
    return pyarrow


def _parquet(content: bytes, path: Path, wanted: Wanted) -> tuple[Any, Iterable[Any]]:
    from pyarrow import BufferReader, parquet

    file = parquet.ParquetFile(BufferReader(content))
    groups = range(file.metadata.num_row_groups)
    if sum(file.metadata.row_group(i).total_byte_size for i in groups) > MAX_DATA_BYTES:
        raise TaskError(f"larger than {MAX_DATA_BYTES:,} bytes when decompressed", path=path)
    columns = _text_columns(file.schema_arrow, wanted)
    return file.schema_arrow, file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)


def _arrow(content: bytes) -> tuple[Any, Iterable[Any]]:
    from pyarrow import ArrowInvalid, BufferReader, ipc

    try:
        stream = ipc.open_stream(BufferReader(content))  # as `datasets` writes it
    except ArrowInvalid:
        file = ipc.open_file(BufferReader(content))
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    return stream.schema, stream


def _source(
    path: Path, schema: Any, batches: Iterable[Any], wanted: Wanted, features: Mapping[str, Any] | None
) -> Source:
    described = table_features(schema) if features is None else features
    labels = {name: names for name in schema.names if (names := class_names(described.get(name)))}
    columns = _text_columns(schema, wanted)
    narrow = narrow_kinds((field.name, field.type) for field in schema)
    empty = dict.fromkeys(schema.names)  # names of binary columns too, for the error of a missing one
    rows: list[Row] = []
    size = 0
    for batch in batches:
        size += batch.nbytes
        if size > MAX_DATA_BYTES:
            raise TaskError(f"larger than {MAX_DATA_BYTES:,} bytes when decompressed", path=path)
        batch.validate(full=True)  # offsets of a damaged file may point anywhere
        for values in batch.select(columns).to_pylist():
            fields = {name: plain(narrowed(value, narrow.get(name))) for name, value in values.items()}
            for name, names in labels.items():
                fields[name] = named(fields.get(name), names)
            rows.append(Row(empty | fields, path, None, f"row {len(rows) + 1}: "))
    return Source(path, {}, rows, tuple(schema.names))


def _text_columns(schema: Any, wanted: Wanted) -> list[str]:
    """Return the columns that may hold texts, without images, sounds and vectors."""
    names = dict.fromkeys(f.name for f in schema if f.name in wanted.names or not _is_binary(f.type))
    return [name for name in names if schema.names.count(name) == 1]  # others are reported by their name


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(_is_binary(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return types.is_floating(kind.value_type) or _is_binary(kind.value_type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def table_features(schema: Any) -> Mapping[str, Any]:
    """Return the features that `datasets` has left in the metadata of a schema."""
    try:
        features = json.loads(schema.metadata[_FEATURES])["info"]["features"]
    except (AttributeError, LookupError, ValueError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
