"""Read task files (JSONL, CSV, TSV, JSON) into checked records; errors name the line."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from zopo_fast._utils.files import MAX_DATA_BYTES, UnreadableFileError, is_file, read_bytes
from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_SPLITS = {"train": "train", "heldout": "heldout", "test": "heldout"}
_FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")

# Metrics of the instruction-induction benchmark by file name; its other tasks use induction_match.
_INDUCTION_METRICS = {
    "common_concept": "induction_f1",
    "informal_to_formal": "induction_f1",
    "orthography_starts_with": "induction_set",
    "taxonomy_animal": "induction_set",
    "synonyms": "induction_contains",
}
# Fields of the benchmark with further accepted outputs.
_ALTERNATIVES = ("other_rhymes", "possible_translations", "possible_outputs")

_csv_limit = threading.Lock()


class Record(NamedTuple):
    """Example as read from a file.

    Attributes:
        input: its text.
        outputs: accepted outputs, without repeats.
        split: "train", "heldout", or "" if the file assigns none.
    """

    input: str
    outputs: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class _Row:
    fields: dict[str, Any]
    path: Path
    line: int | None
    label: str = ""  # names the example if the line is not known

    def error(self, message: str) -> TaskError:
        return TaskError(f"{self.label}{message}", path=self.path, line=self.line)


def read(path: Path, input_field: str, output_field: str, seed: int) -> tuple[dict[str, str], list[Record]]:
    """Read a task file.

    Args:
        path: of the file; its suffix determines the format.
        input_field: column or key of the input.
        output_field: column or key of the output.
        seed: of the order within the benchmark's pairs of cause and effect.

    Returns:
        Metadata with any of "name", "metric" and "template", and the records in the order of the file.

    Raises:
        TaskError: the file cannot be read, or is malformed.
    """
    if path.suffix.lower() not in _FORMATS and is_file(path):
        raise TaskError(f"unknown format; the formats are {', '.join(_FORMATS)}", path=path)
    text = _text_of(path)
    if path.suffix.lower() == ".json":
        metadata, rows = _read_json(text, path)
        coin = random.Random(seed)
        rows = [_unified(row, input_field, output_field, coin) for row in rows]
    elif path.suffix.lower() in {".csv", ".tsv"}:
        delimiter = "," if path.suffix.lower() == ".csv" else "\t"
        metadata, rows = {}, _read_csv(text, path, delimiter, input_field, output_field)
    else:
        metadata, rows = _read_jsonl(text, path)
    records = [_record(row, input_field, output_field) for row in rows]
    if not records:
        raise TaskError("the file holds no examples", path=path)
    return metadata, records


def _text_of(path: Path) -> str:
    try:
        content = read_bytes(path, MAX_DATA_BYTES)
    except UnreadableFileError as error:
        reason = "no such file" if error.missing else f"cannot be read: {error}"
        raise TaskError(reason, path=path) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TaskError(f"not UTF-8: {error.reason}", path=path, line=line) from error
    if not text.strip():
        raise TaskError("the file is empty", path=path)
    return text


def _record(row: _Row, input_field: str, output_field: str) -> Record:
    for field in (input_field, output_field):
        if field not in row.fields:
            raise row.error(f"no field {short_repr(field)}; the fields are: {_names(row.fields)}")
    outputs = row.fields[output_field]
    outputs = outputs if isinstance(outputs, list) else [outputs]
    if not outputs:
        raise row.error(f"{output_field!r} is an empty list")
    texts = [_text(row, row.fields[input_field], input_field)]
    texts += [_text(row, output, output_field) for output in outputs]
    return Record(texts[0], tuple(dict.fromkeys(texts[1:])), _split_of(row))


def _unified(row: _Row, input_field: str, output_field: str, coin: random.Random) -> _Row:
    """Convert an example of the benchmark to input and output fields; others stay as they are."""
    fields = dict(row.fields)
    if "cause" in fields and "effect" in fields and input_field not in fields:
        pair = [_text(row, fields[key], key) for key in ("cause", "effect")]
        if coin.random() < 0.5:  # the order must not reveal the answer
            pair.reverse()
        fields |= {input_field: f"Sentence 1: {pair[0]} Sentence 2: {pair[1]}", output_field: fields["cause"]}
    elif "items" in fields and "all_common_concepts" in fields and input_field not in fields:
        items, concepts = fields["items"], fields["all_common_concepts"]
        if not isinstance(items, list) or not isinstance(concepts, list):
            raise row.error("'items' and 'all_common_concepts' must be lists")
        concepts = [fields["concept"], *concepts] if "concept" in fields else concepts
        fields |= {
            input_field: ", ".join(_text(row, item, "items") for item in items),
            output_field: concepts,
        }
    elif output_field in fields:
        for key in _ALTERNATIVES:
            if isinstance(fields.get(key), list):
                first = fields[output_field]
                others = [
                    other for other in fields[key] if other != ""
                ]  # the published files hold empty ones
                fields[output_field] = [*(first if isinstance(first, list) else [first]), *others]
    return _Row(fields, row.path, row.line, row.label)


def _text(row: _Row, value: object, field: str) -> str:
    if not isinstance(value, str):
        raise row.error(
            f"{field!r} must be a text (an output may be a list of texts), not {short_repr(value, 60)}"
        )
    if not value.strip():
        raise row.error(f"{field!r} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):  # cannot be encoded for a model
        raise row.error(f"{field!r} holds a lone surrogate")
    return value


def _split_of(row: _Row) -> str:
    split = row.fields.get("split") or ""
    if split and (not isinstance(split, str) or split.strip().lower() not in _SPLITS):
        raise row.error(f"'split' must be one of {', '.join(_SPLITS)}, not {short_repr(split)}")
    return _SPLITS[split.strip().lower()] if split else ""


def _json(text: str, path: Path, line: int | None = None) -> Any:
    """Parse JSON; numbers stay the text they were written in, so that `output: 4` accepts "4"."""
    try:
        return parse_json(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} (column {error.colno})"
        raise TaskError(message, path=path, line=line or error.lineno) from error
    except ValueError as error:
        raise TaskError(f"not JSON: {error}", path=path, line=line) from error


def _label(name: str) -> str:
    return short_repr(name)[1:-1]


def _names(fields: Iterable[str]) -> str:
    """Return the names of the fields for an error message."""
    names = [short_repr(name, 40) for name in itertools.islice(fields, 21)]
    return ", ".join(names[:20] + ["..."] * (len(names) > 20)) or "none"


def _metadata(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TaskError("'metadata' must be an object", path=path)
    known = {key: value[key] for key in ("name", "metric", "template") if key in value}
    for key, entry in known.items():
        if not isinstance(entry, str) or not entry:
            raise TaskError(f"'metadata': {key!r} must be a text", path=path)
    template = known.get("template", "")
    if template.endswith(".json"):  # a path relative to the task file
        known["template"] = str(path.parent / template)
    return known


def _read_jsonl(text: str, path: Path) -> tuple[dict[str, str], list[_Row]]:
    rows: list[_Row] = []
    # Unlike str.splitlines(), don't split at U+2028 and the like: JSON strings may hold them unescaped.
    for line, content in enumerate(re.split("\r\n|\n|\r", text), start=1):
        if content.strip():
            fields = _json(content, path, line)
            if not isinstance(fields, dict):
                raise TaskError("each line must be a JSON object", path=path, line=line)
            rows.append(_Row(fields, path, line))
    if list(rows[0].fields) == ["metadata"]:
        return _metadata(rows[0].fields["metadata"], path), rows[1:]
    return {}, rows


def _read_json(text: str, path: Path) -> tuple[dict[str, str], list[_Row]]:
    document = _json(text, path)
    examples = document.get("examples") if isinstance(document, dict) else document
    if isinstance(examples, dict):
        named = list(examples.items())
    elif isinstance(examples, list):
        named = [(str(number), example) for number, example in enumerate(examples, start=1)]
    else:
        raise TaskError('needs "examples", an object or a list of examples', path=path)
    for name, fields in named:
        if not isinstance(fields, dict):
            raise TaskError(f"example {_label(name)}: must be an object", path=path)
    metadata = _metadata(document.get("metadata", {}), path) if isinstance(document, dict) else {}
    if isinstance(examples, dict) or path.stem in _INDUCTION_METRICS:  # the benchmark's own format
        metadata.setdefault("metric", _INDUCTION_METRICS.get(path.stem, "induction_match"))
    return metadata, [_Row(fields, path, None, f"example {_label(name)}: ") for name, fields in named]


def _read_csv(text: str, path: Path, delimiter: str, input_field: str, output_field: str) -> list[_Row]:
    rows: list[_Row] = []
    header: list[str] = []
    for line, cells in _csv_rows(text, path, delimiter):
        if not header:
            header = [cell.strip() for cell in cells]
            _check_header(header, (input_field, output_field), path, line)
        elif len(cells) != len(header):
            message = f"{len(cells)} cells where the header has {len(header)} columns"
            raise TaskError(message, path=path, line=line)
        else:
            fields: dict[str, Any] = dict(zip(header, cells, strict=True))
            fields[output_field] = _cell(fields[output_field])
            rows.append(_Row(fields, path, line))
    return rows


def _csv_rows(text: str, path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    with _csv_limit:  # the limit is process-wide: one thread at a time sets and restores it
        before = csv.field_size_limit(len(text))
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    rows.append((line, cells))
                line = reader.line_num + 1
        except csv.Error as error:
            raise TaskError(f"malformed: {error}", path=path, line=line) from error
        finally:
            csv.field_size_limit(before)
    return rows


def _check_header(header: list[str], wanted: Sequence[str], path: Path, line: int) -> None:
    for field in wanted:
        if header.count(field) != 1:
            fault = "no column" if field not in header else "more than one column"
            message = f"{fault} {short_repr(field)}; the columns are: {_names(header)}"
            raise TaskError(message, path=path, line=line)


def _cell(cell: str) -> str | list[object]:
    if cell.startswith("["):
        try:
            outputs: list[object] = json.loads(cell, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            return cell  # a text that only looks like a list
        return outputs
    return cell
