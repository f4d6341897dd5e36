"""JSON and JSON lines; the content decides which of them a file is, not its suffix."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import TaskError
from zopo_fast.tasks import splits
from zopo_fast.tasks.rows import Row, Source, Wanted
from zopo_fast.tasks.sources import induction
from zopo_fast.tasks.sources.text import name_of

if TYPE_CHECKING:
    from pathlib import Path

_LISTS = ("examples", "data")  # keys of the list of examples in a document


def read_lines(text: str, path: Path, wanted: Wanted, seed: int) -> Source:
    """Read JSON lines; a text that is a single JSON document is read as one.

    Args:
        text: of the file.
        path: of the file.
        wanted: fields of input and output.
        seed: of the order within the benchmark's pairs of cause and effect.

    Raises:
        TaskError: the text is malformed.
    """
    number, first = next((n, line) for n, line in enumerate(_lines(text), start=1) if line.strip())
    try:
        line = _parsed(first)
        begins_with_object = isinstance(line, dict) and not _is_document(line, wanted)
    except json.JSONDecodeError:
        begins_with_object = False
    except ValueError as error:  # a repeated key, or nested too deeply
        raise TaskError(f"not JSON: {error}", path=path, line=number) from error
    if not begins_with_object and first.lstrip()[0] in "[{":
        # A pretty-printed document, or a list: a fault in the first of many lines is reported there.
        try:
            document = _parsed(text)
        except ValueError as error:
            if first.strip() in ("[", "{") or (first.lstrip()[0] == "[" and not _is_extra(error)):
                raise _malformed(error, path) from error
        else:
            return _from_document(document, path, wanted, seed)
    return _from_lines(text, path)


def read_document(text: str, path: Path, wanted: Wanted, seed: int) -> Source:
    """Read a JSON document; a text of one object a line is read as JSON lines.

    Args:
        text: of the file.
        path: of the file; its name determines the metric of a task of the benchmark.
        wanted: fields of input and output.
        seed: of the order within the benchmark's pairs of cause and effect.

    Raises:
        TaskError: the text is malformed.
    """
    try:
        document = _parsed(text)
    except ValueError as error:
        lines = [line for line in _lines(text) if line.strip()]
        if len(lines) > 1 and _is_object(lines[0]):
            return _from_lines(text, path)
        raise _malformed(error, path) from error
    return _from_document(document, path, wanted, seed)


def _is_document(line: dict[str, Any], wanted: Wanted) -> bool:
    """Return True if an object holds a list of examples, and not an example itself."""
    lists = any(isinstance(line.get(key), list | dict) for key in _LISTS) or _splits(line)
    return bool(lists) and not any(name in line for name in wanted.names)


def _lines(text: str) -> list[str]:
    # Unlike str.splitlines(), don't split at U+2028 and the like: JSON strings may hold them unescaped.
    return re.split("\r\n|\n|\r", text)


def _parsed(text: str) -> Any:
    """Parse JSON; numbers stay the text they were written in, so that `output: 4` accepts "4"."""
    return parse_json(text, parse_int=str, parse_float=str)


def _is_object(line: str) -> bool:
    try:
        return isinstance(_parsed(line), dict)
    except ValueError:
        return False


def _is_extra(error: ValueError) -> bool:
    """Return True if a document was followed by more text, as in JSON lines."""
    return isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"


def _malformed(error: ValueError, path: Path, line: int | None = None) -> TaskError:
    if isinstance(error, json.JSONDecodeError):
        message = f"not JSON: {error.msg} (column {error.colno})"
        return TaskError(message, path=path, line=line or error.lineno)
    return TaskError(f"not JSON: {error}", path=path, line=line)


def _from_lines(text: str, path: Path) -> Source:
    rows: list[Row] = []
    for line, content in enumerate(_lines(text), start=1):
        if not content.strip():
            continue
        try:
            fields = _parsed(content)
        except ValueError as error:
            raise _malformed(error, path, line) from error
        if not isinstance(fields, dict):
            raise TaskError("each line must be a JSON object", path=path, line=line)
        rows.append(Row(fields, path, line))
    if list(rows[0].fields) == ["metadata"]:
        return Source(path, _metadata(rows[0].fields["metadata"], path), rows[1:])
    return Source(path, {}, rows)


def _from_document(document: Any, path: Path, wanted: Wanted, seed: int) -> Source:
    metadata = _metadata(document.get("metadata", {}), path) if isinstance(document, dict) else {}
    metadata.setdefault("metric", induction.metric_of(name_of(path), document))
    rows = []
    for name, fields in _named(document, path, wanted):
        label = f"example {short_repr(name)[1:-1]}: "
        if not isinstance(fields, dict):
            raise TaskError(f"{label}must be an object", path=path)
        rows.append(Row(fields, path, None, label))
    return Source(path, metadata, induction.unified(rows, wanted, seed))


def _named(document: Any, path: Path, wanted: Wanted) -> list[tuple[str, Any]]:
    """Return the examples of a document, each with its key or its number from 1."""
    if isinstance(document, dict):
        found = next((document[key] for key in _LISTS if isinstance(document.get(key), list | dict)), None)
        if found is None and (named := _splits(document)):
            return named
        if found is None and all(name in document for name in wanted.names):
            found = _transposed(document, path)
        if found is None:
            lists = [part for part in document.values() if isinstance(part, list) and _are_objects(part)]
            found = lists[0] if len(lists) == 1 else None
        document = found
    if isinstance(document, dict):
        return list(document.items())
    if isinstance(document, list):
        return [(str(number), example) for number, example in enumerate(document, start=1)]
    raise TaskError('needs "examples", an object or a list of examples', path=path)


def _are_objects(part: list[Any]) -> bool:
    return bool(part) and all(isinstance(each, dict) for each in part)


def _splits(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the examples of a document such as {"train": [...], "test": [...]}; none of any other."""
    parts = {name: part for name, part in document.items() if name != "metadata"}
    if not parts or not all(splits.side_of(n) and isinstance(part, list) for n, part in parts.items()):
        return []
    return [
        (f"{name} {number}", {"split": name, **example} if isinstance(example, dict) else example)
        for name, part in parts.items()
        for number, example in enumerate(part, start=1)
    ]


def _transposed(document: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the examples of a document that holds a list, or an object by row, for each column."""
    columns = {name: part for name, part in document.items() if name != "metadata"}
    if not all(isinstance(part, list | dict) for part in columns.values()):
        return [document]  # a single example
    if len({tuple(part) if isinstance(part, dict) else len(part) for part in columns.values()}) > 1:
        raise TaskError("the columns have different lengths", path=path)
    values = [part.values() if isinstance(part, dict) else part for part in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _metadata(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TaskError("'metadata' must be an object", path=path)
    known = {key: value[key] for key in ("name", "metric", "template") if key in value}
    for key, entry in known.items():
        if not isinstance(entry, str) or not entry:
            raise TaskError(f"'metadata': {key!r} must be a text", path=path)
    template = known.get("template", "")
    if template.endswith((".json", ".txt", ".md")):  # a path relative to the task file
        known["template"] = str(path.parent / template)
    return known
