"""Text on a terminal: its width in columns, lines wrapped and cut to a width."""

from __future__ import annotations

import re
import unicodedata

_EMOJI_STYLE = "\ufe0f"  # shows the character before it as an emoji, one column wider
_CUT = "..."


def width(text: str) -> int:
    """Return the columns that text takes on a terminal: two for a wide character, none for a combining mark.

    Widths are those of UAX #11; a character of ambiguous width takes one column.
    """
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(character: str) -> int:
    if character == _EMOJI_STYLE:
        return 1
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, columns: int) -> str:
    """Return text as one line of at most `columns` columns; what is cut ends in "..."."""
    line = " ".join(text[: 4 * columns].split())  # four code points a column: a base and its marks
    if width(line) <= columns and len(text) <= 4 * columns:
        return line
    return _pieces(line, max(columns - len(_CUT), 0), columns)[0] + _CUT[:columns]


def wrap(text: str, columns: int, indent: str = "", hanging: str | None = None) -> list[str]:
    """Wrap text at spaces; words wider than a line are broken. No character but spaces at a break is lost.

    Args:
        text: Text of one or several lines, without control characters.
        columns: Width of the lines.
        indent: Start of each line of the text.
        hanging: Start of each continued line; None: `indent`.
    """
    hanging = indent if hanging is None else hanging
    full = max(columns - width(hanging), 2)  # a wide character fits into any line
    lines = []
    for paragraph in text.split("\n"):
        parts, room = [indent], columns - width(indent)
        for word in re.findall(r"\s*\S+", paragraph):
            needed = width(word)
            if needed > room:
                # A word wider than a line is text without spaces, such as Japanese: it fills this line first.
                fills = len(parts) == 1 or (room > 4 and width(word.lstrip()) > full)
                start, *more = (
                    _pieces(word, room, full) if fills else ("", *_pieces(word.lstrip(), full, full))
                )
                parts.append(start)
                for piece in more:
                    lines.append("".join(parts).rstrip())
                    parts = [hanging, piece]
                room = full - width(parts[-1])
            else:
                parts.append(word)
                room -= needed
        lines.append("".join(parts).rstrip())
    return lines


def _pieces(text: str, first: int, columns: int) -> list[str]:
    """Break text into a piece of at most `first` columns, and others of at most `columns`."""
    pieces, start, used, room = [], 0, 0, first
    for i, character in enumerate(text):
        used += _width_of(character)
        if used > room:
            pieces.append(text[start:i])
            start, used, room = i, _width_of(character), columns
    return [*pieces, text[start:]]
