"""JSON in answers: the value that an object or list gives, and equal documents."""

from __future__ import annotations

import json
from typing import Any

from zopo_fast._utils.text import parse_json

_KEYS = ("final_answer", "answer", "output", "result", "response", "label", "prediction", "value", "text")
_BESIDE = frozenset({
    "reason", "reasons", "reasoning", "explanation", "rationale", "why", "justification", "thought",
    "thoughts", "thinking", "analysis", "evidence", "steps", "confidence", "confidence_score", "score",
    "probability", "certainty", "note", "notes", "comment", "comments", "source", "sources", "question", "id",
})  # fmt: skip
_MAX_NESTED = 4


def json_value(text: str, keys: tuple[str, ...] = _KEYS) -> str | None:
    """Return the one value of a JSON object or list, or that under one of `keys`; None otherwise.

    Keys of explanation and confidence do not count. A value that is an object is read in the same way.
    """
    document = _parsed(text, as_text=True)
    for _ in range(_MAX_NESTED):
        values = _values(document, keys)
        if len(values) != 1:
            return None
        document = values[0]
        if not isinstance(document, dict):
            return _scalar(document)
    return None


def last_object(text: str) -> str | None:
    """Return the value of the JSON object that follows a text or is followed by one."""
    end = text.rfind("}") + 1
    first, last = text.find("{"), text.rfind("{", 0, end)
    if first < 0 or end <= first:
        return None
    for start in dict.fromkeys((first, text.rfind("\n{", 0, end) + 1 or last, last)):
        value = json_value(text[start:end])
        if value is not None:
            return value
    return None


def is_same_json(text: str, reference: str) -> bool:
    """Return whether two texts are objects or lists in JSON with the same values, in any order of keys."""
    wanted = _parsed(reference)
    if wanted is None or (given := _parsed(text)) is None:
        return False
    try:
        return json.dumps(given, sort_keys=True) == json.dumps(wanted, sort_keys=True)
    except (ValueError, RecursionError):
        return False


def _parsed(text: str, *, as_text: bool = False) -> Any:
    """Return the object or list that a text is, with numbers as texts where `as_text`; None otherwise."""
    text = text.strip()
    if text[:1] + text[-1:] not in ("{}", "[]"):
        return None
    try:
        return parse_json(text, parse_int=str, parse_float=str) if as_text else parse_json(text)
    except ValueError:
        return None


def _values(document: Any, keys: tuple[str, ...]) -> list[Any]:
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return []
    named = {str(key).casefold().replace(" ", "_"): value for key, value in document.items()}
    if len(named) == 1:
        return list(named.values())
    chosen = [named[key] for key in keys if key in named]
    return chosen[:1] or [value for key, value in named.items() if key not in _BESIDE]


def _scalar(value: Any) -> str | None:
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, str)]
        return ", ".join(parts) if parts and len(parts) == len(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None
