"""HTML of notebook output: escaped text, tables, and sections that open."""

from __future__ import annotations

import html
from collections.abc import Sequence

from zopo_fast._utils.text import printable


def escaped(text: str) -> str:
    """Return untrusted text as HTML: no markup, and no character that is invisible or reorders text."""
    return html.escape(printable(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Return a table of texts.

    Args:
        header: names of the columns.
        rows: one text a column.
        numbers: of columns from the second on that are aligned right.
    """

    def cells(tag: str, texts: Sequence[str]) -> str:
        right = ["left", *["right"] * numbers, *["left"] * len(texts)]
        return "".join(
            f'<{tag} style="text-align: {side}; vertical-align: top">{escaped(text)}</{tag}>'
            for side, text in zip(right, texts, strict=False)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"
