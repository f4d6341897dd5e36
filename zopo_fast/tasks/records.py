"""Checked records made from the rows of a task source."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import TaskError
from zopo_fast.tasks import column_names, conversations, splits
from zopo_fast.tasks.rows import Notes, Row, Source, Wanted, log, names_text, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Keys of nested outputs: SQuAD has {"text": [...], "answer_start": [...]}, TriviaQA {"value", "aliases"}.
_MAX_LITERAL = 20_000  # characters of a list in Python's notation
_NESTED = ("text", "answers", "answer", "value")


class Record(NamedTuple):
    """Example as read from a source.

    Attributes:
        input: its text.
        outputs: accepted outputs, without repeats.
        split: "train", "heldout", or "" if the source assigns none.
        columns: further texts by name, for the placeholders of the template.
        place: line or name in the source.
    """

    input: str
    outputs: tuple[str, ...]
    split: str
    columns: tuple[tuple[str, str], ...] = ()
    place: str = ""


def records_of(source: Source, wanted: Wanted) -> list[Record]:
    """Return the record of each row; log remarks on what was left out or looks wrong.

    Raises:
        TaskError: a field is missing, or no text; or there are no rows.
    """
    notes = Notes()
    rows = conversations.with_fields(source.rows, wanted, notes)
    if rows is source.rows and source.header is not None:
        _check_header(source, wanted)
    records = [_record(row, wanted, notes) for row in rows]
    if not records:
        raise TaskError("the file holds no examples" if source.path else "no examples", path=source.path)
    notes.log(source)
    return records


def _check_header(source: Source, wanted: Wanted) -> None:
    header = source.header or ()
    for name in wanted.names:
        if header.count(name) != 1:
            fault = "no column" if name not in header else "more than one column"
            message = f"{fault} {short_repr(name)}; the columns are: {names_text(header)}"
            hint = column_names.suggestion(header, wanted.input, wanted.output) if name not in header else ""
            if not hint and name not in header and source.header_line is not None:
                hint = ". The first line must hold the names of the columns"
                if len(header) == 1:
                    hint += "; a line such as sep=^ before it names another delimiter"
            raise TaskError(message + hint, path=source.path, line=source.header_line)


def _record(row: Row, wanted: Wanted, notes: Notes) -> Record:
    for name in wanted.names:
        if name not in row.fields:
            hint = column_names.suggestion(tuple(row.fields), wanted.input, wanted.output)
            raise row.error(f"no field {short_repr(name)}; the fields are: {names_text(row.fields)}{hint}")
    outputs = _outputs(row, wanted.output)
    if not all(output.strip() for output in outputs):
        notes.add("{count} with an empty output, which only an empty answer matches", row.place)
    columns = tuple((name, joined_text(row, name)) for name in wanted.columns)
    return Record(_input(row, wanted), outputs, splits.split_of(row), columns, row.place)


def _input(row: Row, wanted: Wanted) -> str:
    if wanted.parts:
        values = {name: joined_text(row, name) for name in wanted.parts}
        if not any(text.strip() for text in values.values()):
            names = ", ".join(short_repr(name, 40) for name in values)
            raise row.error(f"nothing stands in the columns of the input, {names}; remove the example")
        return column_names.PLACEHOLDER.sub(lambda found: values[found[1]], wanted.input)
    text = text_of(row, row.fields[wanted.input], wanted.input)
    if not text.strip():
        raise row.error(
            f"{short_repr(wanted.input)} is empty; remove the example, or name another column by "
            "--input-field"
        )
    return text


def joined_text(row: Row, name: str) -> str:
    """Return the text of a field; the items of a list stand on a line each."""
    value = row.fields[name]
    if isinstance(value, list) and value:
        return "\n".join(text_of(row, item, name) for item in value)
    return text_of(row, value, name)


def _outputs(row: Row, name: str) -> tuple[str, ...]:
    value = row.fields[name]
    if row.is_cells and isinstance(value, str):
        value = _cell(value)
    if isinstance(value, list) and not value:
        raise row.error(f"{short_repr(name)} is an empty list; give at least one accepted output")
    found = list(_flat(value, depth=0))
    # SQuAD 2 marks a question without an answer by an empty list of texts.
    texts = [text_of(row, each, name, "an output may be a list of texts") for each in found] or [""]
    return tuple(dict.fromkeys(texts))


def _flat(value: Any, depth: int) -> Iterable[Any]:
    """Yield the texts of an output; yield what is no output as it is, for the error message."""
    if isinstance(value, list) and depth < 4:
        if conversations.is_conversation(value):
            yield conversations.last_answer(value)
            return
        for each in value:
            if isinstance(each, list):
                yield each
            else:
                yield from _flat(each, depth + 1)
    elif isinstance(value, dict) and depth < 4 and (key := next((k for k in _NESTED if k in value), None)):
        yield from _flat(value[key], depth + 1)
        if isinstance(value.get("aliases"), list):
            yield from value["aliases"]
    else:
        yield value


def _cell(cell: str) -> Any:
    if re.match(r"\s*[\[{]", cell):
        try:
            value = json.loads(cell, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            return _python_list(cell) or cell  # or a text that only looks like a list
        # A lone object is a text, unless it is one of the known forms of accepted outputs.
        if isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("text"), list)):
            return value
    return cell


def _python_list(cell: str) -> list[str] | None:
    """Return the texts of a list in Python's notation, as pandas writes it; None for other text."""
    if len(cell) > _MAX_LITERAL:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of a backslash before any letter
            body = ast.parse(cell.strip(), mode="eval").body
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    items = body.elts if isinstance(body, ast.List) else []
    constants = [each.value for each in items if isinstance(each, ast.Constant)]
    texts = [each for each in constants if isinstance(each, str)]
    if len(texts) != len(items):
        return None
    # Strings without a comma between them, as NumPy prints them, would be joined.
    tokens = tokenize.generate_tokens(io.StringIO(cell).readline)
    return texts if sum(token.type == tokenize.STRING for token in tokens) == len(texts) else None


def warn_of_repeats(records: Sequence[Record], source: Source) -> None:
    """Log a warning if rows are equal, and one if rows with the same input accept different outputs."""
    seen: dict[tuple[Any, ...], Record] = {}
    known: set[tuple[Any, ...]] = set()
    cases: dict[tuple[Any, ...], tuple[Record, Record]] = {}
    notes = Notes()
    for record in records:
        key = record.input, record.columns
        first = seen.setdefault(key, record)
        whole = (*key, frozenset(record.outputs))
        if whole in known:
            notes.add("{count} left out as exact duplicates of earlier ones", record.place)
        elif first is not record:
            cases.setdefault(key, (first, record))
        known.add(whole)
    notes.log(source)
    if cases:
        one, other = next(iter(cases.values()))
        inputs = "1 input has" if len(cases) == 1 else f"{len(cases)} inputs have"
        log.warning(
            "%s%s different outputs in different rows, such as %s: %s (%s) and %s (%s); each row stays an "
            "example",
            "" if source.path is None else f"{source.path}: ",
            inputs,
            short_repr(one.input, 60),
            short_repr(one.outputs[0], 40),
            one.place,
            short_repr(other.outputs[0], 40),
            other.place,
        )
