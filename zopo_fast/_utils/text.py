"""Text that others wrote: shown, compared, read and written so that nothing in it can do harm."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

MAX_COMBINING_MARKS = 4  # combining marks in a row that a terminal is shown as they are
# Unicode's own limit for text in streams (UAX 15, 13): no language stacks as many.
_MOST_NONSTARTERS = 30
# Half surrogate pairs, and the controls that JSON lets through: some readers take them for ends of lines.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def short_repr(value: object, most: int = 80) -> str:
    """Return a value's repr for an error's message: at most `most` characters, whatever the value is.

    repr alone fails for an integer of more than 4,300 digits, and for what is nested almost as deeply as
    the parser that read it allowed.
    """
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: most + 1]
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(text: str) -> str:
    """Return text that cannot command a terminal: what is no plain character is shown escaped.

    Escaped are controls but "\\n", format characters such as those that turn the direction of writing,
    ends of lines other than "\\n", half surrogate pairs, and combining marks beyond
    `MAX_COMBINING_MARKS` in a row.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    parts, marks = [], 0
    for c in text:
        category = unicodedata.category(c)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        plain = category not in ("Cc", "Cf", "Cs", "Zl", "Zp") and marks <= MAX_COMBINING_MARKS
        parts.append(c if c == "\n" or plain else ascii(c)[1:-1])
    return "".join(parts)


def nfc(text: str) -> str:
    """Return the text in Unicode's normal form C, in linear time.

    Combining marks are sorted, in quadratic time where they are many in a row: runs beyond what any
    language has are left as they are.
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    parts: list[str] = []
    start = run = 0  # of what is yet to be normalised, and of the marks before i
    for i, c in enumerate(text):
        if unicodedata.combining(c):
            run += 1
            if run == _MOST_NONSTARTERS + 1:
                parts.append(unicodedata.normalize("NFC", text[start:i]))
                start = i
        else:
            if run > _MOST_NONSTARTERS:
                parts.append(text[start:i])
                start = i
            run = 0
    rest = text[start:]
    parts.append(rest if run > _MOST_NONSTARTERS else unicodedata.normalize("NFC", rest))
    return "".join(parts)


def parse_json(text: str, **how: Any) -> Any:
    """Return the parsed JSON; ValueError where it is none, is nested too deeply, or names a key twice.

    Args:
        how: keywords of json.loads. NaN and infinity are no JSON unless `parse_constant` takes them.
    """
    try:
        return json.loads(text, **{"object_pairs_hook": _each_once, "parse_constant": _refuse, **how})
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_line(row: object, default: Callable[[Any], Any] | None = None) -> str:
    """Return a row as JSON on one line, its end included, for any reader: readable, and of plain text.

    What some readers take for the end of a line (U+0085, U+2028, U+2029), controls, and half surrogate
    pairs, which no file holds, are written as JSON's escapes.
    """
    text = json.dumps(row, ensure_ascii=False, default=default)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {short_repr(twice)} is there twice")
    return fields


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not a JSON value")
