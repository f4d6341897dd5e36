"""Placeholders of columns, and suggestions where a column is missing."""

from __future__ import annotations

import difflib
import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACEHOLDER = re.compile(r"\{(\w[^{}\n\"':]*)\}")

# Names of inputs and outputs in public data sets, the most specific first.
_INPUT_PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("context", "question"), ("passage", "question"), ("instruction", "context"),
)  # fmt: skip
_INPUTS = (
    "input", "question", "query", "prompt", "text", "sentence", "source", "src", "instruction", "utterance",
    "review", "content", "document", "article", "passage", "problem", "title", "inputs", "x",
)  # fmt: skip
_OUTPUTS = (
    "output", "answer", "answers", "label", "labels", "label_text", "completion", "target", "response",
    "expected", "expected_output", "ideal", "tgt", "reference", "summary", "highlights", "gold", "sentiment",
    "intent", "category", "class", "solution", "translation", "correct_answer", "outputs",
    "targets", "chosen", "__expected", "y",
)  # fmt: skip


def suggestion(names: Sequence[str], input_field: str, output_field: str) -> str:
    """Return a question for an error message that names the likely options, or an empty text.

    Args:
        names: of the columns there are.
        input_field: name of the input that was looked for, or a text with placeholders.
        output_field: name of the output that was looked for.
    """
    names = [name for name in names if name]
    parts = PLACEHOLDER.findall(input_field)
    if parts:
        close = {part: similar(part, names) for part in parts if part not in names}
        found = input_field
        for part, name in close.items():
            if name is not None:
                found = found.replace(f"{{{part}}}", f"{{{name}}}")
        wanted_input = found if found != input_field else None
    else:
        wanted_input = None if input_field in names else _guess(input_field, names, _INPUTS, output_field)
    wanted_output = None if output_field in names else _guess(output_field, names, _OUTPUTS, input_field)
    if wanted_input is not None and wanted_input == wanted_output:
        wanted_output = None
    given = {"--input-field": wanted_input, "--output-field": wanted_output}
    flags = [f"{flag} {shlex.quote(name)}" for flag, name in given.items() if name is not None]
    return f". Did you mean {' '.join(flags)}?" if flags else ""


def _guess(wanted: str, names: Sequence[str], known: Sequence[str], taken: str) -> str | None:
    """Return a column that is spelled like the wanted one, or whose name is known for this purpose."""
    if (same := _same(wanted, names)) is not None:
        return same
    plain = {_plain(name): name for name in reversed(names) if name != taken}
    if known is _INPUTS:
        for first, second in _INPUT_PAIRS:
            if first in plain and second in plain:
                return f"{{{plain[first]}}} {{{plain[second]}}}"
    for name in known:
        if name in plain:
            return plain[name]
    return similar(wanted, [name for name in names if name != taken])


def _same(wanted: str, names: Sequence[str]) -> str | None:
    return next((name for name in names if _plain(name) == _plain(wanted)), None)


def similar(wanted: str, names: Sequence[str]) -> str | None:
    """Return the name that is spelled most like the wanted one; None if none is close."""
    if (same := _same(wanted, names)) is not None:
        return same
    short = [name for name in names if len(name) <= 80]
    return next(iter(difflib.get_close_matches(wanted[:80], short, 1, 0.75)), None)


def _plain(name: str) -> str:
    """Return a name without case, and with one spelling of blanks and hyphens."""
    return re.sub(r"[\s\-]+", "_", name.strip()).casefold()
