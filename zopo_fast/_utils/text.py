"""Untrusted text: repr for messages, terminal escaping, Unicode normalization and strict JSON."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

MAX_COMBINING_MARKS = 4  # consecutive combining marks printed unescaped
# Limit of Unicode's Stream-Safe Text Format (UAX #15, section 13); no language stacks more marks.
_MOST_NONSTARTERS = 30
# Lone surrogates, and control characters that JSON allows but some readers take for line breaks.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def short_repr(value: object, max_length: int = 80) -> str:
    """Return a value's repr for an error message, cut to `max_length` characters.

    Falls back to the type's name where repr fails: for integers of more than 4,300 digits, and for values
    nested almost as deeply as the recursion limit.
    """
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: max_length + 1]
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def printable(text: str) -> str:
    """Escape text for a terminal, so that it cannot send control sequences.

    Escapes control characters except "\\n", format characters such as text direction marks, line and
    paragraph separators, lone surrogates, and combining marks beyond `MAX_COMBINING_MARKS` in a row.
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
    """Convert text to Unicode Normalization Form C in linear time.

    Normalization sorts combining marks, in quadratic time for long runs. Runs longer than any language uses
    are left unchanged.
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    parts: list[str] = []
    start = run = 0  # start of the text not yet normalized; length of the run of marks before i
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


def nfkc(text: str) -> str:
    """Convert text to Unicode Normalization Form KC in linear time.

    Each character is replaced on its own first, since some become combining marks, whose runs `nfc` bounds.
    """
    return text if text.isascii() else nfc(text.translate(_COMPATIBILITY))


class _Compatibility(dict[int, str]):
    """Table of `str.translate` that replaces each character by its normalization form KC."""

    def __missing__(self, code: int) -> str:
        self[code] = unicodedata.normalize("NFKC", chr(code))
        return self[code]


_COMPATIBILITY = _Compatibility()


def parse_json(text: str, **options: Any) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN or infinity.

    Args:
        text: JSON document.
        options: Keywords of `json.loads`; `parse_constant` can accept NaN and infinity.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, or repeats a key.
    """
    try:
        return json.loads(
            text, **{"object_pairs_hook": _unique_keys, "parse_constant": _refuse_constant, **options}
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_line(row: object, default: Callable[[Any], Any] | None = None) -> str:
    """Encode a row as one line of JSON with its line break, readable by any JSON Lines reader.

    Characters that some readers take for line breaks (U+0085, U+2028, U+2029), control characters, and lone
    surrogates, which UTF-8 cannot encode, are written as JSON escapes.
    """
    text = json.dumps(row, ensure_ascii=False, default=default)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {short_repr(repeated)}")
    return fields


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not valid JSON")
